package vspheretest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// alike lists what programs do on vcsim that must go the same way on a Server with vcsim's model.
var alike = []struct {
	name string
	run  func(s *site)
}{
	{"events of two VMs are told, and end", eventsOfTwoVMs},
	{"an event of a program's own is found again", postsAnEvent},
	{"a switch tells of what becomes of it", switchEvents},
	{"tasks of the model say who started them", modelTasks},
	{"a host is found by its address", hostByAddress},
	{"a vSAN datastore of two hosts holds no VM", tooFewForVSAN},
	{"a child disk has its parent's size until it is promoted", childDisk},
	{"a disk grows by its size in bytes", growsByBytes},
	{"a NIC names its distributed switch", switchNIC},
	{"devices say what they are connected to", connectedDevices},
	{"a name with a slash is found", slashes},
	{"a VM moves between folders and hosts", moves},
	{"a VM is unregistered and registered", registers},
	{"a template does not power on", templateStaysOff},
	{"an export of a snapshot ends", exports},
}

func TestServersAreAsVcsimIs(t *testing.T) { // alone: vcsim keeps licences in a global, which every start writes
	srv := vspheretest.NewUnstartedServer(t)
	srv.Model, srv.Latency = simulator.VPX(), vspheretest.Fast()
	srv.Start()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	client, err := srv.Client(ctx)
	require.NoError(t, err)
	runAlike(modelSite(ctx, t, client))
}

// The same on vcsim as it comes, so that what is asked of a Server is no more than what its users are
// used to.
func TestVcsimItself(t *testing.T) {
	runAlike(stockOf(t, simulator.VPX()))
}

func runAlike(s *site) {
	for _, c := range alike {
		s.Run(c.name, func(t *testing.T) {
			sub := *s
			sub.T = t
			c.run(&sub)
		})
	}
}

// modelSite is a site of vcsim's model, whose VMs are on.
func modelSite(ctx context.Context, t *testing.T, c *govmomi.Client) *site {
	t.Helper()
	s := &site{T: t, ctx: ctx, c: c, finder: find.NewFinder(c.Client)}
	dc, err := s.finder.DefaultDatacenter(ctx)
	require.NoError(t, err)
	s.finder.SetDatacenter(dc)
	s.folder, err = s.finder.Folder(ctx, "vm")
	require.NoError(t, err)
	s.pool, err = s.finder.ResourcePool(ctx, "DC0_C0/Resources")
	require.NoError(t, err)
	return s
}

const modelVM = "DC0_C0_RP0_VM0"

// empty makes a VM without devices, off.
func (s *site) empty(name string) *object.VirtualMachine {
	s.Helper()
	res := s.must(s.folder.CreateVM(s.ctx, types.VirtualMachineConfigSpec{
		Name: name, NumCPUs: 1, MemoryMB: 64, Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_0]"},
	}, s.pool, nil))
	return object.NewVirtualMachine(s.c.Client, res.(types.ManagedObjectReference))
}

// about lists what events of the objects say.
func (s *site) about(kinds []string, refs ...types.ManagedObjectReference) (all []string) {
	s.Helper()
	err := event.NewManager(s.c.Client).Events(s.ctx, refs, 50, false, false,
		func(_ types.ManagedObjectReference, page []types.BaseEvent) error {
			for _, e := range page {
				all = append(all, e.GetEvent().FullFormattedMessage)
				if x, ok := e.(*types.EventEx); ok {
					all = append(all, x.Message)
				}
			}
			return nil
		}, kinds...)
	require.NoError(s, err)
	return all
}

func eventsOfTwoVMs(s *site) {
	one, two := s.vm("DC0_C0_RP0_VM0"), s.vm("DC0_C0_RP0_VM1")
	said := strings.Join(s.about([]string{"VmPoweredOnEvent"}, one.Reference(), two.Reference()), "\n")
	assert.Contains(s, said, "DC0_C0_RP0_VM0")
	assert.Contains(s, said, "DC0_C0_RP0_VM1")
}

func postsAnEvent(s *site) {
	vm := s.vm(modelVM).Reference()
	require.NoError(s, event.NewManager(s.c.Client).PostEvent(s.ctx, &types.EventEx{
		EventTypeId: "com.example.done", Message: "the program is done", ObjectType: vm.Type, ObjectId: vm.Value,
	}))
	assert.Contains(s, s.about(nil, vm), "the program is done")
}

func switchEvents(s *site) {
	folder, err := s.finder.Folder(s.ctx, "network")
	require.NoError(s, err)
	s.must(folder.CreateDVS(s.ctx, types.DVSCreateSpec{ConfigSpec: &types.DVSConfigSpec{Name: "DVS9"}}))
	said := strings.Join(s.about([]string{"DvsCreatedEvent"}, s.c.ServiceContent.RootFolder), "\n")
	assert.Contains(s, said, "vSphere Distributed Switch DVS9 was created")
}

