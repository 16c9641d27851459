package netsim

import (
	"net"
	"net/netip"
	"strings"
	"sync"
)

// DHCP is the server of one segment. Its fields are set before Serve.
type DHCP struct {
	// Server answers only while it has an interface on the segment that is up.
	Server *Node
	// Reserved maps MACs, in lower case, to addresses; Pool is where all others get theirs.
	Reserved map[string]netip.Addr
	Pool     netip.Prefix
	// Bits is the length of the prefix of every address.
	Bits    int
	Gateway netip.Addr
	DNS     []netip.Addr
	MTU     int // 0: not said
	// Router6 announces itself and Prefix6 (a /64), if set: IPv6 hosts make their addresses
	// themselves.
	Router6 netip.Addr
	Prefix6 netip.Prefix

	mu    sync.Mutex // guards what follows
	given map[string]netip.Addr
}

// A Lease is what a client is told.
type Lease struct {
	Addr    netip.Prefix
	Gateway netip.Addr
	DNS     []netip.Addr
	MTU     int
}

// ServeDHCP makes d the server of the segment.
func (n *Network) ServeDHCP(segment string, d *DHCP) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d.given = make(map[string]netip.Addr)
	n.dhcp[segment] = d
}

// server returns the DHCP server that a machine hears on an untagged segment.
func (n *Network) server(segment string) *DHCP {
	n.mu.RLock()
	defer n.mu.RUnlock()
	d := n.dhcp[segment]
	if d == nil {
		return nil
	}
	for _, i := range d.Server.cfg.Interfaces {
		if i.Segment == segment && i.Up && i.VLAN == 0 && !d.Server.gone {
			return d
		}
	}
	return nil
}

// Lease asks for an address on the segment, for a client that calls itself id (its MAC, as a
// rule). It reports false if there is no answer.
func (n *Network) Lease(segment, mac, id string) (Lease, bool) {
	d := n.server(segment)
	if d == nil {
		return Lease{}, false
	}
	a, ok := d.address(strings.ToLower(mac), strings.ToLower(id))
	if !ok {
		return Lease{}, false
	}
	return Lease{Addr: netip.PrefixFrom(a, d.Bits), Gateway: d.Gateway, DNS: d.DNS, MTU: d.MTU}, true
}

// address finds the address of a client. Reservations are by MAC, and hold for a client that
// identifies itself by its MAC; any other id is a client like any.
func (d *DHCP) address(mac, id string) (netip.Addr, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a, ok := d.Reserved[mac]; ok && mac == id {
		return a, true
	}
	if a, ok := d.given[id]; ok {
		return a, true
	}
	a := d.Pool.Masked().Addr()
	for range len(d.given) {
		a = a.Next()
	}
	if !d.Pool.Contains(a) {
		return netip.Addr{}, false
	}
	d.given[id] = a
	return a, true
}

// Autoconf returns the IPv6 address that a machine makes itself on the segment, and its router.
func (n *Network) Autoconf(segment, mac string) (addr netip.Prefix, router netip.Addr, ok bool) {
	d := n.server(segment)
	if d == nil || !d.Router6.IsValid() {
		return netip.Prefix{}, netip.Addr{}, false
	}
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return netip.Prefix{}, netip.Addr{}, false
	}
	a := d.Prefix6.Masked().Addr().As16()
	copy(a[8:], []byte{hw[0] ^ 2, hw[1], hw[2], 0xff, 0xfe, hw[3], hw[4], hw[5]})
	return netip.PrefixFrom(netip.AddrFrom16(a), 64), d.Router6, true
}
