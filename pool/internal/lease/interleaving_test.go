package lease

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Builders, tests and one that destroys want pool 1 of one ledger. All orders in which their reads and
// writes can come are tried, and each may be the last step of its process, or the one before a write that is
// done after its death; of those that are alive, at most one works on the pool. A reading of two shards is
// two steps where somebody destroys, the claim first.

// A world is one run of the processes, step by step.
type world struct {
	t     *testing.T
	store *fakeStore
	procs []*proc
	ctx   context.Context

	mu      sync.Mutex      // guards what follows, and processes
	working map[string]bool // processes that work on the pool

	torn bool // shards that are read together are read one after the other
}

// A proc is one process. It stops at every step until it is let go on.
type proc struct {
	name string
	w    *world
	gate chan struct{} // a send lets one step happen
	at   bool          // it stands before a step
	done bool
	dead bool
	next string // what that step is
	read string // what it has read last: with next, all that its future rests on

	shard, revision string // of a write that is its next step
	values          map[string]string
}

func (p *proc) step(next string) error {
	p.w.mu.Lock()
	p.at, p.next = true, next
	p.w.mu.Unlock()
	select {
	case <-p.gate:
		p.w.mu.Lock()
		p.at = false
		p.w.mu.Unlock()
		return nil
	case <-p.w.ctx.Done():
		return p.w.ctx.Err()
	}
}

// Read and Write make the ledger of a process a Store.
func (p *proc) Read(ctx context.Context, shards ...string) (*Contents, error) {
	var claim *Contents
	if p.w.torn && len(shards) != 1 {
		if err := p.step("read the claim"); err != nil {
			return nil, err
		}
		var err error
		if claim, err = p.w.store.Read(ctx, claimShard); err != nil {
			return nil, err
		}
		p.w.mu.Lock()
		p.read = canonical(claim.Shards)
		p.w.mu.Unlock()
	}
	if err := p.step(fmt.Sprint("read ", shards)); err != nil {
		return nil, err
	}
	c, err := p.w.store.Read(ctx, shards...)
	if err == nil && claim != nil {
		delete(c.Shards, claimShard)
		maps.Copy(c.Shards, claim.Shards)
	}
	if err == nil {
		p.w.mu.Lock()
		p.read = canonical(c.Shards)
		p.w.mu.Unlock()
	}
	return c, err
}

func (p *proc) Write(ctx context.Context, shard, revision string, values map[string]string) error {
	p.w.mu.Lock()
	p.shard, p.revision, p.values = shard, revision, values
	p.w.mu.Unlock()
	if err := p.step("write"); err != nil {
		return err
	}
	return p.w.store.Write(ctx, shard, revision, values)
}

// use is what a process does with the pool that it has.
func (p *proc) use() {
	p.w.work(p, true)
	_ = p.step("work")
	p.w.work(p, false)
}

func (w *world) work(p *proc, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delete(w.working, p.name); on {
		w.working[p.name] = true
	}
}

func (p *proc) ledger() *Ledger {
	return &Ledger{Store: p, Term: 1000 * time.Hour, By: p.name, self: &Process{Boot: p.name}, ended: func(q *Process) bool {
		return slices.ContainsFunc(p.w.procs, func(other *proc) bool { return q != nil && other.name == q.Boot && other.dead })
	}}
}

func (p *proc) build() {
	l := p.ledger()
	x, _, err := l.TakeClaim(p.w.ctx, ClaimRequest{Purpose: "building", Fresh: true, Covers: func(*Snapshot) []int { return []int{1} }})
	if err != nil {
		return
	}
	var made []int
	s, err := l.Read(p.w.ctx)
	switch {
	case err != nil:
		return
	case !s.Made(1):
		p.use()
		if x.Make(p.w.ctx, 1, nil, Built("b1", nil, nil)) == nil {
			made = []int{1}
		}
	case x.Cover(p.w.ctx, nil, []int{1}) == nil:
		if y, _, err := l.Build(p.w.ctx, Request{Pool: 1, Purpose: "building"}); err == nil {
			p.use()
			_ = y.Release(p.w.ctx, Built("b2", nil, nil))
		}
	}
	_ = x.ReleaseClaim(p.w.ctx, nil, made, nil)
}

func (p *proc) destroy() {
	l := p.ledger()
	x, _, err := l.TakeClaim(p.w.ctx, ClaimRequest{Purpose: "destroy", Fresh: true})
	if err != nil {
		return
	}
	if y, _, err := l.Operate(p.w.ctx, Request{Pool: 1, Purpose: "destroy", Under: x}); err == nil {
		if y.Confirm(p.w.ctx) == nil {
			p.use()
		}
		_ = y.Release(p.w.ctx, Released())
	}
	_ = x.ReleaseClaim(p.w.ctx, nil, nil, nil)
}

func (p *proc) test() {
	x, _, err := p.ledger().Acquire(p.w.ctx, Request{Pool: 1, Purpose: "test"})
	if err != nil {
		return
	}
	p.use()
	_ = x.Release(p.w.ctx, Used("test"))
}

