package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
)

// Ensure makes every pool of spec ready, reusing what is, and returns the set. It is Open with
// t's context and log: it fails t if Open fails, and closes the set in t's cleanup.
//
// When the process was started for an operation (see Main), Ensure does that instead, and does not
// return.
//
// On a terminal, Ensure shows in addition a line for each host that is worked on: what it is at, since when,
// and how long that is expected to take, by earlier builds. That is when Ensure is called in Main's setup, or in a test
// without -v, and the test binary has the terminal: when it is run by itself, or by go test in the package's own
// directory without naming a package. POOLREADY_PROGRESS=tty shows the lines on the terminal of the process
// also where go test reads what is printed; POOLREADY_PROGRESS=plain shows none. There are no colors.
//
// With go test -json, in Main's setup, the work is shown as tests: "TestMain/lab/ready_con/con2" for a host
// in a stage, "TestMain/lab/ready_con" for a stage. A host that failed is one that failed, with its error,
// which the one of "TestMain" does not repeat. So gotestsum, and go-junit-report -parser gojson, show them.
//
// go test kills a test binary when its -timeout is over, setup included. When the plan cannot
// be done by then, Ensure fails before it touches anything, and names the -timeout to set.
func Ensure(t T, spec Spec) *Set {
	t.Helper()
	if o := operating.Load(); o != nil {
		return o.ensure(spec)
	}
	if spec.Logf == nil {
		spec.Logf = logfAt(t) // of the line that calls Ensure
	}
	end, _ := setupDeadline(t)
	ctx, stop := untilInterrupted(t.Context())
	defer stop()
	v := newView(t, spec.Name)
	s, err := open(ctx, spec, end, nil, v)
	if v != nil {
		v.close()
	}
	if c, ok := v.(*cases); ok {
		err = c.told(err)
	}
	if err = infrastructure(err); err != nil {
		fatal(t, err, "pool: %w", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Open makes every pool of spec ready and returns the set. What is ready already is reused:
// then Open costs one reading of the inventory and one SSH login per host.
//
// One bad VM fails its own pool only: the others are made ready all the same, so that the
// next call finds them, and the error, a *NotReadyError, holds a *HostError for each that
// failed. It is nil if Spec.MinPools are ready. VMs that failed are left running, to be looked at;
// the next Open rebuilds them.
//
// When ctx ends, so does Open, soon; what is ready by then stays ready.
func Open(ctx context.Context, spec Spec) (*Set, error) {
	s, err := open(ctx, spec, time.Time{}, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("pool: %w", infrastructure(err))
	}
	return s, nil
}

// open is the story of a set: observe, plan, hold, golden, clone role by role, make ready role by
// role. end is when the process will be killed, or zero. force is what is rebuilt though it is
// ready, or nil. v shows the work, or is nil.
func open(ctx context.Context, spec Spec, end time.Time, force *RebuildOptions, v view) (_ *Set, err error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	r := newRun(spec.withDefaults(), force, nil, lost)
	r.log.view = v
	span := r.log.events.Begin(events.Event{Kind: events.Setup, Name: "set up"})
	defer func() {
		r.log.view = nil
		if span.End(err); err != nil {
			r.log.close()
		}
	}()
	ctx = WithNotices(ctx, r.log.notice)
	defer r.held.releaseAll(ctx)
	fail := func(err error) (*Set, error) { return nil, fmt.Errorf("set %q: %w", spec.Name, err) }
	err = r.observe(ctx)
	r.show("")
	if err != nil {
		return fail(err)
	}
	if err := r.hold(ctx, end); err != nil {
		if errors.As(err, new(*NotReadyError)) {
			return nil, err // which names the set
		}
		return fail(err)
	}
	r.stages(ctx)
	if ctx.Err() != nil {
		r.closeHosts()
		return fail(fmt.Errorf("interrupted: %w; what is ready stays ready, the rest is rebuilt by the next run", context.Cause(ctx)))
	}
	return r.finish(ctx)
}

// finish makes the Set of what was built, or the error of what was not.
func (r *run) finish(ctx context.Context) (*Set, error) {
	s := r.newSet()
	for _, q := range r.plan.pools {
		for _, h := range q.hosts {
			s.status = append(s.status, r.status(h))
		}
		p := r.pool(s, q)
		if !r.hasFailed(q.number) && len(p.hosts) == len(r.spec.Roles) {
			s.pools = append(s.pools, p)
		} else {
			p.drop()
		}
	}
	if r.held.any() {
		now, err := r.ledger.ReadClock(ctx)
		forAll(s.pools, len(s.pools), func(p *Pool) { r.releaseReady(ctx, s, p, now, err) })
		r.releaseUnrepaired(ctx)
	}
	if len(s.pools) < r.spec.MinPools {
		s.Close()
		return nil, r.notReady(len(s.pools)) // which says it all
	}
	r.log.sayf("set %q: %d of %d pools ready\n%s", s.Name, len(s.pools), len(r.plan.pools), s.Table())
	for _, err := range r.failures() {
		r.log.linef("not ready, and not needed for MinPools %d: %s", r.spec.MinPools, indent(err.Error(), "    "))
	}
	return s, nil
}

// releaseUnrepaired releases the pools with a host that was ready before, and could not be powered on or
// reset: the next run rebuilds it.
func (r *run) releaseUnrepaired(ctx context.Context) {
	for _, q := range r.plan.pools {
		i := slices.IndexFunc(q.hosts, func(h *hostPlan) bool { return !h.builds() && r.failureOf(h) != nil })
		if i >= 0 && r.held.has(q.number) {
			_ = r.held.release(ctx, q.number, nil, lease.ResetFailed(r.failureOf(q.hosts[i]), true)) // it has been told
		}
	}
}

// releaseReady releases a pool that has become ready: clean, if all of it was built now and is
// proved to be. now is a reading of the ledger, for its clock, or err why there is none.
func (r *run) releaseReady(ctx context.Context, s *Set, p *Pool, now *lease.Snapshot, err error) {
	if !r.held.has(p.Number) {
		return
	}
	var found *lease.Proof
	var boots []string
	if !slices.ContainsFunc(r.plan.pool(p.Number).hosts, func(h *hostPlan) bool { return !h.builds() }) {
		if err == nil {
			found, boots, err = s.prove(ctx, p, now, nil)
		}
		if err != nil {
			r.log.linef("pool %d: it is reset before a test gets it: %s", p.Number, firstLine(err))
		}
		s.sawBoots(p.Number, boots)
	}
	_ = r.held.release(ctx, p.Number, now, lease.Built(p.build, found, boots)) // it has been told
}

// failureOf returns how a host failed, or nil.
func (r *run) failureOf(h *hostPlan) *HostError {
	for _, err := range r.failed[h.Pool] {
		if he, ok := errors.AsType[*HostError](err); ok && he.Host == h.VM {
			return he
		}
	}
	return nil
}

// status is one host as the run left it.
func (r *run) status(h *hostPlan) HostStatus {
	x := r.host(h)
	st := HostStatus{Host: h.VM, Role: h.Role, Pool: h.Pool, Ready: true, Action: h.Action, Reason: h.Reason, Took: x.took}
	if x.host != nil && x.host.Addr().IsValid() {
		st.Addr = x.host.Addr().String()
	}
	if err := r.failureOf(h); err != nil {
		st.Ready, st.Reason = false, err.Stage+": "+cmp.Or(err.Step, firstLine(err.Err))
		return st
	}
	if x.snap == "" {
		st.Ready, st.Reason = false, "not done: its pool or golden failed before"
	}
	return st
}

func (r *run) closeHosts() {
	for _, x := range r.hosts {
		if x.host != nil {
			x.host.drop()
		}
	}
}

// pool is what was built, or found, of one pool.
func (r *run) pool(s *Set, q *poolPlan) *Pool {
	p := &Pool{Number: q.number, set: s, roles: r.spec.Roles}
	for _, h := range q.hosts {
		if x := r.host(h); x.host != nil {
			p.hosts = append(p.hosts, x.host)
			p.snaps = append(p.snaps, x.snap)
			p.builds = append(p.builds, x.rec.Build)
		}
	}
	p.build = hash(p.builds...)
	return p
}

// stages carries out the plan. Stages are barriers: each ends before the next begins.
func (r *run) stages(ctx context.Context) {
	r.makeGoldens(ctx)
	for i := range r.plan.roles {
		r.cloneRole(ctx, i)
	}
	for i := range r.plan.roles {
		r.readyRole(ctx, i)
	}
	r.removeOldGoldens(ctx)
}
