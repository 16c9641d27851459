package pool

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/poolready/poolready/pool/internal/lease"
)

// hostPlan is the plan of one VM of a pool.
type hostPlan struct {
	*Item
	role   Role
	vm     VM
	golden *goldenPlan
	info   VMInfo // of the existing VM, if any
	snap   string // the ready snapshot's ID
	rec    record // of the ready snapshot, if ready
	shared bool   // another VM of the set reports its address, too
}

// builds reports whether the VM is made or remade.
func (h *hostPlan) builds() bool { return h.Action == ActionClone || h.Action == ActionRebuild }

// ready reports whether the VM has the snapshot that the Spec asks for.
func (h *hostPlan) ready() bool {
	return h.Action == ActionReuse || h.Action == ActionPowerOn || h.Action == ActionReset
}

// decide compares a VM, of a pool whose earlier hosts are decided, to the Spec.
func (h *hostPlan) decide(s Spec, o *observation, q *poolPlan, existing []VMInfo, force *RebuildOptions) {
	set := func(a Action, format string, args ...any) { h.Action, h.Reason = a, fmt.Sprintf(format, args...) }
	if len(existing) == 0 {
		set(ActionClone, "does not exist")
		return
	}
	h.info = existing[0]
	if h.info.Problem != "" && len(existing) == 1 {
		set(ActionRefuse, "the hypervisor says: %s; repair or remove it", h.info.Problem)
		return
	}
	if mark, ok := ours(s.Name, h.info); len(existing) > 1 || !ok || mark.Layer != h.role.Name {
		set(ActionRefuse, "%s", inTheWay(existing...))
		return
	}
	rec, snap, why, err := readySnapshot(h.info, h.role.Snapshot)
	switch {
	case errors.Is(err, errForeign), errors.Is(err, errOtherForm), errors.Is(err, errCutRecord):
		set(ActionRefuse, "%s", why)
		return
	case err != nil:
		set(ActionRebuild, "%s", why)
		return
	case force.includes(h.role.Name):
		set(ActionRebuild, "%s", requested)
		return
	case h.golden.Action != ActionReuse:
		set(ActionRebuild, "%s is rebuilt", h.golden.vm.Name)
		return
	}
	for _, why := range []string{
		h.changed(s, o, rec),
		h.needsRebuilt(q.hosts, rec),
		h.otherState(rec, snap),
		o.misplaced(h.info, h.VM),
	} {
		if why != "" {
			set(ActionRebuild, "%s", why)
			return
		}
	}
	if q.entry.Broken != "" {
		set(ActionRebuild, "its pool could not be reset: %s", q.entry.Broken)
		return
	}
	h.rec, h.snap = rec, snap
	switch set(ActionReuse, "ready since %s", stamp(rec.At.Time)); {
	case differentNIC(h.vm, h.info) != "":
		set(ActionReset, "%s", differentNIC(h.vm, h.info))
	case h.info.On:
	case rec.Boot != "":
		set(ActionReset, "is off, and runs when ready; ready since %s", stamp(rec.At.Time))
	default:
		set(ActionPowerOn, "is off; ready since %s", stamp(rec.At.Time))
	}
}

// changed says what is not as it was when the VM became ready, or returns "".
func (h *hostPlan) changed(s Spec, o *observation, rec record) string {
	const earlier = "was cloned from an earlier golden"
	print := s.rolePrint(h.role, h.vm, h.golden.rec.Build)
	if rec.Golden != h.golden.rec.Build {
		if _, ok := o.account(rec); !ok {
			return earlier
		}
	}
	return strings.Replace(o.changed(print, rec), "golden changed", earlier, 1)
}

// otherState says why the ready snapshot is not of the state that the role asks for, or returns "".
// Its fingerprint says that it is; but a VM may have stopped while its snapshot was taken.
func (h *hostPlan) otherState(rec record, id string) string {
	i := slices.IndexFunc(h.info.Snapshots, func(s Snapshot) bool { return s.ID == id })
	running := h.role.Ready == ReadyRunning
	switch {
	case running && (!h.info.Snapshots[i].Running || rec.Boot == ""):
		return "its ready snapshot lacks the VM's memory"
	case !running && h.info.Snapshots[i].Running:
		return "its ready snapshot is of a VM that ran"
	}
	return ""
}

// needsRebuilt says why h does not belong together with the hosts that it needs, or returns "".
func (h *hostPlan) needsRebuilt(earlier []*hostPlan, rec record) string {
	for _, need := range h.role.Needs {
		i := slices.IndexFunc(earlier, func(of *hostPlan) bool { return of.role.Name == need.Role })
		switch of := earlier[i]; {
		case !of.ready():
			return fmt.Sprintf("%s, which it needs, is rebuilt", of.VM)
		case rec.Needs[need.Role] != of.rec.Build:
			return fmt.Sprintf("was made ready with an earlier %s", of.VM)
		}
	}
	return ""
}

// differentNIC says which NIC of a ready VM is not connected as it was when the VM became ready, or
// returns "".
func differentNIC(vm VM, info VMInfo) string {
	if info.NICs == nil {
		return ""
	}
	for i, nic := range vm.NICs {
		mac, err := net.ParseMAC(nic.MAC)
		if err != nil {
			continue
		}
		state, exists := info.NICs[mac.String()]
		switch {
		case !exists:
			return fmt.Sprintf("NIC %d (%s) is gone", i+1, nic.MAC)
		case nic.Unplugged && state != (NICState{}):
			return fmt.Sprintf("NIC %d (%s), which was unplugged when it became ready, is %s", i+1, nic.MAC, state)
		case !nic.Unplugged && (!state.AtPowerOn || info.On && !state.Connected):
			return fmt.Sprintf("NIC %d (%s), which was connected when it became ready, is %s", i+1, nic.MAC, state)
		}
	}
	return ""
}

// A poolPlan is what a plan knows of one pool.
type poolPlan struct {
	number int
	state  lease.State
	entry  lease.Entry
	taken  *BusyError  // why it cannot be leased now, or nil
	hosts  []*hostPlan // in the order of roles
}

// works reports whether there is anything to do for the pool that only its holder may do: what is
// not reused as it is, and the first shard of a pool that has none.
func (q *poolPlan) works() bool {
	return q.state == lease.Absent || slices.ContainsFunc(q.hosts, func(h *hostPlan) bool { return h.Action != ActionReuse })
}

// isNew reports whether no VM of the pool exists, so that it cannot be held.
func (q *poolPlan) isNew() bool {
	return !slices.ContainsFunc(q.hosts, func(h *hostPlan) bool { return h.info.ID != "" })
}

// addr is the address, of those that the guest last reported on the first NIC, that SSH to what is
// wanted goes to.
func (vm VMInfo) addr(want VM) netip.Addr {
	for _, a := range vm.Addrs[vm.mac(want)] {
		if subnets := want.subnets(); len(subnets) == 0 || subnets[0].Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// mac is that of the NIC SSH goes to, if it is known.
func (vm VMInfo) mac(want VM) string {
	if mac := want.mac(); mac != "" || len(vm.MACs) == 0 {
		return mac
	}
	return vm.MACs[0]
}

// addr is where the host was last seen, or invalid.
func (h *hostPlan) addr() netip.Addr {
	if h.shared {
		return netip.Addr{}
	}
	return h.info.addr(h.vm)
}
