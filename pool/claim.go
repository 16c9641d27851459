package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

func newLedger(s Spec) *ledger {
	return &ledger{store: s.Provider, set: s.Name, term: s.Limits.Lease, by: whoami()}
}

// consult adds to the plan what the ledger says: pools that others have now, and those that
// must be built anew since they could not be made clean.
func (p *Work) consult(s Spec, l *ledger, b books) error {
	p.taken = map[int]string{}
	for n := 1; n <= s.Pools; n++ {
		e, there, err := l.entry(b, poolShard(n))
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		p.taken[n] = e.busy(b.Now)
		if e.Broken == "" {
			continue
		}
		for _, h := range p.poolHosts(n) {
			if h.Action == Reuse || h.Action == PowerOn {
				h.Action, h.Reason = Rebuild, "its pool could not be reset: "+e.Broken
			}
		}
	}
	if e, there, err := l.entry(b, buildShard); err != nil {
		return err
	} else if there {
		p.builder = e.holder(b.Now)
	}
	return nil
}

// buildsPool tells whether the plan makes or remakes a VM of the pool.
func (p *Work) buildsPool(n int) bool { return slices.ContainsFunc(p.poolHosts(n), (*hostPlan).builds) }

// isNew tells that no VM of the pool is there, so that nobody can hold it.
func (b *build) isNew(pool int) bool {
	return b.inv.Incomplete == "" && !slices.ContainsFunc(b.work.poolHosts(pool), func(h *hostPlan) bool { return h.info.ID != "" })
}

// claim makes this process the one that builds the set, and the holder of every pool that it
// builds: of all that Ensure one set at the same time, one builds, and the others wait and reuse. It plans
// again then, since another may have built meanwhile; after that there may be nothing left
// to build, and no claim. Who waits for the claim holds no pool, so nobody waits in a circle.
// Losing any of these leases ends ctx through lost.
func (b *build) claim(ctx context.Context, lost context.CancelCauseFunc) error {
	x, err := b.await(ctx, buildShard, "building", len(b.inv.VMs) == 0 && b.inv.Incomplete == "")
	if err != nil {
		return err
	}
	b.keep(0, x, lost)
	doing := b.log.stageName
	x.doing.Store(&doing)
	before := b.work.String()
	if err := b.look(ctx, before); err != nil {
		return err
	}
	if !b.work.Builds() || b.only > 0 && !b.work.buildsPool(b.only) {
		return b.letGo(ctx, 0, nil)
	}
	if b.work.String() != before {
		clear(b.failed)
		if err := b.preflight(ctx, time.Time{}); err != nil {
			return err
		}
	}
	var todo []int
	for n := 1; n <= b.spec.Pools; n++ {
		if b.work.buildsPool(n) && !b.spoiled(n) && (b.only == 0 || n == b.only) {
			todo = append(todo, n)
		}
	}
	var g errgroup.Group
	g.SetLimit(b.spec.Limits.Clones)
	for _, n := range todo {
		g.Go(func() error { return b.claimPool(ctx, n, lost) })
	}
	return g.Wait()
}

// claimPool takes a pool that is to be built, or spoils it if that must not be.
func (b *build) claimPool(ctx context.Context, n int, lost context.CancelCauseFunc) error {
	x, err := b.await(ctx, poolShard(n), "being built", b.isNew(n))
	if busy := (*busyError)(nil); errors.As(err, &busy) {
		h := b.work.poolHosts(n)[0]
		b.fail(n, &HostError{Host: h.VM, Pool: n, Stage: "plan", Err: fmt.Errorf("pool %d is %w; pool.Release frees it", n, err)})
		return nil
	}
	if err == nil {
		b.keep(n, x, lost)
	}
	return err
}

// await takes a shard of the ledger, waiting for whoever has it. It does not wait for a pool
// that is kept for a person, or cooling down.
func (b *build) await(ctx context.Context, shard, what string, fresh bool) (*lease, error) {
	word := b.log.wait("waiting for "+strings.ReplaceAll(shard, "-", " "), firstWord)
	if shard == buildShard {
		word = b.log.wait("waiting for another process, which builds the set", 0)
	}
	for wait := 100 * time.Millisecond; ; wait = min(wait*3/2, 3*time.Second, b.ledger.term/20) {
		if wait > 100*time.Millisecond { // whoever had it may have reset it: addresses are others now
			b.mu.Lock()
			b.waited[shard] = true
			b.mu.Unlock()
		}
		x, _, err := b.ledger.take(ctx, shard, what, fresh, nil)
		busy := (*busyError)(nil)
		if !errors.As(err, &busy) || busy.kind == blockKept || busy.kind == blockCooling {
			return x, err
		}
		word(busy.why)
		if sleep(ctx, jitter(wait)) != nil {
			return nil, fmt.Errorf("%w, while %s is %s", context.Cause(ctx), shard, busy.why)
		}
	}
}

