package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/pool/internal/wait"
)

// holdings are the leases of one run: the claim to build the set, the pools that it covers, and the
// pools with a lease of their own. When one of them is lost, the run ends.
type holdings struct {
	ledger *lease.Ledger
	log    *progress
	lost   context.CancelCauseFunc

	mu      sync.Mutex // guards what follows
	claim   *lease.Held
	covered map[int]bool    // by the claim, and without a shard
	made    []int           // covered by the claim, whose shards were made
	now     *lease.Snapshot // a reading of the claim, when they were
	pools   map[int]*lease.Held
	was     map[int]lease.Entry       // what pools were before
	trying  map[int]*sync.Mutex       // held while a pool is tried
	notes   map[int]map[string]string // values to be written with the release of a pool, or with 0 of the claim
}

func newHoldings(l *lease.Ledger, log *progress, lost context.CancelCauseFunc) *holdings {
	return &holdings{ledger: l, log: log, lost: lost, covered: map[int]bool{}, pools: map[int]*lease.Held{}, was: map[int]lease.Entry{}, trying: map[int]*sync.Mutex{}, notes: map[int]map[string]string{}}
}

// of returns the lease under which a pool is worked on, or with 0 golden and the set; nil if there
// is none.
func (h *holdings) of(pool int) *lease.Held {
	h.mu.Lock()
	defer h.mu.Unlock()
	if pool == 0 || h.covered[pool] {
		return h.claim
	}
	return h.pools[pool]
}

func (h *holdings) has(pool int) bool { return h.of(pool) != nil }

// before returns what a pool was when it was leased.
func (h *holdings) before(pool int) lease.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.was[pool]
}

// any reports whether anything is held.
func (h *holdings) any() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claim != nil || len(h.pools) > 0
}

// add notes a lease, whose loss ends the run.
func (h *holdings) add(x *lease.Held, was lease.Entry, purpose string) {
	guard(x)
	h.log.leased(x, purpose)
	h.mu.Lock()
	defer h.mu.Unlock()
	if x.Pool == 0 {
		h.claim = x
	} else {
		h.pools[x.Pool], h.was[x.Pool] = x, was
	}
	x.AfterEnd(func() {
		if err := x.Check(); errors.Is(err, ErrLeaseLost) {
			h.lost(err)
		}
	})
}

// bind returns a context for what is done to a pool, or with 0 to a golden or the whole set: it
// ends with the lease under which that is done, which the Provider checks before each change.
func (h *holdings) bind(ctx context.Context, pool int) (context.Context, func()) {
	if x := h.of(pool); x != nil {
		return x.Bind(ctx)
	}
	return ctx, func() {}
}

// usage lets a host of a pool, or with 0 a golden, be used as long as its lease lasts.
func (h *holdings) usage(pool int) *usage {
	if x := h.of(pool); x != nil {
		return &usage{x.Context(), x}
	}
	return nil
}

// confirm asks the ledger, right before something of pools, or with 0 of the set, is destroyed, whether they
// are still held.
func (h *holdings) confirm(ctx context.Context, pools ...int) error {
	var all []*lease.Held
	for _, n := range pools {
		x := h.of(n)
		if x == nil {
			return fmt.Errorf("%w: pool %d is not leased", ErrLeaseLost, n)
		}
		if !slices.Contains(all, x) {
			all = append(all, x)
		}
	}
	return h.ledger.Confirm(ctx, all...)
}

// takeClaim takes the claim to build, and waits for its holder. A claim whose holder is gone is
// taken over. It returns whether anything was written, or may have been, since first was read.
func (h *holdings) takeClaim(ctx context.Context, first *lease.Snapshot, fresh bool, covers func(*lease.Snapshot) []int) (changed bool, err error) {
	say, done := h.log.wait(events.Event{Name: "waiting for another process, which builds the set"}, 0)
	defer done()
	r := lease.ClaimRequest{Purpose: "building", Fresh: fresh, Covers: covers}
	if first.Age() < h.ledger.Term/3 { // a lease that counts from there would else soon be over
		r.First = first
	}
	for pause := firstPoll; ; pause = h.longer(pause) {
		x, unchanged, err := h.ledger.TakeClaim(ctx, r)
		if err == nil {
			x.SetPurpose(h.log.stageName)
			h.add(x, lease.Entry{}, r.Purpose)
			return !unchanged, nil
		}
		busy, ok := errors.AsType[*BusyError](public(err))
		if !ok {
			return false, err
		}
		say(busy.Why)
		r.First, r.Fresh = nil, false // since then somebody had it
		if wait.Sleep(ctx, wait.Jitter(pause)) != nil {
			return false, fmt.Errorf("%w, while the claim to build is %s", context.Cause(ctx), busy.Why)
		}
	}
}

