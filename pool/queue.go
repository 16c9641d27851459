package pool

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/poolready/poolready/pool/internal/lease"
)

// A queue orders the tests of this process: they choose pools one at a time, in the order in which
// they came, and none gets a second pool.
type queue struct {
	mu       sync.Mutex     // guards what follows
	tests    map[string]int // that hold a pool, and its number; 0 while they wait
	waiting  []chan struct{}
	busy     bool
	freed    chan struct{} // closed, and replaced, when this process has freed a pool
	excluded map[int]error // pools that are not what this process wants
	last     *lease.Snapshot
	lastFor  <-chan struct{} // freed, when last was requested
	leased   map[int]bool    // pools that tests of this process were given since last was requested
}

func newQueue() *queue {
	return &queue{tests: map[string]int{}, freed: make(chan struct{}), excluded: map[int]error{}, leased: map[int]bool{}}
}

// join notes that a test wants a pool, unless it, or the test that it is part of, wants or has one.
func (q *queue) join(test string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for h, n := range q.tests {
		if test != h && !strings.HasPrefix(test, h+"/") {
			continue
		}
		if n == 0 {
			return fmt.Errorf("%s waits for a pool already: a test gets one pool, for itself and its subtests", h)
		}
		return fmt.Errorf("%s holds pool %d already: a test gets one pool, for itself and its subtests", h, n)
	}
	q.tests[test] = 0
	return nil
}

// hold notes which pool a test holds, or is about to lease; 0 is none.
func (q *queue) hold(test string, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tests[test] = n
	if n > 0 {
		q.leased[n] = true
	}
}

// leave notes that a test no longer holds or wants a pool.
func (q *queue) leave(test string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.tests, test)
}

// next waits until the caller is the next one to go to the ledger, until done. first goes before all
// that wait.
func (q *queue) next(ctx context.Context, first bool) (done func(), err error) {
	q.mu.Lock()
	if !q.busy {
		q.busy = true
		q.mu.Unlock()
		return q.done, nil
	}
	c := make(chan struct{})
	if first {
		q.waiting = slices.Insert(q.waiting, 0, c)
	} else {
		q.waiting = append(q.waiting, c)
	}
	q.mu.Unlock()
	select {
	case <-c:
		return q.done, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, c)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 { // it has just become the next one
		q.done()
	}
	return nil, context.Cause(ctx)
}

// done lets the next one go to the ledger.
func (q *queue) done() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.busy = false
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}

// wake returns a channel that is closed when this process next frees a pool.
func (q *queue) wake() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.freed
}

// free notes that this process has freed a pool.
func (q *queue) free() {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(q.freed)
	q.freed = make(chan struct{})
}

// see notes a reading of the ledger, before which wake returned freed.
func (q *queue) see(s *lease.Snapshot, freed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last, q.lastFor, q.leased = s, freed, map[int]bool{}
}

// renew notes the clock of a later reading with the last one.
func (q *queue) renew(s *lease.Snapshot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last = s
}

// seen is the last reading of the ledger, or nil, and whether this process has freed a pool since.
func (q *queue) seen() (last *lease.Snapshot, freed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.last, q.lastFor != q.freed
}

// untaken are those of some pools, which the last reading of the ledger says are free, that no test of
// this process holds, is about to lease, or was given since.
func (q *queue) untaken(pools []int) []int {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken := maps.Clone(q.leased)
	for _, n := range q.tests {
		taken[n] = true
	}
	return slices.DeleteFunc(slices.Clone(pools), func(n int) bool { return taken[n] })
}

// exclude makes a pool unusable for this process.
func (q *queue) exclude(n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.excluded[n] = err
}

func (q *queue) usable(n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.excluded[n] == nil
}

// unusable says why pools are excluded.
func (q *queue) unusable() []error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []error
	for n, err := range q.excluded {
		all = append(all, fmt.Errorf("pool %d: %w", n, err))
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all
}
