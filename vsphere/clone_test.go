package vsphere

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	govmomi "github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// sent returns the specifications of all clone calls.
func (l *lab) sent() (specs []types.VirtualMachineCloneSpec) {
	for _, r := range l.Requests() {
		switch b := r.Body.(type) {
		case *types.CloneVM_Task:
			specs = append(specs, b.Spec)
		case *types.CloneVMRequestType:
			specs = append(specs, b.Spec)
		}
	}
	return specs
}

func TestCloneSaysEverythingInOneCall(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) {
		s.Networks = []string{"VM Network", "private"}
		s.Datastores = []string{"ds1", "ds2"}
		s.ResourcePools = []string{"dev"}
	})
	l.cfg.Network, l.cfg.Datastore, l.cfg.ResourcePool = "VM Network", "ds1", "dev"
	l.p = l.provider(t)
	ctx := within(t, 30*time.Second)
	spec := goldenSpec("golden")
	spec.VM.DiskGiB, spec.VM.Folder = 40, "golden"
	golden, err := l.p.Clone(ctx, spec)
	require.NoError(t, err)
	snap, err := l.p.Snapshot(ctx, golden, "golden-ready", "{}")
	require.NoError(t, err)
	spec = linkedSpec(golden, snap, "con1", "00:50:56:00:00:11")
	spec.VM.NICs = append(spec.VM.NICs, pool.NIC{Network: "private", MAC: "00:50:56:00:00:12"}, pool.NIC{Network: "/Datacenter/network/private"})
	spec.VM.CPUs, spec.VM.MemoryMiB = 4, 8192
	_, err = l.p.Clone(ctx, spec)
	require.NoError(t, err)

	specs := l.sent()
	require.Len(t, specs, 2)
	full, linked := specs[0], specs[1]

	assert.Nil(t, full.Snapshot)
	assert.Equal(t, "moveAllDiskBackingsAndConsolidate", full.Location.DiskMoveType)
	require.NotNil(t, full.Location.Pool, "a template has none of its own")
	var grown *types.VirtualDisk
	for _, d := range full.Config.DeviceChange {
		if disk, ok := d.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk); ok {
			grown = disk
		}
	}
	require.NotNil(t, grown)
	assert.Equal(t, int64(40<<20), grown.CapacityInKB)
	assert.Equal(t, int64(40<<30), grown.CapacityInBytes)

	require.NotNil(t, linked.Snapshot)
	assert.Equal(t, snap, linked.Snapshot.Value)
	assert.Equal(t, "createNewChildDiskBacking", linked.Location.DiskMoveType)
	assert.Empty(t, linked.Location.Disk, "a locator per disk would undo the move type")
	assert.NotNil(t, linked.Location.Folder)
	assert.NotNil(t, linked.Location.Datastore)
	assert.NotNil(t, linked.Location.Pool)
	assert.False(t, linked.PowerOn)
	assert.Equal(t, int32(4), linked.Config.NumCPUs)
	assert.Equal(t, int64(8192), linked.Config.MemoryMB)
	assert.Equal(t, "con1", linked.Config.Annotation)
	var added, removed int
	macs := []string{}
	for _, d := range linked.Config.DeviceChange {
		c := d.GetVirtualDeviceConfigSpec()
		card, ok := c.Device.(types.BaseVirtualEthernetCard)
		require.True(t, ok, "only NICs change")
		switch c.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			added++
			nic := card.GetVirtualEthernetCard()
			if nic.MacAddress != "" {
				assert.Equal(t, "manual", nic.AddressType, "without which vCenter picks another address")
				macs = append(macs, nic.MacAddress)
			}
		case types.VirtualDeviceConfigSpecOperationRemove:
			removed++
		default:
			assert.Fail(t, "editing a NIC would keep its MAC")
		}
	}
	assert.Equal(t, 3, added)
	assert.Equal(t, 1, removed)
	assert.Equal(t, []string{"00:50:56:00:00:11", "00:50:56:00:00:12"}, macs)

	calls, _ := l.counts()
	assert.Equal(t, 2, calls["CloneVM_Task"])
	assert.Zero(t, calls["ReconfigVM_Task"])
}

