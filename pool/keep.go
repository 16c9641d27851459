package pool

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Keep says when a pool stays as its test left it, for a person to look at.
type Keep struct {
	// When is "never", which "" is too, "failed" or "always".
	When string
	// Pools is how many are kept at most, of all processes; 0 means 1. One more is possible when
	// two tests end at the same moment.
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
func (s *Set) keep(p *Pool, test string, failed bool) bool {
	k := s.spec.Keep
	if k.When != "always" && (k.When != "failed" || !failed) {
		return false
	}
	ctx, cancel := afterwards(context.Background())
	defer cancel()
	b, err := s.ledger.read(ctx)
	if err != nil {
		s.log.linef("pool %d: not kept: %v", p.Number, err)
		return false
	}
	kept := 0
	for name := range b.Shards {
		if e, there, err := s.ledger.entry(b, name); err == nil && there && e.Block != nil && e.Block.Kind == blockKept && b.Now.Before(e.Block.Until) {
			kept++
		}
	}
	if most := or(k.Pools, 1); kept >= most {
		s.log.linef("pool %d: not kept: %d are already, as many as Spec.Keep.Pools allows", p.Number, kept)
		return false
	}
	until := b.Now.Add(or(k.For, 4*time.Hour))
	what := map[bool]string{true: "failed", false: "passed"}[failed]
	s.giveBack(p.lease, func(_ time.Time, e *entry) {
		e.Used = test
		e.Block = &block{Kind: blockKept, Why: fmt.Sprintf("%s, which %s, run by %s", test, what, s.ledger.by), Until: until}
	})
	var look strings.Builder
	for _, h := range p.hosts {
		fmt.Fprintf(&look, "\n    %s: %s", h.Name, h.Look())
	}
	s.log.linef("pool %d: kept as %s left it, until %s:%s\n    to free it: pool.Release(ctx, spec, %d)", p.Number, test, stamp(until), look.String(), p.Number)
	return true
}