// tryClaim takes the claim to build, unless another process has it: then the error is a *BusyError.
func (h *holdings) tryClaim(ctx context.Context, purpose string) error {
	if h.has(0) {
		return nil
	}
	x, _, err := h.ledger.TakeClaim(ctx, lease.ClaimRequest{Purpose: purpose})
	if err == nil {
		h.add(x, lease.Entry{}, purpose)
	}
	return public(err)
}

// cover notes which pools the claim, which is held, covers: those of pools that have no shard, by a
// reading since. It writes that only if it is not as the claim has it.
func (h *holdings) cover(ctx context.Context, now *lease.Snapshot, pools []int) error {
	var add, remove []int
	covered := now.Covered()
	for _, n := range pools {
		if !slices.Contains(covered, n) {
			add = append(add, n)
		}
	}
	for _, n := range covered {
		if !slices.Contains(pools, n) { // its shard was made late, under an earlier claim
			remove = append(remove, n)
		}
	}
	h.mu.Lock()
	clear(h.covered)
	for _, n := range pools {
		h.covered[n] = true
	}
	x := h.claim
	h.mu.Unlock()
	if len(add)+len(remove) == 0 {
		return nil
	}
	return x.Cover(ctx, add, remove)
}

// How long the first pause is of those between two tries to lease something, and the longest.
const (
	firstPoll = 100 * time.Millisecond
	lastPoll  = 3 * time.Second
)

func (h *holdings) longer(pause time.Duration) time.Duration {
	return min(pause*3/2, lastPoll, h.ledger.Term/20)
}

// await leases a pool to build or repair it, waiting for its holder in the queue, so that tests do
// not always come before. It does not wait for a pool that is kept or quarantined. fresh reports
// that the pool is as it was planned: it had no other holder meanwhile, and was not left half done.
func (h *holdings) await(ctx context.Context, n int, planned lease.Entry) (fresh bool, err error) {
	say, done := h.log.wait(events.Event{Name: fmt.Sprintf("waiting for pool %d", n), Pool: n}, firstWord)
	defer done()
	var w *lease.Waiter
	for pause := firstPoll; ; pause = h.longer(pause) {
		err := h.try(ctx, n, "being built", h.ledger.Build)
		busy, ok := errors.AsType[*BusyError](err)
		if err == nil {
			h.mu.Lock()
			was := h.was[n]
			h.mu.Unlock()
			return w == nil && was.Same(planned), nil
		}
		if !ok || busy.State.Excluded() || busy.State == lease.Absent {
			return false, err
		}
		say(busy.Why)
		if w == nil {
			w = h.ledger.Wait("being built", []int{n})
			defer w.Leave(ctx)
		}
		if err := w.Keep(ctx, nil, []int{n}); err != nil {
			return false, err
		}
		if wait.Sleep(ctx, wait.Jitter(pause)) != nil {
			return false, fmt.Errorf("%w, while pool %d is %s", context.Cause(ctx), n, busy.Why)
		}
	}
}

// try leases a pool if it is free. The error is a *BusyError if it is not.
func (h *holdings) try(ctx context.Context, n int, purpose string, how func(context.Context, lease.Request) (*lease.Held, lease.Entry, error)) error {
	h.mu.Lock()
	trying := h.trying[n]
	if trying == nil {
		trying = &sync.Mutex{}
		h.trying[n] = trying
	}
	h.mu.Unlock()
	trying.Lock()
	defer trying.Unlock()
	if h.has(n) {
		return nil
	}
	x, was, err := take(ctx, how, lease.Request{Pool: n, Purpose: purpose})
	if err == nil {
		h.add(x, was, purpose)
	}
	return err
}

