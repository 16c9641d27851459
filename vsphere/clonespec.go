package vsphere

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// source is what a clone is made of, as far as the clone's specification depends on it.
type source struct {
	vm       types.ManagedObjectReference
	snapshot *types.ManagedObjectReference // nil for a full clone
	template bool
	devices  []types.BaseVirtualDevice

	cpus, cores int32 // cores are those per socket; 0 is not known
	memoryMiB   int64
	reservedMiB int64
	locked      bool // all of its memory is reserved, however much it is
	encrypted   bool
	read        time.Time
}

// sources keeps what snapshots and templates are for a moment, since the clones of a batch share it, and a
// preflight and the clone that follows. It does not last: a Storage vMotion moves the disks of a VM's
// snapshots, too.
type sources struct {
	reading    gate
	mu         sync.Mutex
	bySnap     map[types.ManagedObjectReference]*source
	byTemplate map[string]*source // by path or name; one that was found only has no devices
}

// found notes where a template is.
func (s *sources) found(path string, src *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byTemplate[path] = src
}

// templateOf returns what was noted of a template within the time, or an empty source.
func (s *sources) templateOf(path string, within time.Duration) *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.byTemplate[path]; src != nil && time.Since(src.read) < within {
		return src
	}
	return &source{}
}

// sourceProps are what is read of a source, below "config.".
var sourceProps = []string{"hardware", "memoryReservationLockedToMax", "memoryAllocation", "keyId"}

// configProps are sourceProps as they are requested.
func configProps(more ...string) []string {
	for _, name := range sourceProps {
		more = append(more, "config."+name)
	}
	return more
}

// take notes one of sourceProps.
func (s *source) take(name string, val types.AnyType) {
	switch v := val.(type) {
	case types.VirtualHardware:
		s.devices, s.cpus, s.memoryMiB = v.Device, v.NumCPU, int64(v.MemoryMB)
		if v.NumCoresPerSocket != nil {
			s.cores = *v.NumCoresPerSocket
		}
	case types.ResourceAllocationInfo:
		if v.Reservation != nil {
			s.reservedMiB = *v.Reservation
		}
	case types.CryptoKeyId:
		s.encrypted = true
	case bool:
		s.locked = s.locked || v && name == "config.memoryReservationLockedToMax"
	}
}

// usable refuses a source of which no pool can be made.
func (s *source) usable(name string) error {
	var tpm bool
	for _, dev := range s.devices {
		_, is := dev.(*types.VirtualTPM)
		tpm = tpm || is
	}
	switch {
	case tpm:
		return refuse("%s cannot be cloned for pools: it has a virtual TPM, which encrypts the VM and whose secrets all clones would share; remove the TPM", name)
	case s.encrypted:
		return refuse("%s cannot be cloned for pools: it is encrypted, and cloning it takes keys and cryptographic privileges that are not requested; use one that is not", name)
	}
	for _, disk := range s.disks() {
		if mode := diskMode(disk.Backing); strings.HasPrefix(mode, "independent") {
			return refuse("%s cannot be cloned for pools: disk %d is %s: no snapshot would hold it, and no revert clean it; change its mode to persistent",
				name, disk.Key, mode)
		}
	}
	return nil
}

