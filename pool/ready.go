package pool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/sshx"
)

// A layer is what makeReady makes of a host.
type layer struct {
	name, snapshot string
	ready          ReadyState
	pool           int
	steps          []Step
	checks         []Check
	needs          []Need
	needBuilds     map[string]string
	print          fingerprint
	golden         string
	times          *stopwatch
}

// makeReady is the one place where a VM becomes ready: power on, log in, wait for what it
// needs, all steps, all checks, shut down from inside, snapshot with the record. The VM is off
// afterwards, unless ready means running. After a failure it is left as it is.
func (r *run) makeReady(ctx context.Context, st *stage, h *Host, l layer) (rec record, snap string, err error) {
	report := func(what string) { st.at(h.Name, what) }
	start := time.Now()
	h.use.Store(r.held.usage(l.pool))
	defer h.use.Store(nil)
	fail := func(err error) (record, string, error) {
		if ctx.Err() == nil && h.usable() == nil {
			// For people; the error itself is reported.
			_ = h.provider.Annotate(ctx, h.id, r.note("FAILED: "+firstLine(err), l.pool, l.snapshot))
		}
		return record{}, "", hostError(h, st.name, err)
	}
	if err := l.times.measure(ctx, h, events.Phase, "boot", func() error { return h.powerOn(ctx, report) }); err != nil {
		return fail(err)
	}
	if err := awaitNeeds(ctx, h, l.needs, report); err != nil {
		return fail(err)
	}
	if err := runSteps(ctx, h, l.steps, report, l.times); err != nil {
		return fail(err)
	}
	if err := h.unplug(ctx); err != nil {
		return fail(err)
	}
	report("checks")
	var results []CheckResult
	err = l.times.measure(ctx, h, events.Phase, "checks", func() (err error) {
		results, err = runChecks(ctx, h, l.checks)
		return err
	})
	r.mu.Lock()
	r.checks = append(r.checks, results...)
	r.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	if err := h.noteFacts(ctx, r.spec.Facts); err != nil {
		return fail(err)
	}
	var keys []string
	err = h.connected(ctx, func(ctx context.Context, c *sshx.Client) error {
		all, err := c.HostKeys(ctx)
		if err == nil {
			keys, err = pins(all)
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	take, boot := h.provider.Snapshot, ""
	if l.ready == ReadyRunning {
		take = h.provider.SnapshotRunning
		if boot, err = h.bootID(ctx); err != nil {
			return fail(err)
		}
		h.drop() // the snapshot is of a machine without connections
	} else if err := l.times.measure(ctx, h, events.Phase, "shutdown", func() error { return r.shutDown(ctx, report, h) }); err != nil {
		return fail(err)
	}
	report("snapshot")
	total := time.Since(start) + l.times.of(tookClone)
	rec = record{
		Set: r.spec.Name, VM: h.Name, Layer: l.name, Pool: l.pool, Fingerprint: l.print.sum(), Template: l.print.template(),
		Build: newBuild(), Golden: l.golden, Needs: l.needBuilds, Boot: boot, At: seconds{time.Now().UTC().Truncate(time.Second)}, HostKeys: keys,
	}
	if err := h.usable(); err != nil {
		return fail(err)
	}
	err = h.gates.change(ctx, func() error {
		return timed(ctx, h, events.Phase, "snapshot", func() (err error) {
			snap, err = take(ctx, h.id, l.snapshot, rec.encode())
			return err
		})
	})
	if err != nil {
		if l.ready == ReadyRunning && ctx.Err() == nil {
			err = fmt.Errorf("%w; if the VM cannot be snapshotted with its memory, set Role.Ready to ReadyOff", err)
		}
		return fail(err)
	}
	r.held.note(l.pool, account{
		Build: rec.Build, Parts: l.print, By: r.by, Checks: digest(results),
		Took: append(l.times.took, took{tookAll, total.Round(time.Millisecond).Seconds()}),
	}.values(accountName(rec)))
	h.pin(keys)
	h.snapshotBoot = boot
	return rec, snap, nil
}

// shutDown shuts the host down from inside, and says if that needed force, and why.
func (r *run) shutDown(ctx context.Context, report func(string), h *Host) error {
	report("shutting down")
	var mu sync.Mutex
	why := fmt.Sprintf("not off within Limits.Shutdown (%s)", h.limits.Shutdown)
	forced, err := h.shutDown(WithNotices(ctx, func(text string) {
		mu.Lock()
		defer mu.Unlock()
		why = text
		report(text)
	}))
	if forced {
		mu.Lock()
		defer mu.Unlock()
		r.log.linef("%s: did not shut down from inside, its power was cut: %s", h.Name, why)
	}
	return err
}
