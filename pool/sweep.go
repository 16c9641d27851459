package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// SweepOptions say what Sweep removes.
type SweepOptions struct {
	// Remove removes what is found; else it is only listed.
	Remove bool
	// OlderThan spares what was made ready less than this ago, and, if it is not 0, VMs of unknown age.
	OlderThan time.Duration
}

// A Leftover is a VM that is the set's by its mark, and no longer of any use to the Spec.
type Leftover struct {
	VM     string        `json:"vm"`
	Why    string        `json:"why"`
	Age    time.Duration `json:"age,omitempty"` // since it was made ready; 0 if that is not known
	Gone   bool          `json:"gone"`          // it was removed
	Spared string        `json:"spared,omitempty"`

	info VMInfo
}

func (l Leftover) String() string {
	what := "to be removed"
	if l.Gone {
		what = "removed"
	} else if l.Spared != "" {
		what = "spared: " + l.Spared
	}
	return fmt.Sprintf("%s: %s: %s", l.VM, what, l.Why)
}

// Sweep lists the set's VMs that the Spec no longer has, such as those of pools beyond Spec.Pools
// and of older goldens, and removes them if asked to: only VMs with our mark, under the name in it,
// in the set's folder, with no snapshots but ours, on whose disks nothing depends, and nothing at all
// if the inventory was read incompletely, somebody builds the set, or uses a pool beyond
// Spec.Pools or one that a VM to be removed was ready for.
func Sweep(ctx context.Context, spec Spec, o SweepOptions) ([]Leftover, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	all, err := sweep(ctx, spec.withDefaults(), o)
	if err != nil {
		return all, fmt.Errorf("pool: sweep set %q: %w", spec.Name, err)
	}
	return all, nil
}

func sweep(ctx context.Context, s Spec, o SweepOptions) (all []Leftover, err error) {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	s.Only = nil // it is about the whole set
	r := newRun(s, nil, nil, lost)
	defer r.log.close()
	ctx = notices(ctx, r.log.notice)
	defer r.held.releaseAll(ctx)
	if o.Remove {
		if err := r.held.tryClaim(ctx, "sweep"); err != nil {
			return nil, nothingRemoved("the claim to build", err)
		}
	}
	ctx, done := r.held.bind(ctx, 0)
	defer done()
	if err := r.observe(ctx); err != nil {
		return nil, err
	}
	all = r.leftovers(o)
	if !o.Remove {
		return all, nil
	}
	if r.obs.inv.Incomplete != "" {
		return all, fmt.Errorf("nothing was removed, since the inventory was read incompletely: %s", r.obs.inv.Incomplete)
	}
	for _, n := range r.obs.pools(s.Name) {
		if n > s.Pools || slices.ContainsFunc(all, func(l Leftover) bool { return l.Spared == "" && slices.Contains(l.info.pools(), n) }) {
			if err := r.holdForRemoval(ctx, n, "sweep"); err != nil {
				r.held.putBack(ctx, nil)
				return all, nothingRemoved(fmt.Sprintf("pool %d", n), err)
			}
		}
	}
	var these []*Leftover
	var vms []VMInfo
	for i := range all {
		if all[i].Spared == "" {
			these, vms = append(these, &all[i]), append(vms, all[i].info)
		}
	}
	why, err := r.removeAll(ctx, vms)
	for i, why := range why {
		these[i].Spared, these[i].Gone = why, why == ""
	}
	return all, err
}

// nothingRemoved returns the error of a sweep that could not lease a pool, or the claim.
func nothingRemoved(what string, err error) error {
	if errors.As(err, new(*BusyError)) {
		return fmt.Errorf("nothing was removed: %s is %w", what, err)
	}
	return fmt.Errorf("nothing was removed: lease %s: %w", what, err)
}

// holdForRemoval leases a pool of which VMs are to be removed, under the claim, unless somebody has it. A
// pool that was never held needs no lease: no other process builds.
func (r *run) holdForRemoval(ctx context.Context, n int, purpose string) error {
	if r.obs.ledger.NeverHeld(n) {
		return nil
	}
	return r.held.try(ctx, n, purpose, func(ctx context.Context, q lease.Request) (*lease.Held, lease.Entry, error) {
		q.Under = r.held.of(0)
		if now := r.obs.ledger; now.Age() < r.ledger.Term/3 {
			q.First = now
		}
		return r.ledger.Operate(ctx, q)
	})
}

// leftovers are our VMs that the plan does not have, roles' first.
func (r *run) leftovers(o SweepOptions) (all []Leftover) {
	wanted := map[string]bool{}
	for _, i := range r.plan.Items {
		wanted[i.VM] = i.Action != ActionRemove
	}
	for _, vm := range r.obs.inv.VMs {
		owner, ok := ours(r.spec.Name, vm)
		if !ok || wanted[vm.Name] {
			continue
		}
		l := Leftover{VM: vm.Name, Why: fmt.Sprintf("a %s that the Spec no longer has", owner.Layer), info: vm}
		if strings.HasPrefix(owner.Layer, goldenLayer) {
			l.Why = "an older golden"
		}
		for _, snap := range vm.Snapshots {
			if rec, err := decodeRecord(snap.Record); err == nil {
				l.Age = max(l.Age, r.obs.at.Sub(rec.At.Time))
			}
		}
		if l.Age < o.OlderThan {
			l.Spared = fmt.Sprintf("it is not known to be older than %s", o.OlderThan)
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(x, y Leftover) int {
		if g, h := x.Why == "an older golden", y.Why == "an older golden"; g != h {
			if g {
				return 1
			}
			return -1
		}
		return strings.Compare(x.VM, y.VM)
	})
	return all
}
