package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/pool/internal/wait"
)

// Acquire leases a whole pool, as it was when it became ready, to t until t ends. It waits, first
// come first served within a process and in turns among processes, until one is free, no longer
// than t's context and go test's -timeout last, and fails t if none is by then, with the holders
// of the pools. It fails at once if t, or a test that it is part of, holds a pool already: two tests
// that each hold one and wait for another would wait for ever.
//
// A pool that was used, by this or by another process, is reset before a test gets it: reverted,
// booted, and proved clean. The reset starts when the pool is released, so that the next test
// rarely waits for it.
//
// The lease is kept in the set's ledger for as long as t runs. If it is lost all the same, since
// vCenter was out of reach for longer than Limits.Lease, or the process was stopped for so long,
// all work on the pool's hosts ends with ErrLeaseLost, and t fails.
//
// A test has attributes, which go test -json shows: "poolready.pool", such as "lab/2"; "poolready.hosts", such as
// "con2,dis2"; "poolready.wait", how long it waited, and "poolready.reset", how much of that was a reset.
func (s *Set) Acquire(t T) *Pool {
	t.Helper()
	ctx, cancel := acquireContext(t)
	defer cancel()
	begun := time.Now()
	p, err := s.acquire(ctx, t.Name())
	if err != nil {
		fatal(t, err, "pool: acquire a pool of set %q: %w", s.Name, err)
	}
	attribute(t, "poolready.pool", fmt.Sprintf("%s/%d", s.Name, p.Number))
	attribute(t, "poolready.hosts", p.names())
	attribute(t, "poolready.wait", time.Since(begun).Round(time.Millisecond).String())
	attribute(t, "poolready.reset", p.reset.Round(time.Millisecond).String())
	p.t = t
	t.Cleanup(func() {
		t.Helper()
		f, can := t.(interface{ Failed() bool })
		failed := can && f.Failed()
		var last string
		if failed {
			last = p.lastFailure()
		}
		evidence := s.evidenceOf(t, p, failed)
		kept, err := s.release(p, failed)
		p.ended(failed, kept, err)
		if failed || evidence != "" {
			t.Logf("%s", p.story(failed, last+evidence, kept))
		}
		if err != nil {
			failed := fmt.Errorf("pool: pool %d of set %q, which this test used: %w", p.Number, s.Name, err)
			if a, ok := t.(*attempt); ok {
				a.blame(infrastructure(failed))
				return
			}
			t.Errorf("%v", failed)
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
	ctx, stop := merge(notices(ctx, s.log.notice), s.ctx)
	defer stop()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := s.queue.join(test); err != nil {
		return nil, err
	}
	ctx = s.log.within(ctx, events.Event{Stage: "acquire", Test: test})
	span := s.log.events.Begin(events.Event{Kind: events.Acquire, Test: test})
	defer func() {
		if err != nil {
			s.queue.leave(test)
			err = infrastructure(err)
			s.log.failure(events.Event{Stage: "acquire", Test: test}, err)
		}
		span.End(err)
	}()
	for again := false; ; again = true {
		x, was, err := s.lease(ctx, test, again)
		if err != nil {
			return nil, err
		}
		p, err := s.prepare(ctx, x, was)
		if err == nil {
			p.test = test
			span.Set(func(e *events.Event) { e.Pool = p.Number })
			p.span = s.log.events.Begin(events.Event{Kind: events.Test, Test: test, Pool: p.Number})
			return p, nil
		}
		s.queue.hold(test, 0)
		if ctx.Err() != nil {
			_ = s.free(x, lease.Released())
			return nil, fmt.Errorf("prepare pool %d: %w", x.Pool, err)
		}
		s.resetFailed(x, err)
	}
}

// lease waits for a pool that is free and that no earlier waiter will take, and leases it. was is
// what the ledger said of it before. Tests choose in turn, and what they chose they lease at once.
func (s *Set) lease(ctx context.Context, test string, again bool) (x *lease.Held, was lease.Entry, err error) {
	w := s.ledger.Wait(test, s.numbers())
	defer func() {
		if leave := func() { w.Leave(ctx) }; !s.inBackground(leave) {
			leave()
		}
	}()
	for {
		done, err := s.queue.next(ctx, again)
		if err != nil {
			return nil, was, fmt.Errorf("none was free: %w; %s", err, s.holders(ctx))
		}
		n, snapshot, err := s.choose(ctx, w, test)
		done()
		if err != nil {
			return nil, was, err
		}
		x, was, err = take(ctx, s.ledger.Acquire, lease.Request{Pool: n, Purpose: test, First: snapshot})
		if err == nil {
			guard(x)
			s.log.leased(x, test)
			return x, was, nil // if ctx has ended, preparing the pool releases it
		}
		s.queue.hold(test, 0)
		if !errors.As(err, new(*BusyError)) {
			return nil, was, s.late(ctx, err, "")
		}
		s.queue.see(nil, nil) // somebody was faster
		_ = wait.Sleep(ctx, wait.Jitter(firstPoll))
		again = true
	}
}

// late is the error of a wait that ended with err, or with ctx, and what the pools were then.
func (s *Set) late(ctx context.Context, err error, pools string) error {
	if ctx.Err() == nil {
		return err
	}
	if pools == "" { // the time was over before the ledger was read
		pools = s.holders(ctx)
	}
	return fmt.Errorf("none was free: %w; %s", context.Cause(ctx), pools)
}

// choose waits until a pool is free for w and returns it, with the reading of the ledger that says so;
// from then on the test holds it, in this process.
func (s *Set) choose(ctx context.Context, w *lease.Waiter, test string) (int, *lease.Snapshot, error) {
	say, done := s.log.wait(events.Event{Name: test + ": waiting for a pool", Test: test}, firstWord)
	defer done()
	most := min(lastPoll, s.ledger.Term/20)
	for pause := firstPoll; ; pause = min(pause*3/2, most) {
		freed := s.queue.wake()
		if n, snapshot := s.chooseAgain(ctx, w, test); n > 0 {
			return n, snapshot, nil
		}
		snapshot, err := s.ledger.Read(ctx)
		if err != nil {
			return 0, nil, s.late(ctx, err, "")
		}
		numbers := s.numbers()
		if len(numbers) == 0 {
			return 0, nil, fmt.Errorf("no pool is left: %w", errors.Join(s.queue.unusable()...))
		}
		s.queue.see(snapshot, freed)
		now := available(snapshot, numbers)
		n := w.Choose(snapshot, s.queue.untaken(now.free), numbers)
		if n == 0 && now.none() {
			return 0, nil, fmt.Errorf("no pool is left: %s", now)
		}
		for _, n := range now.broken {
			s.repair(n)
		}
		if n > 0 {
			s.queue.hold(test, n)
			return n, snapshot, nil
		}
		if err := w.Keep(ctx, snapshot, numbers); err != nil {
			return 0, nil, s.late(ctx, err, now.String())
		}
		say(now.String())
		if s.awaitChange(ctx, snapshot, freed, wait.Jitter(pause)); ctx.Err() != nil {
			return 0, nil, s.late(ctx, nil, now.String())
		}
	}
}

// awaitChange waits until this process has freed a pool, the ledger is no longer as it was read, pause
// is over, or ctx ends. Holders change the ledger, too, when they renew their leases; so it is read no
// more often than that costs little.
func (s *Set) awaitChange(ctx context.Context, read *lease.Snapshot, freed <-chan struct{}, pause time.Duration) {
	over := time.After(pause)
	changed := make(chan struct{})
	if w, ok := s.spec.Provider.(LedgerWatcher); ok {
		watched, stop := context.WithCancel(ctx)
		var watching sync.WaitGroup
		watching.Go(func() {
			if w.AwaitLedger(watched, s.Name, read.Revisions()) == nil {
				close(changed)
			}
		})
		defer watching.Wait()
		defer stop()
	}
	select {
	case <-ctx.Done():
		return
	case <-freed:
		return
	case <-over:
		return
	case <-changed:
	}
	select {
	case <-ctx.Done():
	case <-freed:
	case <-time.After(firstPoll + time.Duration(len(read.Shards))*2*time.Millisecond - read.Age()):
	}
}

// chooseAgain chooses by the last reading of the ledger: any free pool if that is recent and this process
// has freed none since, and else one that was clean then and has not been used since, as the ledger says
// when it is leased. So it does not matter how many pools there are.
func (s *Set) chooseAgain(ctx context.Context, w *lease.Waiter, test string) (int, *lease.Snapshot) {
	last, freed := s.queue.seen()
	if last == nil || time.Since(last.ShardsRead()) > readAgain {
		return 0, nil
	}
	numbers := s.numbers()
	now := available(last, numbers)
	recent := last.Age() <= min(time.Second, s.ledger.Term/10)
	pools, current := now.free, recent && !freed && last.Current()
	if !current {
		if pools = now.clean; len(now.broken) > 0 { // they are repaired with a reading
			return 0, nil
		}
	}
	n := w.Choose(last, s.queue.untaken(pools), numbers)
	if n == 0 {
		return 0, nil
	}
	if !current {
		clock := last
		if !recent {
			var err error
			if clock, err = s.ledger.ReadClock(ctx); err != nil {
				return 0, nil // a reading says why
			}
		}
		last = last.WithClock(clock)
		s.queue.renew(last)
	}
	s.queue.hold(test, n)
	return n, last
}

// readAgain is after how long the whole ledger is read again though there are clean pools: others may be
// broken.
const readAgain = 10 * time.Minute

// merge returns a context that ends when ctx or other does.
func merge(ctx, other context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() { stop(); cancel(nil) }
}

// availability is what the ledger says of the usable pools.
type availability struct {
	free   []int // the clean ones first
	clean  []int
	broken []int // to be rebuilt by the next to get to it
	lost   int   // quarantined, or unreadable
	of     int
	words  []string
}

func (a availability) String() string { return strings.Join(a.words, ", ") }

// none reports whether no pool will be free before long.
func (a availability) none() bool { return a.lost == a.of }

func available(s *lease.Snapshot, numbers []int) (a availability) {
	a.of = len(numbers)
	var dirty []int
	for _, n := range numbers {
		e, err := s.Pool(n)
		if err != nil {
			a.lost++
			a.words = append(a.words, fmt.Sprintf("pool %d: %v", n, err))
			continue
		}
		switch e.State(s.Now) {
		case lease.Clean:
			a.clean = append(a.clean, n)
			continue
		case lease.Dirty:
			dirty = append(dirty, n)
			continue
		case lease.Recovering:
			if !s.Made(n) {
				dirty = append(dirty, n) // trying to lease it writes down until when it recovers
			}
		case lease.Broken, lease.Absent:
			a.broken = append(a.broken, n)
		case lease.Quarantined:
			a.lost++
		}
		a.words = append(a.words, fmt.Sprintf("pool %d is %s", n, e.Why(s.Now)))
	}
	if a.free = slices.Concat(a.clean, dirty); len(a.free) > 0 {
		a.words = append(a.words, fmt.Sprintf("%d free, reserved for earlier waiters", len(a.free)))
	}
	return a
}

// holders says who holds the pools, if the ledger can be read.
func (s *Set) holders(ctx context.Context) string {
	ctx, cancel := lease.Afterwards(ctx)
	defer cancel()
	snapshot, err := s.ledger.Read(ctx)
	if err != nil {
		return err.Error()
	}
	return available(snapshot, s.numbers()).String()
}

// prepare makes a leased pool fit for a test: finds it again if somebody has rebuilt it, resets
// it unless it has not been used since it was proved clean, and leaves the dirty marker on its hosts.
func (s *Set) prepare(ctx context.Context, x *lease.Held, was lease.Entry) (*Pool, error) {
	ctx, stop := x.Bind(ctx)
	defer stop()
	p := s.pool(x.Pool)
	clean := was.Stored == lease.Clean
	if !clean {
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
			clean = false
		}
	}
	if clean {
		if !slices.Equal(s.lastBoots(p.Number), was.Boots) {
			p.forget() // somebody has reset it since we connected: it would take long to find out
		}
		boots, err := p.mark(ctx)
		if err == nil && slices.Equal(boots, was.Boots) {
			return p.leased(x, boots), nil
		}
		if err == nil {
			err = errors.New("it was rebooted")
		}
		s.log.linef("pool %d: reset, though it was clean: %s", p.Number, firstLine(err))
	}
	begun := time.Now()
	if _, _, err := s.reset(ctx, x, p, was.Boots); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	boots, err := p.mark(ctx)
	if err != nil {
		return nil, err
	}
	if err := x.Update(ctx, lease.Prepared(p.build, boots)); err != nil {
		return nil, err
	}
	l := p.leased(x, boots)
	l.reset = took
	return l, nil
}
