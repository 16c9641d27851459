package vspheretest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// withISO gives a VM a CD-ROM drive with that file, to be connected when the power comes on.
func (s *site) withISO(vm *object.VirtualMachine, file string) error {
	s.Helper()
	devs := object.VirtualDeviceList(s.props(vm).Config.Hardware.Device)
	ide, err := devs.FindIDEController("")
	require.NoError(s, err)
	cd, err := devs.CreateCdrom(ide)
	require.NoError(s, err)
	cd = devs.InsertIso(cd, file)
	return reconfigure(s, vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: cd},
	}})
}

func (s *site) upload(file string) {
	s.Helper()
	ds, err := s.finder.Datastore(s.ctx, s.srv.Datastores[0])
	require.NoError(s, err)
	require.NoError(s, ds.Upload(s.ctx, strings.NewReader("iso"), file, &soap.DefaultUpload))
}

func (s *site) cdrom(vm *object.VirtualMachine) *types.VirtualDeviceConnectInfo {
	s.Helper()
	all := object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).SelectByType((*types.VirtualCdrom)(nil))
	return all[len(all)-1].GetVirtualDevice().Connectable
}

func TestPowerOnAsksForAMissingISO(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.upload("there.iso")
	vm := s.full("a")
	require.NoError(t, s.withISO(vm, "[Datastore1] there.iso"))
	s.must(vm.PowerOn(s.ctx))
	assert.True(t, s.cdrom(vm).Connected)

	for _, c := range []struct{ name, answer string }{{"yes", "0"}, {"no", "1"}} {
		vm := s.full(c.name)
		require.NoError(t, s.withISO(vm, "[Datastore1] gone.iso"))
		task, err := vm.PowerOn(s.ctx)
		require.NoError(t, err)
		var q types.VirtualMachineQuestionInfo
		s.wait(vm, []string{"runtime.question"}, func(p map[string]any) (ok bool) {
			q, ok = p["runtime.question"].(types.VirtualMachineQuestionInfo)
			return ok
		})
		assert.Contains(t, q.Text, "gone.iso")
		assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Runtime.PowerState, "it waits")
		require.NoError(t, vm.Answer(s.ctx, q.Id, c.answer))
		s.must(task, nil)
		assert.False(t, s.cdrom(vm).Connected)
		assert.Equal(t, c.answer == "0", s.cdrom(vm).StartConnected)
		assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(vm).Runtime.PowerState)
	}
	on := s.full("on")
	s.must(on.PowerOn(s.ctx))
	assert.True(t, fault.Is(s.withISO(on, "[Datastore1] gone.iso"), &types.GenericVmConfigFault{}), "a running VM tells at once")
}

func TestCloneGoesWhereItsISOIsSeen(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts, srv.Datastores = 2, []string{"Datastore1", "iso"} })
	vm := s.full("a")
	require.NoError(t, s.withISO(vm, "[iso] a.iso"))
	hosts := s.hosts()
	s.unmount(hosts[0], "iso")
	for _, name := range []string{"b", "c", "d"} {
		c, err := s.cloneOf(vm, name, func(*types.VirtualMachineCloneSpec) {})
		require.NoError(t, err)
		assert.Equal(t, hosts[1].Reference(), s.hostOf(c))
	}
	_, err := s.cloneOf(vm, "e", func(c *types.VirtualMachineCloneSpec) {
		ref := hosts[0].Reference()
		c.Location.Host = &ref
	})
	var device *types.CannotAccessVmDevice
	_, ok := fault.As(err, &device)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "[iso] a.iso", device.Backing)
}