// fits refuses hardware that a clone of the source cannot have.
func (s *source) fits(vm pool.VM) error {
	var errs []error
	if s.cores > 1 && vm.CPUs != 0 && vm.CPUs%int(s.cores) != 0 {
		errs = append(errs, refuse("VM.CPUs is %d, but the source has %d cores per socket; set a multiple of %d", vm.CPUs, s.cores, s.cores))
	}
	switch memory := int64(vm.MemoryMiB); {
	case memory == 0 || memory == s.memoryMiB:
	case s.locked:
		errs = append(errs, refuse("VM.MemoryMiB is %d, but the source has all of its memory reserved (%d MiB); set that, or unlock its reservation", memory, s.memoryMiB))
	case memory < s.reservedMiB:
		errs = append(errs, refuse("VM.MemoryMiB is %d, but the source has %d MiB reserved; set that much, or reserve less", memory, s.reservedMiB))
	}
	if s.snapshot == nil {
		if _, err := diskChange(s.disks(), vm.DiskGiB); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func newSources() sources {
	return sources{reading: make(gate, 1), bySnap: map[types.ManagedObjectReference]*source{}, byTemplate: map[string]*source{}}
}

// source finds and reads what spec clones.
func (p *Provider) source(ctx context.Context, spec pool.CloneSpec) (*source, error) {
	if spec.Snapshot != "" {
		if spec.Template {
			return nil, refuse("a template's current state is cloned, not a snapshot; leave CloneSpec.Snapshot empty")
		}
		return p.snapshotSource(ctx, vmRef(spec.Source), snapshotRef(spec.Snapshot))
	}
	vm := vmRef(spec.Source)
	if spec.Template {
		known := p.sources.templateOf(spec.Source, p.intervals.source)
		if len(known.devices) > 0 {
			return known, nil
		}
		if vm = known.vm; vm.Value == "" {
			ref, err := p.findVM(ctx, spec.Source)
			if err != nil {
				return nil, err
			}
			if ref == nil {
				return nil, refuse("there is no template %q; check its inventory path", spec.Source)
			}
			vm = *ref
		}
	}
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet:   []types.PropertySpec{{Type: "VirtualMachine", PathSet: configProps("name", "config.template", "runtime.connectionState")}},
		ObjectSet: []types.ObjectSpec{{Obj: vm}},
	})
	if err != nil {
		return nil, err
	}
	src := &source{vm: vm, read: time.Now()}
	var read mo.VirtualMachine
	for _, o := range objects {
		if read, err = asVM(o); err != nil {
			return nil, err
		}
		for _, prop := range o.PropSet {
			src.take(prop.Name, prop.Val)
		}
	}
	if why := problem(read); why != "" {
		return nil, refuse("%s cannot be cloned: it is %s", p.nameOf(vm), why)
	}
	p.learn(vm, read.Name)
	src.template = read.Config.Template
	if err := src.usable(p.nameOf(vm)); err != nil {
		return nil, err
	}
	if spec.Template {
		p.sources.found(spec.Source, src)
	}
	return src, nil
}

// snapshotSource reads a snapshot, or takes a reading that has just been made.
func (p *Provider) snapshotSource(ctx context.Context, vm, snap types.ManagedObjectReference) (*source, error) {
	if err := p.sources.reading.enter(ctx); err != nil {
		return nil, err
	}
	defer p.sources.reading.leave()
	p.sources.mu.Lock()
	src := p.sources.bySnap[snap]
	p.sources.mu.Unlock()
	if src != nil && time.Since(src.read) < p.intervals.source {
		return src, p.belongs(src, vm)
	}
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet:   []types.PropertySpec{{Type: "VirtualMachineSnapshot", PathSet: configProps("vm")}},
		ObjectSet: []types.ObjectSpec{{Obj: snap}},
	})
	if err != nil {
		return nil, err
	}
	src = &source{snapshot: &snap, read: time.Now()}
	for _, o := range objects {
		for _, prop := range o.PropSet {
			if of, ok := prop.Val.(types.ManagedObjectReference); ok {
				src.vm = of
			}
			src.take(prop.Name, prop.Val)
		}
	}
	if len(src.devices) == 0 {
		return nil, refuse("the configuration of snapshot %s cannot be read", snap.Value)
	}
	p.sources.mu.Lock()
	defer p.sources.mu.Unlock()
	p.sources.bySnap[snap] = src
	if err := p.belongs(src, vm); err != nil {
		return nil, err
	}
	return src, src.usable(p.nameOf(vm))
}

// belongs refuses a snapshot that is not vm's.
func (p *Provider) belongs(src *source, vm types.ManagedObjectReference) error {
	if src.vm == vm {
		return nil
	}
	return refuse("snapshot %s belongs to %s, not to %s", src.snapshot.Value, p.nameOf(src.vm), p.nameOf(vm))
}

