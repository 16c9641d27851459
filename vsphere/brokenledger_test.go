package vsphere

import (
	"context"
	"errors"

	"github.com/poolready/poolready/pool"
)

// misread breaks how a ledger is read, and miswritten how it is written.
type misread struct {
	pool.Provider
	ledger func(l *pool.Ledger, err error) (*pool.Ledger, error)
}

func (m misread) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	return m.ledger(m.Provider.Ledger(ctx, set))
}

type miswritten struct {
	pool.Provider
	set func(ctx context.Context, p pool.Provider, set, shard, revision string, values map[string]string) error
}

func (m miswritten) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	return m.set(ctx, m.Provider, set, shard, revision, values)
}

// forcing writes, whoever has written since it read.
func forcing(ctx context.Context, p pool.Provider, set, shard, revision string, values map[string]string) error {
	for {
		err := p.SetLedger(ctx, set, shard, revision, values)
		if !errors.Is(err, pool.ErrChanged) {
			return err
		}
		l, err := p.Ledger(ctx, set, shard)
		if err != nil {
			return err
		}
		revision = l.Shards[shard].Revision
	}
}

func init() {
	write := func(f func(ctx context.Context, p pool.Provider, set, shard, revision string, values map[string]string) error) func(pool.Provider) pool.Provider {
		return func(p pool.Provider) pool.Provider { return miswritten{p, f} }
	}
	breaks["a set without a ledger has no shards, and the clock"] = func(p pool.Provider) pool.Provider {
		return misread{p, func(l *pool.Ledger, err error) (*pool.Ledger, error) {
			if err == nil && len(l.Shards) == 0 {
				err = errors.New("no such folder")
			}
			return l, err
		}}
	}
	breaks["what is written to a shard is read, to the byte"] = write(func(ctx context.Context, p pool.Provider, set, shard, revision string, values map[string]string) error {
		for k, v := range values {
			if v == "" {
				delete(values, k) // as if it were not there
			}
		}
		return p.SetLedger(ctx, set, shard, revision, values)
	})
	breaks["only the requested shards are read, and all without a name"] = func(p pool.Provider) pool.Provider {
		return misread{p, func(l *pool.Ledger, err error) (*pool.Ledger, error) { return l, err }}
	}
	breaks["a write to a shard that was changed is ErrChanged, and changes nothing"] = write(forcing)
	breaks["of racing writes to a shard one is made, and the others get ErrChanged"] = write(forcing)
	breaks["a ledger is none of the set's VMs"] = func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(ctx context.Context, set string, templates []string) (*pool.Inventory, error) {
			inv, err := p.Inventory(ctx, set, templates...)
			if err != nil {
				return nil, err
			}
			l, err := p.Ledger(ctx, set)
			if err == nil {
				for name, s := range l.Shards {
					inv.VMs = append(inv.VMs, pool.VMInfo{ID: s.ID, Name: name})
				}
			}
			return inv, err
		}}
	}
}
