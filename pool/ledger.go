package pool

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mrand "math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// The shards of a ledger. Every pool has its own, so that the heartbeats of many holders never
// meet; so has whoever builds; those who wait share some.
const (
	buildShard = "build"
	poolPrefix = "pool-"
)

func poolShard(n int) string { return poolPrefix + strconv.Itoa(n) }

// shardPool is the number of the pool that a shard is of, or 0.
func shardPool(shard string) int {
	rest, ok := strings.CutPrefix(shard, poolPrefix)
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 1 {
		return 0
	}
	return n
}

const (
	entryKey    = "entry"
	entryFormat = 1
	entryLimit  = 4000 // bytes of its JSON
)

// An entry is what the ledger says of one pool, or of who builds.
type entry struct {
	Format int `json:"poolready"`
	// Lease is who has it now, if it is not over.
	Lease *tenure `json:"lease,omitempty"`
	// Block keeps everybody away until it is over.
	Block *block `json:"block,omitempty"`
	// Build stands for the builds of the pool's hosts: who knows another one must look again.
	Build string `json:"build,omitempty"`
	// Clean is the proof that nobody has used the pool since it was reset or built.
	Clean *proof `json:"clean,omitempty"`
	// Boots are the boot ids of the hosts, in the order of roles, when last seen.
	Boots []string `json:"boots,omitempty"`
	// Used is who used it last.
	Used string `json:"used,omitempty"`
	// Broken says why the pool must be built anew before anybody gets it.
	Broken string `json:"broken,omitempty"`
	// Failures counts resets and builds that failed since one last succeeded.
	Failures int       `json:"failures,omitempty"`
	Failure  string    `json:"failure,omitempty"`
	FailedAt time.Time `json:"failedAt,omitzero"`
	// Building is, of a newborn pool, the token of the claim under which it is built.
	Building string `json:"building,omitempty"`

	also map[string]string // more values that are written with it
}

// A tenure is a lease as it is written down.
type tenure struct {
	Owner string    `json:"owner"` // user@host pid N program
	For   string    `json:"for"`   // the test, or what is done
	Token string    `json:"token"` // this lease, unlike any other
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// A block keeps a pool from being lent.
type block struct {
	Kind  string    `json:"kind"`
	Why   string    `json:"why"`
	Until time.Time `json:"until"`
}

// The kinds of blocks.
const (
	blockKept    = "kept"            // for a person to look at
	blockCooling = "cooling down"    // it failed too often
	blockUnknown = "being recovered" // its entry was lost: who holds it may still live
)

// proof is what was found when a pool was last clean.
type proof struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
	// Skew is the largest difference between a guest's clock and the hypervisor's, in seconds.
	Skew float64 `json:"skew"`
}

// holder returns the lease that is in force at a moment of the hypervisor's clock.
func (e entry) holder(now time.Time) *tenure {
	if e.Lease != nil && now.Before(e.Lease.Until) {
		return e.Lease
	}
	return nil
}

// busy says why nobody may have it now, or "".
func (e entry) busy(now time.Time) string {
	if t := e.holder(now); t != nil {
		return fmt.Sprintf("held by %s, until %s unless renewed", t, clock(t.Until))
	}
	if b := e.Block; b != nil && now.Before(b.Until) {
		return fmt.Sprintf("%s until %s: %s", b.Kind, clock(b.Until), b.Why)
	}
	return ""
}

// recovered tells that the entry was lost, and that whoever held it no longer does.
func (e entry) recovered(now time.Time) bool {
	return e.Lease == nil && e.Block != nil && e.Block.Kind == blockUnknown && !now.Before(e.Block.Until)
}

func (t *tenure) String() string {
	return fmt.Sprintf("%s (%s) since %s", t.Owner, t.For, clock(t.Since))
}

func clock(t time.Time) string { return t.Local().Format("15:04:05") }

var errDamaged = errors.New("the ledger's entry is unreadable")

