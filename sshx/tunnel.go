package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// DialContext connects from the machine to address, as seen from there: this is how tests reach
// services inside a pool, and how jump hosts work. Use it as http.Transport.DialContext, say. The
// network must be "tcp", "tcp4" or "tcp6"; only the machine resolves names. The connection supports
// deadlines, and ends with the Client. ctx ends only the dialling.
func (c *Client) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("sshx: dial %s through %s: %w", address, c.cfg.Name, c.cfg.redactErr(err))
	}
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return fail(net.UnknownNetworkError(network))
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return fail(err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return fail(fmt.Errorf("port %q is not a number", service))
	}
	type opened struct {
		ch  ssh.Channel
		err error
	}
	result := make(chan opened)
	started := c.spawn(func() {
		ch, reqs, err := c.openChannel("direct-tcpip", ssh.Marshal(struct {
			Host       string
			Port       uint32
			OriginHost string
			OriginPort uint32
		}{host, uint32(port), "127.0.0.1", 0}))
		if err == nil {
			c.wg.Go(func() { ssh.DiscardRequests(reqs) })
		}
		select {
		case result <- opened{ch, err}:
		case <-ctx.Done():
			if err == nil {
				ch.Close()
			}
		}
	})
	if !started {
		return fail(c.Err())
	}
	select {
	case o := <-result:
		if _, ok := errors.AsType[*ssh.OpenChannelError](o.err); o.err != nil && !ok && sleep(c.life, time.Second) != nil {
			return fail(c.Err()) // it says more
		}
		if o.err != nil {
			return fail(o.err)
		}
		return newTunnel(c, o.ch, hostPort(address)), nil
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
}

// hostPort is an address that is known by name only.
type hostPort string

func (hostPort) Network() string  { return "tcp" }
func (h hostPort) String() string { return string(h) }

// tunnelBuffer is how much a tunnel holds in each direction, as a socket would.
const tunnelBuffer = 256 << 10

// A tunnel is a forwarded connection. Unlike the channel under it, it supports deadlines, and its
// Close ends a Read at once instead of waiting for the peer.
type tunnel struct {
	c      *Client
	ch     ssh.Channel
	remote net.Addr

	mu       sync.Mutex // guards all below
	cond     sync.Cond  // of any change
	in, out  []byte
	inErr    error // after in
	outErr   error
	noWrite  bool // CloseWrite or Close was called
	closed   bool
	readBy   time.Time
	writeBy  time.Time
	readEnd  *time.Timer
	writeEnd *time.Timer
}

func newTunnel(c *Client, ch ssh.Channel, remote net.Addr) net.Conn {
	t := &tunnel{c: c, ch: ch, remote: remote}
	t.cond.L = &t.mu
	if !c.spawn(func() { c.wg.Go(t.pumpIn); t.pumpOut() }) {
		t.inErr, t.outErr = net.ErrClosed, net.ErrClosed
	}
	return t
}

// lost waits for the end of the connection under the tunnel, and returns its cause, which is never
// io.EOF: that would be the end of the peer's data.
func (t *tunnel) lost() error {
	<-t.c.life.Done()
	if err := context.Cause(t.c.life); !errors.Is(err, io.EOF) {
		return err
	}
	return io.ErrUnexpectedEOF
}