// canonical is what there is in shards but for times and tokens.
func canonical(shards map[string]Shard) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		text := shards[name].Values[entryKey]
		if name == claimShard {
			c, _ := decode[claim](text)
			holder := ""
			if c.Lease != nil {
				holder = c.Lease.Holder
			}
			all = append(all, fmt.Sprint(name, holder, c.Covers, c.Unmade))
			continue
		}
		e, _ := decode[Entry](text)
		holder := ""
		if e.Lease != nil {
			holder = e.Lease.Holder
		}
		all = append(all, fmt.Sprint(name, e.Stored, holder, e.Build))
	}
	return strings.Join(all, ";")
}

// A move lets a process make its next step, kills it, or does the write of one that was killed.
type move struct {
	proc        int
	kill, stray bool
}

// A cast is how many processes of each kind there are.
type cast struct{ builders, tests, destroyers int }

func (c cast) runs() []func(*proc) {
	return slices.Concat(slices.Repeat([]func(*proc){(*proc).build}, c.builders),
		slices.Repeat([]func(*proc){(*proc).test}, c.tests), slices.Repeat([]func(*proc){(*proc).destroy}, c.destroyers))
}

// play makes moves in a new world, and returns the state that it is in then, and the moves from there.
func play(t *testing.T, shard bool, who cast, moves []move) (state string, next []move) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: newFakeStore(), working: map[string]bool{}, torn: who.destroyers > 0}
		var stop context.CancelFunc
		w.ctx, stop = context.WithCancel(t.Context())
		if shard {
			w.store.make(t, in(Dirty), 1)
		}
		for i, run := range who.runs() {
			p := &proc{name: fmt.Sprint("process ", i), w: w, gate: make(chan struct{})}
			w.procs = append(w.procs, p)
			go func() {
				defer func() {
					w.mu.Lock()
					defer w.mu.Unlock()
					p.done = true
				}()
				run(p)
			}()
		}
		synctest.Wait()
		for _, m := range moves {
			p := w.procs[m.proc]
			if m.kill {
				w.mu.Lock()
				p.dead = true
				w.mu.Unlock()
				w.work(p, false)
				continue
			}
			if m.stray {
				_ = w.store.Write(w.ctx, p.shard, p.revision, p.values)
				w.mu.Lock()
				p.next = ""
				w.mu.Unlock()
				continue
			}
			p.gate <- struct{}{}
			synctest.Wait()
			waits := func() bool {
				w.mu.Lock()
				defer w.mu.Unlock()
				return !p.at && !p.done
			}
			for waits() { // it pauses between two tries
				time.Sleep(time.Second)
				synctest.Wait()
			}
		}
		w.mu.Lock()
		alive := slices.Sorted(maps.Keys(w.working))
		w.mu.Unlock()
		require.LessOrEqual(t, len(alive), 1, "%v work on one pool after %+v", alive, moves)
		w.mu.Lock()
		state = canonical(w.store.shards)
		for i, p := range w.procs {
			switch {
			case p.dead && p.next != "write":
				state += "|dead"
			case p.done:
				state += "|done"
			case p.next == "write": // which comes too late, or is as what was read made it
				late := w.store.shards[p.shard].Revision != p.revision
				state += fmt.Sprintf("|%v %v %s %s", p.dead, late, p.shard, p.read)
			case w.torn:
				state += "|" + p.next + " " + p.read
			default:
				state += "|" + p.next
			}
			switch {
			case p.dead && p.next == "write":
				next = append(next, move{proc: i, stray: true})
			case !p.dead && !p.done:
				next = append(next, move{proc: i}, move{proc: i, kill: true})
			}
		}
		w.mu.Unlock()
		stop()
		synctest.Wait()
		time.Sleep(2000 * time.Hour) // for those who look after a lease that they gave up
	})
	return state, next
}

func TestNoInterleavingGivesAPoolToTwo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cast

		shard, long bool
	}{
		{cast{2, 1, 0}, false, false},
		{cast{2, 1, 0}, true, false},
		{cast{1, 2, 0}, false, false},
		{cast{1, 2, 0}, true, false},
		{cast{0, 1, 1}, true, false},
		{cast{1, 1, 1}, true, true},
		{cast{2, 2, 0}, false, true},
		{cast{2, 2, 0}, true, true},
		{cast{1, 1, 1}, false, true},
		{cast{0, 2, 1}, true, true},
		{cast{0, 1, 2}, true, true},
	} {
		t.Run(fmt.Sprintf("%+v, the pool has a shard: %v", tt.cast, tt.shard), func(t *testing.T) {
			t.Parallel()
			if tt.long && os.Getenv("POOLREADY_CRASH") == "" {
				t.Skip("it tries tens of thousands of orders, for minutes: set POOLREADY_CRASH, as before a release")
			}
			seen := map[string]bool{}
			worked := 0
			var explore func(moves []move, killed bool)
			explore = func(moves []move, killed bool) {
				state, next := play(t, tt.shard, tt.cast, moves)
				if seen[state] || t.Failed() {
					return
				}
				seen[state] = true
				worked += strings.Count(state, "|work")
				for _, m := range next {
					if !killed || !m.kill { // one death
						explore(append(slices.Clone(moves), m), killed || m.kill)
					}
				}
			}
			explore(nil, false)
			t.Logf("%d states, in %d of them one works on the pool", len(seen), worked)
			require.Positive(t, worked)
		})
	}
}
