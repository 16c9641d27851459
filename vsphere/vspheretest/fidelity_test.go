package vspheretest_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A wrong program: it does something that a real vCenter refuses or does otherwise, and says
// whether it got away with it.
type wrong struct {
	name string
	run  func(s *site) (gotAway bool)
}

var wrongPrograms = []wrong{
	{name: "forgets that a revert rolls back annotation, extraConfig and hardware", run: trustsRevert},
	{name: "keeps its lease in extraConfig of a VM that it reverts", run: leasesInVM},
	{name: "believes that a VM runs after a revert", run: runsAfterRevert},
	{name: "writes with an old changeVersion", run: staleWrite},
	{name: "lets two writers race with one changeVersion", run: racingWriters},
	{name: "renames onto a taken name and takes any error but DuplicateName", run: renamesOntoTaken},
	{name: "gives a taken name by reconfigure", run: reconfiguresOntoTaken},
	{name: "creates two VMs of one name", run: createsTwice},
	{name: "clones from a snapshot that does not exist", run: clonesFromNothing},
	{name: "clones from another VM's snapshot", run: clonesFromForeign},
	{name: "asks for a linked clone without a snapshot", run: linkedWithoutSnapshot},
	{name: "expects a clone of a snapshot to have the current hardware", run: cloneHasCurrentHardware},
	{name: "expects full clones to be linked, as it names each disk without a move type", run: locatorWithoutMoveType},
	{name: "grows the disk of a linked clone", run: growsLinked},
	{name: "grows a disk under a snapshot", run: growsSnapshotted},
	{name: "edits a device that does not exist while cloning", run: editsNothing},
	{name: "relies on the clone having the source's MAC", run: reliesOnMAC},
	{name: "powers on with a MAC that VMware keeps", run: powersOnKeptMAC},
	{name: "shuts down a guest whose tools do not run", run: shutsDownWithoutTools},
	{name: "takes the shutdown call's return for the end of the guest", run: shutdownIsInstant},
	{name: "reconfigures a VM that is being snapshotted, without a retry", run: pilesUp},
	{name: "destroys golden under its clones", run: destroysGolden},
	{name: "removes golden's snapshot under its clones", run: removesGoldenSnapshot},
	{name: "takes more than 32 snapshots in a chain", run: snapshotsForever},
	{name: "names VMs with 100 characters", run: longNames},
	{name: "snapshots a template", run: snapshotsTemplate},
	{name: "keeps guestinfo that it set while the VM ran", run: keepsGuestinfo},
	{name: "hides settings in reserved keys", run: reservedKeys},
}

func TestWrongProgramsFail(t *testing.T) {
	t.Parallel()
	all := start(t, nil)
	for _, w := range wrongPrograms {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			assert.False(t, w.run(all.in(t, w.name)), "the program got away with it")
		})
	}
}

// The programs above are worth a test because vcsim as it comes lets them pass. It has variables
// that its servers share, so these run one after the other.
func TestStockLetsWrongProgramsPass(t *testing.T) {
	all := stock(t)
	for _, w := range wrongPrograms {
		t.Run(w.name, func(t *testing.T) {
			assert.True(t, w.run(all.in(t, w.name)), "stock vcsim refuses it as well: nothing is shown")
		})
	}
}

func reconfigure(s *site, vm *object.VirtualMachine, spec types.VirtualMachineConfigSpec) error {
	_, err := s.do(vm.Reconfigure(s.ctx, spec))
	return err
}

func extra(key, value string) []types.BaseOptionValue {
	return []types.BaseOptionValue{&types.OptionValue{Key: key, Value: value}}
}

func lookup(list []types.BaseOptionValue, key string) string {
	for _, o := range list {
		if v := o.GetOptionValue(); v.Key == key {
			s, _ := v.Value.(string)
			return s
		}
	}
	return ""
}

func powersOnKeptMAC(s *site) bool {
	vm := s.vmOff("vm")
	nic := object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))[0]
	card := nic.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	for _, mac := range []string{"02:00:00:00:00:01", "00:50:56:3f:00:01", "00:50:56:ac:00:01"} {
		card.AddressType, card.MacAddress = string(types.VirtualEthernetCardMacTypeManual), mac
		require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: nic},
		}}))
		if _, err := s.do(vm.PowerOn(s.ctx)); err != nil {
			assert.Equal(s, "00:50:56:ac:00:01", mac, "%v", err)
			return false
		}
		s.must(vm.PowerOff(s.ctx))
	}
	return true
}

