package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/poolready/poolready/pool/events"
)

// makeGoldens builds, all at once, the goldens that are not ready.
func (r *run) makeGoldens(ctx context.Context) {
	var todo []*goldenPlan
	for _, g := range r.plan.goldens {
		if g.Action == ActionReuse {
			r.goldens[g] = golden{g.info.ID, g.snap, g.rec.Build, g.rec.HostKeys}
		} else if !r.hasFailed(0) {
			todo = append(todo, g)
		}
	}
	if len(todo) == 0 {
		return
	}
	st := r.log.stage("golden", len(todo))
	defer st.end()
	forAll(todo, len(todo), func(g *goldenPlan) {
		ctx, finished := st.host(ctx, events.Event{Host: g.VM, Role: "golden", Expect: r.obs.expectedGolden(g).Seconds()})
		ready, err := r.makeGolden(ctx, st, g)
		finished("is "+g.recipe.Snapshot, err)
		if err != nil {
			r.fail(0, err)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.goldens[g] = ready
	})
}

func (r *run) makeGolden(ctx context.Context, st *stage, g *goldenPlan) (golden, error) {
	ctx, done := r.held.bind(ctx, 0)
	defer done()
	times, start := &stopwatch{}, time.Now()
	id := g.info.ID
	if g.Action != ActionFinish {
		st.at(g.VM, "cloning")
		err := r.spec.gates.clone(ctx, false, func() error {
			return times.measure(ctx, nil, events.Phase, tookClone, func() (err error) {
				id, err = r.spec.Provider.Clone(ctx, r.goldenClone(g))
				return err
			})
		})
		if err != nil {
			return golden{}, &HostError{Host: g.VM, Stage: st.name, Err: err}
		}
	}
	h := newHost(r.spec, "golden", 0, g.vm, id, nil)
	defer h.drop()
	rec, snap, err := r.makeReady(ctx, st, h, layer{
		name: g.layer, snapshot: g.recipe.Snapshot, steps: g.recipe.Steps, checks: g.recipe.Checks,
		print: g.print, times: times,
	})
	if err != nil {
		return golden{}, r.evidence(ctx, h, time.Since(start), err)
	}
	return golden{id, snap, rec.Build, rec.HostKeys}, nil
}

func (r *run) goldenClone(g *goldenPlan) CloneSpec {
	return CloneSpec{
		Set: r.spec.Name, Source: g.recipe.Template, Template: true, VM: g.vm,
		Owner: owner{r.spec.Name, g.vm.Name, g.layer, g.from}.String(),
		Note:  r.note("cloned", 0, g.recipe.Snapshot),
	}
}

// removeOldGoldens removes the older generations on whose disks nothing depends.
func (r *run) removeOldGoldens(ctx context.Context) {
	if !slices.ContainsFunc(r.plan.goldens, func(g *goldenPlan) bool { return len(g.old) > 0 }) {
		return
	}
	// Only the holder of the claim knows that no process is cloning from them.
	if err := r.held.tryClaim(ctx, "removing older goldens"); err != nil {
		r.log.linef("older goldens: kept: %v", err)
		return
	}
	ctx, done := r.held.bind(ctx, 0)
	defer done()
	inv := r.inventory(ctx)
	for _, g := range r.plan.goldens {
		if _, ready := r.goldens[g]; !ready || ctx.Err() != nil || r.held.confirm(ctx, 0) != nil {
			continue
		}
		for _, old := range g.old {
			vm, ok := inv.mine(r.spec.Name, old.ID)
			if !ok && inv.Incomplete == "" {
				continue // gone, or somebody else's by now
			}
			if why := removeVM(ctx, r.spec.Provider, inv, vm); why != "" {
				r.log.linef("%s: kept: %s", old.Name, why)
			} else {
				r.log.linef("%s: removed: an older generation without clones", old.Name)
			}
		}
	}
}

// removeVM destroys a VM that is the set's, or says why not: the inventory is incomplete, or the VM
// has snapshots that are not ours, or clones.
func removeVM(ctx context.Context, p Provider, inv *Inventory, vm VMInfo) (why string) {
	if inv.Incomplete != "" {
		return "the inventory was read incompletely: " + inv.Incomplete
	}
	for _, snap := range vm.Snapshots {
		if _, err := decodeRecord(snap.Record); errors.Is(err, errNoRecord) {
			return fmt.Sprintf("its snapshot %q is not ours", snap.Name)
		}
	}
	if err := p.Destroy(ctx, vm.ID); err != nil {
		return err.Error()
	}
	return ""
}
