package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/pool/internal/wait"
)

// A run makes a set ready: it observes, plans, holds what it must change, and carries out the plan.
type run struct {
	spec   Spec
	force  *RebuildOptions // what is rebuilt though it is ready, or nil
	log    *progress
	by     string
	ledger *lease.Ledger
	held   *holdings

	obs  *observation
	plan *Plan

	mu       sync.Mutex // guards what follows
	goldens  map[*goldenPlan]golden
	hosts    map[*hostPlan]*hostRun
	checks   []CheckResult
	failed   map[int][]error // by pool; 0 is golden
	excluded map[int]error   // pools that cannot be had, for the whole run
	unsure   map[int]bool    // pools whose hosts may have other addresses than the inventory says
}

// A hostRun is what a run did with one host.
type hostRun struct {
	host  *Host
	rec   record // of the ready snapshot
	snap  string // its ID, or "" while the host is not ready
	times *stopwatch
	took  time.Duration
	reset bool // it was reverted
}

// newRun returns a run for a Spec with its defaults filled in. lost is called when a lease is lost.
func newRun(s Spec, force *RebuildOptions, log *progress, lost context.CancelCauseFunc) *run {
	if log == nil {
		log = newProgress(s.Logf)
	}
	l := newLedger(s)
	return &run{
		spec: s, force: force, log: log, by: l.By, ledger: l, held: newHoldings(l, log, lost),
		goldens: map[*goldenPlan]golden{}, hosts: map[*hostPlan]*hostRun{},
		failed: map[int][]error{}, excluded: map[int]error{}, unsure: map[int]bool{},
	}
}

// observe reads the ledger and the inventory, and makes the plan. It forgets earlier failures.
func (r *run) observe(ctx context.Context) (err error) {
	if r.obs, err = observe(ctx, r.spec, r.ledger); err != nil {
		return err
	}
	p, err := r.obs.plan(r.spec, r.force)
	if p != nil {
		r.plan = p
		clear(r.failed)
		for n, err := range r.excluded {
			r.failed[n] = []error{err}
		}
	}
	return err
}

// show prints the plan, unless it is as before.
func (r *run) show(before string) {
	if r.plan != nil && r.plan.String() != before {
		r.spec.Logf("%s", r.plan)
	}
}

func (r *run) fail(pool int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[pool] = append(r.failed[pool], err)
}

func (r *run) hasFailed(pool int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.failed[pool]) > 0
}

// host is the record of one host of the run.
func (r *run) host(h *hostPlan) *hostRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts[h] == nil {
		r.hosts[h] = &hostRun{times: &stopwatch{}}
	}
	return r.hosts[h]
}

// golden returns the ready golden that a host is cloned from.
func (r *run) golden(h *hostPlan) golden {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.goldens[h.golden]
}

// How often a plan is made again since another process has changed what it was made of.
const replans = 10

// hold makes sure, before anything is touched, that the plan can be carried out, and leases what it
// changes: the claim if anything is built, and the pools. If anybody has changed anything since the
// plan was made, it plans again. Whoever waits for the claim holds no pool, so nobody waits in a
// circle.
func (r *run) hold(ctx context.Context, end time.Time) error {
	for try := 1; ; try++ {
		err := r.preflight(ctx, end)
		if ctx.Err() != nil {
			return err
		}
		if err == nil && r.holdsAll() {
			return nil
		}
		before := r.plan.String()
		creating := r.held.has(0) && len(r.plan.creating()) > 0
		switch {
		case try == replans:
			return errors.Join(err, errors.New("other processes change the set all the time"))
		case err != nil && (r.plan.builder == nil || r.held.has(0)) && !creating:
			// Nobody else builds now. But what is in the way may be what somebody has just built.
			if again := r.observe(ctx); again != nil || r.plan.String() == before {
				return err
			}
			continue
		case !creating:
			fresh, holdErr := r.holdMore(ctx)
			if holdErr != nil {
				return holdErr
			}
			if fresh {
				return cmp.Or(err, r.enough())
			}
		}
		if err := r.observe(ctx); err != nil {
			return err
		}
		if creating {
			if err := r.awaitCreated(ctx); err != nil {
				return err
			}
		}
		r.show(before)
		r.held.putBack(ctx, func(n int) bool { return r.plan.pool(n).works() })
	}
}

// holdsAll reports whether all is held that the plan changes.
func (r *run) holdsAll() bool {
	return (r.held.has(0) || !r.plan.builds()) && !slices.ContainsFunc(r.plan.pools, func(q *poolPlan) bool {
		return q.works() && !r.hasFailed(q.number) && !r.held.has(q.number)
	})
}