// hold takes a pool, or with 0 the claim, for a cure that only its holder may do, unless somebody has it: then it
// says who.
func (b *build) hold(ctx context.Context, n int) (taken string, err error) {
	b.holding.Lock()
	defer b.holding.Unlock()
	if b.leases[n] != nil {
		return "", nil
	}
	shard := buildShard
	if n > 0 {
		shard = poolShard(n)
	}
	x, _, err := b.ledger.take(ctx, shard, "being made ready", false, nil)
	if busy := (*busyError)(nil); errors.As(err, &busy) {
		return busy.why, nil
	}
	if err != nil {
		return "", err
	}
	b.keep(n, x, b.lost)
	return "", nil
}

func (b *build) keep(n int, x *lease, lost context.CancelCauseFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leases[n] = x
	context.AfterFunc(x.ctx, func() {
		if cause := context.Cause(x.ctx); errors.Is(cause, ErrLeaseLost) {
			lost(cause)
		}
	})
}

// letGo gives back the lease on a pool, or with 0 the claim, if there is one.
func (b *build) letGo(ctx context.Context, n int, f func(now time.Time, e *entry)) error {
	b.mu.Lock()
	x := b.leases[n]
	delete(b.leases, n)
	b.mu.Unlock()
	if x == nil {
		return nil
	}
	ctx, cancel := afterwards(ctx)
	defer cancel()
	err := x.release(ctx, f)
	if err != nil {
		b.log.linef("%s: not given back, so it is free when its lease is over: %v", strings.ReplaceAll(x.shard, "-", " "), err)
	}
	return err
}

// letAllGo gives back what is still held, as after a failure.
func (b *build) letAllGo(ctx context.Context) {
	for n := range b.spec.Pools {
		_ = b.letGo(ctx, n+1, nil) // it has been told
	}
	_ = b.letGo(ctx, 0, nil)
}

// confirm asks the ledger, right before something of a host's pool is destroyed, whether we still have it.
func (b *build) confirm(ctx context.Context, pool int) error {
	b.mu.Lock()
	x := b.leases[pool]
	b.mu.Unlock()
	if x == nil {
		return fmt.Errorf("%w: pool %d", errNotOurs, pool)
	}
	return x.confirm(ctx)
}

// repair builds a pool anew, in the background, that could not be made clean.
func (s *Set) repair(n int) {
	s.mu.Lock()
	if s.repairing[n] {
		s.mu.Unlock()
		return
	}
	s.repairing[n] = true
	s.mu.Unlock()
	s.background(func() {
		defer func() {
			s.mu.Lock()
			delete(s.repairing, n)
			s.mu.Unlock()
			s.desk.free()
		}()
		if err := s.rebuild(s.ctx, n); err != nil && s.ctx.Err() == nil {
			s.log.linef("pool %d: not built anew: %s", n, indent(err.Error(), "    "))
		}
	})
}

// rebuild builds one pool anew, if the ledger still says that it is broken.
func (s *Set) rebuild(ctx context.Context, n int) error {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	b := newBuild(s.spec)
	b.log, b.only, b.lost = s.log, n, lost
	defer b.closeHosts()
	defer b.letAllGo(ctx)
	if err := b.look(ctx, "-"); err != nil {
		return err
	}
	if err := b.claim(ctx, lost); err != nil || b.leases[n] == nil {
		return errors.Join(append(b.failed[n], err)...)
	}
	b.run(ctx)
	err := errors.Join(slices.Concat(b.failed[0], b.failed[n])...)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		p := b.pool(s, n)
		s.setPool(p)
		b.letGoReady(ctx, s, p)
		return nil
	}
	if s.ctx.Err() == nil {
		b.letGo(ctx, n, func(now time.Time, e *entry) {
			e.fail(now, err)
			e.Block = &block{Kind: blockCooling, Why: firstLine(err), Until: now.Add(coolDown)}
		})
	}
	return err
}

// letGoReady gives back a pool that has become ready: clean, if all of it was built now and is proved to be.
func (b *build) letGoReady(ctx context.Context, s *Set, p *Pool) {
	b.mu.Lock()
	held := b.leases[p.Number] != nil
	b.mu.Unlock()
	if !held {
		return
	}
	built := !slices.ContainsFunc(b.work.poolHosts(p.Number), func(h *hostPlan) bool { return !h.builds() })
	if !built {
		b.letGo(ctx, p.Number, func(_ time.Time, e *entry) { e.Build, e.Broken = p.build, "" })
		return
	}
	books, err := b.ledger.read(ctx, poolShard(p.Number))
	var found *proof
	var boots []string
	if err == nil {
		found, boots, err = s.prove(ctx, p, books, nil)
	}
	if err != nil {
		b.log.linef("pool %d: it is reset before it is lent: %s", p.Number, firstLine(err))
	}
	s.sawBoots(p.Number, boots)
	b.letGo(ctx, p.Number, func(_ time.Time, e *entry) { e.Build, e.Broken, e.Clean, e.Boots = p.build, "", found, boots })
}
