package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A session is one "session" channel and what came of it. ssh.Session would hide when the exit
// status came, and whether the channel or the connection ended.
type session struct {
	c      *Client
	ch     ssh.Channel
	place  bool          // it holds a place in the gate; see spare.mu
	exited chan struct{} // closed when the machine has sent the exit status
	status exitStatus    // valid once exited is closed
	closed chan struct{} // closed when the channel is, from both sides, or the connection
	stdin  sync.Mutex    // held while writing: the channel does not guard a write against its end
}

type exitStatus struct {
	code   int
	signal string
}

// refusedFor is how long refusals are retried while no other session of ours could be in the way.
// A Client has its own, for tests.
const refusedFor = 5 * time.Second

// open opens a session. It waits for its turn among the connection's sessions, and tries again when
// the machine refuses: it frees the place of a session only some time after it has ended, and may
// allow fewer than we think.
func (c *Client) open(ctx context.Context) (*session, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("sshx: %s: open session: %w", c.cfg.Name, context.Cause(ctx))
	}
	select {
	case c.gate <- struct{}{}:
	case <-c.done:
		return nil, c.ended("open session")
	case <-ctx.Done():
		return nil, fmt.Errorf("sshx: %s: open session: %w while %d others are open", c.cfg.Name, context.Cause(ctx), len(c.gate))
	}
	type opened struct {
		s   *session
		err error
	}
	if s := c.takeSpare(true); s != nil {
		c.prepareSpare()
		return s, nil
	}
	result := make(chan opened)
	started := c.spawn(func() {
		s, err := c.openRetrying(ctx)
		select {
		case result <- opened{s, err}:
			if err != nil {
				<-c.gate
			}
		case <-ctx.Done(): // the caller is gone
			if err == nil {
				s.close()
			} else {
				<-c.gate
			}
		}
	})
	if !started {
		<-c.gate
		return nil, c.ended("open session")
	}
	select {
	case o := <-result:
		return o.s, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("sshx: %s: open session: %w", c.cfg.Name, context.Cause(ctx))
	}
}

func (c *Client) openRetrying(ctx context.Context) (*session, error) {
	begun := time.Now()
	var alone time.Time // since when only we hold a place
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		if s := c.takeSpare(true); s != nil {
			return s, nil
		}
		ch, reqs, err := c.openChannel("session", nil)
		if err == nil {
			return c.newSession(ch, reqs, true), nil
		}
		if _, ok := errors.AsType[*ssh.OpenChannelError](err); !ok {
			<-c.life.Done() // nothing else fails here; the cause says more than err
			return nil, c.ended("open session")
		}
		switch {
		case len(c.gate) > 1:
			alone = time.Time{}
		case alone.IsZero():
			alone = time.Now()
		case time.Since(alone) > c.refusedFor:
			return nil, &SessionError{Host: c.cfg.Name, Took: time.Since(begun), Cause: err}
		}
		if wait > yieldAfter && c.live.Load() == 1 {
			c.guard.yield()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("sshx: %s: open session: %w: %w", c.cfg.Name, context.Cause(ctx), err)
		case <-c.done:
			t.Stop()
			return nil, c.ended("open session")
		}
	}
}

// openChannel is ssh.Client.OpenChannel, but sure to end with the connection; see watched. What
// makes it so is on a goroutine of its own, which nothing here waits for: it ends with the
// connection too, unless that dies in the middle of a key exchange, or of a broken protocol.
func (c *Client) openChannel(kind string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	result := make(chan opened, 1)
	go func() {
		ch, reqs, err := c.ssh.OpenChannel(kind, extra)
		result <- opened{ch, reqs, err}
	}()
	select {
	case o := <-result:
		return o.ch, o.reqs, o.err
	case <-c.done:
		return nil, nil, errGone
	}
}

