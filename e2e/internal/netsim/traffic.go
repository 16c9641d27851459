package netsim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// A UDPHandler answers one datagram; nil is no answer.
type UDPHandler func(ctx context.Context, from, to netip.AddrPort, request []byte) []byte

// A TCPHandler serves one connection and returns when it is done with it; conn is closed then.
type TCPHandler func(conn net.Conn, to netip.AddrPort)

// HandleUDP sets what answers datagrams to the port; nil frees the port.
func (m *Node) HandleUDP(port uint16, h UDPHandler) {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	if h == nil {
		delete(m.udp, port)
		return
	}
	m.udp[port] = h
}

// A tcpPort is a port on which something listens, at one address or, if that is invalid, at all.
type tcpPort struct {
	at    netip.Addr
	serve TCPHandler
}

// HandleTCP sets what serves connections to the port; nil frees the port. Connections that
// are served already go on.
func (m *Node) HandleTCP(port uint16, h TCPHandler) {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	if h == nil {
		delete(m.tcp, port)
		return
	}
	m.tcp[port] = tcpPort{serve: h}
}

// ListenTCP is HandleTCP for a port that must be free, at an address of the machine; an invalid one
// means all.
func (m *Node) ListenTCP(at netip.AddrPort, h TCPHandler) error {
	m.net.mu.Lock()
	defer m.net.mu.Unlock()
	if _, taken := m.tcp[at.Port()]; taken {
		return fmt.Errorf("tcp %d: %w", at.Port(), ErrInUse)
	}
	if at.Addr().IsValid() && !m.owns(at.Addr()) {
		return fmt.Errorf("tcp %s: %w", at, ErrNotHere)
	}
	m.tcp[at.Port()] = tcpPort{at.Addr(), h}
	return nil
}

// listener returns what listens at an address of the machine, or nil. The caller holds net.mu.
func (m *Node) listener(to netip.AddrPort) TCPHandler {
	p := m.tcp[to.Port()]
	if p.at.IsValid() && p.at != to.Addr() {
		return nil
	}
	return p.serve
}

// ListenAddr returns the address at which something listens on a TCP port: invalid for all.
func (m *Node) ListenAddr(port uint16) netip.Addr {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	return m.tcp[port].at
}

// Listening returns the ports that something listens on.
func (m *Node) Listening(proto string) []uint16 {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	var ports []uint16
	if proto == "tcp" {
		for p := range m.tcp {
			ports = append(ports, p)
		}
	} else {
		for p := range m.udp {
			ports = append(ports, p)
		}
	}
	return ports
}

// Ping sends an echo request to dst, by the interface dev unless that is "". It returns nil if
// the answer comes back.
func (m *Node) Ping(dst netip.Addr, dev string) error {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	_, _, err := m.net.reach(m, packet{proto: "icmp", dst: dst, dev: dev})
	return err
}

// Exchange sends a datagram to dst and returns the answer.
func (m *Node) Exchange(ctx context.Context, dst netip.AddrPort, request []byte) ([]byte, error) {
	m.net.mu.RLock()
	to, seen, err := m.net.reach(m, packet{proto: "udp", port: dst.Port(), dst: dst.Addr()})
	var h UDPHandler
	if err == nil {
		if h = to.udp[dst.Port()]; h == nil {
			err = ErrRefused
		}
	}
	m.net.mu.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("udp %s: %w", dst, err)
	}
	answer := h(ctx, netip.AddrPortFrom(seen, ephemeral), dst, request)
	if answer == nil {
		return nil, fmt.Errorf("udp %s: %w", dst, ErrTimeout)
	}
	return answer, nil
}

// Dial connects to dst.
func (m *Node) Dial(dst netip.AddrPort) (net.Conn, error) {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	to, seen, err := m.net.reach(m, packet{proto: "tcp", port: dst.Port(), dst: dst.Addr()})
	if err != nil {
		return nil, fmt.Errorf("tcp %s: %w", dst, err)
	}
	h := to.listener(dst)
	if h == nil {
		return nil, fmt.Errorf("tcp %s: %w", dst, ErrRefused)
	}
	local := netip.AddrPortFrom(seen, ephemeral)
	here, there := pipe(net.TCPAddrFromAddrPort(local), net.TCPAddrFromAddrPort(dst))
	here.closed = func() { m.conns.forget(here) }
	if !m.conns.add(here) || !to.conns.serve(there, func() { h(there, dst) }) {
		here.Close()
		there.Close()
		return nil, fmt.Errorf("tcp %s: %w", dst, ErrRefused)
	}
	return here, nil
}

// Reaches returns the machine that a TCP connection from m to dst would end at, whether or not
// anything listens there.
func (m *Node) Reaches(dst netip.AddrPort) (*Node, error) {
	m.net.mu.RLock()
	defer m.net.mu.RUnlock()
	to, _, err := m.net.reach(m, packet{proto: "tcp", port: dst.Port(), dst: dst.Addr()})
	return to, err
}

// Serve hands conn, which was made outside the model, to whatever listens on the port of m, and
// returns when that is done with it. It reports whether anything listens.
func (m *Node) Serve(conn net.Conn, to netip.AddrPort) bool {
	done := make(chan struct{})
	start := func() bool {
		m.net.mu.RLock()
		defer m.net.mu.RUnlock()
		h := m.listener(to)
		return h != nil && m.conns.serve(conn, func() { defer close(done); h(conn, to) })
	}
	if !start() {
		return false
	}
	<-done
	return true
}

const ephemeral = 40000 // the sender's port, of which nothing depends