// disks returns the source's virtual disks.
func (s *source) disks() (all []*types.VirtualDisk) {
	for _, dev := range s.devices {
		if d, ok := dev.(*types.VirtualDisk); ok {
			all = append(all, d)
		}
	}
	return all
}

// location is where a clone goes.
type location struct {
	datastore, pool place
	networks        []place // of the NICs
	nics            []types.BaseVirtualDeviceBackingInfo
}

// locate finds everything that vm names, and reports all that it cannot find.
func (t *tree) locate(cfg Config, vm pool.VM) (location, error) {
	var at location
	var errs []error
	collect := func(pl place, err error) place {
		if err != nil {
			errs = append(errs, err)
		}
		return pl
	}
	at.datastore = collect(t.find(datastoreKind, first(vm.Datastore, cfg.Datastore)))
	if at.datastore.props["summary.accessible"] == false {
		errs = append(errs, refuse("datastore %q is not accessible from any host", at.datastore.name))
	}
	at.pool = collect(t.find(poolKind, first(vm.ResourcePool, cfg.ResourcePool)))
	for i, nic := range vm.NICs {
		net, err := t.find(networkKind, first(nic.Network, cfg.Network))
		if err == nil {
			var backing types.BaseVirtualDeviceBackingInfo
			if backing, err = t.nicBacking(net); err == nil {
				at.networks, at.nics = append(at.networks, net), append(at.nics, backing)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("NIC %d: %w", i, err))
		}
	}
	return at, errors.Join(errs...)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// nicBacking is how a NIC names its network.
func (t *tree) nicBacking(net place) (types.BaseVirtualDeviceBackingInfo, error) {
	switch net.ref.Type {
	case "DistributedVirtualPortgroup":
		dvs, _ := net.props["config.distributedVirtualSwitch"].(types.ManagedObjectReference)
		uuid, _ := t.all[dvs].props["uuid"].(string)
		key, _ := net.props["key"].(string)
		if uuid == "" || key == "" {
			return nil, refuse("the distributed switch of network %q cannot be read; give the user at least the read-only role on it", net.name)
		}
		return &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{
			Port: types.DistributedVirtualSwitchPortConnection{PortgroupKey: key, SwitchUuid: uuid},
		}, nil
	case "OpaqueNetwork":
		sum, ok := net.props["summary"].(types.OpaqueNetworkSummary)
		if !ok {
			return nil, refuse("network %q cannot be read; give the user at least the read-only role on it", net.name)
		}
		return &types.VirtualEthernetCardOpaqueNetworkBackingInfo{
			OpaqueNetworkId: sum.OpaqueNetworkId, OpaqueNetworkType: sum.OpaqueNetworkType,
		}, nil
	}
	return &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: net.plain()},
		Network:                        &net.ref,
	}, nil
}

// cloneSpec is the one call's worth of a clone.
func cloneSpec(src *source, at location, spec pool.CloneSpec, nonce string) (types.VirtualMachineCloneSpec, error) {
	instance := uuid.NewString()
	config := &types.VirtualMachineConfigSpec{
		InstanceUuid: instance,
		Annotation:   spec.Note,
		NumCPUs:      int32(spec.VM.CPUs),
		MemoryMB:     int64(spec.VM.MemoryMiB),
		ExtraConfig: []types.BaseOptionValue{
			&types.OptionValue{Key: ownerKey, Value: spec.Owner},
			&types.OptionValue{Key: instanceKey, Value: instance},
			&types.OptionValue{Key: nonceKey, Value: nonce},
		},
		DeviceChange: nicChanges(src.devices, at.nics, spec.VM.NICs),
	}
	if claims := claimsOf(spec.VM); claims != "" {
		config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: claimsKey, Value: claims})
	}
	clone := types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{
			Datastore: &at.datastore.ref,
			Pool:      &at.pool.ref,
			// A snapshot below the clone must not keep it from growing.
			DiskMoveType: string(types.VirtualMachineRelocateDiskMoveOptionsMoveAllDiskBackingsAndConsolidate),
		},
		Config: config,
	}
	if err := src.fits(spec.VM); err != nil {
		return clone, err
	}
	if src.snapshot != nil {
		clone.Snapshot = src.snapshot
		// At the top level only: a locator per disk without a move type of its own is a full copy.
		clone.Location.DiskMoveType = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
		if spec.VM.DiskGiB != 0 {
			return clone, refuse("VM.DiskGiB is %d, but the disk of a linked clone cannot grow; set the size on the golden", spec.VM.DiskGiB)
		}
		for _, disk := range src.disks() {
			if ds := datastoreOf(disk); ds != nil && *ds != at.datastore.ref {
				return clone, refuse("a linked clone has to be on its source's datastore (%s), not on %q; make a golden per datastore", disk.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName, at.datastore.name)
			}
		}
		return clone, nil
	}
	grow, err := diskChange(src.disks(), spec.VM.DiskGiB)
	if err != nil {
		return clone, err
	}
	config.DeviceChange = append(config.DeviceChange, grow...)
	return clone, nil
}

