package netsim

import (
	"maps"
	"net/netip"
)

// Leases returns the addresses that DHCP servers have given out without a reservation: by
// segment, and then by what the client called itself.
func (n *Network) Leases() map[string]map[string]netip.Addr {
	n.mu.RLock()
	defer n.mu.RUnlock()
	all := make(map[string]map[string]netip.Addr)
	for segment, d := range n.dhcp {
		d.mu.Lock()
		all[segment] = maps.Clone(d.given)
		d.mu.Unlock()
	}
	return all
}

// SetLeases makes the DHCP servers remember what Leases returned. Segments without a server are
// passed over.
func (n *Network) SetLeases(all map[string]map[string]netip.Addr) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for segment, given := range all {
		if d := n.dhcp[segment]; d != nil {
			d.mu.Lock()
			maps.Copy(d.given, given)
			d.mu.Unlock()
		}
	}
}
