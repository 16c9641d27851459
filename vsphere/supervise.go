package vsphere

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/poolready/poolready/pool"
)

// errBeingMade says that an object has its name already and cannot be examined yet.
var errBeingMade = errors.New("it is still being made")

// errQuestion ends an operation on a VM about which vCenter asks a question: it goes on when a person
// has answered, which no program may do in their place.
var errQuestion = errors.New("vCenter waits for an answer to a question")

// boundError ends an operation that has taken longer than it may.
type boundError struct{ bound time.Duration }

func (e *boundError) Error() string {
	return fmt.Sprintf("it has not ended within %s", e.bound)
}

// A watch bounds one operation, and reports to its caller what it waits for.
type watch struct {
	p    *Provider
	op   operation
	ctx  context.Context // of the operation
	stop func()
}

// supervise begins the watch over op. The caller stops it.
func (p *Provider) supervise(ctx context.Context, op operation) *watch {
	bound := op.bound
	if bound == 0 {
		bound = p.cfg.taskTimeout()
	}
	bounded, expire := context.WithTimeoutCause(ctx, bound, &boundError{bound})
	bounded, cancel := context.WithCancelCause(bounded)
	w := &watch{p: p, op: op, ctx: bounded}
	var look sync.WaitGroup
	look.Go(func() { w.look(cancel) }) //nolint:contextcheck // it has w.ctx, which is derived from ctx
	w.stop = func() {
		cancel(nil)
		expire()
		look.Wait()
	}
	return w
}

// look asks vCenter at intervals what delays the operation, and ends it if that is a question.
func (w *watch) look(end context.CancelCauseFunc) {
	start, looks := time.Now(), 0
	for wait := w.p.intervals.look; sleep(w.ctx, wait); wait = 3 * w.p.intervals.look {
		looks++
		what := fmt.Sprintf("%s %s: waiting for %s", w.op.name, w.op.object, brief(time.Since(start)))
		if silent := w.p.s.health.String(); silent != "" {
			pool.Notice(w.ctx, "%s: %s", what, silent)
			continue
		}
		if w.op.entity.Type != "VirtualMachine" || looks > 2 && looks%3 != 2 { // what lasts for minutes costs a call less often
			pool.Notice(w.ctx, "%s", what)
			continue
		}
		ctx, cancel := context.WithTimeout(w.ctx, 2*w.p.intervals.look)
		d, err := w.p.diagnose(ctx, w.op.entity)
		cancel()
		switch {
		case w.ctx.Err() != nil:
			return
		case err != nil:
			pool.Notice(w.ctx, "%s: %v", what, err)
		case d.Question != "":
			end(fmt.Errorf("%w: %s", errQuestion, d.Question))
			return
		default:
			pool.Notice(w.ctx, "%s: %s", what, d)
		}
	}
}

// explain adds to the error of an operation that timed out what delayed it.
func (w *watch) explain(outer context.Context, err error) error {
	switch {
	case w.ctx.Err() == nil, errors.Is(err, errQuestion), errors.Is(context.Cause(w.ctx), errQuestion): //nolint:contextcheck // it is derived from outer
		return err
	case outer.Err() != nil && !errors.Is(outer.Err(), context.DeadlineExceeded):
		return err // cancelled: the caller has gone
	}
	return w.p.blame(outer, w.op.entity.Value, w.op.entity.Type == "VirtualMachine", err)
}

// blame adds to the error of a wait for a VM what vCenter then says of the VM. It takes a moment.
func (p *Provider) blame(ctx context.Context, id string, vm bool, err error) error {
	if s := p.s.health.String(); s != "" {
		return &silentError{err: err, msg: s}
	}
	if !vm {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.intervals.last)
	defer cancel()
	d, lookErr := p.diagnose(ctx, vmRef(id))
	if lookErr != nil {
		return &silentError{err: err, msg: fmt.Sprintf("vCenter does not say what keeps it: %v", lookErr)}
	}
	return &stuckError{err: err, now: d}
}

// stuckError is the error of a wait, with what delayed it.
type stuckError struct {
	err error
	now pool.Diagnosis
}

func (e *stuckError) Error() string { return e.err.Error() + "; " + e.now.String() }
func (e *stuckError) Unwrap() error { return e.err }
