package sshx

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// watched is a network connection that remembers when it last brought anything, and on which
// nothing can be written once reading has failed.
//
// The latter is for ssh.Client.OpenChannel. A channel that it registers after the end of the
// connection's reader waits for its answer for ever, unless its request cannot be written; and
// x/crypto reports a failed write only to later callers, not to its own. So when reading fails,
// writing fails, too, and poison writes something before the reader ends.
type watched struct {
	net.Conn
	begun time.Time
	last  atomic.Int64 // of the last read, since begun

	mu     sync.RWMutex // held for reading while writing
	failed error        // how reading failed; guarded by mu
	poison func()       // sends a message, in vain; guarded by mu
}

// poisonTimeout is for a poison that waits for a key exchange that will not come to its end.
const poisonTimeout = time.Second

func watch(conn net.Conn) *watched { return &watched{Conn: conn, begun: time.Now()} }

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.last.Store(int64(time.Since(w.begun)))
	}
	if err != nil {
		w.Conn.Close() // ends a Write that hangs
		w.mu.Lock()
		w.failed = err
		poison := w.poison
		w.poison = nil
		w.mu.Unlock()
		if poison != nil {
			within(poisonTimeout, poison)
		}
	}
	return n, err
}

// within runs f and waits for it, but not for longer than d.
func within(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// poisonWith sets poison, once there is something to send messages on.
func (w *watched) poisonWith(f func()) {
	w.mu.Lock()
	late := w.failed != nil
	w.poison = f
	w.mu.Unlock()
	if late {
		within(poisonTimeout, f)
	}
}

// cut reports whether reading has failed: nothing that ends from then on has ended by itself.
func (w *watched) cut() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.failed != nil
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.failed != nil {
		return 0, w.failed
	}
	return w.Conn.Write(b)
}

func (w *watched) lastRead() time.Time { return w.begun.Add(time.Duration(w.last.Load())) }

// A pulse finds out whether a peer lives. It asks when nothing came for every, and calls the peer
// dead when nothing came for dead after it was asked; any sign of life counts, so that a busy
// connection is neither asked nor given up.
type pulse struct {
	every, dead time.Duration
	last        func() time.Time // of the last sign of life
	ask         func()           // returns when the peer has answered, or is given up
}

// run returns true when the peer is dead, after it called kill, which must make ask return; and
// false when ctx ends. A tick that comes late means that this process was stopped, and its peer
// could not be heard: then the wait starts again.
func (p pulse) run(ctx context.Context, kill func()) bool {
	var asking sync.WaitGroup
	defer asking.Wait()
	tick := min(p.every, p.dead/4)
	timer := time.NewTimer(tick)
	defer timer.Stop()
	answered := make(chan struct{}, 1)
	var asked time.Time // zero: not asked
	before := time.Now()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-answered:
			asked = time.Time{}
			continue
		case <-timer.C:
		}
		now := time.Now()
		stopped := now.Sub(before) > tick+p.dead/2
		before = now
		timer.Reset(tick)
		switch heard := p.last(); {
		case asked.IsZero():
			if now.Sub(heard) >= p.every {
				asked = now
				asking.Go(func() { p.ask(); answered <- struct{}{} })
			}
		case heard.After(asked) || stopped:
			asked = now
		case now.Sub(asked) >= p.dead:
			kill()
			return true
		}
	}
}
