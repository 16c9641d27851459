package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/internal/wait"
)

// A Store keeps the shards of one set's ledger. Its errors say themselves what was done.
type Store interface {
	// Read reads the shards named, or all if none is, in one reading, and the clock.
	Read(ctx context.Context, shards ...string) (*Contents, error)
	// Write changes values of a shard if its revision still is what was read, in one atomic change; ""
	// makes a shard that must not be there yet. Keys that are not in values stay, those with the value
	// "" are removed. ErrChanged says that somebody else was faster. After any other error the
	// outcome is unknown.
	Write(ctx context.Context, shard, revision string, values map[string]string) error
}

// ErrChanged is in the error of a Store when a shard is no longer as it was read.
var ErrChanged = errors.New("the ledger was changed by another process")

// Contents is one reading of a Store.
type Contents struct {
	// Now is the ledger's clock. It was not earlier when Read returned, and later by no more than
	// Slack.
	Now    time.Time
	Slack  time.Duration
	Shards map[string]Shard
}

// A Shard is a part of a ledger.
type Shard struct {
	ID       string // in the Store
	Revision string // never empty; changes with every write
	Values   map[string]string
}

// The shards. Every pool has its own, so that the heartbeats of many holders never meet; so has the
// claim; waiters share some.
const (
	claimShard  = "build"
	poolPrefix  = "pool-"
	queuePrefix = "queue-"
	keptShard   = "kept"

	entryKey = "entry"
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

// A Ledger is the account of one set, as one process keeps it.
type Ledger struct {
	Store Store
	Term  time.Duration // how long a lease lasts unless it is renewed
	By    string        // who this process is: user@host pid N program

	ended func(*Process) bool // tests replace Process.Ended
	self  *Process            // and Self
}

// New returns the ledger in a store. Term must be positive.
func New(store Store, term time.Duration, by string) *Ledger {
	return &Ledger{Store: store, Term: term, By: by, ended: (*Process).Ended, self: Self()}
}

// A Snapshot is one reading of the ledger.
type Snapshot struct {
	*Contents
	Asked time.Time // when it was requested, by the local clock: Now was not earlier

	l     *Ledger
	since time.Time // when its shards were read, if that was before the clock was read
}

// WithClock returns the snapshot with the clock, and the claim, of a later one. A pool is leased from it only
// if its shard is unchanged since that was read.
func (s *Snapshot) WithClock(now *Snapshot) *Snapshot {
	shards := maps.Clone(s.Shards)
	delete(shards, claimShard)
	if claim, ok := now.Shards[claimShard]; ok {
		shards[claimShard] = claim
	}
	return &Snapshot{&Contents{Now: now.Now, Slack: now.Slack, Shards: shards}, now.Asked, s.l, s.ShardsRead()}
}

// ShardsRead is when its shards were requested.
func (s *Snapshot) ShardsRead() time.Time {
	if !s.since.IsZero() {
		return s.since
	}
	return s.Asked
}

// Current reports whether its shards were read with the clock.
func (s *Snapshot) Current() bool { return s.since.IsZero() }

// Read reads all of the ledger.
func (l *Ledger) Read(ctx context.Context) (*Snapshot, error) { return l.read(ctx) }

// ReadPool reads what there is of one pool, and its clock, which costs less than Read.
func (l *Ledger) ReadPool(ctx context.Context, pool int) (*Snapshot, error) {
	return l.read(ctx, poolShard(pool))
}

// ReadClock reads the clock, with as little else as can be.
func (l *Ledger) ReadClock(ctx context.Context) (*Snapshot, error) { return l.read(ctx, claimShard) }

func (l *Ledger) read(ctx context.Context, shards ...string) (*Snapshot, error) {
	asked := time.Now()
	c, err := l.Store.Read(ctx, shards...)
	if err != nil {
		return nil, err
	}
	return &Snapshot{Contents: c, Asked: asked, l: l}, nil
}

// At returns the ledger's clock when the local one said t.
func (s *Snapshot) At(t time.Time) time.Time { return s.Now.Add(t.Sub(s.Asked)) }

// Age is how long ago the snapshot was requested.
func (s *Snapshot) Age() time.Duration { return time.Since(s.Asked) }

// Revisions maps the names of the shards that were read to their revisions.
func (s *Snapshot) Revisions() map[string]string {
	all := map[string]string{}
	for name, shard := range s.Shards {
		all[name] = shard.Revision
	}
	return all
}

// Empty reports whether there is no ledger.
func (s *Snapshot) Empty() bool { return len(s.Shards) == 0 }

// Pool returns the entry of a pool. An error means that it was written by another version.
func (s *Snapshot) Pool(n int) (Entry, error) {
	e, _, err := s.pool(n)
	return e, err
}

// pool is Pool. there reports whether the entry is really there.
func (s *Snapshot) pool(n int) (e Entry, there bool, err error) {
	claim, _, err := s.claim()
	if err != nil {
		return Entry{}, true, err
	}
	if h := claim.Holder(s.Now); h != nil && claim.Covers.has(n) {
		l := *h
		l.Purpose = "being built"
		return Entry{Format: format, Stored: Building, Lease: &l}, false, nil
	}
	if claim.neverHeld(n) && !s.Made(n) {
		return Entry{Format: format, Stored: Absent}, false, nil
	}
	return s.stored(n)
}

// stored is pool without a look at the claim.
func (s *Snapshot) stored(n int) (e Entry, there bool, err error) {
	shard, ok := s.Shards[poolShard(n)]
	why := "its shard in the ledger is missing"
	if ok {
		e, err = decode[Entry](shard.Values[entryKey])
		if err == nil {
			e.holderGone = e.Lease != nil && s.l.ended(e.Lease.Process)
			e.Lease = s.underClaim(e.Lease)
			return e, true, nil
		}
		if !errors.Is(err, errDamaged) {
			return Entry{}, true, fmt.Errorf("pool %d: %w", n, err)
		}
		why = err.Error()
	}
	return recovering(why+"; its last holder may still have it", s.Now.Add(s.l.Term)), false, nil
}

// Claim returns the lease of the process that builds, or nil.
func (s *Snapshot) Claim() (*Lease, error) {
	c, there, err := s.claim()
	if err != nil || !there {
		return nil, err
	}
	return c.Holder(s.Now), nil
}

// claim is the entry of the claim. If it is not there, it counts as held for as long as a lease
// lasts unless there is no ledger at all: take decides.
func (s *Snapshot) claim() (c claim, there bool, err error) {
	shard, ok := s.Shards[claimShard]
	if !ok {
		return claim{}, false, nil
	}
	c, err = decode[claim](shard.Values[entryKey])
	if errors.Is(err, errDamaged) {
		return claim{}, false, nil
	}
	if err != nil {
		return claim{}, true, fmt.Errorf("the claim to build: %w", err)
	}
	c.holderGone = c.Lease != nil && s.l.ended(c.Lease.Process)
	return c, true, nil
}

// Made reports whether a pool has a shard.
func (s *Snapshot) Made(n int) bool {
	_, ok := s.Shards[poolShard(n)]
	return ok
}

// NeverHeld reports whether a pool was never held, by this claim or an earlier one that
// covered it: it has no shard.
func (s *Snapshot) NeverHeld(n int) bool {
	c, _, err := s.claim()
	return err == nil && c.neverHeld(n) && !s.Made(n)
}

// Covered returns the pools that the claim covers.
func (s *Snapshot) Covered() []int {
	c, _, err := s.claim()
	if err != nil {
		return nil
	}
	return c.Covers
}

// Values returns what else there is in a pool's shard, or with 0 in that of the claim, by keys with a
// prefix, which is cut off.
func (s *Snapshot) Values(pool int, prefix string) map[string]string {
	all, shard := map[string]string{}, claimShard
	if pool > 0 {
		shard = poolShard(pool)
	}
	for k, v := range s.Shards[shard].Values {
		if key, ok := strings.CutPrefix(k, prefix); ok && k != entryKey {
			all[key] = v
		}
	}
	return all
}

// Pools returns the numbers of the pools that the ledger knows, in order.
func (s *Snapshot) Pools() []int {
	var all []int
	if c, _, err := s.claim(); err == nil {
		all = slices.Concat(c.Covers, c.Unmade)
	}
	for name := range s.Shards {
		if n := shardPool(name); n > 0 {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// IDs returns the IDs, in the store, of all shards: those of pools by their numbers, the others, and that
// of the claim, or "".
func (s *Snapshot) IDs() (pools map[int]string, others []string, claim string) {
	pools = map[int]string{}
	for name, shard := range s.Shards {
		if n := shardPool(name); n > 0 {
			pools[n] = shard.ID
		} else if name != claimShard {
			others = append(others, shard.ID)
		}
	}
	return pools, others, s.Shards[claimShard].ID
}

// An OutageError says that the ledger could not be written, and since when.
type OutageError struct {
	What  string    // the shard
	Since time.Time // of the local clock
	Err   error     // of the last try
}

func (e *OutageError) Error() string {
	return fmt.Sprintf("write the ledger (%s): no success since %s: %v", e.What, clock(e.Since), e.Err)
}

func (e *OutageError) Unwrap() error { return e.Err }

// outage says so of an error that came after some time: the store itself says the rest.
func outage(shard string, began time.Time, err error) error {
	const notable = 10 * time.Second
	if time.Since(began) < notable {
		return err
	}
	return &OutageError{shard, began, err}
}

// tries is how often a change is tried that fails in other ways than by being overtaken.
const tries = 4

// change reads a shard and the claim, or first takes first for such a reading if it is not nil,
// lets f make new values from it, and writes them if nothing else was written meanwhile; else again
// from the start. f may be called several times, and also after a write of which it is not known
// whether it was done: it must recognise its own work, and return no values when there is nothing
// to write.
func (l *Ledger) change(ctx context.Context, shard string, first *Snapshot, f func(s *Snapshot) (map[string]string, error)) error {
	failed, began := 0, time.Now()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		var s *Snapshot
		var err error
		switch {
		case first != nil:
			s, first = first, nil
		case shardPool(shard) > 0:
			s, err = l.read(ctx, shard, claimShard)
		default:
			s, err = l.read(ctx, shard)
		}
		if err == nil {
			var values map[string]string
			if values, err = f(s); err != nil || len(values) == 0 {
				return err
			}
			err = l.Store.Write(ctx, shard, s.Shards[shard].Revision, values)
			if err == nil {
				return nil
			}
		}
		if !errors.Is(err, ErrChanged) {
			if failed++; failed == tries {
				return outage(shard, began, err)
			}
		}
		if wait.Sleep(ctx, wait.Jitter(pause)) != nil {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), outage(shard, began, err))
		}
	}
}

func newToken() string { return rand.Text() }
