package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

var errClosed = errors.New("the set is closed")

// Acquire lends t a whole pool, as it was when it became ready, until t ends. It waits, first
// come first served, until one is free, no longer than t's context lasts, and fails t if there
// is none by then, or at once if t, or a test that it is part of, holds a pool already: two
// tests that each hold one and wait for another would wait for ever.
//
// A pool that was used, now or by an earlier process, is reset before it is lent: reverted,
// booted, and what its hosts need of each other has answered. The reset starts when the
// pool is given back, so that the next test rarely waits for it.
func (s *Set) Acquire(t T) *Pool {
	t.Helper()
	p, err := s.acquire(t.Context(), t.Name())
	if err != nil {
		t.Fatalf("pool: acquire a pool of set %q: %v", s.Name, err)
	}
	t.Cleanup(func() { s.release(p) })
	return p
}

func (s *Set) acquire(ctx context.Context, owner string) (*Pool, error) {
	for {
		p, clean, err := s.lender.take(ctx, owner)
		if err != nil {
			return nil, err
		}
		if clean {
			return p, nil
		}
		if err := s.reset(ctx, p); err == nil {
			return p, nil
		} else if ctx.Err() != nil {
			s.lender.give(p, false)
			return nil, err
		}
	}
}

// release takes the pool back and cleans it for the next.
func (s *Set) release(p *Pool) {
	s.lender.back(p)
	s.resets.Go(func() {
		if err := s.reset(s.ctx, p); err == nil || s.ctx.Err() != nil {
			s.lender.give(p, err == nil)
		}
	})
}

// reset resets a pool that the caller holds. A pool that cannot be reset is lent no more.
func (s *Set) reset(ctx context.Context, p *Pool) error {
	start := time.Now()
	err := p.reset(ctx)
	switch {
	case err == nil:
		s.log.linef("pool %d: reset in %s", p.Number, round(time.Since(start)))
	case ctx.Err() == nil:
		s.log.linef("pool %d: lent no more: %s", p.Number, indent(err.Error(), "    "))
		s.lender.lose(p, err)
	}
	return err
}

// A lender says who holds which pool, in this process. It is where a ledger that many processes
// share takes its place: take and give are all that the Set knows of it.
type lender struct {
	mu      sync.Mutex // guards what follows
	free    []*Pool    // clean ones first
	clean   map[*Pool]bool
	holders map[*Pool]string
	dirty   map[*Pool]string // pools given back and not yet reset, and who held them
	waiting []*claim         // in the order they came
	lost    []error          // why pools are lent no more
	pools   int
}

type claim struct {
	owner string
	got   chan *Pool // has room for one; closed when no pool is left
}

func newLender() *lender {
	return &lender{clean: map[*Pool]bool{}, holders: map[*Pool]string{}, dirty: map[*Pool]string{}}
}

func (l *lender) add(p *Pool, clean bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pools++
	l.clean[p] = clean
	l.put(p)
}

// put hands p to the first that waits, or keeps it. Callers hold mu.
func (l *lender) put(p *Pool) {
	if len(l.waiting) > 0 {
		c := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.holders[p] = c.owner
		c.got <- p
		return
	}
	i := len(l.free)
	if l.clean[p] {
		if i = slices.IndexFunc(l.free, func(q *Pool) bool { return !l.clean[q] }); i < 0 {
			i = len(l.free)
		}
	}
	l.free = slices.Insert(l.free, i, p)
}

// take waits for a pool and makes owner its holder. clean tells that nobody has used it since its reset.
func (l *lender) take(ctx context.Context, owner string) (p *Pool, clean bool, err error) {
	l.mu.Lock()
	if held := l.heldBy(owner); held != "" {
		l.mu.Unlock()
		return nil, false, fmt.Errorf("%s holds one already: a test gets one pool, for itself and its subtests", held)
	}
	c := &claim{owner: owner, got: make(chan *Pool, 1)}
	l.waiting = append(l.waiting, c)
	if len(l.free) > 0 {
		next := l.free[0]
		l.free = l.free[1:]
		l.put(next)
	} else if l.pools == 0 {
		l.noMore()
	}
	l.mu.Unlock()
	select {
	case p = <-c.got:
	case <-ctx.Done():
		if p = l.withdraw(c); p == nil {
			return nil, false, fmt.Errorf("none was free: %w; %s", context.Cause(ctx), l.who())
		}
	}
	if p == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, false, fmt.Errorf("no pool is left: %w", errors.Join(l.lost...))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	clean = l.clean[p]
	l.clean[p] = false
	return p, clean, nil
}

// withdraw takes back a claim, unless it has just been served: then it returns the pool.
func (l *lender) withdraw(c *claim) *Pool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(o *claim) bool { return o == c })
	select {
	case p := <-c.got:
		return p
	default:
		return nil
	}
}

// back notes that the holder has given the pool back; it is lent again after give.
func (l *lender) back(p *Pool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty[p] = l.holders[p]
	delete(l.holders, p)
}

// give makes a pool free that was held or dirty.
func (l *lender) give(p *Pool, clean bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holders, p)
	delete(l.dirty, p)
	l.clean[p] = clean
	l.put(p)
}

// lose strikes a pool that cannot be reset off the list.
func (l *lender) lose(p *Pool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holders, p)
	delete(l.dirty, p)
	l.lost = append(l.lost, err)
	if l.pools--; l.pools == 0 {
		l.noMore()
	}
}

func (l *lender) noMore() {
	for _, c := range l.waiting {
		close(c.got)
	}
	l.waiting = nil
}

// heldBy returns the test that holds a pool and is owner, or has it as its subtest.
func (l *lender) heldBy(owner string) string {
	for _, h := range l.holders {
		if owner == h || strings.HasPrefix(owner, h+"/") {
			return h
		}
	}
	return ""
}

// who tells who holds the pools.
func (l *lender) who() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for p, h := range l.holders {
		all = append(all, fmt.Sprintf("pool %d is held by %s", p.Number, h))
	}
	for p, h := range l.dirty {
		all = append(all, fmt.Sprintf("pool %d is being reset after %s", p.Number, h))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
