package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
)

// cloneRole clones the VMs of one role, all that the plan builds and whose pool has not failed.
func (r *run) cloneRole(ctx context.Context, role int) {
	hosts := slices.DeleteFunc(slices.Clone(r.plan.roles[role]), func(h *hostPlan) bool { return !h.builds() })
	inv := r.obs.inv
	if slices.ContainsFunc(hosts, func(h *hostPlan) bool { return h.Action == ActionRebuild }) {
		inv = r.inventory(ctx)
	}
	expect := func(h *hostPlan) time.Duration { clone, _ := r.obs.expected(h); return clone }
	r.batch(ctx, "clone "+r.spec.Roles[role].Name, hosts, r.plan.Concurrency.Clones, expect,
		func(ctx context.Context, st *stage, h *hostPlan) (string, error) { return r.cloneHost(ctx, st, h, inv) })
}

// readyRole makes the VMs of one role ready.
func (r *run) readyRole(ctx context.Context, role int) {
	expect := func(h *hostPlan) time.Duration { _, ready := r.obs.expected(h); return ready }
	r.batch(ctx, "ready "+r.spec.Roles[role].Name, r.plan.roles[role], r.plan.Concurrency.Hosts, expect, r.readyHost)
}

func (r *run) hostClone(h *hostPlan, g golden) CloneSpec {
	return CloneSpec{
		Set: r.spec.Name, Source: g.id, Snapshot: g.snapshot, VM: h.vm,
		Owner: owner{r.spec.Name, h.vm.Name, h.role.Name, cmp.Or(g.build, "-")}.String(),
		Note:  r.note("cloned", h.Pool, h.role.Snapshot),
	}
}

// cloneHost removes the VM that is replaced, if there is one, and clones the new one.
func (r *run) cloneHost(ctx context.Context, st *stage, h *hostPlan, inv *Inventory) (string, error) {
	fail := func(err error) (string, error) {
		return "", &HostError{Host: h.VM, Pool: h.Pool, Stage: st.name, Err: err}
	}
	ctx, done := r.held.bind(ctx, h.Pool)
	defer done()
	if h.Action == ActionRebuild {
		if inv.Incomplete != "" {
			return fail(fmt.Errorf("not removing the VM, since the inventory was read incompletely: %s", inv.Incomplete))
		}
		st.at(h.VM, "removing the old VM")
		if err := r.clear(ctx, h, inv, h.info.ID); err != nil {
			return fail(err)
		}
	}
	st.at(h.VM, "cloning")
	x, g := r.host(h), r.golden(h)
	clone := func() (id string, err error) {
		err = r.spec.gates.clone(ctx, true, func() error {
			return x.times.measure(ctx, nil, events.Phase, tookClone, func() (err error) {
				id, err = r.spec.Provider.Clone(ctx, r.hostClone(h, g))
				return err
			})
		})
		return id, err
	}
	id, err := clone()
	if errors.Is(err, ErrExists) {
		// A process that has ended may have requested it before: then it is replaced, as it would be by
		// the next run.
		if late := r.late(ctx, h); late != "" {
			if err = r.clear(ctx, h, r.inventory(ctx), late); err == nil {
				id, err = clone()
			}
		}
	}
	if err != nil {
		return fail(err)
	}
	x.host = newHost(r.spec, h.role.Name, h.Pool, h.vm, id, g.keys)
	return "cloned", nil
}

// late returns the ID of a VM of the host's name that is the set's, of this role, has no snapshot,
// and was not there when the plan was made; or "".
func (r *run) late(ctx context.Context, h *hostPlan) string {
	for _, vm := range r.inventory(ctx).VMs {
		o, ok := ours(r.spec.Name, vm)
		known := slices.ContainsFunc(r.obs.inv.VMs, func(old VMInfo) bool { return old.ID == vm.ID })
		if ok && vm.Name == h.VM && o.Layer == h.role.Name && len(vm.Snapshots) == 0 && !known {
			return vm.ID
		}
	}
	return ""
}

