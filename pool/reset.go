package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/pool/internal/wait"
)

// errUnfit says that a pool is not, or no longer, what this process's Spec asks for.
var errUnfit = errors.New("it is no longer what this Spec asks for")

const (
	markScript = `set -e
mkdir -p /var/tmp
echo dirty > ` + dirtyMarker + `
cat /proc/sys/kernel/random/boot_id
if test -e ` + cleanMarker + `; then cat ` + cleanMarker + `; fi
`
	proofScript = `set -e
cat /proc/sys/kernel/random/boot_id
if test -e ` + dirtyMarker + `; then echo dirty; elif test -e ` + cleanMarker + `; then echo marked; else echo clean; fi
date +%s
`
)

// mark leaves the dirty marker on the pool's hosts and returns their boot IDs, with the clean
// markers of those that have one.
func (p *Pool) mark(ctx context.Context) ([]string, error) {
	boots := make([]string, len(p.hosts))
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		g.Go(func() error {
			if err := h.probe(ctx); err != nil {
				return hostError(h, "acquire", err)
			}
			out, err := h.Script(ctx, markScript)
			boots[i] = strings.Join(strings.Fields(out), "/")
			return hostError(h, "acquire", err)
		})
	}
	return boots, g.Wait()
}

// reset puts the pool, which x holds, back to its ready snapshots, and proves that it is clean. It
// returns the proof and the new boot IDs. old are those before.
func (s *Set) reset(ctx context.Context, x *lease.Held, p *Pool, old []string) (found *lease.Proof, boots []string, err error) {
	ctx, stop := x.Bind(ctx)
	defer stop()
	start := time.Now()
	_, e, _ := event(ctx, nil, events.Reset, "")
	ctx = s.log.within(ctx, events.Event{Stage: "reset", Test: e.Test})
	span := s.log.events.Begin(events.Event{Kind: events.Reset, Pool: x.Pool, Test: e.Test})
	defer func() { span.End(err) }()
	if err := x.Confirm(ctx); err != nil {
		return nil, nil, err
	}
	now, err := s.ledger.ReadPool(ctx, x.Pool)
	if err != nil {
		return nil, nil, err
	}
	if err := p.revert(ctx, x, now); err != nil {
		return nil, nil, err
	}
	found, boots, err = s.prove(ctx, p, now, old)
	if err == nil {
		s.log.sayf("pool %d: reset in %s, and clean", p.Number, round(time.Since(start)))
	}
	return found, boots, err
}

