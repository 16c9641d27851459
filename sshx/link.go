package sshx

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A Link keeps one connection to one machine: made when it is first asked for, and made anew
// only when it is dead; a refused session or a failed command is no reason. It may be used from
// any goroutine. Close it when done.
//
// Before a machine is reverted, powered off or replaced, call Drop: it ends the connection, and
// whatever is being dialled at that moment, so that nobody goes on talking to the machine as it was.
type Link struct {
	cfg Config

	dialling chan struct{} // held while connecting

	mu         sync.Mutex // guards what follows
	c          *Client
	generation int
	dropped    chan struct{} // closed when the generation ends
	closed     bool
}

// NewLink returns a Link that is not connected yet.
func NewLink(cfg Config) *Link {
	return &Link{cfg: cfg, dialling: make(chan struct{}, 1), dropped: make(chan struct{})}
}

// ErrDropped is the cause of a dial that Link.Drop or Link.Close interrupted.
var ErrDropped = errors.New("the link was dropped meanwhile")

// Client returns the connection, after dialling if there is none that lives. It belongs to the Link:
// do not close it.
func (l *Link) Client(ctx context.Context) (*Client, error) {
	return l.connect(ctx, Dial)
}

// WaitReady is Client, but waits until the machine is ready. With ready.BootIDNot, a
// connection that lives is not good enough: it is ended first. Otherwise one that lives is returned as it is.
func (l *Link) WaitReady(ctx context.Context, ready Ready) (*Client, error) {
	if ready.BootIDNot != "" {
		l.Drop()
	}
	return l.connect(ctx, func(ctx context.Context, cfg Config) (*Client, error) { return WaitReady(ctx, cfg, ready) })
}

// connect dials unless there is a connection; one caller at a time, the others get what it got.
func (l *Link) connect(ctx context.Context, dial func(context.Context, Config) (*Client, error)) (*Client, error) {
	if c, _, _, err := l.current(); c != nil || err != nil {
		return c, err
	}
	select {
	case l.dialling <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("sshx: %s: dial: %w", l.cfg.filled().Name, context.Cause(ctx))
	}
	defer func() { <-l.dialling }()
	c, generation, dropped, err := l.current()
	if c != nil || err != nil {
		return c, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-dropped:
			cancel(ErrDropped)
		case <-stop:
		}
	})
	c, err = dial(ctx, l.config())
	close(stop)
	watch.Wait()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation != generation || l.closed {
		c.Close()
		return nil, fmt.Errorf("sshx: %s: dial: %w", c.cfg.Name, ErrDropped)
	}
	if old := l.c; old != nil {
		old.Close() // it is dead; this frees what belongs to it
	}
	l.c = c
	l.cfg = c.trusted(l.cfg)
	return c, nil
}

// current returns the connection if it lives.
func (l *Link) current() (c *Client, generation int, dropped <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, 0, nil, fmt.Errorf("sshx: %s: the link is closed", l.cfg.filled().Name)
	}
	if l.c != nil && l.c.Err() == nil {
		c = l.c
	}
	return c, l.generation, l.dropped, nil
}

func (l *Link) config() Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg
}

// Generation counts the calls of Drop. What was learned of a machine in an earlier generation,
// such as its boot id, may not hold any more.
func (l *Link) Generation() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.generation
}

// Drop ends the connection, and the dialling that is under way, and begins a new generation. The
// next Client connects anew.
func (l *Link) Drop() { l.drop(false) }

// Close ends the Link. Closing twice does nothing.
func (l *Link) Close() error {
	l.drop(true)
	return nil
}

func (l *Link) drop(forGood bool) {
	l.mu.Lock()
	c := l.c
	l.c = nil
	if !l.closed {
		l.generation++
		close(l.dropped)
		l.dropped = make(chan struct{})
	}
	l.closed = l.closed || forGood
	l.mu.Unlock()
	if c != nil {
		c.Close()
	}
}
