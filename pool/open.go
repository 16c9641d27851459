package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Ensure makes every pool of spec ready, reusing what is, and returns the set. It is Open with
// t's context and log: it fails t if Open fails, and closes the set in t's cleanup.
//
// go test kills a test binary when its -timeout is over, setup included. When the plan cannot
// be done by then, Ensure fails before it touches anything, and names the -timeout to set.
func Ensure(t T, spec Spec) *Set {
	t.Helper()
	if spec.Logf == nil {
		spec.Logf = t.Logf
	}
	end, _ := setupDeadline(t)
	s, err := open(t.Context(), spec, end)
	if err != nil {
		t.Fatalf("pool: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Open makes every pool of spec ready and returns the set. What is ready already is reused:
// then Open costs one reading of the inventory and one SSH login per host.
//
// One bad VM spoils its own pool only: the others are made ready all the same, so that the
// next call finds them, and the error, a *NotReadyError, holds a *HostError for each that
// failed. It is nil if Spec.MinPools are ready. VMs that failed are left running for a look;
// the next Open builds them anew.
//
// When ctx ends, so does Open, soon; what is ready by then stays ready.
func Open(ctx context.Context, spec Spec) (*Set, error) {
	s, err := open(ctx, spec, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	return s, nil
}

// Plan returns what Open would do now, and why. It changes nothing.
func Plan(ctx context.Context, spec Spec) (*Work, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	work, _, _, err := plan(ctx, spec.withDefaults())
	if err != nil {
		return work, fmt.Errorf("pool: set %q: %w", spec.Name, err)
	}
	return work, nil
}

// A NotReadyError says which hosts kept a set from being ready.
type NotReadyError struct {
	Set         string
	Ready, Want int     // pools
	Failed      []error // *HostError, mostly
}

func (e *NotReadyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %q: %d of the %d pools wanted are ready", e.Set, e.Ready, e.Want)
	for _, err := range e.Failed {
		fmt.Fprintf(&b, "\n  %s", indent(err.Error(), "      "))
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the failures.
func (e *NotReadyError) Unwrap() []error { return e.Failed }

// plan reads the ledger, then the inventory, in this order: while nobody writes in the ledger,
// nobody changes what the inventory says. Then it compares. The Spec has its defaults.
func plan(ctx context.Context, s Spec) (*Work, *Inventory, books, error) {
	l := newLedger(s)
	books, err := l.read(ctx)
	if err != nil {
		return nil, nil, books, err
	}
	var templates []string
	for _, g := range s.goldens() {
		templates = append(templates, g.Template)
	}
	inv, err := s.Provider.Inventory(ctx, s.Name, templates...)
	if err != nil {
		return nil, nil, books, err
	}
	work, err := makePlan(s, inv, time.Now())
	if err != nil {
		return work, inv, books, err
	}
	err = work.consult(s, l, books)
	work.list()
	work.Expect = work.expect(s)
	return work, inv, books, err
}

// open is the story of a set: read, plan, claim, golden, clone role by role, make ready role by
// role. end is when the process will be killed, or zero.
func open(ctx context.Context, spec Spec, end time.Time) (*Set, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	b := newBuild(spec.withDefaults())
	b.lost = lost
	defer b.letAllGo(ctx)
	if err := b.look(ctx, ""); err != nil {
		return nil, err
	}
	if err := b.firstPreflight(ctx, end); err != nil {
		return nil, err
	}
	if b.work.Builds() {
		if err := b.claim(ctx, lost); err != nil {
			return nil, fmt.Errorf("set %q: %w", spec.Name, err)
		}
	}
	b.run(ctx)
	if ctx.Err() != nil {
		b.closeHosts()
		return nil, fmt.Errorf("set %q: interrupted: %w; what is ready stays ready, the rest is built anew by the next run", spec.Name, context.Cause(ctx))
	}
	return b.finish(ctx)
}

// look makes the plan, and says what it is unless it is as before.
func (b *build) look(ctx context.Context, before string) error {
	work, inv, books, err := plan(ctx, b.spec)
	if work != nil && before != "-" && work.String() != before {
		b.spec.Logf("%s", work)
	}
	if err != nil {
		return fmt.Errorf("set %q: %w", b.spec.Name, err)
	}
	b.work, b.inv, b.books = work, inv, books
	return nil
}

// run carries out the plan.
func (b *build) run(ctx context.Context) {
	b.makeGoldens(ctx)
	for i := range b.work.hosts {
		b.cloneRole(ctx, i)
	}
	for i := range b.work.hosts {
		b.readyRole(ctx, i)
	}
	b.removeOldGoldens(ctx)
}

// firstPreflight is preflight before the claim, when another process may be building: what is in
// the way then may be its work. If so, the claim is waited for, and all is looked at anew.
func (b *build) firstPreflight(ctx context.Context, end time.Time) error {
	for try := 1; ; try++ {
		err := b.preflight(ctx, end)
		if err == nil || ctx.Err() != nil || try == 5 {
			return err
		}
		before := b.work.String()
		if b.look(ctx, before) != nil {
			return err
		}
		clear(b.failed)
		if b.unsure = b.work.builder != nil && b.work.Builds(); b.unsure {
			return nil
		}
		if b.work.String() == before {
			return err
		}
	}
}

// preflight finds, before anything is touched, what would fail later.
func (b *build) preflight(ctx context.Context, end time.Time) error {
	for _, g := range b.work.goldens {
		if g.Action == Refuse {
			b.fail(0, &HostError{Host: g.VM, Stage: "plan", Err: errors.New(g.Reason)})
		}
	}
	for _, hosts := range b.work.hosts {
		for _, h := range hosts {
			if h.Action == Refuse {
				b.fail(h.Pool, &HostError{Host: h.VM, Pool: h.Pool, Stage: "plan", Err: errors.New(h.Reason)})
			}
		}
	}
	ready := len(b.spec.numbers()) - len(b.failed)
	if b.spoiled(0) {
		ready = 0
	}
	if ready < b.spec.MinPools {
		return fmt.Errorf("%w\nnothing was touched", b.notReady(ready))
	}
	if !b.work.Builds() {
		return nil
	}
	if !end.IsZero() {
		if err := b.work.fits(time.Now(), end); err != nil {
			return err
		}
	}
	var clones []CloneSpec
	for _, g := range b.work.goldens {
		if g.Action != Reuse && g.Action != Finish {
			clones = append(clones, b.goldenClone(g))
		}
	}
	for _, hosts := range b.work.hosts {
		for _, h := range hosts {
			if h.builds() {
				c := b.roleClone(h, golden{})
				if h.Action == Rebuild {
					c.Owner = h.info.Owner // what has the name now goes first
				}
				clones = append(clones, c)
			}
		}
	}
	if err := b.spec.Provider.Preflight(ctx, clones); err != nil {
		return fmt.Errorf("set %q: nothing was touched: %w", b.spec.Name, err)
	}
	return nil
}
