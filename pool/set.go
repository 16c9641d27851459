package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// A Set is the ready pools of one Spec. It may be used from any goroutine.
type Set struct {
	Name string

	spec   Spec
	log    *progress
	status []HostStatus
	checks []CheckResult
	ledger *ledger
	desk   *desk

	mu        sync.Mutex // guards what follows
	pools     []*Pool
	repairing map[int]bool
	boots     map[int][]string // of pools, since we connected to their hosts

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	resets sync.WaitGroup
}

// HostStatus is one host as Open left it.
type HostStatus struct {
	Host, Role string
	Pool       int
	Addr       string // of SSH, or ""
	State      string // "ready" or "FAILED"
	Why        string // the plan's action and reason, or the failure
	Took       time.Duration
}

// A Pool is what a test gets: one host of every role, of one number.
type Pool struct {
	Number int

	hosts  []*Host
	roles  []Role
	snaps  []string // the ready snapshots' IDs, as hosts
	builds []string // that the hosts are of, as hosts
	build  string   // stands for builds
	set    *Set

	// Of a pool that is lent:
	test   string
	lease  *lease
	ctx    context.Context // ends with the loan
	cancel context.CancelCauseFunc
	boots  []string
	gone   sync.WaitGroup
}

// Host returns the pool's host of a role. It panics if the Spec has no such role.
func (p *Pool) Host(role string) *Host {
	var names []string
	for _, h := range p.hosts {
		if h.Role == role {
			return h
		}
		names = append(names, fmt.Sprintf("%q", h.Role))
	}
	panic(fmt.Sprintf("pool: no role %q in set %q; it has %s", role, p.set.Name, strings.Join(names, ", ")))
}

// Context returns a context that ends when the pool is given back or its lease is lost;
// context.Cause tells which: ErrReturned or ErrLeaseLost.
func (p *Pool) Context() context.Context {
	if p.ctx == nil {
		return p.set.ctx
	}
	return p.ctx
}

// lend returns the pool for one loan, with hosts of its own, which no longer work when it is over.
func (p *Pool) lend(x *lease, boots []string) *Pool {
	l := &Pool{Number: p.Number, roles: p.roles, snaps: p.snaps, builds: p.builds, build: p.build, set: p.set, lease: x, boots: boots}
	l.ctx, l.cancel = context.WithCancelCause(x.ctx)
	u := &usage{l.ctx, x}
	peers := map[string]*Host{}
	for _, h := range p.hosts {
		host := h.lent(u)
		host.peers = maps.Clone(peers)
		peers[h.Role] = host
		l.hosts = append(l.hosts, host)
	}
	l.gone.Go(func() {
		<-l.ctx.Done()
		for _, h := range l.hosts {
			h.drop()
		}
	})
	return l
}

// giveBack ends the loan for the hosts; the lease goes on.
func (p *Pool) giveBack() {
	p.cancel(ErrReturned)
	p.gone.Wait()
}

// Hosts returns the pool's hosts in the order of roles.
func (p *Pool) Hosts() []*Host { return slices.Clone(p.hosts) }

// Pools returns the ready pools by number. They are for looking: Acquire is what keeps tests
// and processes out of each other's way.
func (s *Set) Pools() []*Pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pools)
}

// pool returns the ready pool of a number.
func (s *Set) pool(n int) *Pool {
	for _, p := range s.Pools() {
		if p.Number == n {
			return p
		}
	}
	return nil
}

// setPool puts a pool in the place of the one of its number.
func (s *Set) setPool(p *Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := slices.BinarySearchFunc(s.pools, p.Number, func(q *Pool, n int) int { return q.Number - n })
	if !ok {
		s.pools = slices.Insert(s.pools, i, p)
		return
	}
	for _, h := range s.pools[i].hosts {
		h.drop()
	}
	s.pools = slices.Clone(s.pools)
	s.pools[i] = p
}

// sawBoots notes the boot ids of a pool's hosts while we are connected to them.
func (s *Set) sawBoots(n int, boots []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boots[n] = boots
}

func (s *Set) lastBoots(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boots[n]
}

// forget lets go of the connections to the pool's hosts, and of their addresses.
func (p *Pool) forget() {
	for _, h := range p.hosts {
		h.drop()
		h.setAddr(netip.Addr{})
	}
}

// numbers are those of the pools that will do.
func (s *Set) numbers() []int {
	var all []int
	for _, p := range s.Pools() {
		if !s.desk.isStruck(p.Number) {
			all = append(all, p.Number)
		}
	}
	return all
}

// Status returns every host of the Spec as Open left it, by pool and role.
func (s *Set) Status() []HostStatus { return slices.Clone(s.status) }

// Checks returns the results of all checks that this Open ran: those of the hosts it built.
func (s *Set) Checks() []CheckResult { return slices.Clone(s.checks) }

// Table is Status for people.
func (s *Set) Table() string { return table(s.status) }

func table(status []HostStatus) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  pool\thost\taddress\tstate\ttook\twhy")
	for _, h := range status {
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\t%s\n", h.Pool, h.Host, or(h.Addr, "-"), h.State, round(h.Took), h.Why)
	}
	w.Flush()
	return strings.TrimRight(b.String(), "\n")
}