// holdMore leases what the plan changes and is not held yet. fresh reports that nobody has changed
// anything since the plan was made.
func (r *run) holdMore(ctx context.Context) (fresh bool, err error) {
	// covered are the pools that nobody has ever held.
	covered := func(s *lease.Snapshot) (all []int) {
		for _, q := range r.plan.pools {
			if q.works() && (s.NeverHeld(q.number) || q.isNew() && r.obs.inv.Incomplete == "" && !s.Made(q.number)) {
				all = append(all, q.number)
			}
		}
		return all
	}
	if r.plan.builds() && !r.held.has(0) {
		empty := len(r.obs.inv.VMs) == 0 && r.obs.inv.Incomplete == ""
		changed, err := r.held.takeClaim(ctx, r.obs.ledger, empty, covered)
		if err != nil || changed {
			return false, err
		}
	}
	if r.held.has(0) {
		now, err := r.ledger.Read(ctx)
		if err != nil {
			return false, err
		}
		if err := r.held.cover(ctx, now, covered(now)); err != nil {
			return false, err
		}
	}
	fresh = true
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(r.spec.Limits.Clones, 1))
	for _, q := range r.plan.pools {
		if !q.works() || r.hasFailed(q.number) || r.held.has(q.number) {
			continue
		}
		g.Go(func() error {
			same, err := r.held.await(gctx, q.number, q.entry)
			mu.Lock()
			defer mu.Unlock()
			if busy, ok := errors.AsType[*BusyError](err); ok {
				r.exclude(q, busy)
				return nil
			}
			if err == nil && !same {
				fresh, r.unsure[q.number] = false, true
			}
			return err
		})
	}
	return fresh, g.Wait()
}

// exclude gives up a pool that cannot be had, for the whole run.
func (r *run) exclude(q *poolPlan, busy *BusyError) {
	h := q.hosts[slices.IndexFunc(q.hosts, func(h *hostPlan) bool { return h.Action != ActionReuse })]
	err := &HostError{
		Host: h.VM, Pool: q.number, Stage: "plan",
		Err: fmt.Errorf("%s: %s; but pool %d is %w; pool.Release frees it", h.Action, h.Reason, q.number, busy),
	}
	r.excluded[q.number] = err
	r.fail(q.number, err)
}

// creatingTime bounds the wait for VMs whose creation was begun by a process that has ended.
const creatingTime = 15 * time.Minute

// awaitCreated waits until no planned VM is being created any more. The claim is held, so nobody
// else creates any.
func (r *run) awaitCreated(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, creatingTime)
	defer cancel()
	say := r.log.wait("waiting for VMs whose creation a process began that has ended", firstWord)
	for pause := firstPoll; ; pause = min(pause*3/2, lastPoll) {
		names := r.plan.creating()
		if len(names) == 0 {
			return nil
		}
		say(strings.Join(names, ", "))
		if wait.Sleep(ctx, pause) != nil {
			return nil // the plan refuses what is still being created
		}
		if err := r.observe(ctx); err != nil {
			return err
		}
	}
}

// preflight finds, before anything is touched, what would fail later.
func (r *run) preflight(ctx context.Context, end time.Time) error {
	for _, g := range r.plan.goldens {
		if g.Action == ActionRefuse {
			r.fail(0, &HostError{Host: g.VM, Stage: "plan", Err: errors.New(g.Reason)})
		}
	}
	for _, q := range r.plan.pools {
		for _, h := range q.hosts {
			if h.Action == ActionRefuse {
				r.fail(h.Pool, &HostError{Host: h.VM, Pool: h.Pool, Stage: "plan", Err: errors.New(h.Reason)})
			}
		}
	}
	if err := r.enough(); err != nil {
		return err
	}
	if !r.plan.Builds() {
		return nil
	}
	if err := r.preflightRemovals(ctx); err != nil {
		return err
	}
	if !end.IsZero() {
		if err := r.plan.fits(time.Now(), end); err != nil {
			return err
		}
	}
	var clones []CloneSpec
	for _, g := range r.plan.goldens {
		if g.Action != ActionReuse && g.Action != ActionFinish {
			clones = append(clones, r.goldenClone(g))
		}
	}
	for _, hosts := range r.plan.roles {
		for _, h := range hosts {
			if h.builds() {
				var source golden
				if g := h.golden; g.Action == ActionReuse {
					source = golden{id: g.info.ID, snapshot: g.snap, build: g.rec.Build}
				}
				c := r.hostClone(h, source)
				if h.Action == ActionRebuild {
					c.Owner = h.info.Owner // what has the name now goes first
				}
				clones = append(clones, c)
			}
		}
	}
	if err := r.spec.Provider.Preflight(ctx, clones); err != nil {
		return fmt.Errorf("set %q: nothing was touched: %w", r.spec.Name, err)
	}
	return nil
}

