package vspheretest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A vm is what the hypervisor knows of a VM beyond its properties.
type vm struct {
	ref  types.ManagedObjectReference
	obj  *simulator.VirtualMachine // its properties, under vcsim's lock
	home home

	publish sync.Mutex // held while a guest's state becomes properties, and while the guest changes

	// Guarded by Server.mu.
	owner    *types.ManagedObjectReference         // the task that has the VM to itself
	sharers  map[types.ManagedObjectReference]bool // the tasks that read the VM
	disk     Disk                                  // nil until it is first needed
	guest    *running                              // nil while the power is off
	snaps    map[types.ManagedObjectReference]kept // what the snapshots hold
	persist  []types.BaseOptionValue               // extraConfig at power on, for guestinfo.*
	reverts  int                                   // how often the VM was reverted
	asleep   []byte                                // memory of a suspended guest
	custom   *types.CustomizationSpec              // pending
	wired    []types.ManagedObjectReference        // the networks that list the VM
	question *question                             // that its operation waits for
	gone     bool                                  // destroyed
}

// A kept is what a snapshot holds beside the configuration.
type kept struct {
	disk   Disk
	memory []byte     // nil without memory, and of a guest that had not booted
	boot   *time.Time // runtime.bootTime, with memory
}

// A home is where a VM lives; it does not depend on its .vmx.
type home struct {
	host *simulator.HostSystem
	ds   *simulator.Datastore
	dir  string // "[Datastore1] con1"
}

// A builder makes VMs.
type builder struct {
	s      *Server
	ctx    *simulator.Context
	name   string
	folder *simulator.Folder
	pool   types.ManagedObjectReference
	host   *simulator.HostSystem
	ds     *simulator.Datastore
	dir    string
	self   types.ManagedObjectReference // "" makes a new one
}

// blank is the configuration of a VM with nothing but what every VM has.
func (b *builder) blank() types.VirtualMachineConfigInfo {
	return b.blankIn(b.s.takeDir(b.ds.Name, b.name))
}

// blankIn is blank in a directory that is the VM's already.
func (b *builder) blankIn(dir string) types.VirtualMachineConfigInfo {
	b.dir = dir
	alloc := types.DefaultResourceConfigSpec()
	now := time.Now()
	return types.VirtualMachineConfigInfo{
		Name: b.name, Uuid: newUUID(), InstanceUuid: newUUID(),
		Version: esx.HardwareVersion, Firmware: string(types.GuestOsDescriptorFirmwareTypeBios),
		GuestId: "otherGuest", GuestFullName: "otherGuest", CreateDate: &now,
		Files: types.VirtualMachineFileInfo{
			VmPathName: b.vmx(), SnapshotDirectory: b.dir, SuspendDirectory: b.dir, LogDirectory: b.dir,
		},
		Tools: &types.ToolsConfigInfo{}, BootOptions: &types.VirtualMachineBootOptions{},
		MemoryAllocation: &alloc.MemoryAllocation, CpuAllocation: &alloc.CpuAllocation,
		LatencySensitivity: &types.LatencySensitivity{Level: types.LatencySensitivitySensitivityLevelNormal},
		Hardware: types.VirtualHardware{
			NumCPU: 1, NumCoresPerSocket: types.NewInt32(1), MemoryMB: 32, Device: deepCopy(esx.VirtualDevice),
		},
	}
}

func (b *builder) vmx() string { return b.dir + "/" + b.name + ".vmx" }

func (b *builder) apply(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	r := &rig{s: b.s, ctx: b.ctx, dc: datacenterOf(b.ctx, b.folder.Self), config: c, dir: b.dir}
	return r.apply(spec)
}

// takeDir returns a directory of the datastore for a VM of that name, and keeps others out of it.
func (s *Server) takeDir(ds, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 0; ; i++ {
		dir := fmt.Sprintf("[%s] %s", ds, name)
		if i > 0 {
			dir = fmt.Sprintf("%s_%d", dir, i)
		}
		if !s.dirs[dir] {
			s.dirs[dir] = true
			return dir
		}
	}
}

// put makes a powered-off VM of the configuration, complete, and shows it in the inventory.
func (b *builder) put(cfg types.VirtualMachineConfigInfo) *vm {
	v := b.reserve(nil)
	b.complete(v, cfg)
	return v
}

