package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Destroy removes the set: the VMs of all roles, the goldens, and the ledger; only those with our
// mark, as Sweep does. It removes nothing while somebody builds the set, or uses or keeps a pool,
// and nothing if the inventory was read incompletely. It returns the names of the VMs removed.
func Destroy(ctx context.Context, spec Spec) ([]string, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	removed, err := destroy(ctx, spec.withDefaults())
	if err != nil {
		return removed, fmt.Errorf("pool: destroy set %q: %w", spec.Name, err)
	}
	return removed, nil
}

func destroy(ctx context.Context, s Spec) (removed []string, err error) {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	r := newRun(s, nil, nil, lost)
	defer r.log.close()
	ctx = notices(ctx, r.log.notice)
	defer r.held.releaseAll(ctx)
	if err := r.survey(ctx); err != nil || len(r.obs.inv.mineAll(s.Name)) == 0 && r.obs.ledger.Empty() {
		return nil, err
	}
	if err := r.holdSet(ctx); err != nil {
		r.held.putBack(ctx, nil)
		return nil, fmt.Errorf("nothing was removed: %w", err)
	}
	held, done := r.held.bind(ctx, 0)
	defer done()
	vms := r.obs.inv.mineAll(s.Name)
	why, err := r.removeAll(held, vms)
	var kept []error
	for i, why := range why {
		if why == "" {
			removed = append(removed, vms[i].Name)
		} else {
			kept = append(kept, fmt.Errorf("%s: kept: %s", vms[i].Name, why))
		}
	}
	if err := errors.Join(append(kept, err)...); err != nil {
		return removed, err
	}
	return removed, r.removeLedger(ctx)
}

// removeAtOnce is how many VMs are removed at a time.
const removeAtOnce = 8

// removeAll removes VMs in their order, those that are neither or both goldens some at a time, and
// asks the ledger before each time whether the set and their pools are still held. It returns for each of those that
// it came to why it was kept, or "".
func (r *run) removeAll(ctx context.Context, vms []VMInfo) (why []string, err error) {
	golden := func(vm VMInfo) bool {
		owner, _ := ours(r.spec.Name, vm)
		return strings.HasPrefix(owner.Layer, "golden/")
	}
	for len(vms) > 0 {
		n := 1
		for n < min(len(vms), removeAtOnce) && golden(vms[n]) == golden(vms[0]) {
			n++
		}
		pools := []int{0}
		for _, vm := range vms[:n] {
			pools = append(pools, slices.DeleteFunc(vm.pools(), func(n int) bool { return !r.held.has(n) })...)
		}
		if err := r.held.confirm(ctx, pools...); err != nil {
			return why, err
		}
		these := make([]string, n)
		var wg sync.WaitGroup
		for i, vm := range vms[:n] {
			wg.Go(func() { these[i] = removeVM(ctx, r.spec.Provider, r.obs.inv, vm) })
		}
		wg.Wait()
		why, vms = append(why, these...), vms[n:]
	}
	return why, nil
}

// survey reads the ledger, then the inventory, without a plan.
func (r *run) survey(ctx context.Context) (err error) {
	spec := r.spec
	spec.Golden.Template, spec.Roles = "", nil
	if r.obs, err = observe(ctx, spec, r.ledger); err != nil {
		return err
	}
	if r.obs.inv.Incomplete != "" {
		return fmt.Errorf("nothing was removed, since the inventory was read incompletely: %s", r.obs.inv.Incomplete)
	}
	return nil
}

// mineAll are the VMs that a set made, those of roles before the goldens that they depend on.
func (inv *Inventory) mineAll(set string) []VMInfo {
	var goldens, roles []VMInfo
	for _, vm := range inv.VMs {
		owner, ok := ours(set, vm)
		switch {
		case !ok:
		case strings.HasPrefix(owner.Layer, goldenLayer):
			goldens = append(goldens, vm)
		default:
			roles = append(roles, vm)
		}
	}
	return append(roles, goldens...)
}

// pools are the numbers of the pools that the ledger knows, and of those that were ready once: their
// entries may be lost.
func (o *observation) pools(set string) []int {
	all := o.ledger.Pools()
	for _, vm := range o.inv.mineAll(set) {
		all = append(all, vm.pools()...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// pools are the numbers of those for which a VM was ever ready: as a rule one.
func (vm VMInfo) pools() (all []int) {
	for _, snap := range vm.Snapshots {
		if rec, err := decodeRecord(snap.Record); err == nil && rec.Pool > 0 {
			all = append(all, rec.Pool)
		}
	}
	return all
}

// holdSet takes the claim, reads all again, since somebody may have built until then, and leases
// every pool, or reports who holds one.
func (r *run) holdSet(ctx context.Context) error {
	var busy []error
	err := r.held.tryClaim(ctx, "destroy")
	if errors.As(err, new(*BusyError)) {
		busy, err = append(busy, fmt.Errorf("the claim to build is %w", err)), nil
	}
	if err == nil {
		err = r.survey(ctx)
	}
	if err != nil {
		return err
	}
	pools := r.obs.pools(r.spec.Name)
	errs := make([]error, len(pools))
	var g errgroup.Group
	g.SetLimit(removeAtOnce)
	for i, n := range pools {
		g.Go(func() error { errs[i] = r.holdForRemoval(ctx, n, "destroy"); return nil })
	}
	_ = g.Wait() // they are in errs
	for i, err := range errs {
		switch {
		case errors.As(err, new(*BusyError)):
			busy = append(busy, fmt.Errorf("pool %d is %w", pools[i], err))
		case err != nil:
			return err
		}
	}
	return errors.Join(busy...)
}

// removeLedger removes the ledger while all of it is held, so that no process takes a part of it
// meanwhile: the claim last.
func (r *run) removeLedger(ctx context.Context) error {
	now, err := r.ledger.Read(ctx)
	if err != nil {
		return err
	}
	if shown, err := r.held.confirmAll(ctx, now); err != nil {
		return err
	} else if !shown {
		if now, err = r.ledger.Read(ctx); err != nil {
			return err
		}
	}
	pools, others, claim := now.IDs()
	remove := func(pool int, id string) error {
		if err := r.held.abandon(pool); err != nil {
			return err
		}
		return r.spec.Provider.Destroy(ctx, id)
	}
	var g errgroup.Group
	g.SetLimit(removeAtOnce)
	for n, id := range pools {
		g.Go(func() error { return remove(n, id) })
	}
	for _, id := range others {
		g.Go(func() error { return r.spec.Provider.Destroy(ctx, id) })
	}
	if err := g.Wait(); err != nil || claim == "" {
		return err
	}
	return remove(0, claim)
}
