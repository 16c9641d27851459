package vspheretest

import (
	"fmt"
	"slices"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// isoOf returns the ISO file that a CD-ROM drive is backed by, or "", and whether the drive is
// connected when the power comes on.
func isoOf(dev types.BaseVirtualDevice) (file string, startConnected bool) {
	cd, ok := dev.(*types.VirtualCdrom)
	if !ok {
		return "", false
	}
	iso, ok := cd.Backing.(*types.VirtualCdromIsoBackingInfo)
	if !ok {
		return "", false
	}
	return iso.FileName, cd.Connectable != nil && cd.Connectable.StartConnected
}

// askForISOs asks, for each drive that is to be connected and whose ISO file is missing, whether it
// is to be tried again the next time. It returns the drives, which stay disconnected.
func (o *op) askForISOs(m *vm) (missing map[int32]bool, fault types.BaseMethodFault) {
	cfg := m.config(o.ctx)
	dc := datacenterOf(o.ctx, m.home.host.Self)
	never := make(map[int32]bool)
	for _, d := range cfg.Hardware.Device {
		file, start := isoOf(d)
		if file == "" || !start || o.s.hasFile(o.ctx, dc, file) {
			continue
		}
		dev := d.GetVirtualDevice()
		key, fault := o.answer(m, fmt.Sprintf("Cannot connect the virtual device %s to %s because the file was not found. "+
			"Do you want to try to connect this virtual device every time you power on the virtual machine?", labelOf(dev), file), []string{"Yes", "No"})
		if fault != nil {
			return nil, fault
		}
		if missing == nil {
			missing = make(map[int32]bool)
		}
		missing[dev.Key], never[dev.Key] = true, key == "1"
	}
	if missing != nil {
		change(o.ctx, m.obj, func() {
			cfg := deepCopy(m.obj.Config)
			for _, d := range cfg.Hardware.Device {
				if dev := d.GetVirtualDevice(); never[dev.Key] {
					dev.Connectable.StartConnected = false
				}
			}
			o.s.setConfig(m, cfg)
		})
	}
	return missing, nil
}

// disconnect makes devices of a VM that has just been powered on what they are without their files.
func (o *op) disconnect(m *vm, missing map[int32]bool) {
	if len(missing) == 0 {
		return
	}
	change(o.ctx, m.obj, func() {
		cfg := deepCopy(m.obj.Config)
		for _, d := range cfg.Hardware.Device {
			if dev := d.GetVirtualDevice(); missing[dev.Key] {
				dev.Connectable.Connected = false
			}
		}
		o.s.setConfig(m, cfg)
	})
}

// insertable says what is wrong with connecting drives of a running VM to ISO files, or nil.
func (r *rig) insertable(old []types.BaseVirtualDevice) types.BaseMethodFault {
	for _, d := range r.config.Hardware.Device {
		file, _ := isoOf(d)
		c := d.GetVirtualDevice().Connectable
		if !r.on || file == "" || c == nil || !c.Connected || r.s.hasFile(r.ctx, r.dc, file) {
			continue
		}
		was := slices.ContainsFunc(old, func(o types.BaseVirtualDevice) bool {
			had, _ := isoOf(o)
			oc := o.GetVirtualDevice().Connectable
			return o.GetVirtualDevice().Key == d.GetVirtualDevice().Key && had == file && oc != nil && oc.Connected
		})
		if !was {
			return &types.GenericVmConfigFault{Reason: fmt.Sprintf("Connection control operation failed for %s.", labelOf(d.GetVirtualDevice()))}
		}
	}
	return nil
}

// awake says why a suspended VM cannot be changed so, or nil: its memory knows the hardware that it
// has.
func awake(p *mo.VirtualMachine, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	if p.Runtime.PowerState != suspended {
		return nil
	}
	if len(spec.DeviceChange) == 0 && spec.NumCPUs == 0 && spec.MemoryMB == 0 && spec.NumCoresPerSocket == nil && spec.Version == "" &&
		spec.Firmware == "" && spec.BootOptions == nil {
		return nil
	}
	return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: suspended}
}