// reserve shows a VM in the inventory that is still being made: it has a name and no config, and
// the task that makes it has it to itself.
func (b *builder) reserve(task *types.ManagedObjectReference) *vm {
	obj := &simulator.VirtualMachine{DataSets: make(map[string]*simulator.DataSet)}
	v := &vm{
		obj: obj, home: home{host: b.host, ds: b.ds, dir: b.dir},
		sharers: make(map[types.ManagedObjectReference]bool), snaps: make(map[types.ManagedObjectReference]kept),
	}
	obj.Name = b.name
	obj.Parent = &b.folder.Self
	if obj.Self = b.self; obj.Self.Value == "" {
		obj.Self = types.ManagedObjectReference{Type: "VirtualMachine", Value: b.s.newValue("vm")}
	}
	obj.Runtime = types.VirtualMachineRuntimeInfo{
		Host: &b.host.Self, PowerState: types.VirtualMachinePowerStatePoweredOff,
		ConnectionState:     types.VirtualMachineConnectionStateConnected,
		FaultToleranceState: types.VirtualMachineFaultToleranceStateNotConfigured,
		RecordReplayState:   types.VirtualMachineRecordReplayStateInactive,
	}
	obj.Guest = &types.GuestInfo{
		ToolsStatus:        types.VirtualMachineToolsStatusToolsNotRunning,
		ToolsRunningStatus: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning),
		GuestState:         string(types.VirtualMachineGuestStateNotRunning),
	}
	obj.Layout = &types.VirtualMachineFileLayout{}
	obj.LayoutEx = &types.VirtualMachineFileLayoutEx{Timestamp: time.Now()}
	obj.Storage = &types.VirtualMachineStorageInfo{Timestamp: time.Now()}
	if c, ok := computeOf(b.ctx, b.host.Self); ok && c.EnvironmentBrowser != nil {
		obj.EnvironmentBrowser = *c.EnvironmentBrowser
	}
	v.ref, v.owner = obj.Self, task
	b.s.index.set(v, &obj.VirtualMachine)
	b.s.mu.Lock()
	b.s.vms[v.ref] = v
	b.s.mu.Unlock()

	b.ctx.Map.Put(obj)
	change(b.ctx, b.folder, func() { b.folder.ChildEntity = append(slices.Clip(b.folder.ChildEntity), v.ref) })
	return v
}

// complete gives a reserved VM its configuration and its places.
func (b *builder) complete(v *vm, cfg types.VirtualMachineConfigInfo) {
	cfg.ChangeVersion, cfg.Modified = b.s.changeVersion()
	b.s.index.identify(v, &cfg)
	pool := b.pool
	change(b.ctx, v.obj, func() {
		v.obj.ResourcePool = &pool
		v.obj.Datastore = []types.ManagedObjectReference{b.ds.Self}
		b.s.setConfig(v, &cfg)
	})
	b.s.addToLists(b.ctx, v)
	b.s.layFiles(b.ctx, v)
	b.s.rewire(b.ctx, v, false)
}

// leavePool takes the VM from its pool's list: templates are in none.
func (b *builder) leavePool(v *vm) { b.s.leavePool(b.ctx, v, b.pool) }

func (s *Server) leavePool(ctx *simulator.Context, v *vm, pool types.ManagedObjectReference) {
	if rp, ok := asPool(ctx.Map.Get(pool)); ok {
		change(ctx, rp, func() { rp.Vm = without(rp.Vm, v.ref) })
	}
}

func without(refs []types.ManagedObjectReference, ref types.ManagedObjectReference) []types.ManagedObjectReference {
	return slices.DeleteFunc(slices.Clone(refs), func(r types.ManagedObjectReference) bool { return r == ref })
}

// setConfig makes cfg the VM's configuration, and what follows from it. The caller holds the
// object's lock, and gives cfg away.
func (s *Server) setConfig(v *vm, cfg *types.VirtualMachineConfigInfo) {
	o := v.obj
	o.Config = cfg
	o.Config.Name = o.Name
	s.index.set(v, &o.VirtualMachine)
	o.Network = nil
	for _, n := range nics(cfg) {
		switch b := n.Backing.(type) {
		case *types.VirtualEthernetCardNetworkBackingInfo:
			o.Network = append(o.Network, *b.Network)
		case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
			o.Network = append(o.Network, types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey})
		}
	}
	var total int64
	var files []types.VirtualMachineFileLayoutExFileInfo
	for i, name := range append([]string{cfg.Files.VmPathName}, diskFiles(cfg)...) {
		kind := string(types.VirtualMachineFileLayoutExFileTypeDiskDescriptor)
		if i == 0 {
			kind = string(types.VirtualMachineFileLayoutExFileTypeConfig)
		}
		files = append(files, types.VirtualMachineFileLayoutExFileInfo{Key: int32(i), Name: name, Type: kind, Accessible: types.NewBool(true)})
	}
	for _, d := range disks(cfg) {
		total += d.CapacityInBytes
	}
	o.LayoutEx = &types.VirtualMachineFileLayoutEx{File: files, Timestamp: time.Now()}
	o.Summary = types.VirtualMachineSummary{
		Vm: &o.Self, Runtime: o.Runtime, OverallStatus: types.ManagedEntityStatusGreen, CustomValue: o.Summary.CustomValue,
		Config: types.VirtualMachineConfigSummary{
			Name: o.Name, Template: cfg.Template, VmPathName: cfg.Files.VmPathName, Annotation: cfg.Annotation,
			MemorySizeMB: cfg.Hardware.MemoryMB, NumCpu: cfg.Hardware.NumCPU, Uuid: cfg.Uuid, InstanceUuid: cfg.InstanceUuid,
			GuestId: cfg.GuestId, GuestFullName: cfg.GuestFullName, HwVersion: cfg.Version, ManagedBy: cfg.ManagedBy,
			NumEthernetCards: int32(len(nics(cfg))), NumVirtualDisks: int32(len(disks(cfg))),
		},
		Storage: &types.VirtualMachineStorageSummary{Uncommitted: total, Timestamp: time.Now()},
		Guest:   guestSummary(o.Guest),
	}
	o.Summary.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGray
}

