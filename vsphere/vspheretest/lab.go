package vspheretest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// A lab is the network on which the harness reaches the guests.
type lab struct {
	mu      sync.Mutex
	changed chan struct{}         // closed, and replaced, when a guest comes or goes
	conns   map[*labConn]*running // the open ones, and the guests at their other ends
	all     map[*labConn]bool     // the open ones, silent ones included
	port    uint16                // the last local port that was given out
	turns   map[netip.Addr]int    // how many dials have met a conflict, by address
}

// harnessAddr is the address that the harness has on the lab network.
var harnessAddr = netip.AddrFrom4([4]byte{10, 255, 255, 1})

func (l *lab) broadcast() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *lab) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// cut makes all connections of a guest silent, as the loss of its power does: the other end
// learns nothing.
func (l *lab) cut(r *running) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c, of := range l.conns {
		if of == r {
			c.pipe.silence()
			delete(l.conns, c)
		}
	}
}

// reset ends all connections.
func (l *lab) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.all {
		c.pipe.reset()
	}
	l.all, l.conns = nil, nil
}

// DialContext connects to a guest as a machine on the lab network does; it makes the Server an
// sshx.Dialer. If no running guest has the address, it waits for one, and says "no route to
// host" after Latency.NoRoute. A guest without a listener refuses; one that drops the
// packet lets the caller wait until ctx ends.
func (s *Server) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: labAddr(address), Err: err}
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fail(fmt.Errorf("vspheretest: the lab network has no names: %w", err))
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return fail(net.UnknownNetworkError(network))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(net.ErrClosed) })()
	r, g, err := s.arp(ctx, to.Addr())
	if err != nil {
		return fail(err)
	}
	near, far := s.lab.open(s, r, to)
	if near == nil {
		return fail(os.NewSyscallError("connect", syscall.EHOSTUNREACH))
	}
	s.goWork(func() {
		g.ServeConn(far, to)
		far.unserved()
	})
	// The connection stands once the guest uses it; a guest that closes it first has refused it.
	select {
	case <-far.pipe.accepted:
		return near, nil
	case <-far.pipe.refused:
		near.Close()
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	case <-ctx.Done():
		near.Close()
		return fail(dialCause(ctx))
	}
}

// arp finds the running guest that has addr, and waits a while for one. Of several that have it, or
// the MAC behind it, dials reach one after the other.
func (s *Server) arp(ctx context.Context, addr netip.Addr) (*running, Guest, error) {
	waited, stop := context.WithTimeout(ctx, s.lat.NoRoute)
	defer stop()
	turn := -1
	for {
		changed := s.lab.next()
		at := s.claimants(addr)
		if len(at) > 1 && turn < 0 {
			turn = s.lab.turn(addr)
		}
		if len(at) > 0 {
			to := at[max(turn, 0)%len(at)]
			if len(at) > 1 {
				s.lab.divert(addr, to)
			}
			if to.guest != nil {
				return to.run, to.guest, nil
			}
			select { // it has the MAC and not the address: it drops what it gets
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, nil, dialCause(ctx)
			}
		}
		select {
		case <-changed:
		case <-waited.Done():
			if ctx.Err() != nil {
				return nil, nil, dialCause(ctx)
			}
			return nil, nil, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
		}
	}
}

// dialCause is why ctx ended, as package net puts it.
func dialCause(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return os.ErrDeadlineExceeded
	}
	return context.Cause(ctx)
}

// open makes a connection to the guest. It returns nil if the guest's power has just gone.
func (l *lab) open(s *Server, r *running, to netip.AddrPort) (near, far *labConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.life.Err() != nil {
		return nil, nil
	}
	l.port++
	from := netip.AddrPortFrom(harnessAddr, 32768+l.port%28000)
	p := newPipe()
	near = &labConn{pipe: p, in: &p.toNear, out: &p.toFar, local: from, remote: to, s: s}
	far = &labConn{pipe: p, in: &p.toFar, out: &p.toNear, local: to, remote: from, far: true, s: s}
	if l.conns == nil {
		l.conns = make(map[*labConn]*running)
	}
	if l.all == nil {
		l.all = make(map[*labConn]bool)
	}
	l.conns[near] = r
	l.all[near] = true
	return near, far
}

// forget drops a connection whose near end has been closed.
func (l *lab) forget(c *labConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	delete(l.all, c)
}

type labAddr string

func (labAddr) Network() string  { return "tcp" }
func (a labAddr) String() string { return string(a) }
