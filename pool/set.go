package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/poolready/poolready/pool/internal/lease"
)

var errClosed = errors.New("the set is closed")

// A Set is the ready pools of one Spec. It may be used from any goroutine.
type Set struct {
	Name string

	spec   Spec
	log    *progress
	status []HostStatus
	checks []CheckResult
	ledger *lease.Ledger
	queue  *queue

	mu        sync.Mutex // guards what follows
	pools     []*Pool
	repairing map[int]bool
	boots     map[int][]string // of pools, since we connected to their hosts

	ctx        context.Context // ends with Close
	cancel     context.CancelCauseFunc
	background sync.WaitGroup
}

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
	s.pools[i].drop()
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

// numbers are those of the usable pools.
func (s *Set) numbers() []int {
	var all []int
	for _, p := range s.Pools() {
		if s.queue.usable(p.Number) {
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
func (s *Set) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  pool\thost\taddress\ttook\tstate")
	for _, h := range s.status {
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\n", h.Pool, h.Host, cmp.Or(h.Addr, "-"), round(h.Took), h)
	}
	w.Flush()
	return strings.TrimRight(b.String(), "\n")
}

// Close ends the set's connections and background work. The VMs stay as they are. Closing
// twice does nothing.
func (s *Set) Close() error {
	s.mu.Lock()
	s.cancel(errClosed) // under mu, so that inBackground starts nothing after it
	s.mu.Unlock()
	s.background.Wait()
	for _, p := range s.Pools() {
		p.drop()
	}
	s.log.close()
	return nil
}

// inBackground runs f, which must end soon after s.ctx does, and returns false if the set is closed.
func (s *Set) inBackground(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.background.Go(f)
	return true
}

// newSet is a Set without pools.
func (r *run) newSet() *Set {
	s := &Set{Name: r.spec.Name, spec: r.spec, log: r.log, checks: r.checks, ledger: r.ledger, queue: newQueue(), repairing: map[int]bool{}, boots: map[int][]string{}}
	s.ctx, s.cancel = context.WithCancelCause(WithNotices(interrupted(), s.log.notice))
	if r.obs != nil && !r.held.any() { // else the ledger has changed since
		s.queue.see(r.obs.ledger, s.queue.wake())
	}
	return s
}