// revert puts all hosts of the pool, which x holds, back to their ready snapshots, as one act, and
// waits until they are up and what each needs of the earlier ones answers. None comes up before
// all the others are off, so that it meets none of the old ones. Then all come up at once, unless a
// role asks for order. now has the hypervisor's clock.
func (p *Pool) revert(ctx context.Context, x *lease.Held, now *lease.Snapshot) error {
	held := func(h *Host, f func() error) error {
		if err := x.Check(); err != nil { // this process may have slept
			return err
		}
		return hostError(h, "reset", f())
	}
	var off sync.WaitGroup
	errs := make([]error, len(p.hosts))
	for i, h := range p.hosts {
		h.drop()
		switch {
		case h.snapshotBoot == "":
			off.Go(func() { errs[i] = held(h, func() error { return h.revert(ctx, p.snaps[i]) }) })
		case len(p.hosts) > 1:
			off.Go(func() {
				errs[i] = held(h, func() error {
					return h.gates.change(ctx, func() error { _, err := h.provider.ShutDown(ctx, h.id, 0); return err })
				})
			})
		}
	}
	off.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	quiet := func(string) {}
	up := make([]chan struct{}, len(p.hosts))
	for i := range up {
		up[i] = make(chan struct{})
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		// earlier waits until the hosts before h are up.
		earlier := func() error {
			for _, c := range up[:i] {
				select {
				case <-c:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		}
		g.Go(func() error {
			if p.roles[i].StrictOrder {
				if err := earlier(); err != nil {
					return err
				}
			}
			if h.snapshotBoot != "" {
				if err := held(h, func() error { return h.revert(ctx, p.snaps[i]) }); err != nil {
					return err
				}
			}
			err := held(h, func() error { return h.awaitUp(ctx, now, quiet) })
			if err == nil {
				err = earlier()
			}
			if err == nil {
				err = hostError(h, "reset", awaitNeeds(ctx, h, p.roles[i].Needs, quiet))
			}
			if err == nil {
				close(up[i])
			}
			return err
		})
	}
	return g.Wait()
}

// clockTime is how long a clock may take to be set right after a boot.
var clockTime = 30 * time.Second

// prove shows that the pool is clean: every host has booted since old was read, or was resumed from
// its snapshot and lacks the clean marker of an earlier proof; its disk lacks the dirty marker, its
// clock is right, its NICs are as they were, and the role's AfterReset checks pass. now has the
// hypervisor's clock.
func (s *Set) prove(ctx context.Context, p *Pool, now *lease.Snapshot, old []string) (*lease.Proof, []string, error) {
	skews := make([]time.Duration, len(p.hosts))
	boots := make([]string, len(p.hosts))
	g, gctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		before := ""
		if i < len(old) {
			before = old[i]
		}
		g.Go(func() (err error) {
			if boots[i], skews[i], err = s.proveHost(gctx, h, before, now); err == nil {
				err = h.unplugged(gctx)
			}
			if err == nil {
				_, err = runChecks(gctx, h, p.roles[i].AfterReset)
			}
			return hostError(h, "prove clean", err)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	skew := slices.Max(skews).Seconds()
	return &lease.Proof{At: now.Now.UTC().Truncate(time.Second), By: s.ledger.By, Skew: skew}, boots, nil
}

func (s *Set) proveHost(ctx context.Context, h *Host, old string, now *lease.Snapshot) (boot string, skew time.Duration, err error) {
	for end := time.Now().Add(clockTime); ; {
		asked := time.Now()
		out, err := h.Script(ctx, proofScript)
		answered := time.Now()
		if err != nil {
			return "", 0, err
		}
		lines := strings.Fields(out)
		if len(lines) != 3 {
			return "", 0, fmt.Errorf("probe: got %q, want 3 lines", out)
		}
		seconds, err := strconv.ParseInt(lines[2], 10, 64)
		switch {
		case err != nil:
			return "", 0, fmt.Errorf("probe: the host's clock says %q", lines[2])
		case h.snapshotBoot == "" && lines[0] == old:
			return "", 0, fmt.Errorf("it did not reboot: its boot ID is still %s", old)
		case h.snapshotBoot != "" && lines[0] != h.snapshotBoot:
			return "", 0, fmt.Errorf("it did not resume from its snapshot: its boot ID is %s, that of the snapshot is %s", lines[0], h.snapshotBoot)
		case lines[1] == "marked":
			return "", 0, fmt.Errorf("its memory was not reverted: it has %s, which an earlier proof wrote", cleanMarker)
		case lines[1] != "clean":
			return "", 0, fmt.Errorf("its disk was not reverted: it has %s, which only a host has that a test used", dirtyMarker)
		}
		skew = distance(time.Unix(seconds, 0), now.At(asked), now.At(answered).Add(now.Slack))
		if limit := s.spec.Limits.ClockSkew; limit >= 0 && skew > limit {
			if time.Now().Before(end) && wait.Sleep(ctx, 500*time.Millisecond) == nil {
				continue // it may be being set
			}
			return "", 0, fmt.Errorf("its clock is %s from the hypervisor's, more than Limits.ClockSkew (%s)", round(skew), limit)
		}
		if h.snapshotBoot == "" {
			return lines[0], skew, nil
		}
		boot, err = h.markClean(ctx, lines[0])
		return boot, skew, err
	}
}

// distance is the least by which a clock can be wrong that said second some time between from and
// to.
func distance(second, from, to time.Time) time.Duration {
	switch {
	case second.After(to):
		return second.Sub(to)
	case second.Add(time.Second).Before(from):
		return from.Sub(second.Add(time.Second))
	}
	return 0
}

// find looks in the inventory for a pool that somebody has rebuilt, and makes it known to the set.
func (s *Set) find(ctx context.Context, old *Pool) (*Pool, error) {
	spec := s.spec.only(old.Number)
	o, err := observe(ctx, spec, s.ledger)
	if err != nil {
		return nil, err
	}
	plan, err := o.plan(spec, nil)
	if err != nil {
		return nil, err
	}
	hosts := plan.pool(old.Number).hosts
	for _, h := range hosts {
		if !h.ready() {
			err := fmt.Errorf("%s: %w", h.VM, h.unfit())
			if _, _, _, is := readySnapshot(h.info, h.role.Snapshot); h.Action != ActionRefuse && errors.Is(is, errUnfinished) {
				return nil, err // its builder died
			}
			return nil, fmt.Errorf("%w: %w", errUnfit, err)
		}
	}
	p := newPool(s.spec, s, hosts)
	if p.build == old.build {
		return old, nil
	}
	s.setPool(p)
	return p, nil
}

// Reset puts all pools that the Spec is about back to their ready snapshots, at once, and
// proves that they are clean, as a reset between two tests does. If anybody holds or keeps one of
// them, or one is not ready, none is touched, and the error says why. A pool that cannot be made
// clean is rebuilt for the next test that wants it.
func Reset(ctx context.Context, spec Spec) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	if err := resetPools(ctx, spec.withDefaults()); err != nil {
		return fmt.Errorf("pool: reset of set %q: %w", spec.Name, err)
	}
	return nil
}

func resetPools(ctx context.Context, s Spec) error {
	r := newRun(s, nil, nil, func(error) {})
	defer r.log.close()
	ctx = notices(ctx, r.log.notice)
	if err := r.observe(ctx); err != nil {
		return err
	}
	var not []error
	for _, q := range r.plan.pools {
		for _, h := range q.hosts {
			if !h.ready() {
				not = append(not, fmt.Errorf("%s is not ready: %w", h.VM, h.unfit()))
			}
		}
	}
	if err := errors.Join(append(not, r.plan.free())...); err != nil {
		return fmt.Errorf("nothing was touched: %w", err)
	}
	set := r.newSet()
	defer set.Close()
	pools := r.plan.pools
	held := make([]*lease.Held, len(pools))
	was := make([]lease.Entry, len(pools))
	for i, q := range pools {
		var err error
		if held[i], was[i], err = take(ctx, r.ledger.Operate, lease.Request{Pool: q.number, Purpose: "reset by hand"}); err != nil {
			err = fmt.Errorf("nothing was touched: pool %d: %w", q.number, err)
			for j, x := range held[:i] {
				err = errors.Join(err, releaseLease(ctx, x, lease.Untouched(was[j])))
			}
			return err
		}
		guard(held[i])
	}
	errs := make([]error, len(pools))
	forAll(pools, r.plan.Concurrency.Hosts/len(s.Roles), func(q *poolPlan) {
		i := slices.Index(pools, q)
		errs[i] = set.resetHeld(ctx, held[i], was[i], newPool(s, set, q.hosts))
	})
	return errors.Join(errs...)
}

// resetHeld resets a pool that x holds, and releases it.
func (s *Set) resetHeld(ctx context.Context, x *lease.Held, was lease.Entry, p *Pool) (err error) {
	defer func() { p.drop() }()
	if was.Build != p.build { // somebody may have built it since the plan was made
		if p, err = s.find(ctx, p); err != nil {
			return errors.Join(fmt.Errorf("pool %d: %w", x.Pool, err), releaseLease(ctx, x, lease.Released()))
		}
	}
	var found *lease.Proof
	var boots []string
	if err = s.cleanExternals(ctx, x); err == nil {
		found, boots, err = s.reset(ctx, x, p, was.Boots)
	}
	end := lease.Released()
	switch {
	case err == nil:
		end = lease.Cleaned(p.build, found, boots)
	case ctx.Err() == nil:
		end = lease.ResetFailed(err, rebuildHelps(err))
	}
	if err := errors.Join(err, releaseLease(ctx, x, end)); err != nil {
		return fmt.Errorf("pool %d: %w", p.Number, err)
	}
	return nil
}
