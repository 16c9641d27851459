package pool

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// cloneRole clones the VMs of one role, all that the plan builds and whose pool is not spoiled.
func (b *build) cloneRole(ctx context.Context, role int) {
	if slices.ContainsFunc(b.work.hosts[role], func(h *hostPlan) bool { return h.Action == Rebuild }) {
		b.lookAgain(ctx)
	}
	b.batch(ctx, "clone "+b.spec.Roles[role].Name, role, b.spec.Limits.Clones, (*hostPlan).builds, b.cloneHost)
}

// readyRole makes the VMs of one role ready.
func (b *build) readyRole(ctx context.Context, role int) {
	b.batch(ctx, "ready "+b.spec.Roles[role].Name, role, b.spec.Limits.Hosts, func(*hostPlan) bool { return true }, b.readyHost)
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
	ctx, done := b.under(ctx, h.Pool)
	defer done()
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
		id, err = b.spec.Provider.Clone(ctx, b.roleClone(h, b.goldens[h.golden]))
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

// lookAgain reads the inventory anew, right before VMs are removed: since the plan was made golden
// may have been built, and a person may have come to want them.
func (b *build) lookAgain(ctx context.Context) {
	inv, err := b.spec.Provider.Inventory(ctx, b.spec.Name)
	if err != nil {
		inv = &Inventory{Incomplete: err.Error()}
	}
	b.inv = inv
}

// still is what the inventory says of a VM that was ours, if it is.
func (b *build) still(id string) (VMInfo, bool) {
	i := slices.IndexFunc(b.inv.VMs, func(vm VMInfo) bool { return vm.ID == id })
	if i < 0 {
		return VMInfo{}, false
	}
	_, ok := ours(b.spec.Name, b.inv.VMs[i])
	return b.inv.VMs[i], ok
}

// clear destroys the VM that is in h's place, or renames it if it carries what is not ours.
func (b *build) clear(ctx context.Context, h *hostPlan) error {
	vm, ok := b.still(h.info.ID)
	if !ok {
		return nil // gone, or somebody else's by now; whatever has the name the clone finds
	}
	if err := b.confirm(ctx, h.Pool); err != nil {
		return err
	}
	if !vm.foreignSnapshots() {
		return b.spec.Provider.Destroy(ctx, vm.ID)
	}
	if vm.On {
		if _, err := b.spec.Provider.ShutDown(ctx, vm.ID, b.spec.Limits.Shutdown); err != nil {
			return err
		}
	}
	// vCenter allows 80 characters.
	kept := fmt.Sprintf("%.59s-kept-%s", h.VM, time.Now().Format("20060102-150405"))
	b.log.linef("%s: kept as %q: it has snapshots that poolready did not take; remove it when you no longer need it", h.VM, kept)
	return b.spec.Provider.Rename(ctx, vm.ID, kept)
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
	ctx, done := b.under(ctx, h.Pool)
	defer done()
	if h.Action == PowerOn && !stirred {
		if err := host.raise(ctx, report); err != nil {
			return fail(err)
		}
		return "powered on", nil
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
	ctx, done := b.under(ctx, h.Pool)
	defer done()
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
