package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

var errClosed = errors.New("the set is closed")

// Acquire lends t a whole pool, as it was when it became ready, until t ends. It waits, first
// come first served within a process and by turns among processes, until one is free, no longer
// than t's context and go test's -timeout last, and fails t if there is none by then, with who
// holds them. It fails at once if t, or a test that it is part of, holds a pool already: two tests
// that each hold one and wait for another would wait for ever.
//
// A pool that was used, now or by another process, is reset before it is lent: reverted,
// booted, and shown to be clean. The reset starts when the pool is given back, so
// that the next test rarely waits for it.
//
// The pool is leased in the set's ledger for as long as t runs, and nobody else uses it
// meanwhile. If the lease is lost all the same, since vCenter was out of reach for longer than
// Limits.Lease, or the process was stopped for so long, all work on the pool's hosts ends with
// ErrLeaseLost, and t fails.
func (s *Set) Acquire(t T) *Pool {
	t.Helper()
	ctx, cancel := acquireContext(t)
	defer cancel()
	p, err := s.acquire(ctx, t.Name())
	if err != nil {
		t.Fatalf("pool: acquire a pool of set %q: %v", s.Name, err)
	}
	t.Cleanup(func() {
		t.Helper()
		failed, can := t.(interface{ Failed() bool })
		if err := s.release(p, can && failed.Failed()); err != nil {
			t.Errorf("pool: pool %d of set %q, which this test used: %v", p.Number, s.Name, err)
		}
	})
	return p
}

// acquireContext ends early enough before go test kills the process for the reason to be told.
func acquireContext(t T) (context.Context, context.CancelFunc) {
	at, ok := deadline(t)
	if !ok {
		return t.Context(), func() {}
	}
	margin := min(time.Until(at)/10, 15*time.Second)
	return context.WithDeadlineCause(t.Context(), at.Add(-margin), errors.New("go test's -timeout is nearly over"))
}

func (s *Set) acquire(ctx context.Context, test string) (_ *Pool, err error) {
	if err := s.desk.come(test); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.desk.leave(test)
		}
	}()
	for again := false; ; again = true {
		done, err := s.desk.turn(ctx, again)
		if err != nil {
			return nil, fmt.Errorf("none was free: %w; %s", err, s.who(ctx))
		}
		x, was, err := s.take(ctx, test)
		done()
		if err != nil {
			return nil, err
		}
		p, err := s.prepare(ctx, x, was)
		if err == nil {
			p.test = test
			s.desk.hold(test, p.Number)
			return p, nil
		}
		if ctx.Err() != nil || s.ctx.Err() != nil {
			_ = s.giveBack(x, nil)
			return nil, fmt.Errorf("prepare pool %d: %w", shardPool(x.shard), err)
		}
		s.failed(x, err)
	}
}

// take waits for a pool that is free and our turn, and leases it. was is what the ledger said of it
// before.
func (s *Set) take(ctx context.Context, test string) (x *lease, was entry, err error) {
	numbers := s.numbers()
	line := s.ledger.place(test, numbers)
	defer line.abandon(ctx)
	word := s.log.wait(fmt.Sprintf("%s: waiting for a pool", test), firstWord)
	const first = 100 * time.Millisecond
	most := min(3*time.Second, s.ledger.term/20)
	var state poolsState
	late := func(err error) error {
		if ctx.Err() == nil {
			return err
		}
		who := state.String()
		if who == "" { // the time was over before the ledger was read
			who = s.who(ctx)
		}
		return fmt.Errorf("none was free: %w; %s", context.Cause(ctx), who)
	}
	for wait := first; ; wait = min(wait*3/2, most) {
		freed := s.desk.freed()
		b, err := s.ledger.read(ctx)
		if err != nil {
			return nil, entry{}, late(err)
		}
		if numbers = s.numbers(); len(numbers) == 0 {
			return nil, entry{}, fmt.Errorf("no pool is left: %w", errors.Join(s.desk.unfit()...))
		}
		line.t.Pools = numbers
		var free []int
		free, state = s.look(b, numbers)
		n := choose(free, b.line(), line.t.token, numbers)
		if n > 0 {
			x, was, err = s.ledger.take(ctx, request{shard: poolShard(n), what: test, lend: true})
			if err == nil {
				return x, was, nil // if ctx has ended, whoever prepares the pool gives it back
			}
			if !errors.As(err, new(*busyError)) {
				return nil, entry{}, late(err)
			}
			wait = first
		} else if state.lost() {
			return nil, entry{}, fmt.Errorf("no pool is left: %s", state)
		}
		for _, n := range state.broken {
			s.repair(n)
		}
		if n == 0 {
			if err := line.keep(ctx, b); err != nil {
				return nil, entry{}, late(err)
			}
		}
		word(state.String())
		select {
		case <-ctx.Done():
			return nil, entry{}, late(nil)
		case <-s.ctx.Done():
			return nil, entry{}, context.Cause(s.ctx)
		case <-freed:
		case <-time.After(jitter(wait)):
		}
	}
}

