package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool/internal/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeStore is a ledger in memory that answers as slowly and loses as much as it is told to.
type fakeStore struct {
	mu     sync.Mutex
	skew   time.Duration // of its clock
	slack  time.Duration // how long that takes to answer
	shards map[string]Shard
	writes map[string]int
	n      int
	// conflicts counts the writes that came too late.
	conflicts int

	// fault is asked about every write, after a delay of its making: whether it is done, and what
	// is answered.
	fault func(shard string) (done bool, err error)
	// stray, if not nil, is given every write that would be done: what it returns is answered at once,
	// whenever it does the write; nil goes on as usual.
	stray func(write func()) error
	// down, while true, answers nothing but errors, and deaf leaves writes without an answer.
	down, deaf bool
}

func newFakeStore() *fakeStore {
	return &fakeStore{shards: map[string]Shard{}, writes: map[string]int{}, skew: 3 * time.Hour}
}

func (f *fakeStore) Read(ctx context.Context, shards ...string) (*Contents, error) {
	if err := wait.Sleep(ctx, 5*time.Millisecond); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errors.New("no answer")
	}
	l := &Contents{Now: time.Now().Add(f.skew - f.slack), Slack: f.slack, Shards: map[string]Shard{}}
	for name, s := range f.shards {
		if len(shards) > 0 && !slices.Contains(shards, name) {
			continue
		}
		s.Values = maps.Clone(s.Values)
		l.Shards[name] = s
	}
	return l, nil
}

func (f *fakeStore) Write(ctx context.Context, shard, revision string, values map[string]string) error {
	if err := wait.Sleep(ctx, 20*time.Millisecond); err != nil {
		return err
	}
	done, answer := true, error(nil)
	f.mu.Lock()
	fault, deaf := f.fault, f.deaf
	f.mu.Unlock()
	if deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	if fault != nil {
		done, answer = fault(shard)
	}
	f.mu.Lock()
	down, stray := f.down, f.stray
	f.mu.Unlock()
	if down {
		return errors.New("no answer")
	}
	if !done {
		return answer
	}
	if stray != nil {
		if err := stray(func() { _ = f.write(shard, revision, values) }); err != nil {
			return err
		}
	}
	if err := f.write(shard, revision, values); err != nil {
		return err
	}
	return answer
}

func (f *fakeStore) write(shard, revision string, values map[string]string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, ok := f.shards[shard]
	if old.Revision != revision {
		f.conflicts++
		return ErrChanged
	}
	s := Shard{ID: shard, Values: map[string]string{}}
	if ok {
		maps.Copy(s.Values, old.Values)
	}
	for k, v := range values {
		if len(v) >= 4096 {
			return fmt.Errorf("the value of %q is too long", k)
		}
		if v == "" {
			delete(s.Values, k)
		} else {
			s.Values[k] = v
		}
	}
	f.n++
	s.Revision = fmt.Sprint(f.n)
	f.shards[shard] = s
	f.writes[shard]++
	return nil
}

func (f *fakeStore) written(shard string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes[shard]
}

func (f *fakeStore) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeStore) entry(t *testing.T, pool int) Entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := decode[Entry](f.shards[poolShard(pool)].Values[entryKey])
	require.NoError(t, err)
	return e
}

// make makes the shard of a pool that nobody holds.
func (f *fakeStore) make(t *testing.T, e Entry, pools ...int) {
	t.Helper()
	text, err := e.text()
	require.NoError(t, err)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range pools {
		f.n++
		f.shards[poolShard(n)] = Shard{ID: poolShard(n), Revision: fmt.Sprint(f.n), Values: map[string]string{entryKey: text}}
	}
}

// process is the ledger as a process keeps it that no other can see the end of.
func (f *fakeStore) process(who string) *Ledger {
	return &Ledger{Store: f, Term: 3 * time.Minute, By: who, ended: func(*Process) bool { return false }}
}

func (f *fakeStore) read(t *testing.T) *Snapshot {
	t.Helper()
	s, err := f.process("reader").Read(t.Context())
	require.NoError(t, err)
	return s
}

func (l *Ledger) test(t *testing.T, pool int) (*Held, Entry, error) {
	t.Helper()
	return l.Acquire(t.Context(), Request{Pool: pool, Purpose: "TestA"})
}

func mustAcquire(t *testing.T, l *Ledger, pool int) (*Held, Entry) {
	t.Helper()
	x, was, err := l.test(t, pool)
	require.NoError(t, err)
	return x, was
}

// heldByAlice is a store with one pool, which was dirty, and alice's lease on that.
func heldByAlice(t *testing.T) (*fakeStore, *Held) {
	t.Helper()
	f := newFakeStore()
	f.make(t, in(Dirty), 1)
	x, _ := mustAcquire(t, f.process("alice"), 1)
	return f, x
}

func mustRelease(t *testing.T, x *Held) {
	t.Helper()
	require.NoError(t, x.Release(t.Context(), Released()))
}

// kill ends a lease as the death of its process does: without a word.
func kill(x *Held) {
	x.end(errors.New("killed"))
	<-x.gone
}

// soon acquires a pool as soon as it can be had, and says how long that took.
func soon(t *testing.T, l *Ledger, pool int) (*Held, Entry, time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		x, was, err := l.test(t, pool)
		if err == nil {
			return x, was, time.Since(began)
		}
		require.ErrorAs(t, err, new(*BusyError))
		time.Sleep(time.Second)
	}
}

// claim takes the claim, with the pools that it covers, for a set without VMs.
func mustClaim(t *testing.T, l *Ledger, covers ...int) *Held {
	t.Helper()
	x, _, err := l.TakeClaim(t.Context(), ClaimRequest{Purpose: "building", Fresh: true, Covers: func(*Snapshot) []int { return covers }})
	require.NoError(t, err)
	return x
}
