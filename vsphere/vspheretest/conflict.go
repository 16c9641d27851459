package vspheretest

import "net/netip"

// Two VMs with one MAC on one network, or with one address, both get what is sent to it, by turns:
// a switch sends a frame to where the MAC spoke last, and a neighbour believes who answered last.
// Real turns depend on who speaks when; here each dial, and each time a guest's tools speak, is one.

// A claimant is a guest that gets what is sent to an address.
type claimant struct {
	run   *running
	guest Guest // nil if it has only the MAC
}

// claimants lists the guests that have addr, and those that have the MAC of one of them on the same
// network, in the order in which their VMs were made.
func (s *Server) claimants(addr netip.Addr) (all []claimant) {
	has := make(map[*vm]Guest)
	at := make(map[station]bool)
	for _, r := range s.runningGuests() {
		if g, st, ok := r.at(addr); ok {
			has[r.vm] = g
			at[st] = true
		}
	}
	found := make(map[*vm]bool)
	for v := range has {
		found[v] = true
	}
	for st := range at {
		for _, v := range s.index.with(macKey(st.mac)) {
			found[v] = true
		}
	}
	for _, v := range inOrder(found) {
		s.mu.Lock()
		r := v.guest
		s.mu.Unlock()
		switch g := has[v]; {
		case r == nil:
		case g != nil:
			all = append(all, claimant{r, g})
		case r.speaks(at):
			all = append(all, claimant{run: r})
		}
	}
	return all
}

// runningGuests lists the guests of the VMs that are on.
func (s *Server) runningGuests() (all []*running) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.vms {
		if v.guest != nil {
			all = append(all, v.guest)
		}
	}
	return all
}

// speaks reports whether a guest that has booted has a NIC, connected, that is one of those.
func (r *running) speaks(at map[station]bool) bool {
	r.s.mu.Lock()
	g := r.guest
	r.s.mu.Unlock()
	if g == nil || r.life.Err() != nil {
		return false
	}
	for _, n := range g.Info().NICs {
		if st, ok := r.station(n.MAC); ok && n.Connected && at[st] {
			return true
		}
	}
	return false
}

// turn counts the dials that meet a conflict.
func (l *lab) turn(addr netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turns == nil {
		l.turns = make(map[netip.Addr]int)
	}
	l.turns[addr]++
	return l.turns[addr] - 1
}

// divert makes what is sent to addr reach one guest from now on. Connections to the others end: the
// guest resets what it knows nothing of or, if the address is not its own, says nothing.
func (l *lab) divert(addr netip.Addr, to claimant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c, of := range l.conns {
		if of == to.run || c.remote.Addr() != addr {
			continue
		}
		if to.guest != nil {
			c.pipe.reset()
		} else {
			c.pipe.silence()
		}
		delete(l.conns, c)
	}
}

// announce is called when a guest speaks on its networks: what is sent to addresses that others have
// too, or that are behind its MACs, reaches it from now on.
func (s *Server) announce(r *running, info GuestInfo) {
	own := make(map[netip.Addr]bool)
	for _, n := range info.NICs {
		for _, p := range n.Addrs {
			own[p.Addr()] = true
		}
	}
	rivals := make(map[*vm]bool)
	for _, st := range r.stations() {
		for _, v := range s.index.with(macKey(st.mac)) {
			rivals[v] = true
		}
	}
	disputed := make(map[netip.Addr]bool)
	s.lab.mu.Lock()
	for c, of := range s.lab.conns {
		if addr := c.remote.Addr(); of != r && (own[addr] || rivals[of.vm]) {
			disputed[addr] = true
		}
	}
	s.lab.mu.Unlock()
	for addr := range disputed {
		for _, c := range s.claimants(addr) {
			if c.run == r {
				s.lab.divert(addr, c)
			}
		}
	}
}
