package vspheretest

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A pipe is a TCP connection in memory: two buffered streams.
type pipe struct {
	mu             sync.Mutex
	toNear, toFar  stream
	silent, broken bool          // the far end's power has gone; both ends are to see a reset
	wake           chan struct{} // closed, and replaced, at every change

	accepted, refused chan struct{}
	settled           bool // one of the two is closed
}

// A stream is one direction of a pipe.
type stream struct {
	buf               []byte
	writeEnd, readEnd bool // the writer, the reader has closed
	readBy, writeBy   deadline
}

type deadline struct {
	t     time.Time
	timer *time.Timer
}

// window is how much a stream holds until its writer has to wait.
const window = 256 << 10

func newPipe() *pipe {
	return &pipe{wake: make(chan struct{}), accepted: make(chan struct{}), refused: make(chan struct{})}
}

func (p *pipe) changed() { // with p.mu held
	close(p.wake)
	p.wake = make(chan struct{})
}

// silence cuts the far end off: nothing of what it does from now on reaches the near end.
func (p *pipe) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
	p.changed()
}

func (p *pipe) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = true
	p.changed()
}

func (p *pipe) settle(c chan struct{}) { // with p.mu held
	if !p.settled {
		p.settled = true
		close(c)
	}
}

// A labConn is one end of a pipe. The near end is the harness's, the far end the guest's.
type labConn struct {
	pipe          *pipe
	in, out       *stream
	local, remote netip.AddrPort
	far           bool
	s             *Server
}

var _ net.Conn = (*labConn)(nil)

func (c *labConn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *labConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *labConn) err(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *labConn) Read(b []byte) (int, error) {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	c.touch()
	for {
		switch {
		case c.in.readEnd:
			return 0, c.err("read", net.ErrClosed)
		case p.broken, c.far && p.silent:
			return 0, c.err("read", syscall.ECONNRESET)
		case c.in.readBy.passed():
			return 0, c.err("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case len(c.in.buf) > 0:
			n := copy(b, c.in.buf)
			c.in.buf = c.in.buf[n:]
			p.changed()
			return n, nil
		case c.in.writeEnd:
			return 0, io.EOF
		}
		c.wait()
	}
}

func (c *labConn) Write(b []byte) (n int, err error) {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	c.touch()
	for {
		switch {
		case c.out.writeEnd:
			return n, c.err("write", net.ErrClosed)
		case p.broken, c.far && p.silent:
			return n, c.err("write", syscall.ECONNRESET)
		case c.out.writeBy.passed():
			return n, c.err("write", os.ErrDeadlineExceeded)
		case c.out.readEnd && !p.silent:
			return n, c.err("write", syscall.EPIPE)
		case len(b) == 0:
			return n, nil
		case p.silent && c.reborn():
			// Somebody has the address again and knows nothing of this connection.
			p.broken = true
			p.changed()
			continue
		}
		if room := window - len(c.out.buf); room > 0 {
			m := min(room, len(b))
			c.out.buf = append(c.out.buf, b[:m]...)
			b, n = b[m:], n+m
			p.changed()
			continue
		}
		c.wait()
	}
}

// reborn reports whether a guest runs that has the address of the far end.
func (c *labConn) reborn() bool {
	c.pipe.mu.Unlock()
	defer c.pipe.mu.Lock()
	for _, v := range c.s.allVMs() {
		c.s.mu.Lock()
		r := v.guest
		c.s.mu.Unlock()
		if r != nil {
			if _, _, ok := r.at(c.remote.Addr()); ok {
				return true
			}
		}
	}
	return false
}

// touch is called when an end is used; with the pipe locked.
func (c *labConn) touch() {
	if c.far {
		c.pipe.settle(c.pipe.accepted)
	}
}

// wait waits for a change; the pipe is locked before and after.
func (c *labConn) wait() {
	w := c.pipe.wake
	c.pipe.mu.Unlock()
	<-w
	c.pipe.mu.Lock()
}

// Close ends both directions.
func (c *labConn) Close() error {
	p := c.pipe
	p.mu.Lock()
	if c.out.writeEnd && c.in.readEnd {
		p.mu.Unlock()
		return c.err("close", net.ErrClosed)
	}
	c.in.readEnd = true
	if !(c.far && p.silent) {
		c.out.writeEnd = true
	}
	if c.far {
		c.out.writeEnd = c.out.writeEnd || !p.silent
		p.settle(p.refused)
	}
	c.in.readBy.stop()
	c.out.writeBy.stop()
	p.changed()
	p.mu.Unlock()
	if !c.far {
		c.s.lab.forget(c)
	}
	return nil
}

// CloseWrite ends this end's stream: the other reads EOF, and may still write.
func (c *labConn) CloseWrite() error {
	c.pipe.mu.Lock()
	defer c.pipe.mu.Unlock()
	c.touch()
	if c.far && c.pipe.silent {
		return nil
	}
	c.out.writeEnd = true
	c.pipe.changed()
	return nil
}

// unserved is called when the guest has returned from a connection: one that it neither used nor
// closed stays as it is, without an answer.
func (c *labConn) unserved() {
	c.pipe.mu.Lock()
	settled := c.pipe.settled
	c.pipe.mu.Unlock()
	if settled {
		_ = c.Close()
	}
}

func (c *labConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *labConn) SetReadDeadline(t time.Time) error {
	c.pipe.mu.Lock()
	defer c.pipe.mu.Unlock()
	c.in.readBy.set(t, c.pipe)
	return nil
}

func (c *labConn) SetWriteDeadline(t time.Time) error {
	c.pipe.mu.Lock()
	defer c.pipe.mu.Unlock()
	c.out.writeBy.set(t, c.pipe)
	return nil
}

func (d *deadline) passed() bool { return !d.t.IsZero() && !time.Now().Before(d.t) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) set(t time.Time, p *pipe) {
	d.stop()
	d.t = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed()
		})
	}
	p.changed()
}
