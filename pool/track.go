package pool

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
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

// externals decodes what is noted in a pool's shard.
func externals(values map[string]string) (all []External) {
	for k, v := range values {
		var x External
		if json.Unmarshal([]byte(v), &x) == nil {
			x.key = k
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b External) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.key, b.key)) })
	return all
}

// Track notes in the ledger, before the test makes it, something outside of the pool's VMs: a DNS
// record, a VM of its own, a directory on a server. ref is what the cleanup of that kind in
// Spec.Cleanups needs to find it. When the pool is released, or its lease expires because the
// process died, it is cleaned up, newest first, before another test gets the pool. The cleanup must
// not mind that the thing was never made, or is gone.
//
// ref has at most 1024 bytes, and a pool at most 50 such things.
func (p *Pool) Track(ctx context.Context, kind, ref string) error {
	if p.lease == nil {
		return fmt.Errorf("pool: track %s %q: pool %d is not leased: use one from Acquire", kind, ref, p.Number)
	}
	if p.set.spec.Cleanups[kind] == nil {
		return fmt.Errorf("pool: track %s %q: Spec.Cleanups has no such kind", kind, ref)
	}
	if len(ref) > maxRef {
		return fmt.Errorf("pool: track %s %q: it has %d bytes, at most %d are allowed", kind, lease.Shorten(ref), len(ref), maxRef)
	}
	//nolint:contextcheck // it reports whether the test is over: the lease may go on for a while
	if err := context.Cause(p.ctx); err != nil {
		return fmt.Errorf("pool: track %s %q: %w", kind, ref, err)
	}
	key := strings.ToLower(rand.Text())
	err := p.lease.SetValues(ctx, externalPrefix, func(now time.Time, values map[string]string) (map[string]string, error) {
		if values[key] != "" {
			return nil, nil // the answer was lost
		}
		if len(values) >= maxExternals {
			return nil, fmt.Errorf("%d are tracked already", len(values))
		}
		text, err := json.Marshal(External{Kind: kind, Ref: ref, At: now})
		return map[string]string{key: string(text)}, err
	})
	if err != nil {
		return fmt.Errorf("pool: track %s %q: %w", kind, ref, err)
	}
	return nil
}

// cleanExternals cleans up what tests left outside of a pool that x holds. What fails stays noted.
func (s *Set) cleanExternals(ctx context.Context, x *lease.Held) error {
	now, err := s.ledger.ReadPool(ctx, x.Pool)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range slices.Backward(externals(now.Values(x.Pool, externalPrefix))) {
		err := fmt.Errorf("Spec.Cleanups has no such kind: the Spec of another program made it")
		if clean := s.spec.Cleanups[e.Kind]; clean != nil {
			err = protect(func() error { return clean(ctx, e.Ref) })
		}
		if err == nil {
			err = x.SetValues(ctx, externalPrefix, func(time.Time, map[string]string) (map[string]string, error) {
				return map[string]string{e.key: ""}, nil
			})
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("clean up %s %q: %w", e.Kind, e.Ref, err))
			continue
		}
		s.log.linef("pool %d: cleaned up %s %q", x.Pool, e.Kind, e.Ref)
	}
	if len(failed) > 0 {
		return &cleanupError{errors.Join(failed...)}
	}
	return nil
}
