package sshx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// A Link keeps one connection to one machine: made when it is first asked for, and made anew
// only when it is dead; a refused session or a failed command is no reason. It may be used from
// any goroutine. Close it when done.
//
// Before a machine is reverted, powered off or replaced, call Drop: it ends the connection, and
// whatever is being dialled at that moment, so that nobody goes on talking to the machine as it
// was.
type Link struct {
	name     string
	dialling chan struct{} // held while connecting
	cfg      Config        // for who holds dialling

	mu         sync.Mutex // guards what follows
	c          *Client
	generation int
	dropped    chan struct{} // closed when the generation ends
	closed     bool
}

// NewLink returns a Link that is not connected yet.
func NewLink(cfg Config) *Link {
	cfg.Jump = slices.Clone(cfg.Jump)
	return &Link{name: cfg.filled().Name, cfg: cfg, dialling: make(chan struct{}, 1), dropped: make(chan struct{})}
}

// ErrDropped is the cause of a dial that Link.Drop or Link.Close interrupted.
var ErrDropped = errors.New("the link was dropped meanwhile")

// Client returns the connection, after dialling if there is none that lives. It belongs to the
// Link: do not close it.
func (l *Link) Client(ctx context.Context) (*Client, error) {
	return l.connect(ctx, false, dial)
}

// WaitReady is Client, but waits until the machine is ready. With ready.BootIDNot, a connection
// that lives is not good enough: it is dropped. Otherwise one that lives is returned as it is.
func (l *Link) WaitReady(ctx context.Context, ready Ready) (*Client, error) {
	return l.connect(ctx, ready.BootIDNot != "", func(ctx context.Context, cfg *Config) (*Client, error) {
		return waitReady(ctx, cfg, ready)
	})
}

// connect dials unless there is a connection, or in any case; one caller at a time, the others get
// what it got.
func (l *Link) connect(ctx context.Context, anew bool, dial func(context.Context, *Config) (*Client, error)) (*Client, error) {
	if anew {
		l.Drop()
	}
	if c, _, _, err := l.current(); c != nil && !anew || err != nil {
		return c, err
	}
	select {
	case l.dialling <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("sshx: %s: dial: %w", l.name, context.Cause(ctx))
	}
	defer func() { <-l.dialling }()
	c, generation, dropped, err := l.current()
	if c != nil && anew { // somebody else made it, to the machine as it was
		l.Drop()
		c, generation, dropped, err = l.current()
	}
	if c != nil || err != nil {
		return c, err
	}
	l.bury()
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
	c, err = dial(ctx, &l.cfg)
	close(stop)
	watch.Wait()
	if err != nil {
		return nil, err
	}
	if !l.put(c, generation) {
		c.Close()
		return nil, fmt.Errorf("sshx: %s: dial: %w", l.name, ErrDropped)
	}
	return c, nil
}

// bury frees what belongs to a connection that is dead: those to its jump hosts.
func (l *Link) bury() {
	l.mu.Lock()
	dead := l.c
	l.c = nil
	l.mu.Unlock()
	if dead != nil {
		dead.Close()
	}
}

// put makes c the connection, unless the generation in which it was dialled has ended.
func (l *Link) put(c *Client, generation int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation != generation || l.closed {
		return false
	}
	l.c = c
	return true
}

// current returns the connection if it lives.
func (l *Link) current() (c *Client, generation int, dropped <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, 0, nil, fmt.Errorf("sshx: %s: the link is closed", l.name)
	}
	if l.c != nil && l.c.Err() == nil {
		c = l.c
	}
	return c, l.generation, l.dropped, nil
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
