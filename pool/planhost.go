package pool

import (
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
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

var (
	errUnfinished = errors.New("no ready snapshot")
	errForeign    = errors.New("the ready snapshot is not ours")
)

// readySnapshot finds the one snapshot that makes vm ready, or says why there is none.
func readySnapshot(vm VMInfo, name string) (rec record, id, why string, err error) {
	var exact []Snapshot
	var others []string
	for _, snap := range vm.Snapshots {
		if snap.Name == name {
			exact = append(exact, snap)
		} else {
			others = append(others, fmt.Sprintf("%q", snap.Name))
		}
	}
	switch {
	case len(exact) == 0 && len(others) > 0:
		return rec, "", fmt.Sprintf("has no snapshot %q (but %s)", name, strings.Join(others, ", ")), errUnfinished
	case len(exact) == 0:
		return rec, "", fmt.Sprintf("has no snapshot %q", name), errUnfinished
	case len(exact) > 1:
		return rec, "", fmt.Sprintf("has %d snapshots %q", len(exact), name), errUnfinished
	}
	rec, err = decodeRecord(exact[0].Record)
	switch {
	case errors.Is(err, errNoRecord):
		return rec, "", fmt.Sprintf("snapshot %q on it was not taken by poolready; rename or remove the snapshot", name), errForeign
	case err != nil:
		return rec, "", fmt.Sprintf("snapshot %q: %v", name, err), err
	case rec.VM != vm.Name:
		return rec, "", fmt.Sprintf("snapshot %q is that of %q", name, rec.VM), errUnfinished
	}
	return rec, exact[0].ID, "", nil
}

// foreignSnapshots reports whether there are any that we did not take: then the VM is renamed, and
// not destroyed.
func (vm VMInfo) foreignSnapshots() bool {
	return slices.ContainsFunc(vm.Snapshots, func(s Snapshot) bool {
		_, err := decodeRecord(s.Record)
		return errors.Is(err, errNoRecord)
	})
}

// inTheWay says why the VMs that have a name cannot be used, and what to do.
func inTheWay(existing ...VMInfo) string {
	if len(existing) > 1 {
		var all []string
		for _, vm := range existing {
			all = append(all, vm.path()+vm.whose())
		}
		return fmt.Sprintf("%d VMs in the set's folder have this name: %s; rename, move or remove those that are not the pool's",
			len(existing), strings.Join(all, " and "))
	}
	vm := existing[0]
	switch {
	case vm.CopyOf != "":
		return fmt.Sprintf("%s is a copy of a VM that poolready made, or made by an earlier version; rename, move or remove it", vm.path())
	case vm.Owner == "":
		return "a VM of this name exists that poolready did not make; rename or remove it"
	}
	return fmt.Sprintf("a VM of this name exists, made as %q; rename or remove it", vm.Owner)
}

// path is that of the VM below the set's folder.
func (vm VMInfo) path() string { return path.Join(vm.Folder, vm.Name) }

// whose says what is known of who made the VM.
func (vm VMInfo) whose() string {
	switch {
	case vm.CopyOf != "":
		return " (a copy)"
	case vm.Owner == "":
		return " (not made by poolready)"
	}
	return ""
}