func trustsRevert(s *site) bool {
	vm := s.vmOff("vm")
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{Annotation: "before", MemoryMB: 64}))
	snap := s.snapshot(vm, "pool-ready")
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{Annotation: "after", MemoryMB: 128, ExtraConfig: extra("k", "v")}))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	o := s.props(vm)
	return o.Config.Annotation == "after" || o.Config.Hardware.MemoryMB == 128 || lookup(o.Config.ExtraConfig, "k") == "v" ||
		o.Summary.Config.Annotation == "after"
}

func leasesInVM(s *site) bool {
	vm := s.vmOff("vm")
	snap := s.snapshot(vm, "pool-ready")
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{ExtraConfig: extra("lease", "mine")}))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, true))
	return lookup(s.props(vm).Config.ExtraConfig, "lease") == "mine"
}

func runsAfterRevert(s *site) bool {
	vm := s.vmOff("vm")
	snap := s.snapshot(vm, "pool-ready")
	s.must(vm.PowerOn(s.ctx))
	s.must(vm.RevertToSnapshot(s.ctx, snap.Value, false))
	return s.props(vm).Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
}

func staleWrite(s *site) bool {
	vm := s.vmOff("vm")
	v := s.props(vm).Config.ChangeVersion
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{ChangeVersion: v, Annotation: "1"}))
	err := reconfigure(s, vm, types.VirtualMachineConfigSpec{ChangeVersion: v, Annotation: "2"})
	if err != nil {
		assert.True(s, fault.Is(err, &types.ConcurrentAccess{}), "%v", err)
	}
	return err == nil
}

func racingWriters(s *site) bool {
	vm := s.vmOff("vm")
	v := s.props(vm).Config.ChangeVersion
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if reconfigure(s, vm, types.VirtualMachineConfigSpec{ChangeVersion: v, ExtraConfig: extra("owner", "x")}) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	assert.NotZero(s, won.Load())
	return won.Load() > 1
}

func renamesOntoTaken(s *site) bool {
	s.vmOff("a")
	b := s.vmOff("b")
	_, err := s.do(b.Rename(s.ctx, "a"))
	require.Error(s, err)
	return !fault.Is(err, &types.DuplicateName{})
}

func reconfiguresOntoTaken(s *site) bool {
	s.vmOff("a")
	b := s.vmOff("b")
	err := reconfigure(s, b, types.VirtualMachineConfigSpec{Name: "a"})
	return !fault.Is(err, &types.DuplicateName{})
}

func createsTwice(s *site) bool {
	ds, err := s.finder.DefaultDatastore(s.ctx)
	require.NoError(s, err)
	spec := types.VirtualMachineConfigSpec{
		Name: "ledger", GuestId: "otherGuest", Files: &types.VirtualMachineFileInfo{VmPathName: "[" + ds.Name() + "]"},
	}
	s.must(s.folder.CreateVM(s.ctx, spec, s.pool, nil))
	_, err = s.do(s.folder.CreateVM(s.ctx, spec, s.pool, nil))
	return !fault.Is(err, &types.DuplicateName{})
}

func (s *site) cloneOf(src *object.VirtualMachine, name string, set func(*types.VirtualMachineCloneSpec)) (*object.VirtualMachine, error) {
	s.Helper()
	spec := types.VirtualMachineCloneSpec{Location: s.here()}
	set(&spec)
	ref, err := s.do(src.Clone(s.ctx, s.folder, name, spec))
	if err != nil {
		return nil, err
	}
	return object.NewVirtualMachine(s.c.Client, ref.(types.ManagedObjectReference)), nil
}

func clonesFromNothing(s *site) bool {
	_, err := s.cloneOf(s.vm("template"), "c", func(c *types.VirtualMachineCloneSpec) {
		c.Snapshot = &types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: "snapshot-nope"}
	})
	return err == nil
}

func clonesFromForeign(s *site) bool {
	a, b := s.vmOff("a"), s.vmOff("b")
	snap := s.snapshot(a, "s")
	_, err := s.cloneOf(b, "c", func(c *types.VirtualMachineCloneSpec) { c.Snapshot = &snap })
	return err == nil
}

func linkedWithoutSnapshot(s *site) bool {
	_, err := s.cloneOf(s.vmOff("a"), "c", func(c *types.VirtualMachineCloneSpec) {
		c.Location.DiskMoveType = "createNewChildDiskBacking"
	})
	return err == nil
}

