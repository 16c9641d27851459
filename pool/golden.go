package pool

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// golden is a ready golden.
type golden struct {
	id, snapshot, build string
	keys                []string // host keys, that its clones have too
}

// makeGoldens builds the goldens that are not ready and needed, at once.
func (b *build) makeGoldens(ctx context.Context) {
	var todo []*goldenPlan
	for _, g := range b.work.goldens {
		if g.Action == Reuse {
			b.goldens[g] = golden{g.info.ID, g.snap, g.rec.Build, g.rec.HostKeys}
		} else if b.only == 0 || slices.ContainsFunc(b.work.poolHosts(b.only), func(h *hostPlan) bool { return h.golden == g }) {
			todo = append(todo, g)
		}
	}
	if len(todo) == 0 {
		return
	}
	st := b.log.stage("golden", len(todo))
	defer st.end()
	forAll(todo, b.spec.Limits.Clones, func(g *goldenPlan) {
		start := time.Now()
		ready, err := b.makeGolden(ctx, st, g)
		st.finished(g.VM, "is "+g.recipe.Snapshot, time.Since(start), err)
		if err != nil {
			b.fail(0, err)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.goldens[g] = ready
	})
}

func (b *build) makeGolden(ctx context.Context, st *stage, g *goldenPlan) (golden, error) {
	ctx, done := b.under(ctx, 0)
	defer done()
	times := &stopwatch{}
	id := g.info.ID
	if g.Action != Finish {
		st.at(g.VM, "cloning")
		err := times.measure(tookClone, func() (err error) {
			id, err = b.spec.Provider.Clone(ctx, b.goldenClone(g))
			return err
		})
		if err != nil {
			return golden{}, &HostError{Host: g.VM, Stage: st.name, Err: err}
		}
	}
	h := newHost(b.spec, "golden", 0, g.vm, id, nil)
	defer h.drop()
	rec, snap, err := b.makeReady(ctx, st, h, layer{
		name: g.layer, snapshot: g.recipe.Snapshot, steps: g.recipe.Steps, checks: g.recipe.Checks,
		print: g.print, times: times,
	})
	if err != nil {
		return golden{}, err
	}
	return golden{id, snap, rec.Build, rec.HostKeys}, nil
}

func (b *build) goldenClone(g *goldenPlan) CloneSpec {
	return CloneSpec{
		Set: b.spec.Name, Source: g.recipe.Template, Template: true, VM: g.vm,
		Owner: owner{b.spec.Name, g.vm.Name, g.layer, g.from}.String(),
		Note:  b.note("cloned", 0, g.recipe.Snapshot),
	}
}

// removeOldGoldens removes the older generations on which nothing hangs any more.
func (b *build) removeOldGoldens(ctx context.Context) {
	if b.only > 0 || !slices.ContainsFunc(b.work.goldens, func(g *goldenPlan) bool { return len(g.old) > 0 }) {
		return
	}
	// Who has the claim knows that nobody is cloning from them.
	if taken, err := b.hold(ctx, 0); taken != "" || err != nil {
		b.log.linef("older goldens: kept: %s", cmp.Or(taken, fmt.Sprint(err)))
		return
	}
	ctx, done := b.under(ctx, 0)
	defer done()
	b.lookAgain(ctx)
	for _, g := range b.work.goldens {
		if _, ready := b.goldens[g]; !ready || ctx.Err() != nil || b.confirm(ctx, 0) != nil {
			continue
		}
		for _, old := range g.old {
			vm, ok := b.still(old.ID)
			if !ok && b.inv.Incomplete == "" {
				continue // gone, or somebody else's by now
			}
			if why := b.removeGolden(ctx, vm); why != "" {
				b.log.linef("%s: kept: %s", old.Name, why)
			} else {
				b.log.linef("%s: removed: an older generation without clones", old.Name)
			}
		}
	}
}

// removeGolden destroys a golden, or says why not.
func (b *build) removeGolden(ctx context.Context, old VMInfo) string {
	if b.inv.Incomplete != "" {
		return "the inventory was read incompletely: " + b.inv.Incomplete
	}
	for _, snap := range old.Snapshots {
		if _, err := decodeRecord(snap.Record); err != nil {
			return fmt.Sprintf("its snapshot %q is not ours", snap.Name)
		}
	}
	clones, err := b.spec.Provider.Clones(ctx, old.ID)
	if err != nil {
		return err.Error()
	}
	if len(clones) > 0 {
		return strings.Join(clones, ", ") + " hang on its disks"
	}
	if err := b.spec.Provider.Destroy(ctx, old.ID); err != nil {
		return err.Error()
	}
	return ""
}
