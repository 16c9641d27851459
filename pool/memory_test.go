package pool_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
)

// newMemory returns a rig in memory, for tests of what is not vSphere's own.
func newMemory(t *testing.T) *rig {
	t.Helper()
	return &rig{mem: pooltest.NewProvider(t, "templates/rhel9"), t: t}
}

// calls returns how many calls of the Provider have ended.
func (r *rig) calls() int { return len(r.mem.Calls()) }

// count returns how often a method succeeded on VMs whose names begin so.
func (r *rig) count(method, prefix string) (n int) {
	for _, c := range r.mem.Calls() {
		if c.Err == nil && c.Method == method && strings.HasPrefix(c.Name, prefix) {
			n++
		}
	}
	return n
}

// done returns the calls that succeeded, in order.
func (r *rig) done() (all []string) {
	for _, c := range r.mem.Calls() {
		if c.Err == nil {
			all = append(all, c.String())
		}
	}
	return all
}

// ids maps the names of the set's VMs to their IDs.
func (r *rig) ids() map[string]string {
	r.t.Helper()
	inv, err := r.mem.Inventory(r.t.Context(), "lab")
	require.NoError(r.t, err)
	all := map[string]string{}
	for _, vm := range inv.VMs {
		all[vm.Name] = vm.ID
	}
	return all
}

func (r *rig) info(name string) pool.VMInfo {
	r.t.Helper()
	inv, err := r.mem.Inventory(r.t.Context(), "lab")
	require.NoError(r.t, err)
	for _, vm := range inv.VMs {
		if vm.Name == name {
			return vm
		}
	}
	require.Fail(r.t, "no such VM", name)
	return pool.VMInfo{}
}

// shards returns what the set's ledger holds.
func (r *rig) shards() map[string]pool.Shard {
	r.t.Helper()
	l, err := r.mem.Ledger(r.t.Context(), "lab")
	require.NoError(r.t, err)
	return l.Shards
}

// What follows is done by hand, as in the hypervisor's own client.

func (r *rig) powerOff(name string) {
	r.t.Helper()
	_, err := r.mem.ShutDown(r.t.Context(), r.info(name).ID, 0)
	require.NoError(r.t, err)
}

func (r *rig) reboot(name string) {
	r.t.Helper()
	r.powerOff(name)
	require.NoError(r.t, r.mem.PowerOn(r.t.Context(), r.info(name).ID))
}

func (r *rig) destroy(name string) {
	r.t.Helper()
	require.NoError(r.t, r.mem.Destroy(r.t.Context(), r.info(name).ID))
}

func (r *rig) rename(name, to string) {
	r.t.Helper()
	require.NoError(r.t, r.mem.Rename(r.t.Context(), r.info(name).ID, to))
}

func (r *rig) snapshot(vm, name string) {
	r.t.Helper()
	_, err := r.mem.Snapshot(r.t.Context(), r.info(vm).ID, name, "mine")
	require.NoError(r.t, err)
}

func (r *rig) revert(vm, snapshot string) {
	r.t.Helper()
	info := r.info(vm)
	for _, s := range info.Snapshots {
		if s.Name == snapshot {
			require.NoError(r.t, r.mem.Revert(r.t.Context(), info.ID, s.ID))
			return
		}
	}
	require.Fail(r.t, "no such snapshot", snapshot)
}

// plug connects or disconnects a NIC.
func (r *rig) plug(name, mac string, connected bool) {
	r.t.Helper()
	require.NoError(r.t, r.mem.ConnectNIC(r.t.Context(), r.info(name).ID, mac, connected))
}
