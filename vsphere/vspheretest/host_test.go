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
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// hosts lists the hosts by their numbers.
func (s *site) hosts() []*object.HostSystem {
	s.Helper()
	all, err := s.finder.HostSystemList(s.ctx, "*/*")
	require.NoError(s, err)
	return all
}

// hostOf returns the host that a VM is on.
func (s *site) hostOf(vm *object.VirtualMachine) types.ManagedObjectReference {
	s.Helper()
	return *s.props(vm).Runtime.Host
}

// drs switches DRS on or off.
func (s *site) drs(on bool) {
	s.Helper()
	c, err := s.finder.ClusterComputeResource(s.ctx, s.srv.Cluster)
	require.NoError(s, err)
	s.must(c.Reconfigure(s.ctx, &types.ClusterConfigSpecEx{DrsConfig: &types.ClusterDrsConfigInfo{Enabled: types.NewBool(on)}}, true))
}

// unmount takes a datastore from a host, and unplug a network.
func (s *site) unmount(h *object.HostSystem, datastore string) {
	s.Helper()
	ds, err := s.finder.Datastore(s.ctx, datastore)
	require.NoError(s, err)
	dss, err := h.ConfigManager().DatastoreSystem(s.ctx)
	require.NoError(s, err)
	_, err = methods.RemoveDatastore(s.ctx, s.c, &types.RemoveDatastore{This: dss.Reference(), Datastore: ds.Reference()})
	require.NoError(s, err)
}

func (s *site) unplug(h *object.HostSystem, network string) {
	s.Helper()
	hns, err := h.ConfigManager().NetworkSystem(s.ctx)
	require.NoError(s, err)
	require.NoError(s, hns.RemovePortGroup(s.ctx, network))
}

func (s *site) createVM(name string, host *object.HostSystem) (*object.VirtualMachine, error) {
	s.Helper()
	ref, err := s.do(s.folder.CreateVM(s.ctx, types.VirtualMachineConfigSpec{
		Name: name, GuestId: "otherGuest", Files: &types.VirtualMachineFileInfo{VmPathName: "[" + s.srv.Datastores[0] + "]"},
	}, s.pool, host))
	if err != nil {
		return nil, err
	}
	return object.NewVirtualMachine(s.c.Client, ref.(types.ManagedObjectReference)), nil
}

// cloneTo clones the template, to a host if that is not nil.
func (s *site) cloneTo(name string, host *object.HostSystem) (*object.VirtualMachine, error) {
	s.Helper()
	return s.cloneOf(s.vm("template"), name, func(c *types.VirtualMachineCloneSpec) {
		if host != nil {
			ref := host.Reference()
			c.Location.Host = &ref
		}
	})
}

func TestHostInMaintenanceTakesNoVMs(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts = 2 })
	hosts := s.hosts()
	s.must(hosts[0].EnterMaintenanceMode(s.ctx, 0, false, nil))
	for _, name := range []string{"a", "b", "c"} {
		vm, err := s.cloneTo(name, nil)
		require.NoError(t, err)
		assert.Equal(t, hosts[1].Reference(), s.hostOf(vm), "DRS chooses the other host")
	}
	var state *types.InvalidHostState
	_, err := s.cloneTo("named", hosts[0])
	_, ok := fault.As(err, &state)
	require.True(t, ok, "%v", err)
	assert.Equal(t, hosts[0].Reference(), *state.Host)
	_, err = s.createVM("created", hosts[0])
	assert.True(t, fault.Is(err, state), "%v", err)

	s.must(hosts[1].EnterMaintenanceMode(s.ctx, 0, false, nil))
	_, err = s.cloneTo("nowhere", nil)
	var none *types.NoCompatibleHost
	_, ok = fault.As(err, &none)
	require.True(t, ok, "%v", err)
	assert.Len(t, none.Host, 2)
	require.Len(t, none.Error, 2, "each host has its reason")
	assert.IsType(t, state, none.Error[0].Fault)
	assert.NotEmpty(t, none.Error[0].LocalizedMessage)

	s.must(hosts[0].ExitMaintenanceMode(s.ctx, 0))
	_, err = s.cloneTo("named", hosts[0])
	assert.NoError(t, err)
}

