package vspheretest

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// A rig is a VM's configuration while it is being changed: config is a copy that nothing else
// sees until the change is complete.
type rig struct {
	s      *Server
	ctx    *simulator.Context
	dc     *simulator.Datacenter // the networks' and datastores'
	config *types.VirtualMachineConfigInfo
	dir    string // where the VM's files are: "[Datastore1] con1"
	on     bool   // powered on
	frozen bool   // has snapshots
}

// apply changes the configuration as spec says; after a fault it is in no particular state.
// Name, ChangeVersion and what lies outside the .vmx are the caller's business.
func (r *rig) apply(spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	c := r.config
	if f := r.allowed(spec); f != nil {
		return f
	}
	setString(&c.AlternateGuestName, spec.AlternateGuestName)
	setString(&c.Annotation, spec.Annotation)
	setString(&c.Firmware, spec.Firmware)
	setString(&c.Uuid, spec.Uuid)
	setString(&c.InstanceUuid, spec.InstanceUuid)
	setString(&c.LocationId, spec.LocationId)
	setString(&c.Version, spec.Version)
	setString(&c.GuestId, spec.GuestId)
	setString(&c.GuestFullName, spec.GuestId)
	if f := spec.Files; f != nil {
		setString(&c.Files.SnapshotDirectory, f.SnapshotDirectory)
		setString(&c.Files.SuspendDirectory, f.SuspendDirectory)
		setString(&c.Files.LogDirectory, f.LogDirectory)
	}
	if spec.NumCPUs != 0 {
		c.Hardware.NumCPU = spec.NumCPUs
	}
	if spec.MemoryMB != 0 {
		c.Hardware.MemoryMB = int32(spec.MemoryMB)
	}
	setPointer(&c.Hardware.NumCoresPerSocket, spec.NumCoresPerSocket)
	setPointer(&c.CpuHotAddEnabled, spec.CpuHotAddEnabled)
	setPointer(&c.CpuHotRemoveEnabled, spec.CpuHotRemoveEnabled)
	setPointer(&c.MemoryHotAddEnabled, spec.MemoryHotAddEnabled)
	setPointer(&c.MemoryReservationLockedToMax, spec.MemoryReservationLockedToMax)
	setPointer(&c.NestedHVEnabled, spec.NestedHVEnabled)
	setPointer(&c.ChangeTrackingEnabled, spec.ChangeTrackingEnabled)
	setPointer(&c.BootOptions, spec.BootOptions)
	setPointer(&c.Tools, spec.Tools)
	setPointer(&c.CpuAllocation, spec.CpuAllocation)
	setPointer(&c.MemoryAllocation, spec.MemoryAllocation)
	setPointer(&c.CpuAffinity, spec.CpuAffinity)
	setPointer(&c.MemoryAffinity, spec.MemoryAffinity)
	setPointer(&c.LatencySensitivity, spec.LatencySensitivity)
	setPointer(&c.ConsolePreferences, spec.ConsolePreferences)
	setPointer(&c.RepConfig, spec.RepConfig)
	if spec.Flags != nil {
		c.Flags = *deepCopy(spec.Flags)
	}
	if m := spec.ManagedBy; m != nil {
		c.ManagedBy = deepCopy(m)
		if m.ExtensionKey == "" {
			c.ManagedBy = nil
		}
	}
	before := slices.Clone(c.Hardware.Device)
	if f := r.changeDevices(spec.DeviceChange); f != nil {
		return f
	}
	if f := r.insertable(before); f != nil {
		return f
	}
	c.ExtraConfig = applyExtraConfig(c.ExtraConfig, spec.ExtraConfig)
	return nil
}

// allowed checks what spec asks for as a whole.
func (r *rig) allowed(spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	c := r.config
	switch {
	case spec.NumCPUs < 0:
		return &types.InvalidArgument{InvalidProperty: "configSpec.numCPUs"}
	case cores(c, spec) > 1 && cpus(c, spec)%cores(c, spec) != 0:
		return &types.InvalidArgument{InvalidProperty: "configSpec.numCoresPerSocket"}
	case reserved(c, spec) > memory(c, spec):
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryAllocation.reservation"}
	case spec.MemoryMB < 0 || spec.MemoryMB%4 != 0:
		return &types.InvalidArgument{InvalidProperty: "configSpec.memoryMB"}
	case spec.BootOptions != nil && isTrue(spec.BootOptions.EfiSecureBootEnabled) && c.Firmware != efi && spec.Firmware != efi:
		return &types.InvalidVmConfig{Property: "msg.hostd.configSpec.efi"}
	case spec.Crypto != nil:
		return &types.NotSupported{}
	case r.on && spec.NumCPUs != 0 && spec.NumCPUs != c.Hardware.NumCPU && !isTrue(c.CpuHotAddEnabled):
		return &types.CpuHotPlugNotSupported{}
	case r.on && spec.MemoryMB != 0 && int32(spec.MemoryMB) != c.Hardware.MemoryMB && !isTrue(c.MemoryHotAddEnabled):
		return &types.MemoryHotPlugNotSupported{}
	}
	return nil
}