// openExtra opens a session that needs no place in the gate. It tries once.
func (c *Client) openExtra(ctx context.Context) (*session, error) {
	if s := c.takeSpare(false); s != nil {
		return s, nil
	}
	type opened struct {
		s   *session
		err error
	}
	result := make(chan opened)
	started := c.spawn(func() {
		ch, reqs, err := c.openChannel("session", nil)
		var s *session
		if err == nil {
			s = c.newSession(ch, reqs, false)
		}
		select {
		case result <- opened{s, err}:
		case <-ctx.Done():
			if err == nil {
				s.close()
			}
		}
	})
	if !started {
		return nil, c.ended("open session")
	}
	select {
	case o := <-result:
		return o.s, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A spare is a session that is open before anybody needs it, so that a command that follows
// another costs one round trip, not two. It holds no place in the gate until it is taken.
type spare struct {
	mu      sync.Mutex // guards s and opening, and session.place of all sessions
	s       *session
	opening bool
}

// prepareSpare opens a spare, once a command has shown that commands are run here. If the
// machine refuses, there is none until the next command.
func (c *Client) prepareSpare() {
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	if c.cfg.Sessions < 2 || c.spare.s != nil || c.spare.opening {
		return
	}
	c.spare.opening = c.spawn(func() {
		ch, reqs, err := c.openChannel("session", nil)
		c.spare.mu.Lock()
		defer c.spare.mu.Unlock()
		c.spare.opening = false
		if err == nil {
			c.spare.s = c.newSession(ch, reqs, false)
		}
	})
}

// takeSpare returns the spare, if there is one that lives; with place, its end will free one.
func (c *Client) takeSpare(place bool) *session {
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	s := c.spare.s
	if s != nil {
		c.spare.s = nil
		s.place = place
	}
	return s
}

func (c *Client) newSession(ch ssh.Channel, reqs <-chan *ssh.Request, place bool) *session {
	s := &session{c: c, ch: ch, place: place, exited: make(chan struct{}), closed: make(chan struct{})}
	c.live.Add(1)
	c.wg.Go(func() {
		defer c.live.Add(-1)
		for r := range reqs {
			s.request(r)
		}
		ch.Close()
		close(s.closed)
		c.spare.mu.Lock()
		defer c.spare.mu.Unlock()
		if c.spare.s == s {
			c.spare.s = nil
		}
		if s.place {
			<-c.gate
		}
	})
	return s
}

// request takes what the machine says about the session.
func (s *session) request(r *ssh.Request) {
	switch r.Type {
	case "exit-status":
		var m struct{ Code uint32 }
		if ssh.Unmarshal(r.Payload, &m) != nil {
			break
		}
		s.ended(exitStatus{code: int(m.Code)})
	case "exit-signal":
		var m struct {
			Signal  string
			Core    bool
			Message string
			Lang    string
		}
		if ssh.Unmarshal(r.Payload, &m) != nil {
			break
		}
		s.ended(exitStatus{code: 128 + signalNumber(m.Signal), signal: clean(m.Signal)})
	}
	if r.WantReply {
		_ = r.Reply(false, nil)
	}
}

// ended takes the exit status; should there be two, the first. It is called by one goroutine.
func (s *session) ended(st exitStatus) {
	if !s.hasExited() {
		s.status = st
		close(s.exited)
	}
}

// hasExited reports whether the exit status is known. It always comes before the channel is closed.
func (s *session) hasExited() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// start asks for a command or, with the type "subsystem", for one.
func (s *session) start(ctx context.Context, kind, what string) error {
	return s.ask(ctx, kind, ssh.Marshal(struct{ S string }{what}))
}

// ask sends a request and waits for the answer.
func (s *session) ask(ctx context.Context, kind string, payload []byte) error {
	type answer struct {
		ok  bool
		err error
	}
	got := make(chan answer, 1)
	started := s.c.spawn(func() {
		ok, err := s.ch.SendRequest(kind, true, payload)
		got <- answer{ok, err}
	})
	if !started {
		return errGone
	}
	select {
	case a := <-got:
		if a.err != nil {
			return a.err
		}
		if !a.ok {
			return errRefused
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errRefused = errors.New("request refused")

// close ends our side. The place in the gate is free when the machine has closed its side too.
// It does not block.
func (s *session) close() {
	s.c.spawn(func() { s.ch.Close() })
}

// Write sends data to the command's stdin.
func (s *session) Write(data []byte) (int, error) {
	s.stdin.Lock()
	defer s.stdin.Unlock()
	return s.ch.Write(data)
}

// closeWrite ends stdin, after a Write that is under way. It does not block.
func (s *session) closeWrite() {
	s.c.spawn(func() {
		s.stdin.Lock()
		defer s.stdin.Unlock()
		_ = s.ch.CloseWrite()
	})
}

// copyTo reads a stream of the session into sink until the stream ends, or over is set.
func copyTo(sink io.Writer, r io.Reader, over *atomic.Bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && !over.Load() {
			_, _ = sink.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// signalNumber is Linux's number of a signal by the name that SSH has for it.
func signalNumber(name string) int {
	for i, n := range []string{"HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM"} {
		if n == name {
			return i + 1
		}
	}
	return 0
}
