package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

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
		return fmt.Errorf("nothing was touched: %w", err)
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