func modelTasks(s *site) {
	var vm mo.VirtualMachine
	pc := property.DefaultCollector(s.c.Client)
	require.NoError(s, pc.RetrieveOne(s.ctx, s.vm(modelVM).Reference(), []string{"recentTask"}, &vm))
	require.NotEmpty(s, vm.RecentTask)
	var tasks []mo.Task
	require.NoError(s, pc.Retrieve(s.ctx, vm.RecentTask, []string{"info"}, &tasks))
	for _, t := range tasks {
		reason, ok := t.Info.Reason.(*types.TaskReasonUser)
		require.True(s, ok)
		assert.NotEmpty(s, reason.UserName)
	}
}

func hostByAddress(s *site) {
	cluster, err := s.finder.ClusterComputeResource(s.ctx, "DC0_C0")
	require.NoError(s, err)
	s.must(cluster.AddHost(s.ctx, types.HostConnectSpec{HostName: "10.0.0.42", UserName: "root", Password: "x"}, true, nil, nil))
	ref, err := object.NewSearchIndex(s.c.Client).FindByIp(s.ctx, nil, "10.0.0.42", false)
	require.NoError(s, err)
	require.NotNil(s, ref)
	name, err := object.NewHostSystem(s.c.Client, ref.Reference()).ObjectName(s.ctx)
	require.NoError(s, err)
	assert.Equal(s, "10.0.0.42", name)
}

func tooFewForVSAN(s *site) {
	folder, err := s.finder.Folder(s.ctx, "host")
	require.NoError(s, err)
	small, err := folder.CreateCluster(s.ctx, "small", types.ClusterConfigSpecEx{})
	require.NoError(s, err)
	for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
		s.must(small.AddHost(s.ctx, types.HostConnectSpec{HostName: host, UserName: "root", Password: "x"}, true, nil, nil))
	}
	s.must(small.Reconfigure(s.ctx, &types.ClusterConfigSpecEx{
		VsanConfig: &types.VsanClusterConfigInfo{Enabled: types.NewBool(true)},
	}, true))
	pool, err := small.ResourcePool(s.ctx)
	require.NoError(s, err)
	_, err = s.do(s.folder.CreateVM(s.ctx, types.VirtualMachineConfigSpec{
		Name: "wide", Files: &types.VirtualMachineFileInfo{VmPathName: "[vsanDatastore]"},
	}, pool, nil))
	assert.True(s, fault.Is(err, &types.CannotCreateFile{}), "%v", err)
}

// diskOf returns the VM's devices, and its only disk or last one.
func (s *site) diskOf(vm *object.VirtualMachine) *types.VirtualDisk {
	s.Helper()
	devs, err := vm.Device(s.ctx)
	require.NoError(s, err)
	all := devs.SelectByType((*types.VirtualDisk)(nil))
	require.NotEmpty(s, all)
	return all[len(all)-1].(*types.VirtualDisk)
}

// withDisk makes a VM with a disk of 10 MiB, or with a child of such a disk's file.
func (s *site) withDisk(name, parent string) *object.VirtualMachine {
	s.Helper()
	vm := s.empty(name)
	devs, err := vm.Device(s.ctx)
	require.NoError(s, err)
	scsi, err := devs.CreateSCSIController("pvscsi")
	require.NoError(s, err)
	require.NoError(s, vm.AddDevice(s.ctx, scsi))
	devs, err = vm.Device(s.ctx)
	require.NoError(s, err)
	ctrl, err := devs.FindDiskController("")
	require.NoError(s, err)
	ds, err := s.finder.Datastore(s.ctx, "LocalDS_0")
	require.NoError(s, err)
	var disk *types.VirtualDisk
	if parent == "" {
		disk = devs.CreateDisk(ctrl, ds.Reference(), ds.Path(name+"/own.vmdk"))
		disk.CapacityInKB = 10 << 10
	} else {
		disk = devs.ChildDisk(devs.CreateDisk(ctrl, ds.Reference(), parent))
	}
	require.NoError(s, vm.AddDevice(s.ctx, disk))
	return vm
}