func datastoreOf(disk *types.VirtualDisk) *types.ManagedObjectReference {
	if b, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return b.GetVirtualDeviceFileBackingInfo().Datastore
	}
	return nil
}

// diskChange grows the first disk.
func diskChange(disks []*types.VirtualDisk, gib int) ([]types.BaseVirtualDeviceConfigSpec, error) {
	const kibPerGiB = 1 << 20
	if gib == 0 {
		return nil, nil
	}
	if len(disks) == 0 {
		return nil, refuse("VM.DiskGiB is %d, but the source has no disk", gib)
	}
	kib := int64(gib) * kibPerGiB
	disk := *disks[0]
	switch {
	case disk.CapacityInKB == kib:
		return nil, nil
	case disk.CapacityInKB > kib:
		return nil, refuse("VM.DiskGiB is %d, but the source's disk has %d GiB, and disks cannot shrink", gib, (disk.CapacityInKB+kibPerGiB-1)/kibPerGiB)
	}
	disk.CapacityInKB = kib
	disk.CapacityInBytes = kib * 1024 // vCenter refuses sizes that do not agree
	return []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationEdit,
		Device:    &disk,
	}}, nil
}

// nicChanges replaces the source's NICs by those wanted. Editing them would keep the source's MACs.
// If none are wanted, those of the source whose MACs were set by hand are replaced by
// the same with fresh ones; vCenter gives the others fresh ones by itself.
func nicChanges(devices []types.BaseVirtualDevice, backings []types.BaseVirtualDeviceBackingInfo, nics []pool.NIC) []types.BaseVirtualDeviceConfigSpec {
	var changes []types.BaseVirtualDeviceConfigSpec
	key := int32(-100) // temporary keys of devices to be added
	add := func(card types.BaseVirtualDevice) {
		card.GetVirtualDevice().Key = key
		key--
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: card})
	}
	for _, dev := range devices {
		card, ok := dev.(types.BaseVirtualEthernetCard)
		manual := ok && strings.EqualFold(card.GetVirtualEthernetCard().AddressType, string(types.VirtualEthernetCardMacTypeManual))
		if !ok || len(nics) == 0 && !manual {
			continue
		}
		changes = append(changes, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: dev})
		if len(nics) == 0 {
			add(vmxnet3(card.GetVirtualEthernetCard().Backing, ""))
		}
	}
	for i, nic := range nics {
		add(vmxnet3(backings[i], nic.MAC))
	}
	return changes
}

func vmxnet3(backing types.BaseVirtualDeviceBackingInfo, mac string) *types.VirtualVmxnet3 {
	card := &types.VirtualVmxnet3{}
	card.Backing = backing
	card.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true, Connected: true}
	card.AddressType = string(types.VirtualEthernetCardMacTypeGenerated)
	if mac != "" {
		// Without the type, vCenter replaces the address and says nothing.
		card.AddressType = string(types.VirtualEthernetCardMacTypeManual)
		card.MacAddress = normalMAC(mac)
	}
	return card
}
