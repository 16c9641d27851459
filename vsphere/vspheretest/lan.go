package vspheretest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
)

// A LAN is a flat network, 10.0.0.0/8, with a DHCP server: the one that machines without a network of
// their own are on. The zero value is ready. Methods may be called from any goroutine.
type LAN struct {
	mu sync.Mutex
	st leases
}

// leases is what a DHCP server remembers.
type leases struct {
	Leases map[string]netip.Addr // by network, and what names the NIC there
	Last   uint32
}

// A LANClient is a machine as its LAN knows it.
type LANClient struct {
	NICs []HardwareNIC
	// Reverts are the Machine's: the server may well have given an address to somebody else by then.
	Reverts int
	// ID names the machine to the server, such as its machine-id; "" means that MACs do.
	ID string
	// Fixed are addresses that NICs have by themselves; a zero one, or none, means DHCP.
	Fixed []netip.Prefix
	// Away means that it does not answer, as while it reboots.
	Away bool
}

// NICs returns what the machine's tools tell of its NICs: of each that is connected the link-local
// address, which comes first, and its own one.
func (l *LAN) NICs(c LANClient) (all []GuestNIC) {
	for i, n := range c.NICs {
		nic := GuestNIC{MAC: n.MAC, Connected: n.Connected}
		if n.Connected && !c.Away {
			nic.Addrs = []netip.Prefix{netip.PrefixFrom(linkLocal(n.MAC), 64)}
			if i < len(c.Fixed) && c.Fixed[i].IsValid() {
				nic.Addrs = append(nic.Addrs, c.Fixed[i])
			} else {
				nic.Addrs = append(nic.Addrs, netip.PrefixFrom(l.lease(c, i), 8))
			}
		}
		all = append(all, nic)
	}
	return all
}

// lease returns the address of the i-th NIC, which is always the same one.
func (l *LAN) lease(c LANClient, i int) netip.Addr {
	key := fmt.Sprint(strings.ToLower(c.NICs[i].MAC), c.Reverts)
	if c.ID != "" {
		key = fmt.Sprint("id-", c.ID, "-", i)
	}
	key = c.NICs[i].Network + " " + key
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.st.Leases[key]
	if !ok {
		if l.st.Leases == nil {
			l.st.Leases = make(map[string]netip.Addr)
		}
		l.st.Last++
		n := l.st.Last + 9
		a = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		l.st.Leases[key] = a
	}
	return a
}

// MarshalJSON returns the leases, for a StateSaver.
func (l *LAN) MarshalJSON() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Marshal(l.st)
}

// UnmarshalJSON takes them back.
func (l *LAN) UnmarshalJSON(data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return json.Unmarshal(data, &l.st)
}

// Bridge returns the NIC of a container bridge, which tools list as any other; its address leads
// nowhere.
func Bridge() GuestNIC {
	return GuestNIC{MAC: "02:42:ac:11:00:01", Connected: true, Addrs: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")}}
}

// linkLocal is the address that IPv6 makes of a MAC by itself.
func linkLocal(mac string) netip.Addr {
	var a [16]byte
	a[0], a[1], a[11], a[12] = 0xfe, 0x80, 0xff, 0xfe
	if b, err := net.ParseMAC(mac); err == nil && len(b) == 6 {
		copy(a[8:11], b[:3])
		copy(a[13:], b[3:])
		a[8] ^= 2
	}
	return netip.AddrFrom16(a)
}
