package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// asked is the reason of what is rebuilt since somebody asked for it.
const asked = "asked for"

// again says what is built anew though it is ready.
type again struct {
	layer string // "golden", a role, or "" for all roles
}

func (a *again) has(layer string) bool {
	return a != nil && (a.layer == layer || a.layer == "" && layer != "golden")
}

// RebuildPools builds anew what is ready: with layer "golden" a new golden and, from it, every VM;
// with the name of a role, that role's VMs and those that need them; with "" all VMs of the pools,
// from the golden that is there. Only pools of Spec.Only are rebuilt, and golden only without it.
// What is not ready is built, too, as Open does. Nothing is touched if anybody holds or keeps one
// of these pools: the error says who.
func RebuildPools(ctx context.Context, spec Spec, layer string) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	if err := s.rebuildable(layer); err != nil {
		return fmt.Errorf("pool: rebuild of set %q: %w; nothing was touched", s.Name, err)
	}
	work, _, _, err := plan(ctx, s)
	if err == nil {
		err = work.free(s)
	}
	if err != nil {
		return fmt.Errorf("pool: rebuild of set %q: %w; nothing was touched", s.Name, err)
	}
	s.again = &again{layer}
	set, err := open(ctx, s, time.Time{})
	if err != nil {
		return fmt.Errorf("pool: rebuild: %w", err)
	}
	return set.Close()
}

func (s Spec) rebuildable(layer string) error {
	names := []string{`"golden"`}
	for _, r := range s.Roles {
		if layer == r.Name {
			return nil
		}
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	switch {
	case layer == "":
		return nil
	case layer != "golden":
		return fmt.Errorf("there is no layer %q, but %s", layer, strings.Join(names, ", "))
	case len(s.Only) > 0:
		return errors.New("a new golden rebuilds all pools, not only some")
	}
	return nil
}

// free says who has the pools that the Spec is about.
func (p *Work) free(s Spec) error {
	var busy []error
	for _, n := range s.numbers() {
		busy = append(busy, busyOr(p.taken[n], fmt.Sprintf("pool %d is ", n)))
	}
	return errors.Join(busy...)
}

// ResetPools puts all pools of the Spec back to their ready snapshots, at once, and shows that they
// are clean, as a reset between two tests does. If anybody holds or keeps one of them, or one is
// not ready, none is touched, and the error says why. A pool that cannot be made clean is built
// anew by whoever wants it next.
func ResetPools(ctx context.Context, spec Spec) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	if err := resetPools(ctx, spec.withDefaults()); err != nil {
		return fmt.Errorf("pool: reset of set %q: %w", spec.Name, err)
	}
	return nil
}

func resetPools(ctx context.Context, s Spec) error {
	b := newBuild(s)
	if err := b.look(ctx, "-"); err != nil {
		return err
	}
	numbers := s.numbers()
	var not []error
	for _, n := range numbers {
		for _, h := range b.work.poolHosts(n) {
			if !h.ready() {
				not = append(not, fmt.Errorf("%s is not ready: %s: %s", h.VM, h.Action, h.Reason))
			}
		}
	}
	if err := errors.Join(append(not, b.work.free(s))...); err != nil {
		return fmt.Errorf("nothing was touched: %w", err)
	}
	set := b.bare()
	defer set.Close()
	held := make([]*lease, len(numbers))
	was := make([]entry, len(numbers))
	for i, n := range numbers {
		var err error
		if held[i], was[i], err = b.ledger.take(ctx, request{shard: poolShard(n), what: "reset by hand"}); err != nil {
			if errors.As(err, new(*busyError)) {
				err = fmt.Errorf("it is %w", err)
			}
			err = fmt.Errorf("nothing was touched: pool %d: %w", n, err)
			for j, x := range held[:i] {
				err = errors.Join(err, letGoOf(ctx, x, func(_ time.Time, e *entry) { e.Clean = was[j].Clean }))
			}
			return err
		}
	}
	errs := make([]error, len(numbers))
	forAll(numbers, max(1, s.Limits.Hosts/len(s.Roles)), func(n int) {
		i := slices.Index(numbers, n)
		errs[i] = set.resetHeld(ctx, held[i], was[i], fromPlan(s, b.work.poolHosts(n)))
	})
	return errors.Join(errs...)
}

// resetHeld resets a pool that x holds, and gives it back.
func (s *Set) resetHeld(ctx context.Context, x *lease, was entry, p *Pool) error {
	p.set = s
	defer func() {
		for _, h := range p.hosts {
			h.drop()
		}
	}()
	var found *proof
	var boots []string
	var err, failed error
	if was.Build != p.build { // somebody may have built it since the plan was made
		p, err = s.find(ctx, p)
	}
	if err == nil {
		if err = s.cleanExternals(ctx, x); err == nil {
			found, boots, err = s.reset(ctx, x, p, was.Boots)
		}
		failed = err
	}
	err = errors.Join(err, letGoOf(ctx, x, func(now time.Time, e *entry) {
		switch {
		case failed != nil && ctx.Err() == nil:
			e.fail(now, failed)
		case found != nil:
			e.cleaned(p, found, boots)
		}
	}))
	if err != nil {
		return fmt.Errorf("pool %d: %w", p.Number, err)
	}
	return nil
}

// letGoOf gives a lease back, also when ctx has ended, with what f makes of its entry.
func letGoOf(ctx context.Context, x *lease, f func(now time.Time, e *entry)) error {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	return x.release(ctx, func(b books, e *entry) {
		if f != nil {
			f(b.Now, e)
		}
	})
}

// KeepPool leaves a pool as it is to a person, for d, as Spec.Keep does with that of a failed test:
// nobody gets it until then, or until Release. A pool that somebody holds is not taken away; one
// that is kept already is kept for d from now on.
func KeepPool(ctx context.Context, spec Spec, pool int, why string, d time.Duration) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	if pool < 1 || pool > s.Pools || d <= 0 {
		return fmt.Errorf("pool: keep pool %d of set %q for %s: the pools are 1 to %d, and the time is more than 0", pool, s.Name, d, s.Pools)
	}
	l := newLedger(s)
	mark := func(now time.Time, e *entry) {
		e.Block = &block{Kind: blockKept, Why: fmt.Sprintf("%s, by %s", why, l.by), Until: now.Add(d)}
	}
	x, _, err := l.take(ctx, request{shard: poolShard(pool), what: "keep"})
	if busy := (*busyError)(nil); errors.As(err, &busy) && busy.kind == blockKept {
		err = l.changeEntry(ctx, poolShard(pool), nil, func(b books, e *entry, there bool) (bool, error) {
			if t := e.holder(b.Now); t != nil {
				return false, fmt.Errorf("it is held by %s", t)
			}
			mark(b.Now, e)
			return there, nil
		})
	} else if err == nil {
		err = letGoOf(ctx, x, mark)
	}
	if busy := (*busyError)(nil); errors.As(err, &busy) {
		err = fmt.Errorf("it is %w", err)
	}
	if err != nil {
		return fmt.Errorf("pool: keep pool %d of set %q: %w", pool, s.Name, err)
	}
	return nil
}
