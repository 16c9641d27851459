package pool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// An External is something that a test made outside of its pool's VMs.
type External struct {
	Kind string    `json:"kind"` // of Spec.Cleanups
	Ref  string    `json:"ref"`
	At   time.Time `json:"at"`

	key string // in the shard
}

const (
	externalPrefix = "external."
	maxExternals   = 50
	maxRef         = 1024
)

func externals(s Shard) (all []External) {
	for k, v := range s.Values {
		var x External
		if strings.HasPrefix(k, externalPrefix) && json.Unmarshal([]byte(v), &x) == nil {
			x.key = k
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b External) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.key, b.key)) })
	return all
}

// Track notes in the ledger, before the test makes it, something outside of the pool's VMs: a DNS
// record, a VM of its own, a directory on a server. ref is what the cleanup of that kind in
// Spec.Cleanups needs to find it. When the pool is given back, or its lease is over because the
// process died, it is cleaned up, newest first, before anybody else gets the pool. The cleanup must
// not mind that the thing was never made, or is gone.
//
// ref has at most 1024 bytes, and a pool at most 50 such things.
func (p *Pool) Track(ctx context.Context, kind, ref string) error {
	if p.lease == nil {
		return fmt.Errorf("pool: track %s %q: pool %d is not lent: use one from Acquire", kind, ref, p.Number)
	}
	if p.set.spec.Cleanups[kind] == nil {
		return fmt.Errorf("pool: track %s %q: Spec.Cleanups has no such kind", kind, ref)
	}
	if len(ref) > maxRef {
		return fmt.Errorf("pool: track %s %q: it has %d bytes, at most %d are allowed", kind, cut(ref), len(ref), maxRef)
	}
	//nolint:contextcheck // it tells whether the loan is over: the lease may go on for a while
	if err := context.Cause(p.ctx); err != nil {
		return fmt.Errorf("pool: track %s %q: %w", kind, ref, err)
	}
	key := externalPrefix + strings.ToLower(newToken())
	err := p.lease.values(ctx, func(b books) (map[string]string, error) {
		all := externals(b.Shards[p.lease.shard])
		if slices.ContainsFunc(all, func(x External) bool { return x.key == key }) {
			return nil, nil // the answer was lost
		}
		if len(all) >= maxExternals {
			return nil, fmt.Errorf("there are %d already", len(all))
		}
		text, err := json.Marshal(External{Kind: kind, Ref: ref, At: b.Now})
		return map[string]string{key: string(text)}, err
	})
	if err != nil {
		return fmt.Errorf("pool: track %s %q: %w", kind, ref, err)
	}
	return nil
}

// values changes what else there is in a shard that is ours.
func (x *lease) values(ctx context.Context, f func(b books) (map[string]string, error)) error {
	if err := x.confirm(ctx); err != nil {
		return err
	}
	ctx, done, err := x.pen(ctx)
	if err != nil {
		return err
	}
	defer done()
	return x.l.change(ctx, x.shard, nil, func(b books) (map[string]string, error) {
		e, there, err := x.l.own(b, x.shard)
		if err != nil {
			return nil, err
		}
		if !there || e.Lease == nil || e.Lease.Token != x.token {
			return nil, fmt.Errorf("%w: the ledger says that it is %s", ErrLeaseLost, or(e.busy(b.Now), "free"))
		}
		return f(b)
	})
}

// cleanExternals cleans up what tests left outside of a pool that x holds. What fails stays noted.
func (s *Set) cleanExternals(ctx context.Context, x *lease) error {
	b, err := s.ledger.read(ctx, x.shard)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range slices.Backward(externals(b.Shards[x.shard])) {
		err := fmt.Errorf("Spec.Cleanups has no such kind: the Spec of another program made it")
		if clean := s.spec.Cleanups[e.Kind]; clean != nil {
			err = protect(func() error { return clean(ctx, e.Ref) })
		}
		if err == nil {
			err = x.values(ctx, func(books) (map[string]string, error) { return map[string]string{e.key: ""}, nil })
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("clean up %s %q: %w", e.Kind, e.Ref, err))
			continue
		}
		s.log.linef("pool %d: cleaned up %s %q", shardPool(x.shard), e.Kind, e.Ref)
	}
	if len(failed) > 0 {
		return &cleanupError{errors.Join(failed...)}
	}
	return nil
}
