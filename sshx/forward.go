package sshx

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A Forward is a local address behind which a service of the machine's network answers.
type Forward struct {
	c      *Client
	to     string
	l      net.Listener
	ctx    context.Context // ends with Close or the Client
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Forward listens on a local address ("127.0.0.1:0" for a free port), and connects whoever comes
// to the address to, as seen from the machine. It is for programs that cannot use DialContext.
// Close it when done; it ends with the Client at the latest. ctx is for the listening only.
func (c *Client) Forward(ctx context.Context, local, to string) (*Forward, error) {
	if _, _, err := net.SplitHostPort(to); err != nil {
		return nil, fmt.Errorf("sshx: %s: forward: %w", c.cfg.Name, err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", local)
	if err != nil {
		return nil, fmt.Errorf("sshx: %s: forward: %w", c.cfg.Name, err)
	}
	f := &Forward{c: c, to: to, l: l}
	f.ctx, f.cancel = context.WithCancel(c.life)
	context.AfterFunc(f.ctx, func() { l.Close() })
	f.wg.Go(f.serve)
	if !c.spawn(f.wg.Wait) {
		f.Close()
		return nil, c.ended("forward")
	}
	return f, nil
}

// Addr is where the Forward listens.
func (f *Forward) Addr() net.Addr { return f.l.Addr() }

// Close ends the Forward and all connections through it.
func (f *Forward) Close() error {
	f.cancel()
	f.l.Close()
	f.wg.Wait()
	return nil
}

func (f *Forward) serve() {
	for {
		conn, err := f.l.Accept()
		if err == nil {
			f.wg.Go(func() { f.one(conn) })
			continue
		}
		if f.ctx.Err() != nil {
			return
		}
		// Such as too many open files, which goes by.
		f.c.cfg.Logf("%s: forward: %v", f.c.cfg.Name, err)
		_ = sleep(f.ctx, acceptPause)
	}
}

// acceptPause is how long a Forward that cannot accept connections waits before it tries again.
const acceptPause = time.Second

func (f *Forward) one(local net.Conn) {
	remote, err := f.c.DialContext(f.ctx, "tcp", f.to)
	if err != nil {
		if f.ctx.Err() == nil {
			f.c.cfg.Logf("%s: forward: %v", f.c.cfg.Name, f.c.cfg.redactErr(err))
		}
		reset(local)
		return
	}
	abort := func() { reset(local); remote.Close() }
	defer context.AfterFunc(f.ctx, abort)()
	var both sync.WaitGroup
	both.Go(func() { copyHalf(remote, local, abort) })
	both.Go(func() { copyHalf(local, remote, abort) })
	both.Wait()
	local.Close()
	remote.Close()
}

// reset ends a connection as a port does where nobody listens, and a peer that is gone: so that
// nobody takes what came for the whole.
func reset(conn net.Conn) {
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	conn.Close()
}

// copyHalf copies one direction, and passes on its end, or calls abort.
func copyHalf(dst, src net.Conn, abort func()) {
	_, err := io.Copy(dst, src)
	cw, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok {
		abort()
		return
	}
	_ = cw.CloseWrite()
}