func cloneHasCurrentHardware(s *site) bool {
	a := s.vmOff("a")
	require.NoError(s, reconfigure(s, a, types.VirtualMachineConfigSpec{NumCPUs: 1}))
	snap := s.snapshot(a, "s")
	require.NoError(s, reconfigure(s, a, types.VirtualMachineConfigSpec{NumCPUs: 4}))
	c, err := s.cloneOf(a, "c", func(c *types.VirtualMachineCloneSpec) { c.Snapshot = &snap })
	require.NoError(s, err)
	return s.props(c).Config.Hardware.NumCPU == 4
}

func (s *site) disk(vm *object.VirtualMachine) *types.VirtualDisk {
	s.Helper()
	return object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).SelectByType((*types.VirtualDisk)(nil))[0].(*types.VirtualDisk)
}

func parent(d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	return d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).Parent
}

// locatorWithoutMoveType makes clones that it says are linked; it notices nothing if there is
// no parent either way, and gets away with it where no clone ever has one.
func locatorWithoutMoveType(s *site) bool {
	a := s.vmOff("a")
	snap := s.snapshot(a, "s")
	make := func(name string, locate bool) bool {
		c, err := s.cloneOf(a, name, func(c *types.VirtualMachineCloneSpec) {
			c.Snapshot = &snap
			c.Location.DiskMoveType = "createNewChildDiskBacking"
			if locate {
				ds, err := s.finder.DefaultDatastore(s.ctx)
				require.NoError(s, err)
				c.Location.Disk = []types.VirtualMachineRelocateSpecDiskLocator{{DiskId: s.disk(a).Key, Datastore: ds.Reference()}}
			}
		})
		require.NoError(s, err)
		return parent(s.disk(c)) != nil
	}
	return make("linked", false) == make("copied", true)
}

func grown(d *types.VirtualDisk) []types.BaseVirtualDeviceConfigSpec {
	d.CapacityInKB *= 2
	d.CapacityInBytes *= 2
	return []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{Operation: "edit", Device: d}}
}

func growsLinked(s *site) bool {
	a := s.vmOff("a")
	snap := s.snapshot(a, "s")
	_, err := s.cloneOf(a, "c", func(c *types.VirtualMachineCloneSpec) {
		c.Snapshot, c.Location.DiskMoveType = &snap, "createNewChildDiskBacking"
		c.Config = &types.VirtualMachineConfigSpec{DeviceChange: grown(s.disk(a))}
	})
	return err == nil
}

func growsSnapshotted(s *site) bool {
	a := s.vmOff("a")
	s.snapshot(a, "s")
	err := reconfigure(s, a, types.VirtualMachineConfigSpec{DeviceChange: grown(s.disk(a))})
	return err == nil
}

func editsNothing(s *site) bool {
	_, err := s.cloneOf(s.vmOff("a"), "c", func(c *types.VirtualMachineCloneSpec) {
		nic := &types.VirtualVmxnet3{}
		nic.Key = 4711
		c.Config = &types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: "edit", Device: nic},
		}}
	})
	return err == nil
}

func (s *site) mac(vm *object.VirtualMachine) string {
	s.Helper()
	return object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))[0].(types.BaseVirtualEthernetCard).
		GetVirtualEthernetCard().MacAddress
}

func reliesOnMAC(s *site) bool {
	a := s.vmOff("a")
	c, err := s.cloneOf(a, "c", func(*types.VirtualMachineCloneSpec) {})
	require.NoError(s, err)
	return s.mac(a) == s.mac(c)
}

func shutsDownWithoutTools(s *site) bool {
	if s.srv != nil {
		s = start(s.T, func(srv *vspheretest.Server) { srv.Latency.Boot = time.Hour })
	}
	vm := s.vmOff("a")
	s.must(vm.PowerOn(s.ctx))
	err := vm.ShutdownGuest(s.ctx)
	if err != nil {
		assert.True(s, fault.Is(err, &types.ToolsUnavailable{}), "%v", err)
	}
	return err == nil
}

func shutdownIsInstant(s *site) bool {
	if s.srv != nil {
		s = start(s.T, func(srv *vspheretest.Server) { srv.Latency.GuestShutdown = time.Hour })
	}
	vm := s.vmOff("a")
	s.must(vm.PowerOn(s.ctx))
	if s.srv != nil {
		s.address(vm)
	}
	require.NoError(s, vm.ShutdownGuest(s.ctx))
	return s.props(vm).Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff
}