// note has values written with the release of a pool, or with 0 with that of the claim.
func (h *holdings) note(pool int, values map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.notes[pool] == nil {
		h.notes[pool] = map[string]string{}
	}
	maps.Copy(h.notes[pool], values)
}

// release ends the hold on one pool, with what has become of it: it makes the shard of a pool that
// the claim covers. now, if not nil, is a recent reading of the claim.
func (h *holdings) release(ctx context.Context, n int, now *lease.Snapshot, t lease.Transition) error {
	h.mu.Lock()
	x, covered, claim := h.pools[n], h.covered[n], h.claim
	t = t.With(h.notes[n])
	delete(h.notes, n)
	delete(h.pools, n)
	delete(h.covered, n)
	h.mu.Unlock()
	var err error
	switch {
	case covered && claim != nil:
		if err = claim.Make(ctx, n, now, t); err == nil {
			h.mu.Lock()
			h.made, h.now = append(h.made, n), now
			h.mu.Unlock()
		}
	case x != nil:
		err = releaseLease(ctx, x, t)
	}
	if err != nil {
		h.log.linef("pool %d: not released, so it is free when its lease expires: %v", n, err)
	}
	return err
}

// putBack ends the hold on pools with a lease of their own but for some, if keep is not nil, as if
// nothing had been done, since nothing was.
func (h *holdings) putBack(ctx context.Context, keep func(n int) bool) {
	h.mu.Lock()
	var back []int
	for n := range h.pools {
		if keep == nil || !keep(n) {
			back = append(back, n)
		}
	}
	was := maps.Clone(h.was)
	h.mu.Unlock()
	forAll(back, 8, func(n int) { _ = h.release(ctx, n, nil, lease.Untouched(was[n])) })
}

// releaseAll ends what is still held, as after a failure, also when ctx has ended: pools first, of
// which nothing is known, and then the claim.
func (h *holdings) releaseAll(ctx context.Context) {
	h.mu.Lock()
	pools := slices.Sorted(maps.Keys(h.pools))
	h.mu.Unlock()
	forAll(pools, 8, func(n int) { _ = h.release(ctx, n, nil, lease.Released()) })
	h.mu.Lock()
	claim, made, notes := h.claim, h.made, h.notes[0]
	h.claim = nil
	h.mu.Unlock()
	if claim == nil {
		return
	}
	ctx, cancel := lease.Afterwards(ctx)
	defer cancel()
	if err := claim.ReleaseClaim(ctx, h.now, made, notes); err != nil {
		h.log.linef("the claim to build was not released, so it is free when it expires: %v", err)
	}
}

// confirmAll makes sure that all is still held. It returns whether a reading of the ledger shows that, and
// else asks once more.
func (h *holdings) confirmAll(ctx context.Context, now *lease.Snapshot) (shown bool, err error) {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.pools))
	if h.claim != nil {
		all = append(all, h.claim)
	}
	h.mu.Unlock()
	shown = true
	for _, x := range all {
		if err := x.Check(); err != nil {
			return false, err
		}
		if !x.ShownBy(now) {
			shown = false
			if err := x.Confirm(ctx); err != nil {
				return false, err
			}
		}
	}
	return shown, nil
}

// abandon ends the lease on a pool, or with 0 the claim, without a word to the ledger, as its shard is
// removed.
func (h *holdings) abandon(pool int) error {
	h.mu.Lock()
	x := h.pools[pool]
	if delete(h.pools, pool); pool == 0 {
		x, h.claim = h.claim, nil
	}
	h.mu.Unlock()
	if x == nil {
		return nil
	}
	err := x.Check()
	x.Abandon()
	return err
}

// releaseLease ends a lease, also when ctx has ended.
func releaseLease(ctx context.Context, x *lease.Held, t lease.Transition) error {
	ctx, cancel := lease.Afterwards(ctx)
	defer cancel()
	return x.Release(ctx, t)
}
