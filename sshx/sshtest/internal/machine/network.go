package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// A BindFunc reserves an address for a program that listens there.
type BindFunc func(at netip.AddrPort, serve func(net.Conn)) (release func(), err error)

// Listen listens on a TCP port of the machine, as the operating system lets the Proc's user.
func (p *Proc) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Err: os.NewSyscallError("bind", err)}
	}
	at, err := bindAddr(network, address)
	switch {
	case err != nil:
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	case at.Port() > 0 && at.Port() < 1024 && p.User != "root":
		return fail(syscall.EACCES)
	}
	bind := p.Host.config.Bind()
	if bind == nil {
		bind = p.Host.ports.bind
	}
	l := &listener{conns: make(chan net.Conn), done: make(chan struct{}), open: map[*served]bool{}}
	for port := at.Port(); ; port++ {
		if at.Port() == 0 && port == 0 {
			port = firstFreePort
		}
		l.at = netip.AddrPortFrom(at.Addr(), port)
		if l.release, err = bind(l.at, l.serve); err == nil {
			break
		}
		if at.Port() != 0 || !errors.Is(err, syscall.EADDRINUSE) || port == 65535 {
			return nil, &net.OpError{Op: "listen", Net: network, Addr: l.Addr(), Err: err}
		}
	}
	context.AfterFunc(p.ends(ctx), func() { l.end() })
	return l, nil
}

const firstFreePort = 32768

// bindAddr reads an address to listen on; an unspecified one has no Addr.
func bindAddr(network, address string) (netip.AddrPort, error) {
	if network != "tcp" && network != "tcp4" {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q is not a number from 0 to 65535", text)
	}
	var at netip.Addr
	switch host {
	case "":
	case "localhost":
		at = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		if at, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, err
		}
		if at.IsUnspecified() {
			at = netip.Addr{}
		}
	}
	return netip.AddrPortFrom(at, uint16(port)), nil
}

// DialContext connects to a TCP port from the machine, by the names, routes and firewalls that it
// has.
func (p *Proc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network != "tcp" && network != "tcp4" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
	}
	conn, err := p.Host.Connect(ctx, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	c := &served{Conn: conn, closed: make(chan struct{})}
	context.AfterFunc(p.ends(ctx), func() { _ = c.Close() })
	return c, nil
}

// ends is the context that ends with the program, at the latest.
func (p *Proc) ends(ctx context.Context) context.Context {
	if p.life != nil {
		return p.life
	}
	return ctx
}

// Connect makes a connection for a program of the machine, or for direct-tcpip.
func (h *Host) Connect(ctx context.Context, address string) (net.Conn, error) {
	dial := h.config.Dial()
	if h.config.Bind() == nil { // what listens is in the machine
		host, text, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if a, aerr := netip.ParseAddr(host); host == "localhost" || aerr == nil && a.IsLoopback() {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("port %q is not a number from 0 to 65535", text)
			}
			// Machines whose network is that of the process are on its loopback, too.
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
			if dial == nil || h.ports.at(to) != nil {
				return h.ports.dial(to)
			}
		}
	}
	if dial == nil {
		return nil, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
	}
	return dial(ctx, "tcp", address)
}

// ServePort hands a connection from the machine's network, to an address of the machine, to the
// program that listens there, and returns when it is closed.
func (h *Host) ServePort(conn net.Conn, to netip.AddrPort) bool { return h.ports.serve(conn, to) }

// ports are what programs listen on in a machine without Bind.
type ports struct {
	mu sync.Mutex
	on map[uint16]bound
}

type bound struct {
	at    netip.Addr // invalid for all
	serve func(net.Conn)
}

func (b bound) takes(to netip.Addr) bool { return !b.at.IsValid() || b.at == to }

func (t *ports) bind(at netip.AddrPort, serve func(net.Conn)) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.on[at.Port()]; taken {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	if t.on == nil {
		t.on = map[uint16]bound{}
	}
	t.on[at.Port()] = bound{at.Addr(), serve}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.on, at.Port())
	}, nil
}

func (t *ports) at(to netip.AddrPort) func(net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, ok := t.on[to.Port()]; ok && b.takes(to.Addr()) {
		return b.serve
	}
	return nil
}

func (t *ports) serve(conn net.Conn, to netip.AddrPort) bool {
	serve := t.at(to)
	if serve != nil {
		serve(conn)
	}
	return serve != nil
}

func (t *ports) dial(to netip.AddrPort) (net.Conn, error) {
	serve := t.at(to)
	if serve == nil {
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}
	here, there, err := loopback()
	if err != nil {
		return nil, err
	}
	go serve(there) // ends when either side closes
	return here, nil
}

// loopback returns the two ends of a TCP connection.
func loopback() (here, there net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if here, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	for {
		if there, err = l.Accept(); err != nil {
			_ = here.Close()
			return nil, nil, err
		}
		if there.RemoteAddr().String() == here.LocalAddr().String() {
			return here, there, nil
		}
		_ = there.Close() // somebody else's
	}
}

// A listener is what a program listens with.
type listener struct {
	at      netip.AddrPort
	release func()
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once

	mu   sync.Mutex
	open map[*served]bool // accepted, or about to be
	over bool             // the program has ended
}

// serve offers a connection to Accept, and returns when it is closed.
func (l *listener) serve(conn net.Conn) {
	c := &served{Conn: conn, closed: make(chan struct{})}
	c.onClose = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, c)
	}
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		_ = conn.Close()
		return
	}
	l.open[c] = true
	l.mu.Unlock()
	select {
	case l.conns <- c:
		<-c.closed
	case <-l.done:
		_ = c.Close()
	}
}

// Accept waits for the next connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close frees the port. Connections that were accepted stay open.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.release()
		close(l.done)
	})
	return nil
}

// end is Close when the program ends.
func (l *listener) end() {
	_ = l.Close()
	l.mu.Lock()
	l.over = true
	var left []*served
	for c := range l.open {
		left = append(left, c)
	}
	l.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
}

// Addr is the address that it listens on.
func (l *listener) Addr() net.Addr {
	at := l.at
	if !at.Addr().IsValid() {
		at = netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
	}
	return net.TCPAddrFromAddrPort(at)
}

// A served is a connection that tells when it is closed.
type served struct {
	net.Conn
	closed  chan struct{}
	once    sync.Once
	onClose func()
}

// Close closes the connection.
func (c *served) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		if c.onClose != nil {
			c.onClose()
		}
		close(c.closed)
	})
	return err
}

// CloseWrite ends what is sent.
func (c *served) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return c.Close()
}
