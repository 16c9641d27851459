package pool

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/eventlog"
	"github.com/poolready/poolready/pool/internal/lease"
)

// A CallCounter is a Provider that counts its calls to the hypervisor, for the record of a run.
type CallCounter interface {
	// CallCounts returns how many calls of each method the Provider has made so far.
	CallCounts() map[string]int
}

// eventsDir is the directory that the events of a Spec's set go to, or "".
func (s Spec) eventsDir() string {
	dir := os.Getenv("POOLREADY_DIR")
	switch {
	case s.Events != "":
		return s.Events
	case dir != "":
		return filepath.Join(dir, "events")
	case testFlag("artifacts") == "true":
		return filepath.Join(testFlag("outputdir"), "_artifacts", "poolready-events")
	}
	return ""
}

// record makes p write events as the Spec, with its defaults filled in, wants. That it cannot is no
// reason to fail.
func (p *progress) record(s Spec) {
	dir := s.eventsDir()
	if dir == "" {
		return
	}
	o := eventlog.Options{Set: s.Name, Redact: s.SSH.Redact}
	if c, ok := s.Provider.(CallCounter); ok {
		o.Calls = c.CallCounts
	}
	var err error
	if p.events, err = eventlog.Open(dir, o); err != nil {
		p.sayf("events are not recorded: %v", err)
	}
}

// close ends the record.
func (p *progress) close() {
	p.closing.Do(func() {
		p.events.WriteCalls()
		if err := p.events.Err(); err != nil {
			p.sayf("events: the record is not whole: %v", err)
		}
		p.events.Close()
	})
}

// failure records why something failed.
func (p *progress) failure(e events.Event, err error) {
	if p.events == nil || err == nil {
		return
	}
	e.Kind, e.Infrastructure = events.Failure, errors.Is(err, ErrInfrastructure)
	if he, ok := errors.AsType[*HostError](err); ok {
		e.Host, e.Pool, e.Stage, e.Name, e.Evidence = he.Host, he.Pool, he.Stage, he.Step, he.Evidence
		err = he.Err
	}
	e.Error = err.Error()
	p.events.Write(e)
}

// leased records a lease, until it ends.
func (p *progress) leased(x *lease.Held, purpose string) {
	if p.events == nil {
		return
	}
	span := p.events.Begin(events.Event{Kind: events.Lease, Pool: x.Pool, Name: purpose})
	x.AfterEnd(func() {
		err := x.Check()
		if errors.Is(err, ErrReleased) {
			err = nil
		}
		span.End(err)
	})
}

// recordPlan records what a setup does.
func (p *progress) recordPlan(plan *Plan) {
	if p.events == nil {
		return
	}
	e := events.Event{Kind: events.Plan, Expect: plan.Expect.Seconds()}
	for _, i := range plan.Items {
		e.Items = append(e.Items, events.Item{VM: i.VM, Role: i.Role, Pool: i.Pool, Action: string(i.Action), Reason: i.Reason})
	}
	p.events.Write(e)
}

type scopeKey struct{}

// A scope is what the events of a context have in common.
type scope struct {
	log *eventlog.Log
	e   events.Event
}

// within returns a context whose events go to the record of p, with the fields of e.
func (p *progress) within(ctx context.Context, e events.Event) context.Context {
	if p.events == nil {
		return ctx
	}
	return context.WithValue(ctx, scopeKey{}, &scope{p.events, e})
}

// event is one of a context, of a host, which may be nil. It is false if nothing is recorded.
func event(ctx context.Context, h *Host, kind events.Kind, name string) (*eventlog.Log, events.Event, bool) {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok {
		return nil, events.Event{}, false
	}
	e := s.e
	e.Kind, e.Name = kind, name
	if h != nil {
		e.Host, e.Role, e.Pool = h.Name, h.Role, h.Pool
	}
	return s.log, e, true
}

// timed records how long f took, as a span of the context, and returns its error.
func timed(ctx context.Context, h *Host, kind events.Kind, name string, f func() error) error {
	log, e, ok := event(ctx, h, kind, name)
	if !ok {
		return f()
	}
	span := log.Begin(e)
	err := f()
	span.End(err)
	return err
}

// recordCheck records the result of a check.
func recordCheck(ctx context.Context, h *Host, r CheckResult) {
	log, e, ok := event(ctx, h, events.Check, r.Name)
	if !ok {
		return
	}
	e.Want, e.Got = &r.Want, &r.Got
	e.Start, e.Seconds = r.began, r.Took.Seconds()
	if r.Err != nil {
		e.Error = cmp.Or(r.Err.Error(), "failed")
	}
	log.Write(e)
}
