package netsim

import (
	"errors"
	"net/netip"
	"slices"
)

// What a sender sees when nothing comes back.
var (
	ErrNoRoute     = errors.New("network is unreachable") // no route here or at a router
	ErrUnreachable = errors.New("no route to host")       // no machine has the address, or a firewall rejects
	ErrTimeout     = errors.New("timed out")              // dropped, or the answer finds no way back
	ErrRefused     = errors.New("connection refused")     // the machine is there, nothing listens

	ErrInUse   = errors.New("address already in use")
	ErrNotHere = errors.New("cannot assign requested address") // no interface has it
)

const maxHops = 16

// A packet is what a path is looked for. Port is the destination's.
type packet struct {
	proto    string
	port     uint16
	src, dst netip.Addr
	dev      string // the interface that the sender insists on, or ""
}

// A mapping is one act of masquerading on the way.
type mapping struct {
	by         *Node
	inner, out netip.Addr
}

// reach returns the machine that p ends at, and the source address that it sees there. The
// caller holds n.mu.
func (n *Network) reach(from *Node, p packet) (*Node, netip.Addr, error) {
	if from.gone {
		return nil, netip.Addr{}, ErrNoRoute
	}
	if from.owns(p.dst) {
		if !p.src.IsValid() {
			p.src = p.dst
		}
		return from, p.src, nil
	}
	sender := p.src
	to, seen, first, nat, err := n.walk(from, p)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	if !sender.IsValid() {
		sender = first
	}
	if err := n.walkBack(to, from, seen, sender, nat); err != nil {
		return nil, netip.Addr{}, err
	}
	return to, seen, nil
}

// walk follows p to the machine that owns its destination. first is the source that the sender
// chose.
func (n *Network) walk(from *Node, p packet) (to *Node, seen, first netip.Addr, nat []mapping, err error) {
	cur, in := from, ""
	for range maxHops {
		var out Interface
		var next netip.Addr
		var ok bool
		if cur == from && p.dev != "" {
			out, next, ok = cur.cfg.only(p.dev).route(p.dst)
		} else {
			out, next, ok = cur.cfg.route(p.dst)
		}
		if !ok {
			return nil, seen, first, nil, ErrNoRoute
		}
		if cur == from {
			if !p.src.IsValid() {
				p.src = out.source(next)
			}
			if !p.src.IsValid() {
				return nil, seen, first, nil, ErrNoRoute
			}
			first = p.src
		} else if !cur.cfg.passesOn(in, out.Name) {
			return nil, seen, first, nil, ErrUnreachable // firewalld rejects
		}
		if cur != from && p.dst.Is4() && cur.cfg.Masquerade {
			masked := out.source(next)
			if !masked.IsValid() {
				return nil, seen, first, nil, ErrTimeout
			}
			nat = append(nat, mapping{cur, p.src, masked})
			p.src = masked
		}
		peer, by := n.neighbour(cur, out, next)
		if peer == nil {
			return nil, seen, first, nil, ErrUnreachable
		}
		if peer.owns(p.dst) {
			if !peer.cfg.Filter.passes(p.proto, p.port) {
				return nil, seen, first, nil, ErrUnreachable // firewalld rejects
			}
			return peer, p.src, first, nat, nil
		}
		if !peer.cfg.forwards(p.dst) {
			return nil, seen, first, nil, ErrTimeout
		}
		cur, in = peer, by
	}
	return nil, seen, first, nil, ErrTimeout
}

// walkBack follows the answer from to, which goes to seen, back to sender on from. Nodes
// that masqueraded on the way there undo it; filters let answers pass.
func (n *Network) walkBack(to, from *Node, seen, sender netip.Addr, nat []mapping) error {
	cur, dst := to, seen
	for range maxHops {
		for cur.owns(dst) {
			if len(nat) == 0 {
				if cur == from && dst == sender {
					return nil
				}
				return ErrTimeout // another machine has the sender's address
			}
			last := nat[len(nat)-1]
			if last.by != cur || last.out != dst {
				return ErrTimeout
			}
			nat, dst = nat[:len(nat)-1], last.inner
		}
		out, next, ok := cur.cfg.route(dst)
		if !ok {
			return ErrTimeout
		}
		peer, _ := n.neighbour(cur, out, next)
		if peer == nil {
			return ErrTimeout
		}
		if !peer.owns(dst) && !peer.cfg.forwards(dst) {
			return ErrTimeout
		}
		cur = peer
	}
	return ErrTimeout
}

// neighbour returns the machine with address a on the segment that out is plugged into, and its
// interface there; nil if there is none, or more than one.
func (n *Network) neighbour(self *Node, out Interface, a netip.Addr) (found *Node, by string) {
	if out.VLAN != 0 && !out.Trunk {
		return nil, "" // an access port drops tagged frames
	}
	for _, m := range n.nodes {
		for _, i := range m.cfg.Interfaces {
			if !i.Up || i.Segment != out.Segment || i.VLAN != out.VLAN || !i.has(a) || i.VLAN != 0 && !i.Trunk {
				continue
			}
			if m == self && i.Name == out.Name {
				continue
			}
			if found != nil {
				return nil, ""
			}
			found, by = m, i.Name
		}
	}
	return found, by
}

// passesOn reports whether packets that came in by one interface may leave by another.
func (c Config) passesOn(in, out string) bool {
	return c.Between == nil || slices.Contains(c.Between, in) && slices.Contains(c.Between, out)
}

func (c Config) forwards(dst netip.Addr) bool {
	if dst.IsLoopback() || dst.IsLinkLocalUnicast() {
		return false
	}
	if dst.Is4() {
		return c.Forward4
	}
	return c.Forward6
}

// only returns c as a program sees it that is bound to one interface.
func (c Config) only(dev string) Config {
	var o Config
	for _, i := range c.Interfaces {
		if i.Name == dev {
			o.Interfaces = append(o.Interfaces, i)
		}
	}
	o.Routes = c.Routes
	return o
}