func guestSummary(g *types.GuestInfo) *types.VirtualMachineGuestSummary {
	return &types.VirtualMachineGuestSummary{
		GuestId: g.GuestId, GuestFullName: g.GuestFullName, ToolsStatus: g.ToolsStatus,
		ToolsVersionStatus2: g.ToolsVersionStatus2, ToolsRunningStatus: g.ToolsRunningStatus,
		HostName: g.HostName, IpAddress: g.IpAddress,
	}
}

func diskFiles(c *types.VirtualMachineConfigInfo) []string {
	var out []string
	for _, d := range disks(c) {
		if b := backingOf(d); b != nil {
			out = append(out, b.FileName)
		}
	}
	return out
}

// vm returns the VM that ref names; nil if there is none.
func (s *Server) vm(ref types.ManagedObjectReference) *vm {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.vms[ref]
	if v == nil || v.gone {
		return nil
	}
	return v
}

func (s *Server) allVMs() []*vm {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*vm
	for _, v := range s.vms {
		all = append(all, v)
	}
	return all
}

// newValue returns an unused value for a reference: "vm-1000001".
func (s *Server) newValue(prefix string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nvalue++
	return fmt.Sprintf("%s-%d", prefix, 1_000_000+s.nvalue)
}

// look calls f with the VM's object, which f must not change or keep parts of.
func (v *vm) look(ctx *simulator.Context, f func(o *mo.VirtualMachine)) {
	ctx.WithLock(v.ref, func() { f(&v.obj.VirtualMachine) })
}

// power is the VM's power state.
func (v *vm) power(ctx *simulator.Context) (p types.VirtualMachinePowerState) {
	v.look(ctx, func(o *mo.VirtualMachine) { p = o.Runtime.PowerState })
	return p
}

// config is a copy of the VM's configuration; nil while the VM is being made.
func (v *vm) config(ctx *simulator.Context) (c *types.VirtualMachineConfigInfo) {
	v.look(ctx, func(o *mo.VirtualMachine) { c = deepCopy(o.Config) })
	return c
}

// claim takes a name in a folder for an operation that will give it to something; release gives
// it back once the thing is in the folder, or has failed. Names are compared exactly.
func (s *Server) claim(ctx *simulator.Context, folder *simulator.Folder, name string) (release func(), _ types.BaseMethodFault) {
	key := folder.Self.Value + "/" + name
	s.mu.Lock()
	taken := s.names[key]
	if !taken {
		s.names[key] = true
	}
	s.mu.Unlock()
	dup := &types.DuplicateName{Name: name, Object: folder.Self}
	if taken {
		return nil, dup
	}
	release = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.names, key)
	}
	if vms := s.index.with(nameKey(folder.Self, name)); len(vms) > 0 {
		dup.Object = vms[0].ref
	}
	others := children(ctx, folder.Self)
	s.mu.Lock()
	others = slices.DeleteFunc(others, func(ref types.ManagedObjectReference) bool { return s.vms[ref] != nil })
	s.mu.Unlock()
	for _, ref := range others {
		if s.nameOf(ref) == name {
			dup.Object = ref
		}
	}
	if dup.Object != folder.Self {
		release()
		return nil, dup
	}
	return release, nil
}

// baseName is the file name of a path on a datastore, without its ending.
func baseName(file string) string {
	name := file[strings.LastIndex(file, "/")+1:]
	return strings.TrimSuffix(name, ".vmdk")
}
