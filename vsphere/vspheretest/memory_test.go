package vspheretest_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

const bootID = "cat /proc/sys/kernel/random/boot_id"

func TestARevertToMemoryGoesOn(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	first, c := s.boot(vm)
	s.run(c, "echo disk > /var/disk; echo tmpfs > /run/tmpfs; date -s @1000000000")
	boot := s.run(c, bootID)
	snap := s.must(vm.CreateSnapshot(s.ctx, "ready", "", true, false)).(types.ManagedObjectReference)
	before := s.props(vm)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, before.Snapshot.RootSnapshotList[0].State)
	assert.Equal(t, boot, s.run(c, bootID), "who is logged in stays so")

	s.run(c, "rm /var/disk /run/tmpfs; echo dirt > /var/dirt; echo dirt > /run/dirt; date -s @2000000000; (sleep 1000 >/dev/null 2>&1 &)")
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	after := s.props(vm)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, after.Runtime.PowerState, "nobody has to power it on")
	assert.Equal(t, before.Runtime.BootTime.UnixNano(), after.Runtime.BootTime.UnixNano(), "and it has not booted")
	sess, err := c.NewSession()
	if err == nil {
		err = sess.Run("true")
	}
	require.Error(t, err, "connections of the present are dead")

	c = s.ssh(first)
	assert.Equal(t, first, s.address(vm), "it has the address of then")
	assert.Equal(t, boot, s.run(c, bootID))
	assert.Equal(t, "disk tmpfs", s.run(c, "echo $(cat /var/disk /run/tmpfs; ls /var/dirt /run/dirt 2>/dev/null)"))
	clock, err := strconv.ParseInt(s.run(c, "date +%s"), 10, 64)
	require.NoError(t, err)
	assert.InDelta(t, 1_000_000_000, clock, 30, "the clock reads what it read then")
	assert.Empty(t, s.run(c, "pgrep sleep || true"))

	s.must(vm.PowerOff(s.ctx))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, true))
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Runtime.PowerState, "suppressPowerOn")
	second, c := s.boot(vm)
	assert.NotEqual(t, first, second)
	assert.NotEqual(t, boot, s.run(c, bootID), "a boot is a boot")
	clock, err = strconv.ParseInt(s.run(c, "date +%s"), 10, 64)
	require.NoError(t, err)
	assert.InDelta(t, time.Now().Unix(), clock, 30, "and reads the hardware's clock")
}

func TestASnapshotWithMemoryOfAVMThatIsOffHasNone(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	snap := s.must(vm.CreateSnapshot(s.ctx, "off", "", true, false)).(types.ManagedObjectReference)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Snapshot.RootSnapshotList[0].State)
	s.boot(vm)
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Runtime.PowerState)
}

func TestMemoryThatCannotBeKeptIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	_, c := s.boot(vm)
	s.run(c, "sleep 1000 >/dev/null 2>&1 &")
	_, err := s.do(vm.CreateSnapshot(s.ctx, "ready", "", true, false))
	require.ErrorContains(t, err, "the memory of programs that run is not simulated")
	require.ErrorContains(t, err, "sleep 1000")
	assert.Nil(t, s.props(vm).Snapshot)

	none := start(t, func(srv *vspheretest.Server) { srv.OS = echo{"10.1.2.3/8"} })
	vm = none.full("a")
	none.must(vm.PowerOn(none.ctx))
	none.address(vm)
	_, err = none.do(vm.CreateSnapshot(none.ctx, "ready", "", true, false))
	require.ErrorContains(t, err, "is no Resumer")

	vm = s.vm("a")
	s.must(vm.PowerOff(s.ctx))
	require.NoError(t, vm.AddDevice(s.ctx, &types.VirtualPCIPassthrough{VirtualDevice: types.VirtualDevice{
		Backing: &types.VirtualPCIPassthroughVmiopBackingInfo{Vgpu: "grid_t4-1q"},
	}}))
	s.boot(vm)
	_, err = s.do(vm.CreateSnapshot(s.ctx, "ready", "", true, false))
	require.ErrorContains(t, err, "SnapshotIncompatibleDeviceInVm")
	s.must(vm.CreateSnapshot(s.ctx, "ready", "", false, false))
}

func TestMemoryTakesTimeByItsSize(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) {
		srv.Latency.Memory = 100 * time.Millisecond
		srv.Templates = []vspheretest.Template{{Path: "template", MemoryMiB: 4096}}
	})
	vm := s.full("a")
	s.boot(vm)
	timed := func(memory bool) time.Duration {
		began := time.Now()
		s.must(vm.CreateSnapshot(s.ctx, "s", "", memory, false))
		return time.Since(began)
	}
	const memory = 4 * 100 * time.Millisecond
	assert.GreaterOrEqual(t, timed(true), memory)
	assert.Less(t, min(timed(false), timed(false), timed(false)), memory, "at least one is not held up by others who use this machine")
}

func TestMemoryOutlivesTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *site {
		return start(t, func(srv *vspheretest.Server) { srv.StateDir = dir })
	}
	s := open()
	vm := s.full("a")
	first, c := s.boot(vm)
	s.run(c, "echo tmpfs > /run/tmpfs")
	boot := s.run(c, bootID)
	snap := s.must(vm.CreateSnapshot(s.ctx, "ready", "", true, false)).(types.ManagedObjectReference)
	s.srv.Close()

	s = open()
	vm = s.vm("a")
	c = s.ssh(s.address(vm))
	assert.NotEqual(t, boot, s.run(c, bootID), "what was on has booted")
	var found mo.VirtualMachineSnapshot
	require.NoError(t, s.c.RetrieveOne(s.ctx, snap, nil, &found))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	c = s.ssh(first)
	assert.Equal(t, boot, s.run(c, bootID))
	assert.Equal(t, "tmpfs", s.run(c, "cat /run/tmpfs"))
}
