package vspheretest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestStandaloneHostDoesNotClone(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Standalone = true })
	assert.False(t, s.c.IsVC())
	assert.Nil(t, s.c.ServiceContent.CustomFieldsManager)
	_, err := s.do(s.vm("template").Clone(s.ctx, s.folder, "a", types.VirtualMachineCloneSpec{Location: s.here()}))
	assert.True(t, fault.Is(err, &types.NotSupported{}), "%v", err)
	_, err = s.folder.CreateFolder(s.ctx, "x")
	assert.True(t, fault.Is(err, &types.NotSupported{}), "%v", err)
}

func TestBusyVMsRefuseAtSubmitAndInTheTask(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Latency.Snapshot, srv.Latency.LinkedClone = time.Hour, time.Hour })
	vm := s.full("a")
	busy, err := vm.CreateSnapshot(s.ctx, "s", "", false, false)
	require.NoError(t, err)
	var atSubmit, inTask int
	for range 4 {
		_, err := s.do(vm.PowerOn(s.ctx))
		require.True(t, fault.Is(err, &types.TaskInProgress{}), "%v", err)
		if soap.IsSoapFault(err) {
			atSubmit++
			f := soap.ToSoapFault(err).VimFault().(types.TaskInProgress)
			assert.Equal(t, busy.Reference(), f.Task)
		} else {
			inTask++
		}
	}
	assert.Equal(t, 2, atSubmit)
	assert.Equal(t, 2, inTask)
}

func TestCloneSourceIsShared(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	golden := s.full("golden")
	snap := s.snapshot(golden, "s")
	var tasks []*object.Task
	s.srv.Slow(1e6)
	for _, n := range []string{"a", "b", "c"} {
		loc := s.here()
		loc.DiskMoveType = "createNewChildDiskBacking"
		task, err := golden.Clone(s.ctx, s.folder, n, types.VirtualMachineCloneSpec{Location: loc, Snapshot: &snap})
		require.NoError(t, err)
		tasks = append(tasks, task)
	}
	_, err := s.do(golden.PowerOn(s.ctx))
	assert.True(t, fault.Is(err, &types.TaskInProgress{}), "%v", err)
	for _, task := range tasks {
		require.NoError(t, task.Cancel(s.ctx))
		_, err := task.WaitForResult(s.ctx)
		assert.True(t, fault.Is(err, &types.RequestCanceled{}), "%v", err)
	}
	s.srv.Slow(1)
	s.must(golden.PowerOn(s.ctx))
}

func TestRevertLeavesWhatVCenterKeeps(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.ResourcePools = []string{"p"} })
	vm := s.full("a")
	snap := s.snapshot(vm, "s")
	fields, err := object.GetCustomFieldsManager(s.c.Client)
	require.NoError(t, err)
	def, err := fields.Add(s.ctx, "owner", "VirtualMachine", nil, nil)
	require.NoError(t, err)
	require.NoError(t, fields.Set(s.ctx, vm.Reference(), def.Key, "me"))
	sub, err := s.folder.CreateFolder(s.ctx, "sub")
	require.NoError(t, err)
	s.must(sub.MoveInto(s.ctx, []types.ManagedObjectReference{vm.Reference()}))
	before := s.props(vm)
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	after := s.props(vm)
	assert.Equal(t, before.CustomValue, after.CustomValue)
	assert.NotEmpty(t, after.CustomValue)
	assert.Equal(t, sub.Reference(), *after.Parent)
	assert.NotEqual(t, before.Config.ChangeVersion, after.Config.ChangeVersion)
}

func TestRevertToAMemorySnapshotRunsUnlessTold(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	s.must(vm.PowerOn(s.ctx))
	snap := s.must(vm.CreateSnapshot(s.ctx, "running", "", true, false)).(types.ManagedObjectReference)
	s.must(vm.PowerOff(s.ctx))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, true))
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Runtime.PowerState)
	s.must(vm.RevertToCurrentSnapshot(s.ctx, false))
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(vm).Runtime.PowerState)
	assert.NotEmpty(t, s.address(vm))
}