// A poolsState is what the ledger says of the pools that would do.
type poolsState struct {
	words       []string
	broken      []int // to be built anew by whoever gets to it
	quarantined int
	of          int
}

func (p poolsState) String() string { return strings.Join(p.words, ", ") }

// lost tells that no pool will be free before long.
func (p poolsState) lost() bool { return p.quarantined == p.of }

// look returns the pools that are free, the clean ones first, and what the others are.
func (s *Set) look(b books, numbers []int) (free []int, state poolsState) {
	state.of = len(numbers)
	var clean, dirty []int
	for _, n := range numbers {
		e, there, err := s.ledger.entry(b, poolShard(n))
		why := e.busy(b.Now)
		switch {
		case err != nil:
			state.quarantined++
			state.words = append(state.words, fmt.Sprintf("pool %d: %v", n, err))
		case !there:
			dirty = append(dirty, n) // taking it writes down until when it is blocked
		case why != "":
			if e.holder(b.Now) == nil && e.Block.Kind == blockCooling {
				state.quarantined++
			}
			state.words = append(state.words, fmt.Sprintf("pool %d is %s", n, why))
		case e.Broken != "":
			state.broken = append(state.broken, n)
			state.words = append(state.words, fmt.Sprintf("pool %d is to be built anew: %s", n, e.Broken))
		case e.Clean != nil:
			clean = append(clean, n)
		default:
			dirty = append(dirty, n)
		}
	}
	if free = append(clean, dirty...); len(free) > 0 {
		state.words = append(state.words, fmt.Sprintf("%d free, and others' turn", len(free)))
	}
	return free, state
}

// who says who holds the pools, if the ledger can be read.
func (s *Set) who(ctx context.Context) string {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	b, err := s.ledger.read(ctx)
	if err != nil {
		return err.Error()
	}
	_, state := s.look(b, s.numbers())
	return state.String()
}

// afterwards returns a context for what must still be done when ctx has ended.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
}

// prepare makes a leased pool fit to be lent: finds it again if somebody has rebuilt it, resets
// it unless nobody has used it since it was proved clean, and leaves a mark on its hosts.
func (s *Set) prepare(ctx context.Context, x *lease, was entry) (*Pool, error) {
	ctx, stop := x.bind(ctx)
	defer stop()
	p := s.pool(shardPool(x.shard))
	if was.Clean == nil {
		if err := s.cleanExternals(ctx, x); err != nil {
			return nil, err
		}
	}
	if was.Build != p.build {
		fresh, err := s.find(ctx, p)
		if err != nil {
			return nil, err
		}
		if p = fresh; was.Build != p.build {
			was.Clean = nil
		}
	}
	if was.Clean != nil {
		if !slices.Equal(s.lastBoots(p.Number), was.Boots) {
			p.forget() // somebody has reset it since we connected: it would take long to find out
		}
		boots, err := p.mark(ctx)
		if err == nil && slices.Equal(boots, was.Boots) {
			return p.lend(x, boots), nil
		}
		if err == nil {
			err = errors.New("it was rebooted")
		}
		s.log.linef("pool %d: reset, though it was clean: %s", p.Number, firstLine(err))
	}
	if _, _, err := s.reset(ctx, x, p, was.Boots); err != nil {
		return nil, err
	}
	boots, err := p.mark(ctx)
	if err != nil {
		return nil, err
	}
	err = x.set(ctx, func(_ time.Time, e *entry) {
		e.cleaned(p, nil, boots)
		e.Used = e.Lease.For
	})
	if err != nil {
		return nil, err
	}
	return p.lend(x, boots), nil
}