// preflightRemovals fails the pools of which a VM is to be destroyed on whose disks others hang: else
// earlier hosts of the pool would be gone before that is found.
func (r *run) preflightRemovals(ctx context.Context) error {
	var old []*hostPlan
	for _, q := range r.plan.pools {
		for _, h := range q.hosts {
			if h.Action == ActionRebuild && !h.info.foreignSnapshots() && !r.hasFailed(h.Pool) {
				old = append(old, h)
			}
		}
	}
	var mu sync.Mutex
	var errs []error
	forAll(old, len(old), func(h *hostPlan) {
		clones, err := r.spec.Provider.Clones(ctx, h.info.ID)
		if len(clones) > 0 {
			r.fail(h.Pool, &HostError{Host: h.VM, Pool: h.Pool, Stage: "plan", Err: fmt.Errorf("%s: %s; but %w: %s; remove these first, or rename the VM",
				h.Action, h.Reason, ErrHasClones, strings.Join(clones, ", "))})
		}
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w; nothing was touched", err)
	}
	return r.enough()
}

// enough says that MinPools can no longer be ready, before anything is touched.
func (r *run) enough() error {
	ready := 0
	for _, q := range r.plan.pools {
		if !r.hasFailed(q.number) && !r.hasFailed(0) {
			ready++
		}
	}
	if ready < r.spec.MinPools {
		return fmt.Errorf("%w\nnothing was touched", r.notReady(ready))
	}
	return nil
}

// stages carries out the plan. Stages are barriers: each ends before the next begins.
func (r *run) stages(ctx context.Context) {
	r.makeGoldens(ctx)
	for i := range r.plan.roles {
		r.cloneRole(ctx, i)
	}
	for i := range r.plan.roles {
		r.readyRole(ctx, i)
	}
	r.removeOldGoldens(ctx)
}

// forAll calls f for all items, at most limit at once, and returns when every call has.
func forAll[E any](items []E, limit int, f func(E)) {
	var g errgroup.Group
	g.SetLimit(max(limit, 1))
	for _, e := range items {
		g.Go(func() error { f(e); return nil })
	}
	_ = g.Wait() // there are no errors
}

// batch runs f for hosts of a role whose pool has not failed, at most limit at once.
func (r *run) batch(ctx context.Context, name string, hosts []*hostPlan, limit int,
	f func(context.Context, *stage, *hostPlan) (what string, err error),
) {
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h *hostPlan) bool {
		return r.hasFailed(h.Pool) || !r.haveGoldens(h.Pool)
	})
	if len(hosts) == 0 || ctx.Err() != nil {
		return
	}
	st := r.log.stage(name, len(hosts))
	defer st.end()
	forAll(hosts, limit, func(h *hostPlan) {
		start := time.Now()
		what, err := f(WithNotices(ctx, func(text string) { st.at(h.VM, text) }), st, h)
		took := time.Since(start)
		st.finished(h.VM, what, took, err)
		x := r.host(h)
		r.mu.Lock()
		x.took += took
		r.mu.Unlock()
		if err != nil {
			r.fail(h.Pool, r.evidence(ctx, x.host, took, err))
		}
	})
}

// haveGoldens reports whether the goldens that a pool's hosts are cloned from are ready. They are
// not needed for a host that is reused, but a plan reuses none whose golden is not.
func (r *run) haveGoldens(pool int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.plan.pool(pool).hosts, func(h *hostPlan) bool {
		_, ok := r.goldens[h.golden]
		return !ok
	})
}

// note is for people. It is written once, with the clone, and again only after a failure: whether
// the VM is ready they see by its snapshot, whose description says more.
func (r *run) note(state string, pool int, ready string) string {
	of := "golden"
	if pool > 0 {
		of = fmt.Sprintf("pool %d", pool)
	}
	return fmt.Sprintf("poolready: %s of set %s: %s, %s, by %s; ready when it has the snapshot %s", of, r.spec.Name, state, stamp(time.Now()), r.by, ready)
}

// inventory reads the inventory again, right before VMs are removed: since the plan was made golden
// may have been built, and a person may have come to want them.
func (r *run) inventory(ctx context.Context) *Inventory {
	inv, err := r.spec.Provider.Inventory(ctx, r.spec.Name)
	if err != nil {
		return &Inventory{Incomplete: err.Error()}
	}
	return inv
}

// mine returns what an inventory says of a VM that was the set's, if it still is.
func (inv *Inventory) mine(set, id string) (VMInfo, bool) {
	i := slices.IndexFunc(inv.VMs, func(vm VMInfo) bool { return vm.ID == id })
	if i < 0 {
		return VMInfo{}, false
	}
	_, ok := ours(set, inv.VMs[i])
	return inv.VMs[i], ok
}

func (r *run) notReady(ready int) *NotReadyError {
	return &NotReadyError{Set: r.spec.Name, Ready: ready, Want: r.spec.MinPools, Failed: r.failures()}
}

// failures are those of golden, then of the pools by number.
func (r *run) failures() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.failed[0])
	for _, n := range r.spec.numbers() {
		all = append(all, r.failed[n]...)
	}
	return all
}