func decodeEntry(text string) (e entry, err error) {
	if text == "" {
		return entry{}, fmt.Errorf("%w: it is empty", errDamaged)
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return entry{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if e.Format != entryFormat {
		return entry{}, fmt.Errorf("the ledger's entry has format %d, this program knows format %d: %w", e.Format, entryFormat, errOtherForm)
	}
	return e, nil
}

func (e entry) values() (map[string]string, error) {
	text, err := e.text()
	if err != nil {
		return nil, err
	}
	values := map[string]string{entryKey: text}
	maps.Copy(values, e.also)
	return values, nil
}

func (e entry) text() (string, error) {
	e.Format = entryFormat
	e.Failure, e.Broken, e.Used = cut(e.Failure), cut(e.Broken), cut(e.Used)
	if e.Block != nil {
		e.Block = &block{e.Block.Kind, cut(e.Block.Why), e.Block.Until}
	}
	if e.Lease != nil {
		t := *e.Lease
		t.Owner, t.For = cut(t.Owner), cut(t.For)
		e.Lease = &t
	}
	text, err := json.Marshal(e)
	if err == nil && len(text) > entryLimit {
		err = fmt.Errorf("the ledger's entry has %d bytes, at most %d fit: too many roles", len(text), entryLimit)
	}
	return string(text), err
}

// cut shortens what people read, so that an entry stays small.
func cut(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// A ledger is the part of the store that one set's processes agree on.
type ledger struct {
	store LedgerStore
	set   string
	term  time.Duration // how long a lease lasts unless it is renewed
	by    string        // who we are
}

// books is a reading of the ledger, and when it was asked for by the local clock: Now was not
// earlier.
type books struct {
	*Ledger
	asked time.Time
}

// read reads shards, or all. Its errors, like those of all that a Provider does, say themselves
// what was done.
func (l *ledger) read(ctx context.Context, shards ...string) (books, error) {
	asked := time.Now()
	b, err := l.store.Ledger(ctx, l.set, shards...)
	return books{b, asked}, err
}

// entry returns what is written in a shard. An entry that is lost or unreadable may have been that
// of a lease that is kept: it counts as blocked for as long as a lease lasts, in which its holder,
// if there is one, writes it anew. there tells whether the entry is really there.
func (l *ledger) entry(b books, shard string) (e entry, there bool, err error) {
	if _, ok := b.Shards[shard]; !ok {
		if e, err := b.newborn(shardPool(shard)); err == nil || !errors.Is(err, errMissing) {
			return e, true, err
		}
	}
	return l.own(b, shard)
}

// own is entry without a look at newborn pools.
func (l *ledger) own(b books, shard string) (e entry, there bool, err error) {
	s, ok := b.Shards[shard]
	why := "its entry in the ledger is missing"
	if ok {
		if e, err = decodeEntry(s.Values[entryKey]); err == nil {
			return e, true, nil
		}
		if !errors.Is(err, errDamaged) {
			return entry{}, true, fmt.Errorf("%s: %w", shard, err)
		}
		why = err.Error()
	}
	return entry{Block: &block{blockUnknown, why + "; whoever holds it may still be there", b.Now.Add(l.term)}}, false, nil
}

// tries is how often a change is tried that fails in other ways than by being overtaken.
const tries = 4

// change reads a shard, or first takes first for such a reading if it is not nil, lets f make new
// values from it, and writes them if nobody else has written meanwhile; else again from the start.
// f may be called several times, and also after a write of which it is not known whether it was
// done: it must recognise its own work, and return no values when there is nothing to write.
func (l *ledger) change(ctx context.Context, shard string, first *books, f func(b books) (map[string]string, error)) error {
	failed := 0
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var b books
		var err error
		if first != nil {
			b, first = *first, nil
		} else {
			b, err = l.read(ctx, shard)
		}
		if err == nil {
			var values map[string]string
			if values, err = f(b); err != nil || len(values) == 0 {
				return err
			}
			err = l.store.SetLedger(ctx, l.set, shard, b.Shards[shard].Revision, values)
			if err == nil {
				return nil
			}
		}
		if !errors.Is(err, ErrChanged) {
			if failed++; failed == tries {
				return err
			}
		}
		if sleep(ctx, jitter(wait)) != nil {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
}

// changeEntry is change for a shard's entry. f returns false when there is nothing to write.
func (l *ledger) changeEntry(ctx context.Context, shard string, first *books, f func(b books, e *entry, there bool) (bool, error)) error {
	return l.change(ctx, shard, first, func(b books) (map[string]string, error) {
		e, there, err := l.own(b, shard)
		if err != nil {
			return nil, err
		}
		if write, err := f(b, &e, there); err != nil || !write {
			return nil, err
		}
		return e.values()
	})
}

// sleep waits, and returns ctx's error if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// jitter spreads d over half to one and a half of it, so that those who met do not meet again.
func jitter(d time.Duration) time.Duration { return d/2 + mrand.N(d+1) }

func newToken() string { return rand.Text() }