// pilesUp submits two operations on one VM at once.
func pilesUp(s *site) bool {
	if s.srv != nil {
		s = start(s.T, func(srv *vspheretest.Server) { srv.Latency.Snapshot = time.Hour })
	}
	vm := s.vmOff("a")
	t1, err := vm.CreateSnapshot(s.ctx, "s", "", false, false)
	require.NoError(s, err)
	err = reconfigure(s, vm, types.VirtualMachineConfigSpec{Annotation: "x"})
	if s.srv == nil {
		s.must(t1, nil)
	}
	if err != nil {
		assert.True(s, fault.Is(err, &types.TaskInProgress{}), "%v", err)
	}
	return err == nil
}

func destroysGolden(s *site) bool {
	golden := s.vmOff("golden")
	s.linked(golden, s.snapshot(golden, "golden-ready"), "con1")
	_, err := s.do(golden.Destroy(s.ctx))
	return err == nil
}

func removesGoldenSnapshot(s *site) bool {
	golden := s.vmOff("golden")
	snap := s.snapshot(golden, "golden-ready")
	s.linked(golden, snap, "con1")
	yes := true
	_, err := s.do(golden.RemoveSnapshot(s.ctx, snap.Value, false, &yes))
	return err == nil
}

func snapshotsForever(s *site) bool {
	vm := s.vmOff("a")
	for range 33 {
		if _, err := s.do(vm.CreateSnapshot(s.ctx, "s", "", false, false)); err != nil {
			assert.True(s, fault.Is(err, &types.TooManySnapshotLevels{}), "%v", err)
			return false
		}
	}
	return true
}

func longNames(s *site) bool {
	name := ""
	for range 100 {
		name += "x"
	}
	_, err := s.do(s.vmOff("a").Rename(s.ctx, name))
	return err == nil
}

func snapshotsTemplate(s *site) bool {
	vm := s.vmOff("a")
	require.NoError(s, vm.MarkAsTemplate(s.ctx))
	_, err := s.do(vm.CreateSnapshot(s.ctx, "s", "", false, false))
	return err == nil
}

func keepsGuestinfo(s *site) bool {
	vm := s.vmOff("a")
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{ExtraConfig: extra("guestinfo.kept", "1")}))
	s.must(vm.PowerOn(s.ctx))
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{ExtraConfig: extra("guestinfo.lost", "1")}))
	s.must(vm.PowerOff(s.ctx))
	x := s.props(vm).Config.ExtraConfig
	assert.Equal(s, "1", lookup(x, "guestinfo.kept"))
	return lookup(x, "guestinfo.lost") == "1"
}

func reservedKeys(s *site) bool {
	vm := s.vmOff("a")
	require.NoError(s, reconfigure(s, vm, types.VirtualMachineConfigSpec{ExtraConfig: extra("displayName", "evil")}))
	return lookup(s.props(vm).Config.ExtraConfig, "displayName") == "evil"
}

// vmOff makes a powered-off VM of the template.
func (s *site) vmOff(name string) *object.VirtualMachine {
	s.Helper()
	return s.full(name)
}

func TestOneOfManyWinsAName(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var sources []*object.VirtualMachine
	for _, n := range []string{"a", "b", "c", "d"} {
		sources = append(sources, s.full(n))
	}
	for round := range 10 {
		name := "x" + string(rune('0'+round))
		var won, lost atomic.Int32
		var wg sync.WaitGroup
		for _, src := range sources {
			wg.Go(func() {
				c := s.session()
				_, err := s.do(object.NewVirtualMachine(c.Client, src.Reference()).Clone(s.ctx, s.folder, name, types.VirtualMachineCloneSpec{Location: s.here()}))
				switch {
				case err == nil:
					won.Add(1)
				case fault.Is(err, &types.DuplicateName{}):
					lost.Add(1)
				default:
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, won.Load())
		assert.EqualValues(t, 3, lost.Load())
		list, err := find.NewFinder(s.c.Client).VirtualMachineList(s.ctx, "/Datacenter/vm/"+name)
		require.NoError(t, err)
		assert.Len(t, list, 1)
	}
}

// session is one more client, with a session of its own.
func (s *site) session() *govmomi.Client {
	c, err := s.srv.Client(s.ctx)
	require.NoError(s, err)
	return c
}
