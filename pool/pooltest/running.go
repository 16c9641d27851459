package pooltest

import (
	"net/netip"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// running are the promises about snapshots with memory.
var running = []Case{
	{Name: "a snapshot of a VM that runs says so, and the VM runs on", test: func(f *fixture) {
		id, spec := f.up("frozen")
		record := "{\"a\": \"<&>'é\"}"
		snapshot, err := f.p.SnapshotRunning(f.ctx, id, "pool-ready", record)
		require.NoError(f, err)
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		vm := byID(inv)[id]
		assert.True(f, vm.On)
		require.Len(f, vm.Snapshots, 1)
		assert.Equal(f, snapshot, vm.Snapshots[0].ID)
		assert.Equal(f, "pool-ready", vm.Snapshots[0].Name)
		assert.Equal(f, record, vm.Snapshots[0].Record)
		assert.True(f, vm.Snapshots[0].Running)
		_, err = f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
	}},
	{Name: "a snapshot without memory of a VM that runs is none of a VM that runs", test: func(f *fixture) {
		id, _ := f.up("thawed")
		snapshot, err := f.p.Snapshot(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		all := byID(inv)[id].Snapshots
		require.Len(f, all, 1)
		assert.False(f, all[0].Running)
		require.NoError(f, f.p.Revert(f.ctx, id, snapshot))
		assert.False(f, f.look(id).On)
	}},
	{Name: "a snapshot with memory of a VM that is off is an error, and none is taken", test: func(f *fixture) {
		id, _ := f.vm("cold")
		_, err := f.p.SnapshotRunning(f.ctx, id, "pool-ready", "record")
		require.Error(f, err)
		assert.Empty(f, f.look(id).Snapshots)
	}},
	{Name: "a VM that is reverted to a snapshot of it running runs, without being powered on", test: func(f *fixture) {
		id, spec := f.up("resumed")
		snapshot, err := f.base.SnapshotRunning(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		require.NoError(f, f.p.Revert(f.ctx, id, snapshot), "from one that runs")
		require.True(f, f.look(id).On)
		_, err = f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		_, err = f.base.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		require.NoError(f, f.p.Revert(f.ctx, id, snapshot), "from one that is off")
		vm := f.look(id)
		require.True(f, vm.On)
		require.Len(f, vm.Snapshots, 1)
		assert.Equal(f, snapshot, vm.Snapshots[0].ID)
		_, err = f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		require.NoError(f, f.p.PowerOn(f.ctx, id), "it runs, so it is left alone")
		_, err = f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
	}},
	{Name: "a snapshot with memory whose answer is lost is taken once", needs: loses, test: func(f *fixture) {
		id, spec := f.up("lost-memory")
		f.env.Lose(f, Snapshot, spec.VM.Name)
		snapshot, err := f.p.SnapshotRunning(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		all := f.look(id).Snapshots
		require.Len(f, all, 1)
		assert.Equal(f, snapshot, all[0].ID)
		assert.True(f, all[0].Running)
	}},
}