func TestMaintenanceModeWaitsForRunningVMs(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts = 2 })
	hosts := s.hosts()
	vm, err := s.cloneTo("a", hosts[0])
	require.NoError(t, err)
	s.must(vm.PowerOn(s.ctx))
	s.must(hosts[0].EnterMaintenanceMode(s.ctx, 0, false, nil))
	assert.Equal(t, hosts[1].Reference(), s.hostOf(vm), "DRS has moved it")
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(vm).Runtime.PowerState)

	s.drs(false)
	_, err = s.do(hosts[1].EnterMaintenanceMode(s.ctx, 1, false, nil))
	assert.True(t, fault.Is(err, &types.Timedout{}), "%v", err)
	task, err := hosts[1].EnterMaintenanceMode(s.ctx, 0, false, nil)
	require.NoError(t, err)
	s.must(vm.PowerOff(s.ctx))
	s.must(task, nil)
	_, err = s.do(vm.PowerOn(s.ctx))
	assert.True(t, fault.Is(err, &types.InvalidHostState{}), "%v", err)
}

func TestPowerOnWithDRSFindsAHost(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts = 2 })
	hosts := s.hosts()
	vm, err := s.cloneTo("a", hosts[0])
	require.NoError(t, err)
	s.must(hosts[0].EnterMaintenanceMode(s.ctx, 0, false, nil))
	s.must(vm.PowerOn(s.ctx))
	assert.Equal(t, hosts[1].Reference(), s.hostOf(vm))
}

func TestNothingIsDoneWithVMsOfADisconnectedHost(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts = 2 })
	hosts := s.hosts()
	vm, err := s.cloneTo("a", hosts[0])
	require.NoError(t, err)
	on, err := s.cloneTo("on", hosts[0])
	require.NoError(t, err)
	snap := s.snapshot(vm, "s")
	s.must(on.PowerOn(s.ctx))
	s.address(on)
	s.must(hosts[0].Disconnect(s.ctx))
	assert.Equal(t, types.VirtualMachineConnectionStateDisconnected, s.props(vm).Runtime.ConnectionState)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(on).Runtime.PowerState, "it runs on")

	for _, c := range []struct {
		name string
		do   func() (*object.Task, error)
	}{
		{"power on", func() (*object.Task, error) { return vm.PowerOn(s.ctx) }},
		{"power off", func() (*object.Task, error) { return on.PowerOff(s.ctx) }},
		{"reconfigure", func() (*object.Task, error) {
			return vm.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{Annotation: "x"})
		}},
		{"snapshot", func() (*object.Task, error) { return vm.CreateSnapshot(s.ctx, "s2", "", false, false) }},
		{"revert", func() (*object.Task, error) { return vm.RevertToSnapshot(s.ctx, snap.Value, false) }},
		{"clone", func() (*object.Task, error) {
			return vm.Clone(s.ctx, s.folder, "b", types.VirtualMachineCloneSpec{Location: s.here()})
		}},
		{"destroy", func() (*object.Task, error) { return vm.Destroy(s.ctx) }},
		{"shut down", func() (*object.Task, error) { return nil, on.ShutdownGuest(s.ctx) }},
	} {
		_, err := s.do(c.do())
		assert.True(t, fault.Is(err, &types.HostNotConnected{}), "%s: %v", c.name, err)
		assert.ErrorContains(t, err, "disconnected", c.name)
	}
	other, err := s.cloneOf(s.vm("template"), "elsewhere", func(*types.VirtualMachineCloneSpec) {})
	if err == nil { // the template may be on either host
		assert.Equal(t, hosts[1].Reference(), s.hostOf(other))
	}
	s.must(hosts[0].Reconnect(s.ctx, nil, nil))
	s.must(vm.PowerOn(s.ctx))
	assert.Equal(t, types.VirtualMachineConnectionStateConnected, s.props(vm).Runtime.ConnectionState)
}

func TestClusterWithoutDRSWantsAHost(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts = 2 })
	s.drs(false)
	hosts := s.hosts()
	wants := func(property string, err error) {
		t.Helper()
		var arg *types.InvalidArgument
		_, ok := fault.As(err, &arg)
		require.True(t, ok, "%v", err)
		assert.Equal(t, property, arg.InvalidProperty)
		assert.ErrorContains(t, err, property)
	}
	_, err := s.cloneTo("a", nil)
	wants("spec.location.host", err)
	_, err = s.createVM("b", nil)
	wants("host", err)
	vm, err := s.cloneTo("a", hosts[1])
	require.NoError(t, err)
	assert.Equal(t, hosts[1].Reference(), s.hostOf(vm))
	_, err = s.createVM("b", hosts[1])
	require.NoError(t, err)
	c, err := s.cloneOf(vm, "c", func(c *types.VirtualMachineCloneSpec) { c.Location.Pool = nil })
	require.NoError(t, err, "without pool and host it is the source's host")
	assert.Equal(t, hosts[1].Reference(), s.hostOf(c))
}

