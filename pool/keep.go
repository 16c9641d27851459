package pool

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Keep says when a pool stays as its test left it, for a person to look at.
type Keep struct {
	// When is "never", which "" is too, "failed" or "always".
	When string
	// Pools is how many are kept at most, of all processes; 0 means 1.
	Pools int
	// For is how long; 0 means 4 hours. Then the pool is reset by whoever wants it next.
	For time.Duration
}

func (k Keep) validate(f *faults) {
	switch k.When {
	case "", "never", "failed", "always":
	default:
		f.addf("Spec.Keep.When", "is %q; it must be never, failed or always", k.When)
	}
	f.notNegative("Spec.Keep.Pools", int64(k.Pools))
	f.notNegative("Spec.Keep.For", int64(k.For))
}

// keep leaves a pool that was given back to a person, if the Spec says so.
func (s *Set) keep(p *Pool, failed bool) bool {
	k := s.spec.Keep
	if k.When != "always" && (k.When != "failed" || !failed) {
		return false
	}
	ctx, cancel := afterwards(context.Background())
	defer cancel()
	until, kept, err := s.mayKeep(ctx, p.lease)
	if err != nil {
		s.log.linef("pool %d: not kept: %v", p.Number, err)
		return false
	}
	if kept > 0 {
		s.log.linef("pool %d: not kept: %d are already, as many as Spec.Keep.Pools allows", p.Number, kept)
		return false
	}
	what := map[bool]string{true: "failed", false: "passed"}[failed]
	err = s.giveBack(p.lease, func(_ time.Time, e *entry) {
		e.Used = p.test
		e.Block = &block{Kind: blockKept, Why: fmt.Sprintf("%s, which %s, run by %s", p.test, what, s.ledger.by), Until: until}
	})
	if err != nil {
		return true // it is not ours any more, or not for long
	}
	var look strings.Builder
	for _, h := range p.hosts {
		fmt.Fprintf(&look, "\n    %s: %s", h.Name, h.Look())
	}
	s.log.linef("pool %d: kept as %s left it, until %s:%s\n    to free it: pool.Release(ctx, spec, %d)", p.Number, p.test, stamp(until), look.String(), p.Number)
	return true
}

// Who keeps a pool first notes so in a shard of its own, by which two that end at once are told
// apart: under keepPrefix and the pool's number, the lease under which it is kept.
const (
	keepShard  = "kept"
	keepPrefix = "pool."
)

// mayKeep notes that the pool that x holds is to be kept, and until when, or returns how many are
// already.
func (s *Set) mayKeep(ctx context.Context, x *lease) (until time.Time, kept int, err error) {
	mine := keepPrefix + strconv.Itoa(shardPool(x.shard))
	err = s.ledger.change(ctx, keepShard, nil, func(b books) (map[string]string, error) {
		all, err := s.ledger.read(ctx)
		if err != nil {
			return nil, err
		}
		kept = 0
		for _, n := range all.pools() {
			key := keepPrefix + strconv.Itoa(n)
			e, there, err := s.ledger.entry(all, poolShard(n))
			if err != nil || !there || key == mine {
				continue
			}
			is := e.Block != nil && e.Block.Kind == blockKept && all.Now.Before(e.Block.Until)
			// Or its holder died on the way.
			willBe := e.Lease != nil && e.Lease.Token == b.Shards[keepShard].Values[key]
			if is || willBe {
				kept++
			}
		}
		until = all.Now.Add(or(s.spec.Keep.For, 4*time.Hour))
		if kept < or(s.spec.Keep.Pools, 1) {
			kept = 0
			return map[string]string{mine: x.token}, nil
		}
		return nil, nil
	})
	return until, kept, err
}
