package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
)

// Rebuild rebuilds what is ready, and builds what is not, as Open does. Only pools that the Spec
// is about are rebuilt, and golden only if that is all of them. Nothing is touched if anybody holds
// or keeps one of these pools: the error says who.
func Rebuild(ctx context.Context, spec Spec, o RebuildOptions) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	fail := func(err error) error {
		return fmt.Errorf("pool: rebuild of set %q: %w; nothing was touched", s.Name, err)
	}
	if err := s.rebuildable(o.Layer); err != nil {
		return fail(err)
	}
	now, err := observe(ctx, s, newLedger(s))
	if err != nil {
		return fail(err)
	}
	p, err := now.plan(s, &o)
	if err == nil {
		err = p.free()
	}
	if err != nil {
		return fail(err)
	}
	set, err := open(ctx, spec, time.Time{}, &o, nil)
	if err != nil {
		return fmt.Errorf("pool: rebuild: %w", err)
	}
	return set.Close()
}

func (s Spec) rebuildable(layer string) error {
	names := []string{`"golden"`}
	for _, r := range s.Roles {
		if layer == r.Name {
			return nil
		}
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	switch {
	case layer == "":
		return nil
	case layer != "golden":
		return fmt.Errorf("unknown layer %q; want one of %s", layer, strings.Join(names, ", "))
	case len(s.Only) > 0:
		return errors.New("a new golden rebuilds all pools, not only some")
	}
	return nil
}

// free reports who holds the pools that the plan is about.
func (p *Plan) free() error {
	var busy []error
	for _, q := range p.pools {
		if q.taken != nil {
			busy = append(busy, fmt.Errorf("pool %d is %w", q.number, q.taken))
		}
	}
	return errors.Join(busy...)
}

// repair rebuilds a pool, in the background, that could not be made clean.
func (s *Set) repair(n int) {
	s.mu.Lock()
	if s.repairing[n] {
		s.mu.Unlock()
		return
	}
	s.repairing[n] = true
	s.mu.Unlock()
	s.inBackground(func() {
		defer func() {
			s.mu.Lock()
			delete(s.repairing, n)
			s.mu.Unlock()
			s.queue.free()
		}()
		if err := s.rebuild(s.ctx, n); err != nil && s.ctx.Err() == nil {
			s.log.linef("pool %d: not rebuilt: %s", n, indent(err.Error(), "    "))
		}
	})
}

// rebuild rebuilds one pool, if the ledger still says that it is broken.
func (s *Set) rebuild(ctx context.Context, n int) (err error) {
	span := s.log.events.Begin(events.Event{Kind: events.Setup, Name: fmt.Sprintf("rebuild pool %d", n), Pool: n})
	defer func() { span.End(err) }()
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	r := newRun(s.spec.only(n), nil, s.log, lost)
	ctx = notices(ctx, r.log.notice)
	defer r.held.releaseAll(ctx)
	if err := r.observe(ctx); err != nil {
		return err
	}
	for _, h := range r.plan.pool(n).hosts {
		if h.Action == ActionRefuse {
			s.exclude(n, fmt.Errorf("%s: %s", h.VM, h.Reason))
			return nil
		}
	}
	if !r.plan.pool(n).works() {
		return nil // another process has rebuilt it
	}
	if err := r.hold(ctx, time.Time{}); err != nil {
		return s.hopeless(n, err)
	}
	if !r.held.has(n) {
		return errors.Join(r.failures()...)
	}
	r.stages(ctx)
	err = errors.Join(r.failures()...)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		p := r.pool(s, r.plan.pool(n))
		s.setPool(p)
		now, err := r.ledger.ReadClock(ctx)
		r.releaseReady(ctx, s, p, now, err)
		return nil
	}
	r.closeHosts()
	if ctx.Err() == nil && !errors.Is(err, ErrLeaseLost) { // else what failed was us
		_ = r.held.release(ctx, n, nil, lease.BuildFailed(err)) // it has been told
	}
	return s.hopeless(n, err)
}

// hopeless excludes a pool whose rebuild failed in a way in which the next one would, too, until a
// person has done something about it.
func (s *Set) hopeless(n int, err error) error {
	if errors.Is(err, ErrHasClones) || errors.Is(err, ErrRecord) {
		s.exclude(n, err)
	}
	return err
}

// only is the Spec about one of its pools.
func (s Spec) only(n int) Spec {
	s.Only, s.MinPools = []int{n}, 1
	return s
}