func fileOf(d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	return d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

func childDisk(s *site) {
	base := fileOf(s.diskOf(s.withDisk("base", ""))).FileName
	child := s.withDisk("child", base)
	disk := s.diskOf(child)
	assert.EqualValues(s, 10<<10, disk.CapacityInKB)
	require.NotNil(s, fileOf(disk).Parent)
	assert.Equal(s, base, fileOf(disk).Parent.FileName)
	s.must(child.PromoteDisks(s.ctx, true, []types.VirtualDisk{*disk}))
	assert.Nil(s, fileOf(s.diskOf(child)).Parent)
}

func growsByBytes(s *site) {
	vm := s.withDisk("grows", "")
	disk := s.diskOf(vm)
	disk.CapacityInBytes = 20 << 20
	require.NoError(s, vm.EditDevice(s.ctx, disk))
	assert.EqualValues(s, 20<<20, s.diskOf(vm).CapacityInBytes)
	assert.EqualValues(s, 20<<10, s.diskOf(vm).CapacityInKB)
	disk = s.diskOf(vm)
	disk.CapacityInBytes = 10 << 20
	err := vm.EditDevice(s.ctx, disk)
	assert.True(s, fault.Is(err, &types.InvalidDeviceOperation{}), "%v", err)
}

func switchNIC(s *site) {
	devs, err := s.vm(modelVM).Device(s.ctx)
	require.NoError(s, err)
	nic := devs.Find("ethernet-0").(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	port := nic.Backing.(*types.VirtualEthernetCardDistributedVirtualPortBackingInfo).Port
	assert.Equal(s, "DVSwitch: "+port.SwitchUuid, nic.DeviceInfo.GetDescription().Summary)
}

func connectedDevices(s *site) {
	vm := s.empty("devices")
	devs, err := vm.Device(s.ctx)
	require.NoError(s, err)
	ide, err := devs.FindIDEController("")
	require.NoError(s, err)
	cdrom, err := devs.CreateCdrom(ide)
	require.NoError(s, err)
	require.NoError(s, vm.AddDevice(s.ctx, devs.InsertIso(cdrom, "[LocalDS_0] x.iso")))
	floppy, err := devs.CreateFloppy()
	require.NoError(s, err)
	require.NoError(s, vm.AddDevice(s.ctx, devs.InsertImg(floppy, "[LocalDS_0] x.img")))
	devs, err = vm.Device(s.ctx)
	require.NoError(s, err)
	for _, c := range []struct {
		like    types.BaseVirtualDevice
		summary string
	}{
		{(*types.VirtualCdrom)(nil), "ISO [LocalDS_0] x.iso"},
		{(*types.VirtualFloppy)(nil), "Image [LocalDS_0] x.img"},
	} {
		found := devs.SelectByType(c.like)
		require.Len(s, found, 1)
		assert.Equal(s, c.summary, found[0].GetVirtualDevice().DeviceInfo.GetDescription().Summary)
	}
}

func slashes(s *site) {
	vm := s.vm("DC0_H0_VM1")
	s.must(vm.Reconfigure(s.ctx, types.VirtualMachineConfigSpec{Name: "a/b"}))
	found, err := s.finder.VirtualMachineList(s.ctx, "*b")
	require.NoError(s, err)
	require.Len(s, found, 1)
	assert.Equal(s, vm.Reference(), found[0].Reference())
}

func moves(s *site) {
	vm := s.empty("mover")
	to, err := s.folder.CreateFolder(s.ctx, "there")
	require.NoError(s, err)
	s.must(to.MoveInto(s.ctx, []types.ManagedObjectReference{vm.Reference()}))
	folder := to.Reference()
	assert.Equal(s, &folder, s.props(vm).Parent)
	hosts, err := s.finder.HostSystemList(s.ctx, "DC0_C0/DC0_C0_H?")
	require.NoError(s, err)
	for _, h := range hosts {
		host := h.Reference()
		s.must(vm.Relocate(s.ctx, types.VirtualMachineRelocateSpec{Host: &host}, types.VirtualMachineMovePriorityDefaultPriority))
		assert.Equal(s, &host, s.props(vm).Runtime.Host)
	}
}

func registers(s *site) {
	vm := s.empty("leaver")
	vmx := s.props(vm).Config.Files.VmPathName
	require.NoError(s, vm.Unregister(s.ctx))
	_, err := s.finder.VirtualMachine(s.ctx, "leaver")
	require.Error(s, err)
	s.must(s.folder.RegisterVM(s.ctx, vmx, "leaver", false, s.pool, nil))
	assert.Equal(s, vmx, s.props(s.vm("leaver")).Config.Files.VmPathName)
}

func templateStaysOff(s *site) {
	vm := s.empty("golden")
	require.NoError(s, vm.MarkAsTemplate(s.ctx))
	_, err := s.do(vm.PowerOn(s.ctx))
	require.Error(s, err)
	require.NoError(s, vm.MarkAsVirtualMachine(s.ctx, *s.pool, nil))
	s.must(vm.PowerOn(s.ctx))
}

func exports(s *site) {
	vm := s.withDisk("exported", "")
	snap := s.snapshot(vm, "clean")
	res, err := methods.ExportSnapshot(s.ctx, s.c.Client, &types.ExportSnapshot{This: snap})
	require.NoError(s, err)
	var lease mo.HttpNfcLease
	require.NoError(s, property.DefaultCollector(s.c.Client).RetrieveOne(s.ctx, res.Returnval, []string{"state"}, &lease))
	assert.Contains(s, []types.HttpNfcLeaseState{types.HttpNfcLeaseStateReady, types.HttpNfcLeaseStateInitializing}, lease.State)
}
