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

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/pool/internal/wait"
)

// How often a plan is made again since another process has changed what it was made of.
const replans = 10

// hold makes sure, before anything is touched, that the plan can be carried out, and leases what it
// changes: the claim if anything is built, and the pools. If anybody has changed anything since the
// plan was made, it plans again. A process that waits for the claim holds no pool, so none waits in a
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
			// No other process builds now. But what is in the way may have just been built.
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

// leasesAtOnce is how many pools a run leases at once, each by a small write to the ledger.
const leasesAtOnce = 16

// holdsAll reports whether all is held that the plan changes.
func (r *run) holdsAll() bool {
	return (r.held.has(0) || !r.plan.builds()) && !slices.ContainsFunc(r.plan.pools, func(q *poolPlan) bool {
		return q.works() && !r.hasFailed(q.number) && !r.held.has(q.number)
	})
}

// holdMore leases what the plan changes and is not held yet. fresh reports that no other process has changed
// anything since the plan was made.
func (r *run) holdMore(ctx context.Context) (fresh bool, err error) {
	// covered are the pools that were never held.
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
	g.SetLimit(leasesAtOnce)
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

// awaitCreated waits until no planned VM is still being created. The claim is held, so no other process
// creates any.
func (r *run) awaitCreated(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, creatingTime)
	defer cancel()
	say, done := r.log.wait(events.Event{Name: "waiting for VMs whose creation a process began that has ended"}, firstWord)
	defer done()
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
