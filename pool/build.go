package pool

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// A build carries out a plan. Its stages are barriers: each ends before the next begins.
type build struct {
	spec Spec
	work *Work
	inv  *Inventory
	log  *progress
	by   string // who builds

	ledger  *ledger
	only    int                     // the one pool to build, or 0
	books   books                   // the ledger as of work
	lost    context.CancelCauseFunc // called when a lease is
	unsure  bool                    // the preflight failed while another process built
	holding sync.Mutex              // held while a pool is taken

	mu      sync.Mutex // guards what follows
	goldens map[*goldenPlan]golden
	hosts   map[*hostPlan]*Host
	records map[*hostPlan]record
	snaps   map[*hostPlan]string
	took    map[*hostPlan]time.Duration
	times   map[*hostPlan]*stopwatch
	checks  []CheckResult
	failed  map[int][]error // by pool; 0 is golden
	stirred map[int]bool    // pools of which a reused host had to be reverted
	leases  map[int]*lease  // what we hold: pools, and as 0 the claim
	covered map[int]bool    // newborn pools that we hold with the claim
	// after is what is made of their entries when it is given back.
	after  map[int]func(now time.Time, e *entry)
	waited map[string]bool // shards that somebody else had since the plan was made
}

func newBuild(s Spec) *build {
	return &build{
		spec: s, by: whoami(), ledger: newLedger(s), leases: map[int]*lease{}, covered: map[int]bool{}, after: map[int]func(time.Time, *entry){}, waited: map[string]bool{}, log: &progress{logf: s.Logf, start: time.Now()},
		goldens: map[*goldenPlan]golden{}, hosts: map[*hostPlan]*Host{}, records: map[*hostPlan]record{}, snaps: map[*hostPlan]string{},
		took: map[*hostPlan]time.Duration{}, times: map[*hostPlan]*stopwatch{}, failed: map[int][]error{}, stirred: map[int]bool{},
	}
}

func (b *build) fail(pool int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed[pool] = append(b.failed[pool], err)
}

func (b *build) spoiled(pool int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.failed[pool]) > 0
}

// forAll calls f for all items, at most limit at once, and returns when every call has.
func forAll[E any](items []E, limit int, f func(E)) {
	var g errgroup.Group
	g.SetLimit(limit)
	for _, e := range items {
		g.Go(func() error { f(e); return nil })
	}
	_ = g.Wait() // there are no errors
}

// batch runs f for the hosts of a role, at most limit at once, and ends when all have ended.
func (b *build) batch(ctx context.Context, name string, role, limit int, which func(*hostPlan) bool,
	f func(context.Context, *stage, *hostPlan) (what string, err error),
) {
	var todo []*hostPlan
	for _, h := range b.work.hosts[role] {
		if which(h) && !h.idle && !b.spoiled(h.Pool) && b.haveGoldens(h.Pool) && (b.only == 0 || h.Pool == b.only) {
			todo = append(todo, h)
		}
	}
	if len(todo) == 0 || ctx.Err() != nil {
		return
	}
	st := b.log.stage(name, len(todo))
	defer st.end()
	forAll(todo, limit, func(h *hostPlan) {
		start := time.Now()
		what, err := f(ctx, st, h)
		took := time.Since(start)
		st.finished(h.VM, what, took, err)
		b.mu.Lock()
		b.took[h] += took
		b.mu.Unlock()
		if err != nil {
			b.fail(h.Pool, err)
		}
	})
}

// haveGoldens tells whether the goldens that a pool's hosts hang on are ready. They are not needed
// for a host that is reused, but a plan reuses none whose golden is not.
func (b *build) haveGoldens(pool int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(b.work.poolHosts(pool), func(h *hostPlan) bool {
		_, ok := b.goldens[h.golden]
		return !ok
	})
}

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
func (b *build) makeReady(ctx context.Context, st *stage, h *Host, l layer) (rec record, snap string, err error) {
	report := func(what string) { st.at(h.Name, what) }
	start := time.Now()
	h.use.Store(b.usage(l.pool))
	defer h.use.Store(nil)
	fail := func(err error) (record, string, error) {
		if ctx.Err() == nil && h.usable() == nil {
			// For people; the error itself is reported.
			_ = h.provider.Annotate(ctx, h.id, b.note("FAILED: "+firstLine(err), l.pool, l.snapshot))
		}
		return record{}, "", hostError(h, st.name, err)
	}
	if err := l.times.measure("boot", func() error { return h.raise(ctx, report) }); err != nil {
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
	err = l.times.measure("checks", func() (err error) {
		results, err = runChecks(ctx, h, l.checks)
		return err
	})
	b.mu.Lock()
	b.checks = append(b.checks, results...)
	b.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	if err := h.noteFacts(ctx, b.spec.Facts); err != nil {
		return fail(err)
	}
	c, err := h.SSH(ctx)
	if err != nil {
		return fail(err)
	}
	keys, err := c.HostKeys(ctx)
	if err != nil {
		return fail(err)
	}
	take, boot := h.provider.Snapshot, ""
	if l.ready == Running {
		take = h.provider.SnapshotRunning
		if boot, err = h.bootID(ctx); err != nil {
			return fail(err)
		}
		h.drop() // what is in the snapshot is a machine that nobody is connected to
	} else if err := l.times.measure("shutdown", func() error { return b.lower(ctx, report, h) }); err != nil {
		return fail(err)
	}
	report("snapshot")
	all := time.Since(start) + l.times.of(tookClone)
	rec = record{
		Set: b.spec.Name, VM: h.Name, Layer: l.name, Pool: l.pool, Fingerprint: l.print.sum(), Parts: l.print,
		Build: rand.Text(), Golden: l.golden, Needs: l.needBuilds, Boot: boot, At: time.Now().UTC().Truncate(time.Second), By: b.by,
		Took: append(l.times.took, took{tookAll, all.Round(time.Millisecond).Seconds()}), HostKeys: keys, Checks: digest(results),
	}
	if err := h.usable(); err != nil {
		return fail(err)
	}
	if snap, err = take(ctx, h.id, l.snapshot, rec.encode()); err != nil {
		if l.ready == Running && ctx.Err() == nil {
			err = fmt.Errorf("%w; if the VM cannot be snapshotted with its memory, set Role.Ready to Off", err)
		}
		return fail(err)
	}
	h.pin(keys)
	h.frozen = boot
	return rec, snap, nil
}

// lower shuts the host down from inside, and says if that needed force.
func (b *build) lower(ctx context.Context, report func(string), h *Host) error {
	report("shutting down")
	forced, err := h.lower(ctx)
	if forced {
		b.log.linef("%s: did not shut down within %s: its power was cut", h.Name, h.limits.Shutdown)
	}
	return err
}

// note is for people. It is written once, with the clone, and again only after a failure: whether
// the VM is ready they see by its snapshot, whose description says more.
func (b *build) note(state string, pool int, ready string) string {
	of := "golden"
	if pool > 0 {
		of = fmt.Sprintf("pool %d", pool)
	}
	return fmt.Sprintf("poolready: %s of set %s: %s, %s, by %s; ready when it has the snapshot %s", of, b.spec.Name, state, stamp(time.Now()), b.by, ready)
}

func whoami() string {
	name := "?"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s@%s pid %d %s", name, host, os.Getpid(), strings.TrimSuffix(filepath.Base(os.Args[0]), ".test"))
}
