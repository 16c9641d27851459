package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A desk keeps the tests of this process apart: one at a time goes to the ledger, in the order in
// which they came, and none gets a second pool.
type desk struct {
	mu      sync.Mutex     // guards what follows
	holders map[string]int // tests, and the pools they hold; 0 while they wait
	queue   []chan struct{}
	busy    bool
	change  chan struct{} // closed, and replaced, when this process has freed a pool
	struck  map[int]error // pools that are not what this process wants
}

func newDesk() *desk {
	return &desk{holders: map[string]int{}, change: make(chan struct{}), struck: map[int]error{}}
}

// come notes that a test wants a pool, unless it, or the test that it is part of, wants or has one.
func (d *desk) come(test string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for h, n := range d.holders {
		if test != h && !strings.HasPrefix(test, h+"/") {
			continue
		}
		if n == 0 {
			return fmt.Errorf("%s waits for one already: a test gets one pool, for itself and its subtests", h)
		}
		return fmt.Errorf("%s holds one already (pool %d): a test gets one pool, for itself and its subtests", h, n)
	}
	d.holders[test] = 0
	return nil
}

func (d *desk) hold(test string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.holders[test] = n
}

func (d *desk) leave(test string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.holders, test)
}

// turn waits until it is the caller's turn at the ledger; done ends it. first goes before all who
// wait.
func (d *desk) turn(ctx context.Context, first bool) (done func(), err error) {
	d.mu.Lock()
	if !d.busy {
		d.busy = true
		d.mu.Unlock()
		return d.done, nil
	}
	c := make(chan struct{})
	if first {
		d.queue = slices.Insert(d.queue, 0, c)
	} else {
		d.queue = append(d.queue, c)
	}
	d.mu.Unlock()
	select {
	case <-c:
		return d.done, nil
	case <-ctx.Done():
	}
	d.mu.Lock()
	i := slices.Index(d.queue, c)
	if i >= 0 {
		d.queue = slices.Delete(d.queue, i, i+1)
	}
	d.mu.Unlock()
	if i < 0 { // it has just become our turn
		d.done()
	}
	return nil, context.Cause(ctx)
}

func (d *desk) done() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		d.busy = false
		return
	}
	close(d.queue[0])
	d.queue = d.queue[1:]
}

// freed returns a channel that is closed when this process next frees a pool.
func (d *desk) freed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.change
}

func (d *desk) free() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.change)
	d.change = make(chan struct{})
}

// strike takes a pool off the list of those that will do.
func (d *desk) strike(n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.struck[n] = err
}

func (d *desk) isStruck(n int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.struck[n] != nil
}

func (d *desk) unfit() []error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []error
	for n, err := range d.struck {
		all = append(all, fmt.Errorf("pool %d: %w", n, err))
	}
	slices.SortFunc(all, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return all
}