const efi = string(types.GuestOsDescriptorFirmwareTypeEfi)

// cpus, cores, memory and reserved are what the VM is to have after a change: CPUs, cores per
// socket, and MiB of memory, as a whole and reserved.
func cpus(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) int32 {
	if spec.NumCPUs != 0 {
		return spec.NumCPUs
	}
	return c.Hardware.NumCPU
}

func cores(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) int32 {
	switch {
	case spec.NumCoresPerSocket != nil:
		return *spec.NumCoresPerSocket
	case c.Hardware.NumCoresPerSocket != nil:
		return *c.Hardware.NumCoresPerSocket
	}
	return 1
}

func memory(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) int64 {
	if spec.MemoryMB != 0 {
		return spec.MemoryMB
	}
	return int64(c.Hardware.MemoryMB)
}

func reserved(c *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) int64 {
	for _, a := range []*types.ResourceAllocationInfo{spec.MemoryAllocation, c.MemoryAllocation} {
		if a != nil && a.Reservation != nil {
			return *a.Reservation
		}
	}
	return 0
}

func setString(dst *string, v string) {
	if v != "" {
		*dst = v
	}
}

func setPointer[T any](dst **T, v *T) {
	if v != nil {
		*dst = deepCopy(v)
	}
}

// applyExtraConfig returns old with changes made: a key that exists is overwritten, an empty
// value removes it, and keys that a ConfigSpec has a field for are ignored, as on a real vCenter.
func applyExtraConfig(old, changes []types.BaseOptionValue) []types.BaseOptionValue {
	out := deepCopy(old)
	for _, ch := range changes {
		v := ch.GetOptionValue()
		if v == nil || v.Key == "" || reservedKey(v.Key) {
			continue
		}
		i := slices.IndexFunc(out, func(o types.BaseOptionValue) bool { return o.GetOptionValue().Key == v.Key })
		empty := v.Value == nil || v.Value == ""
		switch {
		case i >= 0 && empty:
			out = slices.Delete(out, i, i+1)
		case i >= 0:
			out[i] = deepCopy(ch)
		case !empty:
			out = append(out, deepCopy(ch))
		}
	}
	return out
}

// reservedKey reports whether a .vmx key belongs to a field of the ConfigSpec.
func reservedKey(key string) bool {
	key = strings.ToLower(key)
	switch key {
	case "displayname", "annotation", "numvcpus", "memsize", "guestos", "uuid.bios", "vc.uuid", "firmware",
		"virtualhw.version", "config.version", "cpuid.corespersocket", "extendedconfigfile", "nvram":
		return true
	}
	for _, p := range []string{"ethernet", "scsi", "sata", "nvme", "ide"} {
		if rest, ok := strings.CutPrefix(key, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	return false
}

const guestinfo = "guestinfo."

// withGuestinfo returns config with its guestinfo.* keys replaced by those of from: what is set
// while a VM runs is gone when its power goes off.
func withGuestinfo(config, from []types.BaseOptionValue) []types.BaseOptionValue {
	var out []types.BaseOptionValue
	for _, o := range config {
		if !strings.HasPrefix(o.GetOptionValue().Key, guestinfo) {
			out = append(out, o)
		}
	}
	for _, o := range from {
		if strings.HasPrefix(o.GetOptionValue().Key, guestinfo) {
			out = append(out, o)
		}
	}
	return out
}

// checkName says what is wrong with a name for a VM or folder, and returns it as vCenter stores it.
func checkName(name string) (string, types.BaseMethodFault) {
	if name == "" || len(name) >= 80 {
		return "", &types.InvalidName{Name: name}
	}
	return escape(name), nil
}

// escape is a name as the inventory has it: slashes and backslashes are escaped, and so is a
// percent sign that does not begin such an escape.
func escape(name string) string {
	var b strings.Builder
	for i, c := range name {
		switch {
		case c == '/':
			b.WriteString("%2f")
		case c == '\\':
			b.WriteString("%5c")
		case c == '%' && !slices.Contains([]string{"2f", "5c", "25"}, strings.ToLower(name[i+1:min(i+3, len(name))])):
			b.WriteString("%25")
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