// pumpIn brings what the peer sends.
func (t *tunnel) pumpIn() {
	buf := make([]byte, 32<<10)
	for {
		n, err := t.ch.Read(buf)
		if err != nil && (t.c.conn.cut() || t.c.life.Err() != nil) {
			err = t.lost()
		}
		t.mu.Lock()
		for len(t.in) >= tunnelBuffer && !t.closed && t.c.life.Err() == nil {
			t.cond.Wait()
		}
		if !t.closed {
			t.in = append(t.in, buf[:n]...)
		}
		t.inErr = err
		t.cond.Broadcast()
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// pumpOut sends what was written, and then the end.
func (t *tunnel) pumpOut() {
	defer context.AfterFunc(t.c.life, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.cond.Broadcast()
	})()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for len(t.out) == 0 && !t.noWrite && t.c.life.Err() == nil {
			t.cond.Wait()
		}
		switch {
		case t.c.life.Err() != nil:
			t.outErr = t.lost()
			t.cond.Broadcast()
			return
		case len(t.out) > 0:
			b := t.out
			t.out = nil
			t.cond.Broadcast()
			t.mu.Unlock()
			_, err := t.ch.Write(b)
			t.mu.Lock()
			if err != nil && t.outErr == nil {
				t.outErr = err
				t.noWrite = true
				t.cond.Broadcast()
			}
		default:
			t.mu.Unlock()
			_ = t.ch.CloseWrite()
			t.mu.Lock()
			for !t.closed && t.c.life.Err() == nil {
				t.cond.Wait()
			}
			t.mu.Unlock()
			t.ch.Close()
			t.mu.Lock()
			return
		}
	}
}

func (t *tunnel) Read(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case t.closed:
			return 0, t.opErr("read", net.ErrClosed)
		case past(t.readBy):
			return 0, t.opErr("read", os.ErrDeadlineExceeded)
		case len(t.in) > 0:
			n := copy(b, t.in)
			t.in = t.in[n:]
			t.cond.Broadcast()
			return n, nil
		case errors.Is(t.inErr, io.EOF):
			return 0, io.EOF
		case t.inErr != nil:
			return 0, t.opErr("read", t.inErr)
		case len(b) == 0:
			return 0, nil
		}
		t.cond.Wait()
	}
}

func (t *tunnel) Write(b []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case t.closed:
			return n, t.opErr("write", net.ErrClosed)
		case t.outErr != nil:
			return n, t.opErr("write", t.outErr)
		case t.c.life.Err() != nil:
			return n, t.opErr("write", t.lost())
		case t.noWrite:
			return n, t.opErr("write", net.ErrClosed)
		case past(t.writeBy):
			return n, t.opErr("write", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return n, nil
		}
		if room := tunnelBuffer - len(t.out); room > 0 {
			m := min(room, len(b))
			t.out = append(t.out, b[:m]...)
			n, b = n+m, b[m:]
			t.cond.Broadcast()
			continue
		}
		t.cond.Wait()
	}
}

// CloseWrite says that nothing more will be written; reading goes on.
func (t *tunnel) CloseWrite() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.noWrite = true
	t.cond.Broadcast()
	return nil
}

// Close ends the connection, after what was written is sent. It does not wait for that.
func (t *tunnel) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.opErr("close", net.ErrClosed)
	}
	t.closed, t.noWrite = true, true
	t.in = nil
	for _, timer := range []*time.Timer{t.readEnd, t.writeEnd} {
		if timer != nil {
			timer.Stop()
		}
	}
	t.cond.Broadcast()
	return nil
}

func (t *tunnel) LocalAddr() net.Addr  { return hostPort(t.c.cfg.Name) }
func (t *tunnel) RemoteAddr() net.Addr { return t.remote }

func (t *tunnel) SetDeadline(by time.Time) error {
	_ = t.SetReadDeadline(by)
	return t.SetWriteDeadline(by)
}

func (t *tunnel) SetReadDeadline(by time.Time) error {
	return t.setDeadline(&t.readBy, &t.readEnd, by)
}

func (t *tunnel) SetWriteDeadline(by time.Time) error {
	return t.setDeadline(&t.writeBy, &t.writeEnd, by)
}

func (t *tunnel) setDeadline(p *time.Time, timer **time.Timer, by time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.opErr("set deadline", net.ErrClosed)
	}
	*p = by
	if *timer != nil {
		(*timer).Stop()
	}
	if !by.IsZero() {
		*timer = time.AfterFunc(time.Until(by), func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.cond.Broadcast()
		})
	}
	t.cond.Broadcast()
	return nil
}

func (t *tunnel) opErr(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: t.remote, Err: err}
}

func past(by time.Time) bool { return !by.IsZero() && !time.Now().Before(by) }
