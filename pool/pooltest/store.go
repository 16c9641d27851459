package pooltest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/poolready/poolready/pool"
)

// Ledger implements [pool.LedgerStore].
func (p *Provider) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	if ctx.Err() != nil {
		return nil, p.record("Ledger", set, context.Cause(ctx))
	}
	p.mu.Lock()
	l := &pool.Ledger{Now: time.Now(), Shards: map[string]pool.Shard{}}
	for name, s := range p.ledgers[set] {
		if len(shards) == 0 || slices.Contains(shards, name) {
			s.Values = maps.Clone(s.Values)
			l.Shards[name] = s
		}
	}
	p.mu.Unlock()
	return l, p.record("Ledger", set, nil)
}

// SetLedger implements [pool.LedgerStore].
func (p *Provider) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	return p.record("SetLedger", shard, p.setLedger(ctx, set, shard, revision, values))
}

func (p *Provider) setLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.ledgers[set][shard]
	if old.Revision != revision {
		return pool.ErrChanged
	}
	n := p.next()
	s := pool.Shard{ID: cmp.Or(old.ID, fmt.Sprint("shard-", n)), Revision: fmt.Sprint(n), Values: map[string]string{}}
	maps.Copy(s.Values, old.Values)
	maps.Copy(s.Values, values)
	maps.DeleteFunc(s.Values, func(_, v string) bool { return v == "" })
	if p.ledgers[set] == nil {
		p.ledgers[set] = map[string]pool.Shard{}
	}
	p.ledgers[set][shard] = s
	return nil
}