func TestCloneRefusesBeforeItStarts(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Datastores = []string{"ds1", "ds2"} })
	l.cfg.Datastore = "ds1"
	l.p = l.provider(t)
	ctx := within(t, 30*time.Second)
	golden, snap := l.golden(t, ctx)
	_, before := l.counts()
	for _, c := range []struct {
		name   string
		change func(*pool.CloneSpec)
		says   string
	}{
		{"a linked clone that grows", func(s *pool.CloneSpec) { s.VM.DiskGiB = 100 }, "cannot grow"},
		{"a linked clone on another datastore", func(s *pool.CloneSpec) { s.VM.Datastore = "ds2" }, "golden per datastore"},
		{"a full clone that shrinks", func(s *pool.CloneSpec) {
			s.Source, s.Template, s.Snapshot, s.VM.DiskGiB = "template", true, "", 1
		}, "disks cannot shrink"},
		{"the snapshot of a template", func(s *pool.CloneSpec) { s.Source, s.Template = "template", true }, "leave CloneSpec.Snapshot empty"},
		{"a snapshot of another VM", func(s *pool.CloneSpec) { s.Source = "vm-1" }, `belongs to VM "golden"`},
		{"a snapshot that does not exist", func(s *pool.CloneSpec) { s.Snapshot = "snapshot-none" }, "does not exist"},
		{"no such datastore", func(s *pool.CloneSpec) { s.VM.Datastore = "ds3" }, `no datastore "ds3"`},
		{"no such network", func(s *pool.CloneSpec) { s.VM.NICs[0].Network = "lan" }, `NIC 0: there is no network "lan"`},
		{"two faults at once", func(s *pool.CloneSpec) { s.VM.Datastore, s.VM.ResourcePool = "ds3", "rp3" }, `no resource pool "rp3"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := linkedSpec(golden, snap, "con1", "00:50:56:00:00:21")
			c.change(&spec)
			_, err := l.p.Clone(ctx, spec)
			require.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, `to "con1"`)
			assert.Contains(t, []class{permanent, gone}, classify(err))
		})
	}
	for _, r := range l.Requests()[before:] {
		assert.NotContains(t, []string{"CloneVM_Task", "CreateFolder"}, r.Method, "nothing is made")
	}
}

func TestCloneThatIsNotAsAskedIsSeen(t *testing.T) {
	t.Parallel()
	chain := func(files ...string) *types.VirtualDisk {
		var b *types.VirtualDiskFlatVer2BackingInfo
		for i := len(files) - 1; i >= 0; i-- {
			next := &types.VirtualDiskFlatVer2BackingInfo{Parent: b}
			next.FileName = files[i]
			b = next
		}
		d := &types.VirtualDisk{}
		d.Backing = b
		return d
	}
	card := func(mac string) *types.VirtualVmxnet3 {
		c := &types.VirtualVmxnet3{}
		c.MacAddress = mac
		return c
	}
	vm := func(devices ...types.BaseVirtualDevice) mo.VirtualMachine {
		return mo.VirtualMachine{Config: &types.VirtualMachineConfigInfo{Hardware: types.VirtualHardware{Device: devices}}}
	}
	spec := linkedSpec("vm-1", "snapshot-1", "con1", "00:50:56:00:00:AA")
	linked := chain("[ds] con1/con1.vmdk", "[ds] golden/golden.vmdk")
	for _, c := range []struct {
		name string
		vm   mo.VirtualMachine
		says string
	}{
		{"as asked", vm(linked, card("00:50:56:00:00:aa")), ""},
		{"a silent full copy", vm(chain("[ds] con1/con1.vmdk"), card("00:50:56:00:00:aa")), "not linked"},
		{"one of two disks is copied", vm(linked, chain("[ds] con1/con1_1.vmdk"), card("00:50:56:00:00:aa")), "not linked"},
		{"another MAC", vm(linked, card("00:50:56:00:00:bb")), "has the MAC 00:50:56:00:00:bb instead of"},
		{"the source's NIC too", vm(linked, card("00:50:56:00:00:01"), card("00:50:56:00:00:aa")), "2 NICs instead of 1"},
		{"no configuration", mo.VirtualMachine{}, "no configuration"},
	} {
		if c.says == "" {
			assert.Empty(t, differs(c.vm, spec), c.name)
		} else {
			assert.Contains(t, differs(c.vm, spec), c.says, c.name)
		}
	}
}

func TestDisksAreToldApartByDirectory(t *testing.T) {
	t.Parallel()
	flat := func(file string, parent *types.VirtualDiskFlatVer2BackingInfo) *types.VirtualDiskFlatVer2BackingInfo {
		b := &types.VirtualDiskFlatVer2BackingInfo{Parent: parent}
		b.FileName = file
		return b
	}
	vm := func(backings ...*types.VirtualDiskFlatVer2BackingInfo) mo.VirtualMachine {
		cfg := &types.VirtualMachineConfigInfo{Files: types.VirtualMachineFileInfo{VmPathName: "[ds] con1/con1.vmx", SnapshotDirectory: "[ds] con1"}}
		for _, b := range backings {
			d := &types.VirtualDisk{}
			d.Backing = b
			cfg.Hardware.Device = append(cfg.Hardware.Device, d)
		}
		return mo.VirtualMachine{Config: cfg}
	}
	base := flat("[ds] golden/golden.vmdk", nil)
	for _, c := range []struct {
		name    string
		vm      mo.VirtualMachine
		foreign []string
	}{
		{"its own disk", vm(flat("[ds] con1/con1.vmdk", nil)), nil},
		{"its own snapshot", vm(flat("[ds] con1/con1-000001.vmdk", flat("[ds] con1/con1.vmdk", nil))), nil},
		{"a linked clone", vm(flat("[ds] con1/con1.vmdk", base)), []string{"[ds] golden/golden.vmdk"}},
		{"a snapshot of a linked clone", vm(flat("[ds] con1/con1-000001.vmdk", flat("[ds] con1/con1.vmdk", base))), []string{"[ds] golden/golden.vmdk"}},
		{"a second disk elsewhere", vm(flat("[ds] con1/con1.vmdk", nil), flat("[slow] con1/data.vmdk", nil)), nil},
		{"a directory whose name begins the same", vm(flat("[ds] con1/con1.vmdk", flat("[ds] con11/con11.vmdk", nil))), []string{"[ds] con11/con11.vmdk"}},
		{"no disk", vm(), nil},
	} {
		assert.Equal(t, c.foreign, disksOf(c.vm).foreign, c.name)
	}
}

func TestClonesOfAClone(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 30*time.Second)
	golden, snap := l.golden(t, ctx)
	con, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:00:00:31"))
	require.NoError(t, err)
	snap, err = l.p.Snapshot(ctx, con, "s", "")
	require.NoError(t, err)
	_, err = l.p.Clone(ctx, linkedSpec(con, snap, "con2", "00:50:56:00:00:32"))
	require.NoError(t, err)
	paths, err := l.p.Clones(ctx, golden)
	require.NoError(t, err)
	assert.Equal(t, []string{"/Datacenter/vm/set/con1", "/Datacenter/vm/set/con2"}, paths)
	paths, err = l.p.Clones(ctx, con)
	require.NoError(t, err)
	assert.Equal(t, []string{"/Datacenter/vm/set/con2"}, paths, "not golden, on which it hangs itself")
}

func TestSourceWhoseDiskNoRevertCleansIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 30*time.Second)
	other := goldenSpec("appliance")
	other.Set = "other"
	id, err := l.p.Clone(ctx, other)
	require.NoError(t, err)
	c, err := l.Client(ctx)
	require.NoError(t, err)
	task, err := govmomi.NewVirtualMachine(c.Client, vmRef(id)).Reconfigure(ctx, types.VirtualMachineConfigSpec{
		DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
			Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
			Device: &types.VirtualDisk{
				CapacityInKB: 1 << 20,
				VirtualDevice: types.VirtualDevice{ControllerKey: 1000, UnitNumber: types.NewInt32(1), Backing: &types.VirtualDiskFlatVer2BackingInfo{
					DiskMode: string(types.VirtualDiskModeIndependent_persistent),
				}},
			},
		}},
	})
	require.NoError(t, err)
	require.NoError(t, task.Wait(ctx))

	golden := goldenSpec("golden")
	golden.Source = "other/appliance"
	const says = `VM "appliance" (`
	for _, err := range []error{
		l.p.Preflight(ctx, []pool.CloneSpec{golden}),
		func() error { _, err := l.p.Clone(ctx, golden); return err }(),
	} {
		require.ErrorContains(t, err, says)
		assert.ErrorContains(t, err, "disk 2001 is independent_persistent")
	}
}
