package pooltest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A network is what the machines of a Provider are reached by. A connection is one over loopback.
type network struct {
	p *Provider

	mu     sync.Mutex
	listen net.Listener
	conns  map[*farConn]bool
}

// noRoute is how long an address without a machine is waited for.
const noRoute = 20 * time.Millisecond

// DialContext connects to a machine's SSH port; it makes the Provider an sshx.Dialer. An address
// that no machine has is no route to host; a port without a listener refuses.
func (p *Provider) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := p.dial(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", address, err)}
	}
	return c, nil
}

func (p *Provider) dial(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	waited, stop := context.WithTimeout(ctx, noRoute)
	defer stop()
	var g *guest
	err = p.until(waited, func() (bool, error) {
		g, _ = p.at(to.Addr())
		return g != nil, nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	case to.Port() != 22 || !g.host.SSHDRunning():
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	near, far, err := p.net.pair()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, mac := p.at(to.Addr())
	if now != g || p.closed {
		_, _ = near.Close(), far.Close()
		return nil, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	}
	f := &farConn{Conn: far, g: g, mac: mac}
	p.net.mu.Lock()
	if p.net.conns == nil {
		p.net.conns = map[*farConn]bool{}
	}
	p.net.conns[f] = true
	p.net.mu.Unlock()
	p.work.Go(func() { g.host.ServeConn(f) })
	return &nearConn{Conn: near, far: f, p: p, to: to.Addr()}, nil
}

// at returns the guest that has an address, and the NIC; with p.mu held.
func (p *Provider) at(addr netip.Addr) (*guest, string) {
	for _, v := range p.vms {
		if v.guest == nil || !v.guest.up {
			continue
		}
		for _, n := range v.nics {
			if n.state.Connected && v.guest.addrs[n.mac] == addr {
				return v.guest, n.mac
			}
		}
	}
	return nil, ""
}

// pair returns the two ends of a connection.
func (n *network) pair() (near, far net.Conn, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listen == nil {
		if n.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, nil, err
		}
	}
	if near, err = net.Dial("tcp", n.listen.Addr().String()); err != nil {
		return nil, nil, err
	}
	for {
		if far, err = n.listen.Accept(); err != nil {
			_ = near.Close()
			return nil, nil, err
		}
		if far.RemoteAddr().String() == near.LocalAddr().String() {
			return near, far, nil
		}
		_ = far.Close() // somebody else's
	}
}

// cut makes the connections of a guest, over one NIC unless mac is "", silent: the other end learns
// nothing.
func (n *network) cut(g *guest, mac string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.g == g && (mac == "" || c.mac == mac) {
			c.silent.Store(true)
			_ = c.SetReadDeadline(time.Unix(1, 0)) // it hears nothing either
		}
	}
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		_ = c.Conn.Close()
	}
	if n.listen != nil {
		_ = n.listen.Close()
	}
}

// A farConn is a guest's end of a connection.
type farConn struct {
	net.Conn
	g      *guest
	mac    string
	silent atomic.Bool
}

func (c *farConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return 0, syscall.ECONNRESET
	}
	return c.Conn.Write(b)
}

// Close leaves the connection open for the other end, if that is to hear nothing of it.
func (c *farConn) Close() error {
	if c.silent.Load() {
		return nil
	}
	return c.Conn.Close()
}

// A nearConn is the other end.
type nearConn struct {
	net.Conn
	far *farConn
	p   *Provider
	to  netip.Addr
}

func (c *nearConn) Write(b []byte) (int, error) {
	if c.far.silent.Load() {
		c.p.mu.Lock()
		g, _ := c.p.at(c.to)
		c.p.mu.Unlock()
		if g != nil { // somebody has the address who knows nothing of the connection
			_ = c.Close()
			return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", syscall.ECONNRESET)}
		}
	}
	return c.Conn.Write(b)
}

// Close closes both ends.
func (c *nearConn) Close() error {
	c.p.net.mu.Lock()
	delete(c.p.net.conns, c.far)
	c.p.net.mu.Unlock()
	err := c.Conn.Close()
	if c.far.silent.Load() {
		_ = c.far.Conn.Close()
	}
	return err
}