func TestVMsGoWhereDatastoreAndNetworksAreSeen(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) {
		srv.Hosts, srv.Datastores, srv.Networks = 3, []string{"ds1", "ds2"}, []string{"VM Network", "lab"}
	})
	hosts := s.hosts()
	ds2, err := s.finder.Datastore(s.ctx, "ds2")
	require.NoError(t, err)
	s.unmount(hosts[1], "ds2")
	s.unplug(hosts[2], "VM Network")
	onto := func(name string, host *object.HostSystem) (*object.VirtualMachine, error) {
		return s.cloneOf(s.vm("template"), name, func(c *types.VirtualMachineCloneSpec) {
			ref := ds2.Reference()
			c.Location.Datastore = &ref
			if host != nil {
				h := host.Reference()
				c.Location.Host = &h
			}
		})
	}
	for _, name := range []string{"a", "b", "c"} {
		vm, err := onto(name, nil)
		require.NoError(t, err)
		assert.Equal(t, hosts[0].Reference(), s.hostOf(vm), "the one that sees both")
	}
	var ds *types.InaccessibleDatastore
	_, err = onto("d", hosts[1])
	_, ok := fault.As(err, &ds)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "ds2", ds.Name)
	var net *types.CannotAccessNetwork
	_, err = onto("d", hosts[2])
	_, ok = fault.As(err, &net)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "VM Network", net.Backing)

	s.must(hosts[0].EnterMaintenanceMode(s.ctx, 0, false, nil))
	_, err = onto("d", nil)
	var none *types.NoCompatibleHost
	_, ok = fault.As(err, &none)
	require.True(t, ok, "%v", err)
	reasons := map[types.ManagedObjectReference]any{}
	for i, h := range none.Host {
		reasons[h] = none.Error[i].Fault
	}
	assert.IsType(t, &types.InvalidHostState{}, reasons[hosts[0].Reference()])
	assert.IsType(t, ds, reasons[hosts[1].Reference()])
	assert.IsType(t, net, reasons[hosts[2].Reference()])
	for _, e := range none.Error {
		assert.NotEmpty(t, e.LocalizedMessage)
	}
}

func TestCloneIntoAnotherClusterNeedsItsHostsToSeeTheDatastore(t *testing.T) { // alone: vcsim keeps licences in a global, which every start writes
	s := start(t, func(srv *vspheretest.Server) { srv.Hosts, srv.Datastores = 2, []string{"ds1", "ds2"} })
	dc, err := s.finder.DefaultDatacenter(s.ctx)
	require.NoError(t, err)
	folders, err := dc.Folders(s.ctx)
	require.NoError(t, err)
	other, err := folders.HostFolder.CreateCluster(s.ctx, "Other", types.ClusterConfigSpecEx{
		DrsConfig: &types.ClusterDrsConfigInfo{Enabled: types.NewBool(true)},
	})
	require.NoError(t, err)
	s.must(other.AddHost(s.ctx, types.HostConnectSpec{HostName: "esx9.example.com"}, true, nil, nil))
	pool, err := other.ResourcePool(s.ctx)
	require.NoError(t, err)
	ref := pool.Reference()
	_, err = s.cloneOf(s.vm("template"), "c", func(c *types.VirtualMachineCloneSpec) { c.Location.Pool = &ref })
	var none *types.NoCompatibleHost
	_, ok := fault.As(err, &none)
	require.True(t, ok, "%v", err)
	require.Len(t, none.Error, 1)
	assert.IsType(t, &types.InaccessibleDatastore{}, none.Error[0].Fault)

	h := s.hosts()[0].Reference()
	_, err = s.cloneOf(s.vm("template"), "c", func(c *types.VirtualMachineCloneSpec) { c.Location.Pool, c.Location.Host = &ref, &h })
	assert.True(t, fault.Is(err, &types.InvalidArgument{}), "a host of another cluster: %v", err)
}

func TestNetworksListTheirVMs(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Networks = []string{"VM Network", "lab"} })
	on := func(name string) []types.ManagedObjectReference {
		n, err := s.finder.Network(s.ctx, name)
		require.NoError(t, err)
		var o mo.Network
		require.NoError(t, property.DefaultCollector(s.c.Client).RetrieveOne(s.ctx, n.Reference(), []string{"vm"}, &o))
		return o.Vm
	}
	vm := s.full("a")
	assert.Contains(t, on("VM Network"), vm.Reference())
	snap := s.snapshot(vm, "s")
	nic := object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))[0]
	nic.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "lab"},
	}
	require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: nic},
	}}))
	assert.NotContains(t, on("VM Network"), vm.Reference())
	assert.Contains(t, on("lab"), vm.Reference())
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	assert.Contains(t, on("VM Network"), vm.Reference())
	assert.NotContains(t, on("lab"), vm.Reference())
	s.must(vm.Destroy(s.ctx))
	assert.NotContains(t, on("VM Network"), vm.Reference())
}

