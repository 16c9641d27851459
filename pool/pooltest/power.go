package pooltest

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func tellsBoots(e Env) bool { return e.BootedAt != nil }

var power = []Case{
	{Name: "a VM that is powered on runs and gets an address", test: func(f *fixture) {
		id, spec := f.vm("boot")
		require.NoError(f, f.p.PowerOn(f.ctx, id))
		addr, err := f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		assert.True(f, addr.IsValid() && !addr.IsLinkLocalUnicast(), "address %v", addr)
		assert.True(f, f.look(id).On)
	}},
	{Name: "an address that another running VM has is no address, and that VM is named", needs: func(e Env) bool { return e.LeaseByMAC }, test: func(f *fixture) {
		_, one := f.up("one")
		spec := f.spec(f.name("twin"))
		spec.VM.NICs = one.VM.NICs
		id, err := f.base.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		for named := false; !named; { // its tools take their time
			ctx, cancel := context.WithTimeout(f.ctx, f.env.Instant)
			addr, err := f.p.Address(ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
			cancel()
			require.Error(f, err, "the address %s is that of %s, too", addr, one.VM.Name)
			require.NoError(f, f.ctx.Err(), "it is not said whose address it is: %v", err)
			named = strings.Contains(err.Error(), one.VM.Name)
		}
	}},
	{Name: "a MAC in upper case is the same MAC", test: func(f *fixture) {
		id, spec := f.up("upper")
		one, err := f.base.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		two, err := f.p.Address(f.ctx, id, strings.ToUpper(spec.VM.NICs[0].MAC), netip.Addr{})
		require.NoError(f, err)
		assert.Equal(f, one, two)
	}},
	{Name: "powering on a VM that runs leaves it alone", needs: tellsBoots, test: func(f *fixture) {
		id, spec := f.up("twice")
		before := f.env.BootedAt(f, id)
		require.NoError(f, f.p.PowerOn(f.ctx, id))
		_, err := f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		assert.True(f, f.look(id).On)
		assert.Equal(f, before, f.env.BootedAt(f, id), "it was powered on once")
	}},
	{Name: "a guest that is asked shuts down, and the power is not cut", test: func(f *fixture) {
		id, _ := f.up("polite")
		forced, err := f.p.ShutDown(f.ctx, id, f.env.Timeout)
		require.NoError(f, err)
		assert.False(f, forced)
		assert.False(f, f.look(id).On)
	}},
	{Name: "without grace the power is cut", test: func(f *fixture) {
		id, _ := f.up("abrupt")
		forced, err := f.p.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		assert.True(f, forced)
		assert.False(f, f.look(id).On)
	}},
	{Name: "a guest whose tools have not started yet is waited for, and its power is not cut", test: func(f *fixture) {
		id, _ := f.vm("young")
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		forced, err := f.p.ShutDown(f.ctx, id, f.env.Timeout)
		require.NoError(f, err)
		assert.False(f, forced)
		assert.False(f, f.look(id).On)
	}},
	{Name: "shutting down a VM that is off leaves it alone", test: func(f *fixture) {
		id, _ := f.vm("off")
		for _, grace := range []time.Duration{0, f.env.Timeout} {
			forced, err := f.p.ShutDown(f.ctx, id, grace)
			require.NoError(f, err)
			assert.False(f, forced)
		}
		assert.False(f, f.look(id).On)
	}},
	{Name: "an address from before the power went off is no address", test: func(f *fixture) {
		id, spec := f.up("stale")
		_, err := f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		_, err = f.p.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		ctx, cancel := context.WithTimeout(f.ctx, f.env.Instant)
		defer cancel()
		addr, err := f.p.Address(ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		assert.ErrorIs(f, err, context.DeadlineExceeded, "the VM is off, but has the address %v", addr)
	}},
	{Name: "an address is that of the requested NIC", test: func(f *fixture) {
		id, _ := f.up("nics")
		ctx, cancel := context.WithTimeout(f.ctx, f.env.Instant)
		defer cancel()
		addr, err := f.p.Address(ctx, id, "00:50:56:00:00:00", netip.Addr{})
		assert.ErrorIs(f, err, context.DeadlineExceeded, "no NIC has that MAC, but its address is %v", addr)
	}},
	{Name: "an address except the one that it is does not come", test: func(f *fixture) {
		id, spec := f.up("except")
		addr, err := f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		same, err := f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, addr.Next())
		require.NoError(f, err)
		assert.Equal(f, addr, same)
		ctx, cancel := context.WithTimeout(f.ctx, f.env.Instant)
		defer cancel()
		same, err = f.p.Address(ctx, id, spec.VM.NICs[0].MAC, addr)
		assert.ErrorIs(f, err, context.DeadlineExceeded, "it still is %v", same)
	}},
}

var snapshots = []Case{
	{Name: "a snapshot keeps name and record to the byte", test: func(f *fixture) {
		id, _ := f.vm("recorded")
		record := "{\n\t\"a\": \"<&>'é\\u2028\", \"long\": \"" + strings.Repeat("0123456789", 45) + "\"\n}"
		snapshot, err := f.p.Snapshot(f.ctx, id, "pool-ready", record)
		require.NoError(f, err)
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		all := byID(inv)[id].Snapshots
		require.Len(f, all, 1)
		assert.Equal(f, snapshot, all[0].ID)
		assert.Equal(f, "pool-ready", all[0].Name)
		assert.Equal(f, record, all[0].Record)
		assert.False(f, all[0].Created.IsZero())
	}},
	{Name: "snapshots of one name are all listed", test: func(f *fixture) {
		id, _ := f.vm("doubles")
		for _, record := range []string{"one", "two"} {
			_, err := f.base.Snapshot(f.ctx, id, "pool-ready", record)
			require.NoError(f, err)
		}
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		var records []string
		for _, s := range byID(inv)[id].Snapshots {
			assert.Equal(f, "pool-ready", s.Name)
			records = append(records, s.Record)
		}
		assert.ElementsMatch(f, []string{"one", "two"}, records)
	}},
	{Name: "a reverted VM is off and its snapshot stays", test: func(f *fixture) {
		id, _ := f.vm("reverted")
		snapshot, err := f.base.Snapshot(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		require.NoError(f, f.p.Revert(f.ctx, id, snapshot))
		vm := f.look(id)
		assert.False(f, vm.On)
		require.Len(f, vm.Snapshots, 1)
		assert.Equal(f, snapshot, vm.Snapshots[0].ID)
	}},
	{Name: "a reverted VM boots and gets an address", test: func(f *fixture) {
		id, spec := f.up("again")
		_, err := f.base.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		snapshot, err := f.base.Snapshot(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		require.NoError(f, f.p.PowerOn(f.ctx, id))
		require.NoError(f, f.p.Revert(f.ctx, id, snapshot))
		require.NoError(f, f.p.PowerOn(f.ctx, id))
		_, err = f.p.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		assert.True(f, f.look(id).On)
	}},
}

// cables are promises of a pool.NICConnector.
var cables = []Case{
	{Name: "a NIC that is disconnected stays so when the VM is powered on", able: links, test: func(f *fixture) {
		id, spec := f.up("unplugged")
		mac := spec.VM.NICs[0].MAC
		l, ok := f.p.(pool.NICConnector)
		require.True(f, ok)
		require.NoError(f, l.ConnectNIC(f.ctx, id, mac, false))
		f.linked(id, mac, pool.NICState{})
		_, err := f.base.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		f.linked(id, mac, pool.NICState{})
		require.NoError(f, l.ConnectNIC(f.ctx, id, mac, true))
		f.linked(id, mac, pool.NICState{Connected: true, AtPowerOn: true, GuestControl: true})
	}},
	{Name: "a NIC that does not exist cannot be disconnected", able: links, test: func(f *fixture) {
		id, _ := f.vm("nicless")
		l, ok := f.p.(pool.NICConnector)
		require.True(f, ok)
		require.Error(f, l.ConnectNIC(f.ctx, id, "00:50:56:00:00:00", false))
	}},
}

func links(p pool.Provider) bool {
	_, ok := p.(pool.NICConnector)
	return ok
}

// linked asserts how a NIC is connected.
func (f *fixture) linked(id, mac string, want pool.NICState) {
	f.Helper()
	base, ok := f.base.(pool.NICConnector)
	require.True(f, ok)
	got, err := base.NICState(f.ctx, id, mac)
	require.NoError(f, err)
	assert.Equal(f, want, got)
	assert.Equal(f, want, f.look(id).NICs[strings.ToLower(mac)], "the inventory says the same")
}