func TestClonesGetWhatTheirSpecSays(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) {
		srv.Datastores, srv.Networks = []string{"ds1", "ds2"}, []string{"lab", "private"}
		srv.ResourcePools, srv.Folders = []string{"e2e"}, []string{"pools/one"}
	})
	golden := s.full("golden")
	require.NoError(t, reconfigure(s, golden, types.VirtualMachineConfigSpec{Annotation: "golden", ExtraConfig: extra("poolready.record", "1")}))
	snap := s.snapshot(golden, "golden-ready")
	folder, err := s.finder.Folder(s.ctx, "/Datacenter/vm/pools/one")
	require.NoError(t, err)
	pool, err := s.finder.ResourcePool(s.ctx, "Cluster/Resources/e2e")
	require.NoError(t, err)
	nic := &types.VirtualVmxnet3{}
	nic.Key, nic.MacAddress, nic.AddressType = -1, "00:50:56:00:00:07", string(types.VirtualEthernetCardMacTypeManual)
	nic.Backing = &types.VirtualEthernetCardNetworkBackingInfo{VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "private"}}
	ignored := &types.VirtualVmxnet3{}
	ignored.Key, ignored.MacAddress, ignored.Backing = -2, "00:50:56:00:00:08", nic.Backing
	f, p := folder.Reference(), pool.Reference()
	c, err := s.cloneOf(golden, "con1", func(spec *types.VirtualMachineCloneSpec) {
		spec.Snapshot = &snap
		spec.Location.DiskMoveType, spec.Location.Folder, spec.Location.Pool = "createNewChildDiskBacking", &f, &p
		spec.Config = &types.VirtualMachineConfigSpec{
			Annotation: "con1", NumCPUs: 3, MemoryMB: 64,
			DeviceChange: []types.BaseVirtualDeviceConfigSpec{
				&types.VirtualDeviceConfigSpec{Operation: "add", Device: nic}, &types.VirtualDeviceConfigSpec{Operation: "add", Device: ignored},
			},
		}
	})
	require.NoError(t, err)
	o := s.props(c)
	assert.Equal(t, f, *o.Parent, "Location.Folder takes precedence")
	assert.Equal(t, p, *o.ResourcePool)
	assert.Equal(t, "con1", o.Config.Annotation)
	assert.Equal(t, "1", lookup(o.Config.ExtraConfig, "poolready.record"), "inherited")
	assert.EqualValues(t, 3, o.Config.Hardware.NumCPU)
	var macs []string
	for _, d := range object.VirtualDeviceList(o.Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil)) {
		macs = append(macs, d.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress)
	}
	require.Len(t, macs, 3)
	assert.NotEqual(t, s.mac(golden), macs[0])
	assert.Equal(t, "00:50:56:00:00:07", macs[1])
	assert.NotEqual(t, "00:50:56:00:00:08", macs[2], "a MAC that is not manual is replaced")
	gd := s.disk(golden).Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	assert.Equal(t, gd.Parent.FileName, parent(s.disk(c)).FileName, "the parent is the snapshot's file")

	ds2, err := s.finder.Datastore(s.ctx, "ds2")
	require.NoError(t, err)
	d := ds2.Reference()
	full, err := s.cloneOf(golden, "full", func(spec *types.VirtualMachineCloneSpec) { spec.Location.Datastore = &d })
	require.NoError(t, err)
	assert.Equal(t, []types.ManagedObjectReference{d}, s.props(full).Datastore)
	_, err = s.cloneOf(golden, "elsewhere", func(spec *types.VirtualMachineCloneSpec) {
		spec.Snapshot, spec.Location.DiskMoveType, spec.Location.Datastore = &snap, "createNewChildDiskBacking", &d
	})
	assert.True(t, fault.Is(err, &types.InvalidArgument{}), "a linked clone stays on its datastore: %v", err)
}

func TestTemplateIsFullyClonedAndItsDiskGrown(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	disk := s.disk(s.vm("template"))
	c, err := s.cloneOf(s.vm("template"), "golden", func(spec *types.VirtualMachineCloneSpec) {
		spec.Config = &types.VirtualMachineConfigSpec{DeviceChange: grown(disk)}
	})
	require.NoError(t, err)
	assert.Equal(t, int64(40)<<30, s.disk(c).CapacityInBytes)
	assert.Nil(t, parent(s.disk(c)))
	_, err = s.do(s.vm("template").Clone(s.ctx, s.folder, "x", types.VirtualMachineCloneSpec{}))
	assert.True(t, fault.Is(err, &types.InvalidArgument{}), "a template is in no pool: %v", err)
	mismatch := s.disk(c)
	mismatch.CapacityInKB, mismatch.CapacityInBytes = 0, 80<<30
	err = reconfigure(s, c, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: "edit", Device: mismatch},
	}})
	assert.True(t, fault.Is(err, &types.InvalidDeviceOperation{}), "both sizes have to agree: %v", err)
}

func TestAWaitForOneTaskSeesWhatIsAddedMeanwhile(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Latency.PowerOn = time.Hour })
	vm := s.full("golden")
	power, err := vm.PowerOn(s.ctx)
	require.NoError(t, err)
	pc, err := property.DefaultCollector(s.c.Client).Create(s.ctx)
	require.NoError(t, err)
	add := func(ref types.ManagedObjectReference, prop string) {
		t.Helper()
		_, err := pc.CreateFilter(s.ctx, types.CreateFilter{Spec: types.PropertyFilterSpec{
			PropSet:   []types.PropertySpec{{Type: ref.Type, PathSet: []string{prop}}},
			ObjectSet: []types.ObjectSpec{{Obj: ref}},
		}})
		require.NoError(t, err)
	}
	wait := func(version string) (*types.UpdateSet, error) {
		res, err := methods.WaitForUpdatesEx(s.ctx, s.c.Client, &types.WaitForUpdatesEx{This: pc.Reference(), Version: version})
		if err != nil {
			return nil, err
		}
		return res.Returnval, nil
	}
	add(power.Reference(), "info.state")
	set, err := wait("")
	require.NoError(t, err)
	got := make(chan *types.UpdateSet, 1)
	go func() {
		set, err := wait(set.Version)
		assert.NoError(t, err)
		got <- set
	}()
	require.Eventually(t, func() bool { return s.srv.Awaited(power.Reference()) }, time.Minute, time.Millisecond)
	add(vm.Reference(), "name")
	select {
	case set := <-got:
		require.Len(t, set.FilterSet, 1)
		assert.Equal(t, vm.Reference(), set.FilterSet[0].ObjectSet[0].Obj)
	case <-time.After(time.Minute):
		t.Fatal("the wait does not see the new filter")
	}
}