// clear destroys the VM in h's place, or renames it if it has what is not ours.
func (r *run) clear(ctx context.Context, h *hostPlan, inv *Inventory, id string) error {
	vm, ok := inv.mine(r.spec.Name, id)
	if !ok {
		return nil // gone, or somebody else's by now; the clone finds what has the name
	}
	if err := r.held.confirm(ctx, h.Pool); err != nil {
		return err
	}
	if !vm.foreignSnapshots() {
		return r.spec.Provider.Destroy(ctx, vm.ID)
	}
	if vm.On {
		if _, err := r.spec.Provider.ShutDown(ctx, vm.ID, r.spec.Limits.Shutdown); err != nil {
			return err
		}
	}
	// vCenter allows 80 characters.
	kept := fmt.Sprintf("%.59s-kept-%s", h.VM, time.Now().Format("20060102-150405"))
	r.log.linef("%s: kept as %q: it has snapshots that poolready did not take; remove it when you no longer need it", h.VM, kept)
	return r.spec.Provider.Rename(ctx, vm.ID, kept)
}

// readyHost brings one VM of a role to its ready state, from wherever the plan found it.
func (r *run) readyHost(ctx context.Context, st *stage, h *hostPlan) (string, error) {
	if h.builds() {
		return r.buildHost(ctx, st, h)
	}
	host := h.newHost(r.spec)
	r.mu.Lock()
	if r.unsure[h.Pool] {
		host.addr = netip.Addr{}
	}
	r.mu.Unlock()
	x := r.join(h, host)
	report := func(what string) { st.at(h.VM, what) }
	fail := func(err error) (string, error) {
		return "", hostError(host, st.name, err)
	}
	x.rec, x.snap = h.rec, h.snap
	if r.plan.pool(h.Pool).taken != nil && !r.held.has(h.Pool) {
		return "is in use", nil
	}
	reset := r.resetBefore(h)
	switch {
	case reset:
		r.log.linef("%s: reset: another host of pool %d had to be", h.VM, h.Pool)
	case h.Action == ActionReset:
		r.log.linef("%s: reset: %s", h.VM, h.Reason)
		reset = true
	case h.Action == ActionPowerOn:
	default:
		report("probing SSH")
		err := host.probe(ctx)
		if err == nil {
			return "reused", nil
		}
		if ctx.Err() != nil {
			return fail(err)
		}
		r.log.linef("%s: reset: it does not answer: %s", h.VM, firstLine(err))
		reset = true
	}
	held := r.held.has(h.Pool)
	err := r.held.try(ctx, h.Pool, "being repaired", r.ledger.Build)
	if busy, ok := errors.AsType[*BusyError](err); ok && busy.State != lease.Absent {
		return "is in use", nil // since a moment ago: not answering is its holder's affair
	} else if err != nil {
		return fail(err)
	}
	if !held && r.usedSince(h.Pool) {
		// They have reset it or left it to be reset, which may have moved its hosts: this one may be well.
		r.held.putBack(ctx, func(n int) bool { return n != h.Pool })
		r.forgetAddrs(h.Pool)
		return "was in use", nil
	}
	ctx, done := r.held.bind(ctx, h.Pool)
	defer done()
	if !reset {
		if err := host.powerOn(ctx, report); err != nil {
			return fail(err)
		}
		return "powered on", nil
	}
	r.mu.Lock()
	x.reset = true
	r.mu.Unlock()
	report("reverting")
	host.drop()
	if err := r.held.confirm(ctx, h.Pool); err != nil {
		return fail(err)
	}
	if err := host.revert(ctx, h.snap); err != nil {
		return fail(err)
	}
	if err := host.awaitUp(ctx, r.obs.ledger, report); err != nil {
		return fail(err)
	}
	if err := awaitNeeds(ctx, host, h.role.Needs, report); err != nil {
		return fail(err)
	}
	return "reset", nil
}

// resetBefore reports whether an earlier host of the pool was reset in this run: then the later ones
// are, too.
func (r *run) resetBefore(h *hostPlan) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.plan.pool(h.Pool).hosts, func(of *hostPlan) bool { return r.hosts[of] != nil && r.hosts[of].reset })
}

// usedSince reports whether a pool that the run holds had another holder since the plan was made.
func (r *run) usedSince(pool int) bool {
	was := r.held.before(pool)
	return !was.Same(r.plan.pool(pool).entry)
}

