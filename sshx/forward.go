package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
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
	c.spawn(f.wg.Wait)
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
		if err != nil {
			return // closed
		}
		f.wg.Go(func() { f.one(conn) })
	}
}

func (f *Forward) one(local net.Conn) {
	defer local.Close()
	remote, err := f.c.DialContext(f.ctx, "tcp", f.to)
	if err != nil {
		if f.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
			f.c.cfg.Logf("%s: forward: %v", f.c.cfg.Name, f.c.cfg.redactErr(err))
		}
		if t, ok := local.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // a reset, as from a port where nobody listens
		}
		return
	}
	defer remote.Close()
	defer context.AfterFunc(f.ctx, func() { local.Close(); remote.Close() })()
	var both sync.WaitGroup
	both.Go(func() { copyHalf(remote, local) })
	both.Go(func() { copyHalf(local, remote) })
	both.Wait()
}

// copyHalf copies one direction, and passes on its end.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if cw, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		_ = cw.CloseWrite()
		return
	}
	dst.Close()
	src.Close()
}
