package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// SweepOptions say what Sweep removes.
type SweepOptions struct {
	// Remove removes what is found; else it is only listed.
	Remove bool
	// OlderThan spares what was made ready less than this ago, and, if it is not 0, what tells no age.
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
// in the set's folder, with no snapshots but ours, on whose disks nothing hangs, and nothing at all
// if the inventory was read incompletely, somebody builds the set, or somebody uses a pool beyond
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
	b := newBuild(s)
	b.lost = lost
	defer b.letAllGo(ctx)
	if o.Remove {
		if taken, err := b.hold(ctx, 0); err != nil || taken != "" {
			return nil, errors.Join(err, busyOr(taken, "building it is "))
		}
	}
	ctx, done := b.under(ctx, 0)
	defer done()
	if err := b.look(ctx, "-"); err != nil {
		return nil, err
	}
	all = b.leftovers(time.Now(), o)
	if !o.Remove {
		return all, nil
	}
	if b.inv.Incomplete != "" {
		return all, fmt.Errorf("nothing was removed, since the inventory was read incompletely: %s", b.inv.Incomplete)
	}
	for _, n := range b.numbers() {
		if n > s.Pools || slices.ContainsFunc(all, func(l Leftover) bool { return l.Spared == "" && slices.Contains(l.info.pools(), n) }) {
			if taken, err := b.hold(ctx, n); err != nil || taken != "" {
				return all, errors.Join(err, busyOr(taken, fmt.Sprintf("nothing was removed: pool %d is ", n)))
			}
		}
	}
	for i := range all {
		if all[i].Spared != "" {
			continue
		}
		if err := b.confirm(ctx, 0); err != nil {
			return all, err
		}
		// It looks for clones and snapshots, of whatever VM.
		all[i].Spared = b.removeGolden(ctx, all[i].info)
		all[i].Gone = all[i].Spared == ""
	}
	return all, nil
}

func busyOr(why, what string) error {
	if why == "" {
		return nil
	}
	return errors.New(what + why)
}

// leftovers are our VMs that the plan does not have, roles' first.
func (b *build) leftovers(now time.Time, o SweepOptions) (all []Leftover) {
	wanted := map[string]bool{}
	for _, i := range b.work.Items {
		wanted[i.VM] = i.Action != Remove
	}
	for _, vm := range b.inv.VMs {
		owner, ok := ours(b.spec.Name, vm)
		if !ok || wanted[vm.Name] {
			continue
		}
		l := Leftover{VM: vm.Name, Why: fmt.Sprintf("a %s that the Spec no longer has", owner.Layer), info: vm}
		if strings.HasPrefix(owner.Layer, "golden/") {
			l.Why = "an older golden"
		}
		for _, snap := range vm.Snapshots {
			if rec, err := decodeRecord(snap.Record); err == nil {
				l.Age = max(l.Age, now.Sub(rec.At))
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
	b := newBuild(s)
	b.lost = lost
	defer b.letAllGo(ctx)
	if err := b.survey(ctx); err != nil || len(b.mine())+len(b.books.Shards) == 0 {
		return nil, err
	}
	if err := b.holdAll(ctx); err != nil {
		return nil, fmt.Errorf("nothing was removed: %w", err)
	}
	held, done := b.under(ctx, 0)
	defer done()
	var kept []error
	for _, vm := range b.mine() {
		if err := b.confirm(ctx, 0); err != nil {
			return removed, err
		}
		if why := b.removeGolden(held, vm); why != "" {
			kept = append(kept, fmt.Errorf("%s: kept: %s", vm.Name, why))
			continue
		}
		removed = append(removed, vm.Name)
	}
	if len(kept) > 0 {
		return removed, errors.Join(kept...)
	}
	return removed, b.removeLedger(ctx)
}

// survey reads the ledger, then the inventory, without a plan.
func (b *build) survey(ctx context.Context) (err error) {
	if b.books, err = b.ledger.read(ctx); err != nil {
		return err
	}
	if b.inv, err = b.spec.Provider.Inventory(ctx, b.spec.Name); err != nil {
		return err
	}
	if b.inv.Incomplete != "" {
		return fmt.Errorf("nothing was removed, since the inventory was read incompletely: %s", b.inv.Incomplete)
	}
	return nil
}

// mine are the VMs that this set made, those of roles before the goldens that they hang on.
func (b *build) mine() []VMInfo {
	var goldens, roles []VMInfo
	for _, vm := range b.inv.VMs {
		owner, ok := ours(b.spec.Name, vm)
		switch {
		case !ok:
		case strings.HasPrefix(owner.Layer, "golden/"):
			goldens = append(goldens, vm)
		default:
			roles = append(roles, vm)
		}
	}
	return append(roles, goldens...)
}

// numbers are those of the pools that the ledger knows, and of those that were ready once: their
// entries may be lost.
func (b *build) numbers() []int {
	all := b.books.pools()
	for _, vm := range b.mine() {
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

// holdAll takes the claim, looks again, since somebody may have built until then, and takes every
// pool, or says who has one.
func (b *build) holdAll(ctx context.Context) error {
	taken, err := b.hold(ctx, 0)
	if err == nil {
		err = b.survey(ctx)
	}
	if err != nil {
		return err
	}
	busy := []error{busyOr(taken, "building it is ")}
	for _, n := range b.numbers() {
		taken, err := b.hold(ctx, n)
		if err != nil {
			return err
		}
		busy = append(busy, busyOr(taken, fmt.Sprintf("pool %d is ", n)))
	}
	return errors.Join(busy...)
}

// removeLedger removes the ledger while all of it is ours, so that nobody takes a part of it
// meanwhile: the claim at last.
func (b *build) removeLedger(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.leases {
		if err := x.confirm(ctx); err != nil {
			return err
		}
	}
	books, err := b.ledger.read(ctx) // after each entry was written: none is missing
	if err != nil {
		return err
	}
	for _, x := range b.leases {
		x.end(ErrReturned)
		<-x.gone
	}
	clear(b.leases)
	last := books.Shards[buildShard].ID
	for _, s := range books.Shards {
		if s.ID != last {
			if err := b.spec.Provider.Destroy(ctx, s.ID); err != nil {
				return err
			}
		}
	}
	return b.spec.Provider.Destroy(ctx, last)
}