// Close ends the set's connections and background work. The VMs stay as they are. Closing
// twice does nothing.
func (s *Set) Close() error {
	s.mu.Lock()
	s.cancel(errClosed) // under mu, so that background starts nothing after it
	s.mu.Unlock()
	s.resets.Wait()
	for _, p := range s.Pools() {
		for _, h := range p.hosts {
			h.drop()
		}
	}
	return nil
}

// background runs f, which must end soon after s.ctx does, and returns false if the set is closed.
func (s *Set) background(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.resets.Go(f)
	return true
}

// pool is what was built, or found, of one number.
func (b *build) pool(s *Set, n int) *Pool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &Pool{Number: n, set: s, roles: b.spec.Roles}
	for _, h := range b.work.poolHosts(n) {
		if host := b.hosts[h]; host != nil {
			p.hosts = append(p.hosts, host)
			p.snaps = append(p.snaps, b.snaps[h])
			p.builds = append(p.builds, b.records[h].Build)
		}
	}
	p.build = hash(p.builds...)
	return p
}

// bare is a Set without pools.
func (b *build) bare() *Set {
	s := &Set{Name: b.spec.Name, spec: b.spec, log: b.log, checks: b.checks, ledger: b.ledger, desk: newDesk(), repairing: map[int]bool{}, boots: map[int][]string{}}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// finish makes the Set of what was built, or the error of what was not.
func (b *build) finish(ctx context.Context) (*Set, error) {
	s := b.bare()
	for _, n := range b.spec.numbers() {
		for _, h := range b.work.poolHosts(n) {
			s.status = append(s.status, b.status(h))
		}
		p := b.pool(s, n)
		if !b.spoiled(n) && len(p.hosts) == len(b.spec.Roles) {
			s.pools = append(s.pools, p)
		} else {
			for _, h := range p.hosts {
				h.drop()
			}
		}
	}
	if len(b.leases) > 0 {
		now, err := b.ledger.read(ctx, buildShard)
		forAll(s.pools, len(s.pools), func(p *Pool) { b.letGoReady(ctx, s, p, now, err) })
	}
	b.log.linef("set %q: %d of %d pools ready\n%s", s.Name, len(s.pools), len(b.spec.numbers()), s.Table())
	if len(s.pools) >= b.spec.MinPools {
		for _, err := range b.failures() {
			b.log.linef("not ready, and not needed for MinPools %d: %s", b.spec.MinPools, indent(err.Error(), "    "))
		}
		return s, nil
	}
	s.Close()
	return nil, b.notReady(len(s.pools))
}

func (b *build) notReady(ready int) *NotReadyError {
	return &NotReadyError{Set: b.spec.Name, Ready: ready, Want: b.spec.MinPools, Failed: b.failures()}
}

// failures are those of golden, then of the pools by number.
func (b *build) failures() []error {
	var all []error
	for n := 0; n <= b.spec.Pools; n++ {
		all = append(all, b.failed[n]...)
	}
	return all
}

func (b *build) status(h *hostPlan) HostStatus {
	st := HostStatus{Host: h.VM, Role: h.Role, Pool: h.Pool, State: "ready", Why: string(h.Action) + ": " + h.Reason, Took: b.took[h]}
	if host := b.hosts[h]; host != nil && host.Addr().IsValid() {
		st.Addr = host.Addr().String()
	}
	for _, err := range b.failed[h.Pool] {
		var he *HostError
		if errors.As(err, &he) && he.Host == h.VM {
			st.State, st.Why = "FAILED", he.Stage+": "+or(he.Step, firstLine(he.Err))
			return st
		}
	}
	if _, made := b.records[h]; !made {
		st.State, st.Why = "not done", "its pool or golden failed before"
	}
	return st
}

func (b *build) closeHosts() {
	for _, h := range b.hosts {
		h.drop()
	}
}

// reset puts all hosts of the pool, which x holds, back to their ready snapshots, as one act, and
// waits until they are up and what each needs of the earlier ones answers. None comes back before
// all the others are off, so that it meets nobody of before; so hosts that a revert resumes are
// reverted in their turn. b has the hypervisor's clock.
func (p *Pool) reset(ctx context.Context, x *lease, b books) error {
	var g sync.WaitGroup
	errs := make([]error, len(p.hosts))
	held := func(h *Host, f func() error) error {
		if err := x.check(); err != nil { // we may have slept
			return err
		}
		return hostError(h, "reset", f())
	}
	for i, h := range p.hosts {
		h.drop()
		switch {
		case h.frozen == "":
			g.Go(func() { errs[i] = held(h, func() error { return h.revert(ctx, p.snaps[i]) }) })
		case i > 0:
			g.Go(func() {
				errs[i] = held(h, func() error { _, err := h.provider.ShutDown(ctx, h.id, 0); return err })
			})
		}
	}
	g.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	quiet := func(string) {}
	for i, h := range p.hosts {
		if h.frozen != "" {
			if err := held(h, func() error { return h.revert(ctx, p.snaps[i]) }); err != nil {
				return err
			}
		}
		if err := h.back(ctx, b, quiet); err != nil {
			return hostError(h, "reset", err)
		}
		if err := awaitNeeds(ctx, h, p.roles[i].Needs, quiet); err != nil {
			return hostError(h, "reset", err)
		}
	}
	return nil
}