func TestQuestionHoldsItsOperation(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	asked := func(vm *object.VirtualMachine) *types.VirtualMachineQuestionInfo {
		var q *types.VirtualMachineQuestionInfo
		s.wait(vm, []string{"runtime.question"}, func(p map[string]any) bool {
			info, ok := p["runtime.question"].(types.VirtualMachineQuestionInfo)
			q = &info
			return ok
		})
		return q
	}
	user := s.login().Client
	vm := s.full("a")
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: vspheretest.Question("moved or copied?", "Cancel", "I moved it")})
	task, err := object.NewVirtualMachine(user, vm.Reference()).PowerOn(s.ctx)
	require.NoError(t, err)
	q := asked(vm)
	assert.Equal(t, "moved or copied?", q.Text)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Runtime.PowerState)
	for _, wrong := range [][2]string{{q.Id, "2"}, {q.Id, "-1"}, {q.Id, ""}, {"question-0", "1"}} {
		assert.Error(t, vm.Answer(s.ctx, wrong[0], wrong[1]))
	}
	require.NoError(t, vm.Answer(s.ctx, q.Id, "1"))
	s.must(task, nil)
	assert.Nil(t, s.props(vm).Runtime.Question)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(vm).Runtime.PowerState)
	assert.Error(t, vm.Answer(s.ctx, q.Id, "1"), "it is answered")

	// Two operations share a source: it has one question at a time.
	s.srv.Inject(vspheretest.Fault{Method: "CloneVM_Task", Times: 2, Effect: vspheretest.Question("disk full?", "Cancel", "Retry")})
	src := object.NewVirtualMachine(user, s.vm("template").Reference())
	var tasks []*object.Task
	for _, name := range []string{"x", "y"} {
		task, err := src.Clone(s.ctx, s.folder, name, types.VirtualMachineCloneSpec{Location: s.here()})
		require.NoError(t, err)
		tasks = append(tasks, task)
	}
	first := asked(s.vm("template"))
	require.NoError(t, s.vm("template").Answer(s.ctx, first.Id, "0"))
	var second *types.VirtualMachineQuestionInfo
	require.Eventually(t, func() bool {
		second = s.props(s.vm("template")).Runtime.Question
		return second != nil && second.Id != first.Id
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, s.vm("template").Answer(s.ctx, second.Id, "1"))
	failed := 0
	for _, task := range tasks {
		if _, err := s.do(task, nil); err != nil {
			assert.True(t, fault.Is(err, &types.RequestCanceled{}), "%v", err)
			failed++
		}
	}
	assert.Equal(t, 1, failed)
}

func TestSnapshotsAreStoredAsVCenterStoresThem(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.DescriptionLimit = 10 })
	vm := s.full("a")
	ref := s.must(vm.CreateSnapshot(s.ctx, `50%/a\b`, "0123456789abc", false, false)).(types.ManagedObjectReference)
	node := func() types.VirtualMachineSnapshotTree { return s.props(vm).Snapshot.RootSnapshotList[0] }
	assert.Equal(t, "50%25%2fa%5cb", node().Name)
	assert.Equal(t, "0123456789", node().Description)
	_, err := methods.RenameSnapshot(s.ctx, s.c, &types.RenameSnapshot{This: ref, Name: "x/y", Description: "ääääääää"})
	require.NoError(t, err)
	assert.Equal(t, "x%2fy", node().Name)
	assert.Equal(t, "äääää", node().Description)
}

func TestCPUsAndReservationsMustFit(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	two := int32(2)
	require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{NumCPUs: 4, NumCoresPerSocket: &two}))
	refused := func(spec types.VirtualMachineConfigSpec, property string) {
		t.Helper()
		var arg *types.InvalidArgument
		_, ok := fault.As(reconfigure(s, vm, spec), &arg)
		require.True(t, ok)
		assert.Equal(t, property, arg.InvalidProperty)
		_, err := s.cloneOf(vm, "b", func(c *types.VirtualMachineCloneSpec) { c.Config = &spec })
		_, ok = fault.As(err, &arg)
		require.True(t, ok, "%v", err)
		assert.Equal(t, property, arg.InvalidProperty)
	}
	refused(types.VirtualMachineConfigSpec{NumCPUs: 3}, "configSpec.numCoresPerSocket")
	all := int64(2048)
	require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{
		MemoryMB: 2048, MemoryAllocation: &types.ResourceAllocationInfo{Reservation: &all},
	}))
	refused(types.VirtualMachineConfigSpec{MemoryMB: 1024}, "configSpec.memoryAllocation.reservation")
	require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{NumCPUs: 6, MemoryMB: 4096}))
}