// release takes a pool back when its test is over, and cleans it for the next. The error says
// that the test had lost it.
func (s *Set) release(p *Pool, failed bool) error {
	err := p.lease.check()
	p.giveBack()
	s.desk.leave(p.test)
	if err != nil {
		<-p.lease.gone
		return err
	}
	if !s.background(func() { s.cleanUp(p, failed) }) {
		_ = s.giveBack(p.lease, func(_ time.Time, e *entry) { e.Used = p.test }) // the set is closed
	}
	return nil
}

// cleanUp resets a pool that a test has given back, still under its lease, and frees it.
func (s *Set) cleanUp(p *Pool, failed bool) {
	x := p.lease
	if s.keep(p, failed) {
		return
	}
	base := s.pool(p.Number)
	err := x.set(s.ctx, func(_ time.Time, e *entry) { e.Used, e.Lease.For = p.test, "reset after "+p.test })
	var found *proof
	var boots []string
	if err == nil {
		err = s.cleanExternals(s.ctx, x)
	}
	if err == nil {
		found, boots, err = s.reset(s.ctx, x, base, p.boots)
	}
	switch {
	case err == nil:
		s.sawBoots(p.Number, boots)
		_ = s.giveBack(x, func(_ time.Time, e *entry) { e.cleaned(base, found, boots) })
	case s.ctx.Err() != nil || x.check() != nil:
		_ = s.giveBack(x, nil)
	default:
		s.failed(x, err)
	}
}

// giveBack frees a pool with what f makes of its entry; it is dirty unless f says otherwise. The
// error has been told.
func (s *Set) giveBack(x *lease, f func(now time.Time, e *entry)) error {
	err := letGoOf(s.ctx, x, f)
	if err != nil && !errors.Is(err, errNotOurs) {
		s.log.linef("pool %d: not given back, so it is free when its lease is over: %v", shardPool(x.shard), err)
	}
	s.desk.free()
	return err
}

// coolDown is how long a pool rests that could not be made clean, and coolAfter after how many
// failures.
const (
	coolDown  = 5 * time.Minute
	coolAfter = 3
)

// failed frees a pool that could not be made clean: it is built anew before anybody gets it, and if
// it fails again and again it is left alone for a while.
func (s *Set) failed(x *lease, err error) {
	n := shardPool(x.shard)
	switch {
	case errors.Is(err, errUnfit):
		s.strike(n, err)
		fallthrough
	case x.check() != nil: // what failed was us
		_ = s.giveBack(x, nil)
		return
	}
	s.log.linef("pool %d: %s", n, indent(err.Error(), "    "))
	_ = s.giveBack(x, func(now time.Time, e *entry) { e.fail(now, err) })
	s.repair(n)
}

// strike takes a pool off the list of those that this process lends.
func (s *Set) strike(n int, err error) {
	s.desk.strike(n, err)
	s.log.linef("pool %d: lent no more: %s", n, indent(err.Error(), "    "))
}

// cleaned notes in the entry that the pool is clean.
func (e *entry) cleaned(p *Pool, found *proof, boots []string) {
	e.Build, e.Clean, e.Boots = p.build, found, boots
	e.Broken, e.Failures, e.Failure, e.FailedAt = "", 0, "", time.Time{}
}

// fail notes in the entry that the pool could not be made clean.
func (e *entry) fail(now time.Time, err error) {
	e.Failures++
	e.Clean, e.Failure, e.FailedAt = nil, err.Error(), now
	if !errors.As(err, new(*cleanupError)) {
		e.Broken = firstLine(err)
	}
	if e.Failures >= coolAfter {
		e.Block = &block{Kind: blockCooling, Why: fmt.Sprintf("%d failures, the last: %s", e.Failures, firstLine(err)), Until: now.Add(coolDown)}
	}
}

// A cleanupError is a failure to clean up outside of the VMs, which building them anew does not
// mend.
type cleanupError struct{ err error }

func (e *cleanupError) Error() string { return e.err.Error() }
func (e *cleanupError) Unwrap() error { return e.err }
