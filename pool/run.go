package pool

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
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
		log.record(s)
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
		r.log.recordPlan(r.plan)
		r.spec.Logf("%s", r.plan)
	}
}

func (r *run) fail(pool int, err error) {
	r.log.failure(events.Event{Pool: pool}, err)
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

// golden is a ready golden.
type golden struct {
	id, snapshot, build string
	keys                []string // host keys, that its clones have too
}
