package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
			if h.ready() {
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
// builds: of all that Ensure one set at the same time, one builds, and the others wait and reuse.
// If anybody has built since the plan was made, it plans again, and then there may be nothing left
// to build, and no claim. Who waits for the claim holds no pool, so nobody waits in a circle.
// Losing any of these leases ends ctx through lost.
func (b *build) claim(ctx context.Context, lost context.CancelCauseFunc) error {
	var values map[string]string
	first := &b.books
	if time.Since(b.books.asked) > b.ledger.term/3 {
		first = nil // a lease that counts from there would soon be over
	}
	x, err := b.await(ctx, request{
		shard: buildShard, what: "building", fresh: len(b.inv.VMs) == 0 && b.inv.Incomplete == "", first: first,
		also: func(token string) (_ map[string]string, err error) {
			values, err = b.cover(b.books, b.todo(), token)
			return values, err
		},
	})
	if err != nil {
		return err
	}
	b.keep(0, x, lost)
	doing := b.log.stageName
	x.doing.Store(&doing)
	if !x.unchanged || b.unsure {
		before := b.work.String()
		if err := b.look(ctx, before); err != nil {
			return err
		}
		if !b.work.Builds() || b.only > 0 && !b.work.buildsPool(b.only) {
			return b.letGo(ctx, 0, nil)
		}
		if b.work.String() != before || b.unsure {
			clear(b.failed)
			if err := b.preflight(ctx, time.Time{}); err != nil {
				return err
			}
		}
		err := x.alter(ctx, func(now books, e *entry) (err error) {
			values, err = b.cover(now, b.todo(), x.token)
			e.also = values
			return err
		})
		if err != nil {
			return err
		}
	}
	var own []int
	for _, n := range b.todo() {
		if b.covered[n] = values[poolKey(n)] != ""; !b.covered[n] {
			own = append(own, n)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.spec.Limits.Clones)
	for _, n := range own {
		g.Go(func() error { return b.claimPool(ctx, n, lost) })
	}
	return g.Wait()
}

// todo are the pools that are to be built.
func (b *build) todo() []int {
	var all []int
	for n := 1; n <= b.spec.Pools; n++ {
		if b.work.buildsPool(n) && !b.spoiled(n) && (b.only == 0 || n == b.only) {
			all = append(all, n)
		}
	}
	return all
}

// claimPool takes a pool that is to be built, or spoils it if that must not be.
func (b *build) claimPool(ctx context.Context, n int, lost context.CancelCauseFunc) error {
	x, err := b.await(ctx, request{shard: poolShard(n), what: "being built"})
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

// await takes a shard of the ledger, waiting for whoever has it; for a pool in the line, so that
// tests do not always come before. It does not wait for a pool that is kept for a person, or
// cooling down.
func (b *build) await(ctx context.Context, r request) (*lease, error) {
	word := b.log.wait("waiting for "+strings.ReplaceAll(r.shard, "-", " "), firstWord)
	if r.shard == buildShard {
		word = b.log.wait("waiting for another process, which builds the set", 0)
	}
	var line *place
	for wait := 100 * time.Millisecond; ; wait = min(wait*3/2, 3*time.Second, b.ledger.term/20) {
		if wait > 100*time.Millisecond { // whoever had it may have reset it: addresses are others now
			b.mu.Lock()
			b.waited[r.shard] = true
			b.mu.Unlock()
		}
		x, _, err := b.ledger.take(ctx, r)
		r.first, r.fresh = nil, false // since then somebody had it
		busy := (*busyError)(nil)
		if !errors.As(err, &busy) || busy.kind == blockKept || busy.kind == blockCooling {
			return x, err
		}
		word(busy.why)
		if n := shardPool(r.shard); n > 0 {
			if line == nil {
				line = b.ledger.place(r.what, []int{n})
				defer line.abandon(ctx)
			}
			if err := line.join(ctx); err != nil {
				return nil, err
			}
		}
		if sleep(ctx, jitter(wait)) != nil {
			return nil, fmt.Errorf("%w, while %s is %s", context.Cause(ctx), r.shard, busy.why)
		}
	}
}

// hold takes a pool, or with 0 the claim, for a cure that only its holder may do, unless somebody
// has it: then it says who.
func (b *build) hold(ctx context.Context, n int) (taken string, err error) {
	b.holding.Lock()
	defer b.holding.Unlock()
	if b.holds(n) {
		return "", nil
	}
	shard := buildShard
	if n > 0 {
		shard = poolShard(n)
	}
	x, _, err := b.ledger.take(ctx, request{shard: shard, what: "being made ready"})
	if busy := (*busyError)(nil); errors.As(err, &busy) {
		return busy.why, nil
	}
	if err != nil {
		return "", err
	}
	b.keep(n, x, b.lost)
	return "", nil
}

// holds tells whether a pool, or with 0 the claim, is ours.
func (b *build) holds(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leases[n] != nil || b.covered[n]
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

// letGo gives back the lease on a pool, or with 0 the claim, if there is one, with what f makes of
// its entry. A newborn pool is given back with the claim.
func (b *build) letGo(ctx context.Context, n int, f func(now time.Time, e *entry)) error {
	b.mu.Lock()
	x := b.leases[n]
	delete(b.leases, n)
	if b.covered[n] && f != nil {
		b.after[n] = f
	}
	b.mu.Unlock()
	if x == nil {
		return nil
	}
	ctx, cancel := afterwards(ctx)
	defer cancel()
	err := x.release(ctx, func(books books, e *entry) {
		if f != nil {
			f(books.Now, e)
		}
		if n == 0 {
			e.also = b.uncover(books, x.token)
		}
	})
	if err != nil {
		b.log.linef("%s: not given back, so it is free when its lease is over: %v", strings.ReplaceAll(x.shard, "-", " "), err)
	}
	return err
}

// letAllGo gives back what is still held, as after a failure, the claim at last.
func (b *build) letAllGo(ctx context.Context) {
	b.mu.Lock()
	held := slices.Sorted(maps.Keys(b.leases))
	b.mu.Unlock()
	for _, n := range slices.Backward(held) {
		_ = b.letGo(ctx, n, nil) // it has been told
	}
}

// confirm asks the ledger, right before something of a host's pool is destroyed, whether we still
// have it.
func (b *build) confirm(ctx context.Context, pool int) error {
	x := b.lease(pool)
	if x == nil {
		return fmt.Errorf("%w: pool %d", errNotOurs, pool)
	}
	return x.confirm(ctx)
}

// lease is that under which a pool, or with 0 a golden, is built, or nil.
func (b *build) lease(pool int) *lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.covered[pool] {
		pool = 0
	}
	return b.leases[pool]
}

// under returns a context for what is done to a pool, or with 0 to a golden or the whole set: it
// ends with the lease under which that is done, which the Provider asks before each change (see
// Held).
func (b *build) under(ctx context.Context, pool int) (context.Context, func()) {
	if x := b.lease(pool); x != nil {
		return x.bind(ctx)
	}
	return ctx, func() {}
}

// usage lets a host of a pool, or with 0 a golden, be used as long as that lasts.
func (b *build) usage(pool int) *usage {
	if x := b.lease(pool); x != nil {
		return &usage{x.ctx, x}
	}
	return nil
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
	defer b.letAllGo(ctx)
	if err := b.look(ctx, "-"); err != nil {
		return err
	}
	for _, h := range b.work.poolHosts(n) {
		if h.Action == Refuse {
			s.strike(n, fmt.Errorf("%s: %s", h.VM, h.Reason))
			return nil
		}
	}
	if err := b.claim(ctx, lost); err != nil || !b.holds(n) {
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
		books, err := b.ledger.read(ctx, buildShard)
		b.letGoReady(ctx, s, p, books, err)
		return nil
	}
	b.closeHosts()
	if ctx.Err() == nil && !errors.Is(err, ErrLeaseLost) { // else what failed was us
		_ = b.letGo(ctx, n, func(now time.Time, e *entry) {
			e.fail(now, err)
			e.Block = &block{Kind: blockCooling, Why: firstLine(err), Until: now.Add(coolDown)}
		})
	}
	return err
}

// letGoReady gives back a pool that has become ready: clean, if all of it was built now and is
// proved to be. now is a reading of the ledger, for its clock, or err why there is none.
func (b *build) letGoReady(ctx context.Context, s *Set, p *Pool, now books, err error) {
	if !b.holds(p.Number) {
		return
	}
	built := !slices.ContainsFunc(b.work.poolHosts(p.Number), func(h *hostPlan) bool { return !h.builds() })
	if !built {
		_ = b.letGo(ctx, p.Number, func(_ time.Time, e *entry) { e.Build = p.build })
		return
	}
	var found *proof
	var boots []string
	if err == nil {
		found, boots, err = s.prove(ctx, p, now, nil)
	}
	if err != nil {
		b.log.linef("pool %d: it is reset before it is lent: %s", p.Number, firstLine(err))
	}
	s.sawBoots(p.Number, boots)
	_ = b.letGo(ctx, p.Number, func(_ time.Time, e *entry) { e.Build, e.Broken, e.Clean, e.Boots = p.build, "", found, boots })
}
