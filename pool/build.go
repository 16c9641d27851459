package pool

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
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
	holding sync.Mutex              // held while a pool is taken

	mu      sync.Mutex // guards what follows
	goldens map[*goldenPlan]golden
	hosts   map[*hostPlan]*Host
	records map[*hostPlan]record
	snaps   map[*hostPlan]string
	took    map[*hostPlan]time.Duration
	times   map[*hostPlan]*stopwatch
	checks  []CheckResult
	failed  map[int][]error                       // by pool; 0 is golden
	stirred map[int]bool                          // pools of which a reused host had to be reverted
	leases  map[int]*lease                        // what we hold: pools, and as 0 the claim
	covered map[int]bool                          // newborn pools that we hold with the claim
	after   map[int]func(now time.Time, e *entry) // what is made of their entries when it is given back
	waited  map[string]bool                       // shards that somebody else had since the plan was made
}

// golden is a ready golden.
type golden struct {
	id, snapshot, build string
	keys                []string // host keys, that its clones have too
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

// ---- golden

// makeGoldens builds the goldens that are not ready, at once.
func (b *build) makeGoldens(ctx context.Context) {
	var todo []*goldenPlan
	for _, g := range b.work.goldens {
		if g.Action == Reuse {
			b.goldens[g] = golden{g.info.ID, g.snap, g.rec.Build, g.rec.HostKeys}
		} else {
			todo = append(todo, g)
		}
	}
	if len(todo) == 0 {
		return
	}
	st := b.log.stage("golden", len(todo))
	defer st.end()
	forAll(todo, b.spec.Limits.Clones, func(g *goldenPlan) {
		start := time.Now()
		ready, err := b.makeGolden(ctx, st, g)
		st.finished(g.VM, "is "+g.recipe.Snapshot, time.Since(start), err)
		if err != nil {
			b.fail(0, err)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.goldens[g] = ready
	})
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

func (b *build) makeGolden(ctx context.Context, st *stage, g *goldenPlan) (golden, error) {
	times := &stopwatch{}
	id := g.info.ID
	if g.Action != Finish {
		st.at(g.VM, "cloning")
		err := times.measure(tookClone, func() (err error) {
			id, err = b.spec.Provider.Clone(ctx, b.goldenClone(g))
			return err
		})
		if err != nil {
			return golden{}, &HostError{Host: g.VM, Stage: st.name, Err: err}
		}
	}
	h := newHost(b.spec, "golden", 0, g.vm, id, nil)
	defer h.drop()
	rec, snap, err := b.makeReady(ctx, st, h, layer{
		name: g.layer, snapshot: g.recipe.Snapshot, steps: g.recipe.Steps, checks: g.recipe.Checks,
		print: g.print, times: times,
	})
	if err != nil {
		return golden{}, err
	}
	return golden{id, snap, rec.Build, rec.HostKeys}, nil
}

func (b *build) goldenClone(g *goldenPlan) CloneSpec {
	return CloneSpec{
		Set: b.spec.Name, Source: g.recipe.Template, Template: true, VM: g.vm,
		Owner: owner{b.spec.Name, g.vm.Name, g.layer, g.from}.String(),
		Note:  b.note("cloned", 0, g.recipe.Snapshot),
	}
}

// ---- roles

// cloneRole clones the VMs of one role, all that the plan builds and whose pool is not spoiled.
func (b *build) cloneRole(ctx context.Context, role int) {
	b.batch(ctx, "clone "+b.spec.Roles[role].Name, role, b.spec.Limits.Clones, (*hostPlan).builds, b.cloneHost)
}

// readyRole makes the VMs of one role ready.
func (b *build) readyRole(ctx context.Context, role int) {
	b.batch(ctx, "ready "+b.spec.Roles[role].Name, role, b.spec.Limits.Hosts, func(*hostPlan) bool { return true }, b.readyHost)
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

// haveGoldens tells whether the goldens that a pool's hosts hang on are ready. They are not needed for a host
// that is reused, but a plan reuses none whose golden is not.
func (b *build) haveGoldens(pool int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.ContainsFunc(b.work.poolHosts(pool), func(h *hostPlan) bool {
		_, ok := b.goldens[h.golden]
		return !ok
	})
}

func (b *build) roleClone(h *hostPlan, g golden) CloneSpec {
	return CloneSpec{
		Set: b.spec.Name, Source: g.id, Snapshot: g.snapshot, VM: h.vm,
		Owner: owner{b.spec.Name, h.vm.Name, h.role.Name, or(g.build, "-")}.String(),
		Note:  b.note("cloned", h.Pool, h.role.Snapshot),
	}
}

// cloneHost removes what is in the VM's place, and clones it.
func (b *build) cloneHost(ctx context.Context, st *stage, h *hostPlan) (string, error) {
	fail := func(err error) (string, error) {
		return "", &HostError{Host: h.VM, Pool: h.Pool, Stage: st.name, Err: err}
	}
	p := b.spec.Provider
	if h.Action == Rebuild {
		if b.inv.Incomplete != "" {
			return fail(fmt.Errorf("not removing the VM, since the inventory was read incompletely: %s", b.inv.Incomplete))
		}
		st.at(h.VM, "removing what is there")
		if err := b.clear(ctx, h); err != nil {
			return fail(err)
		}
	}
	st.at(h.VM, "cloning")
	times := &stopwatch{}
	var id string
	err := times.measure(tookClone, func() (err error) {
		id, err = p.Clone(ctx, b.roleClone(h, b.goldens[h.golden]))
		return err
	})
	if err != nil {
		return fail(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.times[h] = times
	b.hosts[h] = newHost(b.spec, h.role.Name, h.Pool, h.vm, id, b.goldens[h.golden].keys)
	return "cloned", nil
}

// clear destroys the VM that is in h's place, or renames it if it carries what is not ours.
func (b *build) clear(ctx context.Context, h *hostPlan) error {
	if err := b.confirm(ctx, h.Pool); err != nil {
		return err
	}
	if !h.aside {
		return b.spec.Provider.Destroy(ctx, h.info.ID)
	}
	if h.info.On {
		if _, err := b.spec.Provider.ShutDown(ctx, h.info.ID, b.spec.Limits.Shutdown); err != nil {
			return err
		}
	}
	kept := fmt.Sprintf("%s-kept-%s", h.VM, time.Now().Format("20060102-150405"))
	b.log.linef("%s: kept as %q: it has snapshots that poolready did not take; remove it when you no longer need it", h.VM, kept)
	return b.spec.Provider.Rename(ctx, h.info.ID, kept)
}

// readyHost brings one VM of a role to its ready state, from wherever the plan found it.
func (b *build) readyHost(ctx context.Context, st *stage, h *hostPlan) (string, error) {
	if h.builds() {
		return b.buildHost(ctx, st, h)
	}
	host := h.host(b.spec)
	b.mu.Lock()
	if b.waited[poolShard(h.Pool)] {
		host.addr = netip.Addr{}
	}
	b.mu.Unlock()
	b.join(h, host)
	report := func(what string) { st.at(h.VM, what) }
	fail := func(err error) (string, error) {
		return "", hostError(host, st.name, err)
	}
	b.mu.Lock()
	b.records[h], b.snaps[h] = h.rec, h.snap
	stirred, held := b.stirred[h.Pool], b.leases[h.Pool] != nil || b.covered[h.Pool]
	b.mu.Unlock()
	if b.work.taken[h.Pool] != "" && !held {
		return "is in use", nil
	}
	if h.Action == PowerOn || h.Action == Reset {
		if taken, err := b.hold(ctx, h.Pool); err != nil {
			return fail(err)
		} else if taken != "" {
			return "is in use", nil
		}
	}
	switch {
	case stirred:
		b.log.linef("%s: reset: another host of pool %d had to be", h.VM, h.Pool)
	case h.Action == Reset:
		b.log.linef("%s: reset: %s", h.VM, h.Reason)
	case h.Action == PowerOn:
		if err := host.raise(ctx, report); err != nil {
			return fail(err)
		}
		return "powered on", nil
	default:
		report("probing SSH")
		err := host.probe(ctx)
		if err == nil {
			return "reused", nil
		}
		if ctx.Err() != nil {
			return fail(err)
		}
		if taken, err := b.hold(ctx, h.Pool); err != nil {
			return fail(err)
		} else if taken != "" {
			return "is in use", nil // since a moment ago: not answering is its holder's affair
		}
		b.log.linef("%s: reset: it does not answer: %s", h.VM, firstLine(err))
	}
	b.mu.Lock()
	b.stirred[h.Pool] = true
	b.mu.Unlock()
	report("reverting")
	host.drop()
	if err := b.confirm(ctx, h.Pool); err != nil {
		return fail(err)
	}
	if err := host.revert(ctx, h.snap); err != nil {
		return fail(err)
	}
	if err := host.back(ctx, b.books, report); err != nil {
		return fail(err)
	}
	if err := awaitNeeds(ctx, host, h.role.Needs, report); err != nil {
		return fail(err)
	}
	return "reset", nil
}

// host is that of a VM that is there and ready.
func (h *hostPlan) host(s Spec) *Host {
	host := newHost(s, h.role.Name, h.Pool, h.vm, h.info.ID, h.rec.HostKeys)
	host.frozen = h.rec.Boot
	for _, a := range h.info.Addrs[h.vm.mac()] {
		host.addr = a
		break
	}
	return host
}

func (b *build) buildHost(ctx context.Context, st *stage, h *hostPlan) (string, error) {
	b.mu.Lock()
	host := b.hosts[h]
	g := b.goldens[h.golden]
	needs := map[string]string{}
	for _, n := range h.role.Needs {
		for _, of := range b.work.poolHosts(h.Pool) {
			if of.role.Name == n.Role {
				needs[n.Role] = b.records[of].Build
			}
		}
	}
	times := b.times[h]
	b.mu.Unlock()
	b.join(h, host)
	rec, snap, err := b.makeReady(ctx, st, host, layer{
		name: h.role.Name, pool: h.Pool, snapshot: h.role.Snapshot, ready: h.role.Ready,
		steps: h.role.Steps, checks: h.role.Checks, needs: h.role.Needs, needBuilds: needs,
		print: b.spec.rolePrint(h.role, h.vm, g.build), golden: g.build, times: times,
	})
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	b.records[h], b.snaps[h] = rec, snap
	b.mu.Unlock()
	if h.role.Ready == Running {
		err = host.settle(ctx, b.books) // it was stopped for a while
	} else {
		st.at(h.VM, "powering on again")
		err = host.raise(ctx, func(what string) { st.at(h.VM, what) })
	}
	if err != nil {
		return "", hostError(host, st.name, err)
	}
	return "is " + h.role.Snapshot, nil
}

// join makes host known to its pool.
func (b *build) join(h *hostPlan, host *Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hosts[h] = host
	host.peers = map[string]*Host{}
	for _, of := range b.work.poolHosts(h.Pool) {
		if of == h {
			break
		}
		host.peers[of.role.Name] = b.hosts[of]
	}
}

// poolHosts are the hosts of one pool, in the order of roles.
func (p *Work) poolHosts(pool int) []*hostPlan {
	var all []*hostPlan
	for _, hosts := range p.hosts {
		all = append(all, hosts[pool-1])
	}
	return all
}

// ---- one host

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
	fail := func(err error) (record, string, error) {
		if ctx.Err() == nil {
			_ = h.provider.Annotate(ctx, h.id, b.note("FAILED: "+firstLine(err), l.pool, l.snapshot)) // for people; the error itself is reported
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

// removeOldGoldens removes the older generations on which nothing hangs any more.
func (b *build) removeOldGoldens(ctx context.Context) {
	if b.only > 0 || !slices.ContainsFunc(b.work.goldens, func(g *goldenPlan) bool { return len(g.old) > 0 }) {
		return
	}
	// Who has the claim knows that nobody is cloning from them.
	if taken, err := b.hold(ctx, 0); taken != "" || err != nil {
		b.log.linef("older goldens: kept: %s", cmp.Or(taken, fmt.Sprint(err)))
		return
	}
	for _, g := range b.work.goldens {
		if _, ready := b.goldens[g]; !ready || ctx.Err() != nil || b.confirm(ctx, 0) != nil {
			continue
		}
		for _, old := range g.old {
			if why := b.removeGolden(ctx, old); why != "" {
				b.log.linef("%s: kept: %s", old.Name, why)
			} else {
				b.log.linef("%s: removed: an older generation without clones", old.Name)
			}
		}
	}
}

// removeGolden destroys a golden, or says why not.
func (b *build) removeGolden(ctx context.Context, old VMInfo) string {
	if b.inv.Incomplete != "" {
		return "the inventory was read incompletely: " + b.inv.Incomplete
	}
	for _, snap := range old.Snapshots {
		if _, err := decodeRecord(snap.Record); err != nil {
			return fmt.Sprintf("its snapshot %q is not ours", snap.Name)
		}
	}
	clones, err := b.spec.Provider.Clones(ctx, old.ID)
	if err != nil {
		return err.Error()
	}
	if len(clones) > 0 {
		return strings.Join(clones, ", ") + " hang on its disks"
	}
	if err := b.spec.Provider.Destroy(ctx, old.ID); err != nil {
		return err.Error()
	}
	return ""
}

// note is the annotation that people see on a VM.
// note is for people. It is written once, with the clone, and again only after a failure: whether the VM is ready
// they see by its snapshot, whose description says more.
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
