package pool

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/internal/eventlog"
	"github.com/poolready/poolready/pool/internal/lease"
)

// A Pool is what a test gets: one host of every role, of one number.
type Pool struct {
	Number int

	hosts  []*Host
	roles  []Role
	snaps  []string // the ready snapshots' IDs, as hosts
	builds []string // that the hosts are of, as hosts
	build  string   // stands for builds
	set    *Set

	// Of a pool that is leased to a test:
	t      T
	test   string
	lease  *lease.Held
	ctx    context.Context // ends with the lease
	cancel context.CancelCauseFunc
	boots  []string
	since  time.Time // when the test got it
	span   *eventlog.Span
	reset  time.Duration // how long the test waited for a reset
	gone   sync.WaitGroup
}

// Host returns the pool's host of a role. If the Spec has no such role, it fails the test that the
// pool was acquired by, and panics for a pool of Set.Pools.
func (p *Pool) Host(role string) *Host {
	var names []string
	for _, h := range p.hosts {
		if h.Role == role {
			return h
		}
		names = append(names, fmt.Sprintf("%q", h.Role))
	}
	why := fmt.Sprintf("pool: unknown role %q in set %q; want one of %s", role, p.set.Name, strings.Join(names, ", "))
	if p.t != nil {
		p.t.Helper()
		p.t.Fatalf("%s", why)
	}
	panic(why)
}

// Context returns a context that ends when the pool is released or its lease is lost;
// context.Cause tells which: ErrReleased or ErrLeaseLost.
func (p *Pool) Context() context.Context {
	if p.ctx == nil {
		return p.set.ctx
	}
	return p.ctx
}

// Hosts returns the pool's hosts in the order of roles.
func (p *Pool) Hosts() []*Host { return slices.Clone(p.hosts) }

// names are those of the pool's hosts.
func (p *Pool) names() string {
	var all []string
	for _, h := range p.hosts {
		all = append(all, h.Name)
	}
	return strings.Join(all, ",")
}

// leased returns the pool for one lease, with hosts of its own, which no longer work when it is
// over.
func (p *Pool) leased(x *lease.Held, boots []string) *Pool {
	l := &Pool{Number: p.Number, roles: p.roles, snaps: p.snaps, builds: p.builds, build: p.build, set: p.set, lease: x, boots: boots, since: time.Now()}
	l.ctx, l.cancel = context.WithCancelCause(x.Context())
	stop := context.AfterFunc(interrupted(), func() { l.cancel(context.Cause(interrupted())) })
	u := &usage{l.ctx, x}
	peers := map[string]*Host{}
	for _, h := range p.hosts {
		host := h.leased(u)
		host.transcript.restart()
		host.peers = maps.Clone(peers)
		peers[h.Role] = host
		l.hosts = append(l.hosts, host)
	}
	l.gone.Go(func() {
		<-l.ctx.Done()
		stop()
		l.drop()
	})
	return l
}

// end ends the use of the hosts; the lease goes on.
func (p *Pool) end() {
	p.cancel(ErrReleased)
	p.gone.Wait()
}

// drop ends the connections to the pool's hosts.
func (p *Pool) drop() {
	for _, h := range p.hosts {
		h.drop()
	}
}

// forget ends the connections to the pool's hosts, and forgets their addresses.
func (p *Pool) forget() {
	for _, h := range p.hosts {
		h.drop()
		h.setAddr(netip.Addr{})
	}
}

// newPool is the pool of hosts that are ready. set may be nil.
func newPool(s Spec, set *Set, hosts []*hostPlan) *Pool {
	p := &Pool{Number: hosts[0].Pool, roles: s.Roles, set: set}
	peers := map[string]*Host{}
	for _, h := range hosts {
		host := h.newHost(s)
		host.peers = maps.Clone(peers)
		peers[h.role.Name] = host
		p.hosts, p.snaps, p.builds = append(p.hosts, host), append(p.snaps, h.snap), append(p.builds, h.rec.Build)
	}
	p.build = hash(p.builds...)
	return p
}