func TestTemplateTakesANameAndAnAnnotationOnly(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.vm("template")
	before := s.props(vm)
	for name, spec := range map[string]types.VirtualMachineConfigSpec{
		"CPUs":         {NumCPUs: 8},
		"memory":       {MemoryMB: 4096},
		"extraConfig":  {ExtraConfig: extra("k", "v")},
		"with a note":  {Annotation: "note", NumCPUs: 8},
		"boot options": {BootOptions: &types.VirtualMachineBootOptions{BootDelay: 1}},
		"a device": {DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: before.Config.Hardware.Device[0],
		}}},
	} {
		assert.True(t, fault.Is(reconfigure(s, vm, spec), &types.NotSupported{}), name)
	}
	after := s.props(vm)
	assert.Equal(t, before.Config.ChangeVersion, after.Config.ChangeVersion)
	require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{Name: "renamed", Annotation: "note"}))
	after = s.props(vm)
	assert.Equal(t, "renamed", after.Name)
	assert.Equal(t, "note", after.Config.Annotation)
	for name, do := range map[string]func() (*object.Task, error){
		"power on": func() (*object.Task, error) { return vm.PowerOn(s.ctx) },
		"suspend":  func() (*object.Task, error) { return vm.Suspend(s.ctx) },
		"snapshot": func() (*object.Task, error) { return vm.CreateSnapshot(s.ctx, "s", "", false, false) },
	} {
		_, err := s.do(do())
		assert.Error(t, err, name)
	}
}

func TestSuspendedVM(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	s.must(vm.PowerOn(s.ctx))
	id, err := s.read(s.ssh(s.address(vm)), bootID)
	require.NoError(t, err)
	s.must(vm.Suspend(s.ctx))
	state := func() types.VirtualMachinePowerState { return s.props(vm).Runtime.PowerState }
	require.Equal(t, types.VirtualMachinePowerStateSuspended, state())

	refused := func(name string, err error) {
		t.Helper()
		var power *types.InvalidPowerState
		_, ok := fault.As(err, &power)
		require.True(t, ok, "%s: %v", name, err)
		assert.Equal(t, types.VirtualMachinePowerStateSuspended, power.ExistingState, name)
		assert.ErrorContains(t, err, "Suspended", name)
	}
	refused("CPUs", reconfigure(s, vm, types.VirtualMachineConfigSpec{NumCPUs: 8}))
	refused("devices", s.withISO(vm, "[Datastore1] a.iso"))
	_, err = s.cloneOf(vm, "b", func(*types.VirtualMachineCloneSpec) {})
	refused("clone", err)
	_, err = s.do(vm.Destroy(s.ctx))
	refused("destroy", err)
	_, err = s.do(vm.Suspend(s.ctx))
	refused("suspend", err)
	_, err = s.do(vm.Reset(s.ctx))
	refused("reset", err)
	refused("shut down", vm.ShutdownGuest(s.ctx))
	refused("template", vm.MarkAsTemplate(s.ctx))
	require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{Annotation: "asleep", ExtraConfig: extra("k", "v")}))

	snap := s.must(vm.CreateSnapshot(s.ctx, "asleep", "", true, false)).(types.ManagedObjectReference)
	without := s.snapshot(vm, "without memory")
	tree := s.props(vm).Snapshot.RootSnapshotList[0]
	assert.Equal(t, types.VirtualMachinePowerStateSuspended, tree.State)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, tree.ChildSnapshotList[0].State)
	s.must(vm.PowerOff(s.ctx))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	require.Equal(t, types.VirtualMachinePowerStateSuspended, state())
	s.must(vm.PowerOn(s.ctx))
	again, err := s.read(s.ssh(s.address(vm)), bootID)
	require.NoError(t, err)
	assert.Equal(t, id, again, "it goes on from its memory")
	s.must(vm.RevertToSnapshot(s.ctx, without.Value, false))
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, state())
}