// forgetAddrs has the hosts of a pool looked for when they are next used.
func (r *run) forgetAddrs(pool int) {
	for _, of := range r.plan.pool(pool).hosts {
		r.mu.Lock()
		x := r.hosts[of]
		r.mu.Unlock()
		if x != nil && x.host != nil {
			x.host.drop()
			x.host.setAddr(netip.Addr{})
		}
	}
}

// newHost returns the host of a VM that exists and is ready.
func (h *hostPlan) newHost(s Spec) *Host {
	host := newHost(s, h.role.Name, h.Pool, h.vm, h.info.ID, h.rec.HostKeys)
	host.snapshotBoot = h.rec.Boot
	if len(h.info.MACs) > 0 {
		host.mac = h.info.MACs[0]
	}
	host.addr = h.addr()
	return host
}

func (r *run) buildHost(ctx context.Context, st *stage, h *hostPlan) (string, error) {
	ctx, done := r.held.bind(ctx, h.Pool)
	defer done()
	x, g := r.host(h), r.golden(h)
	needs := map[string]string{}
	for _, n := range h.role.Needs {
		for _, of := range r.plan.pool(h.Pool).hosts {
			if of.role.Name == n.Role {
				needs[n.Role] = r.host(of).rec.Build
			}
		}
	}
	host := x.host
	r.join(h, host)
	rec, snap, err := r.makeReady(ctx, st, host, layer{
		name: h.role.Name, pool: h.Pool, snapshot: h.role.Snapshot, ready: h.role.Ready,
		steps: h.role.Steps, checks: h.role.Checks, needs: h.role.Needs, needBuilds: needs,
		print: r.spec.rolePrint(h.role, h.vm, g.build), golden: g.build, times: x.times,
	})
	if err != nil {
		return "", err
	}
	x.rec, x.snap = rec, snap
	if h.role.Ready == ReadyRunning {
		err = host.settle(ctx, r.obs.ledger) // it was stopped for a while
	} else {
		st.at(h.VM, "powering on again")
		err = timed(ctx, host, events.Phase, "power on again", func() error {
			return host.powerOn(ctx, func(what string) { st.at(h.VM, what) })
		})
	}
	if err != nil {
		return "", hostError(host, st.name, err)
	}
	return "is " + h.role.Snapshot, nil
}

// join makes a host known to the later ones of its pool.
func (r *run) join(h *hostPlan, host *Host) *hostRun {
	x := r.host(h)
	x.host = host
	host.peers = map[string]*Host{}
	for _, of := range r.plan.pool(h.Pool).hosts {
		if of == h {
			break
		}
		host.peers[of.role.Name] = r.host(of).host
	}
	return x
}

// batch runs f for hosts of a role whose pool has not failed, at most limit at once.
func (r *run) batch(ctx context.Context, name string, hosts []*hostPlan, limit int, expect func(*hostPlan) time.Duration,
	f func(context.Context, *stage, *hostPlan) (what string, err error),
) {
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h *hostPlan) bool {
		return r.hasFailed(h.Pool) || !r.haveGoldens(h.Pool)
	})
	if len(hosts) == 0 || ctx.Err() != nil {
		return
	}
	st := r.log.stage(name, len(hosts))
	defer st.end()
	forAll(hosts, limit, func(h *hostPlan) {
		ctx, finished := st.host(ctx, events.Event{Host: h.VM, Role: h.role.Name, Pool: h.Pool, Expect: expect(h).Seconds()})
		began := time.Now()
		what, err := f(ctx, st, h)
		took := time.Since(began)
		x := r.host(h)
		err = r.evidence(ctx, x.host, took, err)
		finished(what, err)
		r.mu.Lock()
		x.took += took
		r.mu.Unlock()
		if err != nil {
			r.fail(h.Pool, err)
		}
	})
}

// haveGoldens reports whether the goldens that a pool's hosts are cloned from are ready. They are
// not needed for a host that is reused, but a plan reuses none whose golden is not.
func (r *run) haveGoldens(pool int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.plan.pool(pool).hosts, func(h *hostPlan) bool {
		_, ok := r.goldens[h.golden]
		return !ok
	})
}
