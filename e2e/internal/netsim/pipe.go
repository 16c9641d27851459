package netsim

import (
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// Pipe returns the two ends of a connection with room for what the other end has not read yet,
// as TCP has: net.Pipe has none, and two ends that both write first would block for ever.
func Pipe(local, remote net.Addr) (net.Conn, net.Conn) { return pipe(local, remote) }

func pipe(local, remote net.Addr) (*end, *end) {
	there, back := newQueue(), newQueue()
	return &end{in: back, out: there, local: local, remote: remote},
		&end{in: there, out: back, local: remote, remote: local}
}

const window = 256 << 10 // bytes on the way

// A queue is one direction of a pipe.
type queue struct {
	mu     sync.Mutex // guards what follows
	cond   *sync.Cond
	buf    []byte
	closed bool // by the writer: what is in buf is still to be read
	broken bool // by the reader
	rd, wd time.Time
	rt, wt *time.Timer
}

func newQueue() *queue {
	q := new(queue)
	q.cond = sync.NewCond(&q.mu)
	return q
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (q *queue) read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.broken:
			return 0, net.ErrClosed
		case past(q.rd):
			return 0, os.ErrDeadlineExceeded
		case len(q.buf) > 0:
			n := copy(b, q.buf)
			q.buf = q.buf[n:]
			q.cond.Broadcast()
			return n, nil
		case q.closed:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		q.cond.Wait()
	}
}

func (q *queue) write(b []byte) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.closed:
			return n, net.ErrClosed
		case q.broken:
			return n, errors.New("broken pipe")
		case past(q.wd):
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if room := min(window-len(q.buf), len(b)); room > 0 {
			q.buf = append(q.buf, b[:room]...)
			b, n = b[room:], n+room
			q.cond.Broadcast()
			continue
		}
		q.cond.Wait()
	}
}

// set stores a deadline and arranges for waiters to look again when it has come.
func (q *queue) set(deadline *time.Time, timer **time.Timer, t time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	*deadline = t
	q.cond.Broadcast()
	if d := time.Until(t); !t.IsZero() && d > 0 {
		*timer = time.AfterFunc(d, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.cond.Broadcast()
		})
	}
}

func (q *queue) stop(flag *bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*flag = true
	for _, t := range []*time.Timer{q.rt, q.wt} {
		if t != nil {
			t.Stop()
		}
	}
	q.cond.Broadcast()
}

// An end is one side of a pipe.
type end struct {
	in, out       *queue
	local, remote net.Addr
	closed        func() // called by Close, if set
}

func (e *end) Read(b []byte) (int, error)  { return e.in.read(b) }
func (e *end) Write(b []byte) (int, error) { return e.out.write(b) }

func (e *end) Close() error {
	e.out.stop(&e.out.closed)
	e.in.stop(&e.in.broken)
	if e.closed != nil {
		e.closed()
	}
	return nil
}

// CloseWrite tells the other side that nothing more comes.
func (e *end) CloseWrite() error {
	e.out.stop(&e.out.closed)
	return nil
}

func (e *end) LocalAddr() net.Addr  { return e.local }
func (e *end) RemoteAddr() net.Addr { return e.remote }

func (e *end) SetDeadline(t time.Time) error {
	e.in.set(&e.in.rd, &e.in.rt, t)
	e.out.set(&e.out.wd, &e.out.wt, t)
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.in.set(&e.in.rd, &e.in.rt, t)
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.out.set(&e.out.wd, &e.out.wt, t)
	return nil
}

// A connSet holds the connections of a machine, and waits for those that serve them.
type connSet struct {
	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	closed bool
	work   sync.WaitGroup
}

func (s *connSet) init() { s.conns = make(map[net.Conn]bool) }

func (s *connSet) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = true
	return true
}

func (s *connSet) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// serve runs f, which serves c, on a goroutine that close waits for.
func (s *connSet) serve(c net.Conn, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = true
	s.work.Go(func() {
		f()
		c.Close()
		s.forget(c)
	})
	return true
}

func (s *connSet) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.drop()
}

// drop closes all connections and waits for those that serve them.
func (s *connSet) drop() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	s.work.Wait()
}