// Inventory names are stored with slashes, backslashes and percent signs escaped.
func TestFoldersAndVMsWithPercentSigns(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) {
		srv.Folders = []string{"50%", "100%/x%2fy"}
		srv.Templates = []vspheretest.Template{{Path: "50%/rhel%9"}, {Path: "template"}}
	})
	name := func(path string) string {
		ref, err := object.NewSearchIndex(s.c.Client).FindByInventoryPath(s.ctx, "/Datacenter/vm/"+path)
		require.NoError(t, err)
		require.NotNil(t, ref, path)
		var e mo.ManagedEntity
		require.NoError(t, s.c.RetrieveOne(s.ctx, ref.Reference(), []string{"name"}, &e))
		return e.Name
	}
	assert.Equal(t, "50%25", name("50%25"))
	assert.Equal(t, "rhel%259", name("50%25/rhel%259"))
	assert.Equal(t, "x%2fy", name("100%25/x%2fy"))
	f, err := s.folder.CreateFolder(s.ctx, `a/b\c%`)
	require.NoError(t, err)
	assert.Equal(t, "a%2fb%5cc%25", name("a%2fb%5cc%25"))
	_, err = s.folder.CreateFolder(s.ctx, "50%")
	assert.True(t, fault.Is(err, &types.DuplicateName{}), "%v", err)
	s.must(f.Rename(s.ctx, "7%"))
	assert.Equal(t, "7%25", name("7%25"))
	vm := s.full("9%")
	assert.Equal(t, "9%25", name("9%25"))
	s.must(vm.Rename(s.ctx, "9%25"))
	assert.Equal(t, "9%25", name("9%25"), "it is that name")
}

// What vCenter says of a fault is in the call's fault and in the task's.
func TestFaultsSayWhatVCenterSays(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	user := s.login()
	vm := object.NewVirtualMachine(user.Client, s.full("a").Reference())
	_, err := s.do(vm.PowerOff(s.ctx))
	assert.ErrorContains(t, err, "The attempted operation cannot be performed in the current state (Powered off).")
	_, err = s.do(vm.Rename(s.ctx, "template"))
	assert.ErrorContains(t, err, "The name 'template' already exists.")
	assert.ErrorContains(t, object.NewVirtualMachine(user.Client, types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-0"}).
		MarkAsTemplate(s.ctx), "has already been deleted or has not been completely created")
	_, err = object.NewFolder(user.Client, s.folder.Reference()).CreateFolder(s.ctx, "")
	assert.ErrorContains(t, err, "The name '' is invalid.")
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: vspheretest.Refuse(&types.NotEnoughLicenses{})})
	_, err = vm.PowerOn(s.ctx)
	assert.ErrorContains(t, err, "not enough licenses")
	require.NoError(t, user.Logout(s.ctx))
	_, err = vm.PowerOn(s.ctx)
	assert.ErrorContains(t, err, "The session is not authenticated.", "vcsim's own faults as well")
}

func TestGroupMACDoesNotPowerOn(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for mac, ok := range map[string]bool{"02:00:00:00:00:01": true, "01:00:5e:00:00:01": false, "0b:00:00:00:00:01": false} {
		_, err := s.do(s.withMAC("vm"+mac[:2], mac, "VM Network").PowerOn(s.ctx))
		assert.Equal(t, ok, err == nil, mac)
		if !ok {
			assert.True(t, fault.Is(err, &types.GenericVmConfigFault{}), "%v", err)
		}
	}
}

// Two VMs never have one instance UUID: vCenter gives the later one another.
func TestInstanceUUIDsAreUnique(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	a := s.full("a")
	uuid := s.props(a).Config.InstanceUuid
	b, err := s.cloneOf(a, "b", func(c *types.VirtualMachineCloneSpec) {
		c.Config = &types.VirtualMachineConfigSpec{InstanceUuid: uuid}
	})
	require.NoError(t, err)
	assert.NotEqual(t, uuid, s.props(b).Config.InstanceUuid)
	assert.NotEmpty(t, s.props(b).Config.InstanceUuid)
	require.NoError(t, reconfigure(s, b, types.VirtualMachineConfigSpec{InstanceUuid: uuid}))
	assert.NotEqual(t, uuid, s.props(b).Config.InstanceUuid)
	free := "52000000-0000-0000-0000-000000000001"
	require.NoError(t, reconfigure(s, b, types.VirtualMachineConfigSpec{InstanceUuid: free}))
	assert.Equal(t, free, s.props(b).Config.InstanceUuid)
	s.must(a.Destroy(s.ctx))
	require.NoError(t, reconfigure(s, b, types.VirtualMachineConfigSpec{InstanceUuid: uuid}))
	assert.Equal(t, uuid, s.props(b).Config.InstanceUuid, "it is free again")
}
