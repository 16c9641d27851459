package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Set is the ready pools of one Spec. It may be used from any goroutine.
type Set struct {
	Name string

	spec   Spec
	log    *progress
	pools  []*Pool
	status []HostStatus
	checks []CheckResult
	lender *lender

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

	hosts []*Host
	roles []Role
	snaps []string // the ready snapshots' IDs, as hosts
	set   *Set
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

// Hosts returns the pool's hosts in the order of roles.
func (p *Pool) Hosts() []*Host { return slices.Clone(p.hosts) }

// Pools returns the ready pools by number. They are for looking, and for tests that run one at
// a time: Acquire is what keeps tests out of each other's way.
func (s *Set) Pools() []*Pool { return slices.Clone(s.pools) }

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
	s.cancel(errClosed)
	s.resets.Wait()
	for _, p := range s.pools {
		for _, h := range p.hosts {
			h.drop()
		}
	}
	return nil
}

// finish makes the Set of what was built, or the error of what was not.
func (b *build) finish() (*Set, error) {
	s := &Set{Name: b.spec.Name, spec: b.spec, log: b.log, checks: b.checks}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	for n := 1; n <= b.spec.Pools; n++ {
		p := &Pool{Number: n, set: s, roles: b.spec.Roles}
		for _, h := range b.work.poolHosts(n) {
			s.status = append(s.status, b.status(h))
			if host := b.hosts[h]; host != nil {
				p.hosts = append(p.hosts, host)
				p.snaps = append(p.snaps, b.snaps[h])
			}
		}
		if !b.spoiled(n) && len(p.hosts) == len(b.spec.Roles) {
			s.pools = append(s.pools, p)
		} else {
			for _, h := range p.hosts {
				h.drop()
			}
		}
	}
	s.lender = newLender()
	for _, p := range s.pools {
		clean := !slices.ContainsFunc(b.work.poolHosts(p.Number), func(h *hostPlan) bool { return !h.builds() })
		s.lender.add(p, clean)
	}
	b.log.linef("set %q: %d of %d pools ready\n%s", s.Name, len(s.pools), b.spec.Pools, s.Table())
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

// reset puts all hosts of the pool back to their ready snapshots, as one act, and waits until
// they are up and what each needs of the earlier ones answers.
func (p *Pool) reset(ctx context.Context) error {
	var g errgroup.Group
	for i, h := range p.hosts {
		g.Go(func() error {
			h.drop()
			return hostError(h, "reset", h.provider.Revert(ctx, h.id, p.snaps[i]))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	quiet := func(string) {}
	for i, h := range p.hosts {
		if err := h.raise(ctx, quiet); err != nil {
			return hostError(h, "reset", err)
		}
		if err := awaitNeeds(ctx, h, p.roles[i].Needs, quiet); err != nil {
			return hostError(h, "reset", err)
		}
	}
	return nil
}
