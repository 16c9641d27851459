package vspheretest

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// perGiB is what every GiB of a VM's memory takes, in all.
func perGiB(d time.Duration, cfg *types.VirtualMachineConfigInfo) time.Duration {
	return time.Duration(float64(d) * float64(cfg.Hardware.MemoryMB) / 1024)
}

// unfreezable returns why vCenter does not take a snapshot with the memory of a VM that has such a
// device, or nil.
func (s *Server) unfreezable(ctx *simulator.Context, m *vm) types.BaseMethodFault {
	for _, d := range m.config(ctx).Hardware.Device {
		switch b := d.GetVirtualDevice().Backing.(type) {
		case types.BaseVirtualPCIPassthroughPluginBackingInfo, *types.VirtualPCIPassthroughDeviceBackingInfo, *types.VirtualPCIPassthroughDynamicBackingInfo:
			return &types.SnapshotIncompatibleDeviceInVm{Fault: types.LocalizedMethodFault{Fault: &types.DeviceNotSupported{Device: "PCI passthrough"}}}
		case *types.VirtualDiskFlatVer2BackingInfo:
			if b.DiskMode == string(types.VirtualDiskModeIndependent_persistent) || b.DiskMode == string(types.VirtualDiskModeIndependent_nonpersistent) {
				return &types.MemorySnapshotOnIndependentDisk{}
			}
		}
	}
	return nil
}

// freeze is what a snapshot with memory keeps now. A VM that is off has no memory, and of one whose
// guest is still booting there is none to speak of: it boots again. The caller has the VM to
// itself.
func (s *Server) freeze(ctx *simulator.Context, m *vm) (now kept, fault types.BaseMethodFault) {
	m.look(ctx, func(p *mo.VirtualMachine) {
		if p.Runtime.PowerState == poweredOn {
			now.boot = p.Runtime.BootTime
		}
	})
	s.mu.Lock()
	var g Guest
	if m.guest != nil {
		g = m.guest.guest
	}
	s.mu.Unlock()
	if g == nil {
		return now, nil
	}
	f, ok := g.(MemorySaver)
	if _, resumes := s.OS.(Resumer); !ok || !resumes {
		return now, &types.NotSupported{RuntimeFault: because("the OS of this guest is no Resumer")}
	}
	disk, memory, err := f.SaveMemory()
	if err != nil {
		return now, &types.NotSupported{RuntimeFault: because(err.Error())}
	}
	now.disk, now.memory = disk, memory
	return now, nil
}
