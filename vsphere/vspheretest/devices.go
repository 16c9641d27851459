package vspheretest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// changeDevices makes the device changes in order.
func (r *rig) changeDevices(changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	keys := make(map[int32]int32) // temporary keys of the request -> real ones
	for i, ch := range changes {
		spec := deepCopy(ch.GetVirtualDeviceConfigSpec())
		if spec == nil || spec.Device == nil {
			return &types.InvalidDeviceSpec{DeviceIndex: int32(i)}
		}
		d := spec.Device.GetVirtualDevice()
		if k, ok := keys[d.ControllerKey]; ok {
			d.ControllerKey = k
		}
		at := slices.IndexFunc(r.config.Hardware.Device, func(have types.BaseVirtualDevice) bool {
			return have.GetVirtualDevice().Key == d.Key
		})
		var f types.BaseMethodFault
		switch spec.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			asked := d.Key
			f = r.addDevice(spec, int32(i))
			keys[asked] = d.Key
		case types.VirtualDeviceConfigSpecOperationEdit, types.VirtualDeviceConfigSpecOperationRemove:
			switch {
			case at < 0:
				f = &types.InvalidDeviceSpec{DeviceIndex: int32(i)}
			case spec.Operation == types.VirtualDeviceConfigSpecOperationEdit:
				f = r.editDevice(at, spec.Device, int32(i))
			default:
				r.removeDevice(at)
			}
		default:
			// An edit without an operation is a common slip; a real vCenter refuses it.
			f = &types.InvalidDeviceSpec{DeviceIndex: int32(i)}
		}
		if f != nil {
			return f
		}
	}
	return nil
}

func (r *rig) addDevice(spec *types.VirtualDeviceConfigSpec, index int32) types.BaseMethodFault {
	devs := object.VirtualDeviceList(r.config.Hardware.Device)
	d := spec.Device.GetVirtualDevice()
	switch dev := spec.Device.(type) {
	case types.BaseVirtualEthernetCard:
		d.Key = freeKey(devs, 4000)
		d.ControllerKey = 100
		d.UnitNumber = types.NewInt32(d.Key - 4000 + 7)
		if f := r.plug(dev, "", index); f != nil {
			return f
		}
	case *types.VirtualDisk:
		if f := r.addDisk(spec, dev, index); f != nil {
			return f
		}
	case types.BaseVirtualSCSIController:
		d.Key = freeKey(devs, 1000)
		d.ControllerKey = 100
		dev.GetVirtualSCSIController().BusNumber = d.Key - 1000
		label(d, fmt.Sprintf("SCSI controller %d", d.Key-1000), "VMware paravirtual SCSI")
	default:
		base := d.Key
		if base <= 0 {
			base = 13000
		}
		if !(devs.FindByKey(base) == nil && base > 0) {
			base = 13000
		}
		d.Key = freeKey(devs, base)
		label(d, devs.Name(spec.Device), "")
		r.describe(spec.Device)
	}
	r.config.Hardware.Device = append(r.config.Hardware.Device, spec.Device)
	r.wire()
	return nil
}

func (r *rig) addDisk(spec *types.VirtualDeviceConfigSpec, disk *types.VirtualDisk, index int32) types.BaseMethodFault {
	devs := object.VirtualDeviceList(r.config.Hardware.Device)
	invalid := &types.InvalidDeviceSpec{DeviceIndex: index}
	ctrl, ok := devs.FindByKey(disk.ControllerKey).(types.BaseVirtualController)
	if !ok {
		return invalid
	}
	base := int32(2000)
	if scsi, ok := ctrl.(types.BaseVirtualSCSIController); ok {
		base += scsi.GetVirtualSCSIController().BusNumber * 16
	} else {
		base = 3000
	}
	if disk.UnitNumber == nil || *disk.UnitNumber < 0 {
		unit := int32(0)
		for devs.FindByKey(base+unit) != nil || unit == 7 {
			unit++
		}
		disk.UnitNumber = &unit
	}
	disk.Key = base + *disk.UnitNumber
	if devs.FindByKey(disk.Key) != nil {
		return invalid // the unit is taken
	}
	backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	if !ok {
		return &types.InvalidDeviceBacking{InvalidDeviceSpec: *invalid}
	}
	size, f := r.sizeOf(spec, disk, backing)
	if f != nil {
		return f
	}
	var p object.DatastorePath
	named := p.FromString(backing.FileName) && p.Path != "" && path.Ext(p.Path) != ""
	switch {
	case spec.FileOperation == "" && !named:
		return &types.InvalidDeviceBacking{InvalidDeviceSpec: *invalid} // nothing to attach, nothing to make
	case spec.FileOperation == "":
	case !named:
		backing.FileName = r.newFile("")
	case r.uses(backing.FileName) || spec.FileOperation == types.VirtualDeviceConfigSpecFileOperationCreate && r.s.hasFile(r.ctx, r.dc, backing.FileName):
		return &types.FileAlreadyExists{FileFault: types.FileFault{File: backing.FileName}}
	}
	if p.FromString(backing.FileName) {
		ds := datastoreIn(r.ctx, r.dc, p.Datastore)
		if ds == nil {
			return &types.InvalidDatastorePath{DatastorePath: backing.FileName}
		}
		backing.Datastore = &ds.Self
	}
	for _, flag := range []**bool{&backing.EagerlyScrub, &backing.ThinProvisioned, &backing.WriteThrough, &backing.Split, &backing.DigestEnabled} {
		if *flag == nil {
			*flag = types.NewBool(false)
		}
	}
	backing.Uuid = newUUID()
	r.sized(disk, size)
	return nil
}

// sizeOf is the capacity that a disk is to have which a request adds: that of the file that it is, or
// depends on, and for a new one what the request asks for.
func (r *rig) sizeOf(spec *types.VirtualDeviceConfigSpec, disk *types.VirtualDisk, backing *types.VirtualDiskFlatVer2BackingInfo) (int64, types.BaseMethodFault) {
	from := backing
	switch {
	case backing.Parent != nil:
		from = backing.Parent
	case spec.FileOperation != "" || backing.FileName == "":
		return diskSize(disk)
	}
	if f := r.attachable(from); f != nil {
		return 0, f
	}
	if size := r.s.capacity(r.ctx, r.dc, from.FileName); size > 0 {
		return size, nil
	}
	return diskSize(disk)
}

// diskSize is the capacity in bytes that a disk of a request asks for.
func diskSize(d *types.VirtualDisk) (int64, types.BaseMethodFault) {
	kb, b := d.CapacityInKB, d.CapacityInBytes
	switch {
	case b == 0:
		b = kb * 1024
	case kb == 0, b/1024 != kb:
		// Seen on real vCenters as "Invalid operation for device '0'".
		return 0, &types.InvalidDeviceOperation{}
	}
	if b <= 0 {
		return 0, &types.InvalidDeviceSpec{}
	}
	return b, nil
}

func (r *rig) sized(d *types.VirtualDisk, size int64) {
	d.CapacityInBytes, d.CapacityInKB = size, size/1024
	n := 1
	for _, dev := range r.config.Hardware.Device {
		if disk, ok := dev.(*types.VirtualDisk); ok && disk.Key < d.Key {
			n++
		}
	}
	d.DeviceInfo = &types.Description{Label: fmt.Sprintf("Hard disk %d", n), Summary: inGroups(d.CapacityInKB) + " KB"}
}

// inGroups writes a number with a comma before every third digit from the right.
func inGroups(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (r *rig) editDevice(at int, dev types.BaseVirtualDevice, index int32) types.BaseMethodFault {
	old := r.config.Hardware.Device[at]
	switch dev := dev.(type) {
	case *types.VirtualDisk:
		was, ok := old.(*types.VirtualDisk)
		if !ok {
			return &types.InvalidDeviceSpec{DeviceIndex: index}
		}
		switch {
		case dev.CapacityInBytes == was.CapacityInBytes:
			dev.CapacityInBytes = 0 // the other field says what it is to be
		case dev.CapacityInKB == was.CapacityInKB:
			dev.CapacityInKB = dev.CapacityInBytes / 1024 // left as it was, which is common, and allowed
		}
		size, f := diskSize(dev)
		if f != nil {
			return f
		}
		if size != was.CapacityInBytes && (size < was.CapacityInBytes || r.frozen || hasParent(was)) {
			// "Disks with parents cannot be expanded", nor any disk of a VM with snapshots; and
			// none can shrink.
			return &types.InvalidDeviceOperation{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: index}}
		}
		dev.Backing = was.Backing // whatever the request says: the file stays where it is
		dev.ControllerKey, dev.UnitNumber = was.ControllerKey, was.UnitNumber
		r.sized(dev, size)
	case types.BaseVirtualEthernetCard:
		was, ok := old.(types.BaseVirtualEthernetCard)
		if !ok {
			return &types.InvalidDeviceSpec{DeviceIndex: index}
		}
		d, w := dev.GetVirtualEthernetCard(), was.GetVirtualEthernetCard()
		d.ControllerKey, d.UnitNumber = w.ControllerKey, w.UnitNumber
		if d.Backing == nil {
			d.Backing = w.Backing
		}
		if d.Connectable == nil {
			d.Connectable = w.Connectable
		}
		if f := r.plug(dev, w.MacAddress, index); f != nil {
			return f
		}
	}
	if c, w := dev.GetVirtualDevice(), old.GetVirtualDevice(); c.DeviceInfo == nil {
		c.DeviceInfo = w.DeviceInfo
	}
	r.describe(dev)
	r.config.Hardware.Device[at] = dev
	return nil
}

// describe makes the summary of a device with a backing that can be changed, and its link, those of
// what it is connected to now.
func (r *rig) describe(dev types.BaseVirtualDevice) {
	d := dev.GetVirtualDevice()
	text := ""
	switch dev.(type) {
	case *types.VirtualCdrom:
		text = "ISO "
	case *types.VirtualFloppy:
		text = "Image "
	case *types.VirtualSerialPort:
		text = "File "
	default:
		return
	}
	switch b := d.Backing.(type) {
	case types.BaseVirtualDeviceFileBackingInfo:
		text += b.GetVirtualDeviceFileBackingInfo().FileName
	case *types.VirtualSerialPortURIBackingInfo:
		text = "Remote " + b.ServiceURI
	case types.BaseVirtualDeviceRemoteDeviceBackingInfo:
		text = "Remote " + b.GetVirtualDeviceRemoteDeviceBackingInfo().DeviceName
	case types.BaseVirtualDeviceDeviceBackingInfo:
		text = b.GetVirtualDeviceDeviceBackingInfo().DeviceName
	default:
		text = ""
	}
	if d.DeviceInfo != nil {
		info := *d.DeviceInfo.GetDescription()
		info.Summary = text
		d.DeviceInfo = &info
	}
	if d.Connectable == nil {
		d.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, Connected: true}
	}
	if !r.on {
		d.Connectable.Connected = false
	}
}

func (r *rig) removeDevice(at int) {
	r.config.Hardware.Device = slices.Delete(r.config.Hardware.Device, at, at+1)
	r.wire()
}

// plug completes a NIC: its network, its MAC, its link. had is the MAC it has had so far.
func (r *rig) plug(dev types.BaseVirtualEthernetCard, had string, index int32) types.BaseMethodFault {
	nic := dev.GetVirtualEthernetCard()
	name := ""
	switch b := nic.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		ref, ok := networkIn(r.ctx, r.dc, b.DeviceName)
		if !ok {
			return &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: index}}
		}
		b.Network, name = &ref, b.DeviceName
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		ref := types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey}
		if _, ok := r.s.model.Map().Get(ref).(*simulator.DistributedVirtualPortgroup); !ok {
			return &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: index}}
		}
		name = "DVSwitch: " + b.Port.SwitchUuid
	default:
		return &types.InvalidDeviceBacking{InvalidDeviceSpec: types.InvalidDeviceSpec{DeviceIndex: index}}
	}
	manual := nic.AddressType == string(types.VirtualEthernetCardMacTypeManual)
	switch {
	case manual && !validMAC(nic.MacAddress):
		return &types.InvalidDeviceSpec{DeviceIndex: index}
	case manual:
	case had != "":
		nic.MacAddress = had
	default:
		// A MAC without address type "manual" is silently replaced.
		nic.MacAddress, nic.AddressType = r.s.newMAC(), string(types.VirtualEthernetCardMacTypeAssigned)
	}
	nic.DeviceInfo = &types.Description{Label: fmt.Sprintf("Network adapter %d", nic.Key-4000+1), Summary: name}
	if nic.Connectable == nil {
		nic.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true, Connected: true}
	}
	if nic.WakeOnLanEnabled == nil {
		nic.WakeOnLanEnabled = types.NewBool(true)
	}
	if !r.on {
		nic.Connectable.Connected = false
	}
	return nil
}

func validMAC(mac string) bool {
	parts := strings.Split(mac, ":")
	if len(parts) != 6 {
		return false
	}
	for _, p := range parts {
		if len(p) != 2 || strings.Trim(strings.ToLower(p), "0123456789abcdef") != "" {
			return false
		}
	}
	return true
}

// keptMAC reports whether a MAC is among those that VMware keeps: a host powers on no VM that was
// given one by hand.
func keptMAC(mac string) bool {
	mac = strings.ToLower(mac)
	return strings.HasPrefix(mac, "00:50:56:") && mac[9] > '3' || strings.HasPrefix(mac, "00:0c:29:")
}

// newMAC returns a MAC in the range that vCenter assigns from.
func (s *Server) newMAC() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nmac++
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", 0x80|s.nmac>>16&0x3f, s.nmac>>8&0xff, s.nmac&0xff)
}

// wire makes the controllers' lists of devices those that name them.
func (r *rig) wire() {
	for _, dev := range r.config.Hardware.Device {
		c, ok := dev.(types.BaseVirtualController)
		if !ok {
			continue
		}
		ctrl := c.GetVirtualController()
		ctrl.Device = nil
		for _, d := range r.config.Hardware.Device {
			if v := d.GetVirtualDevice(); v.ControllerKey == ctrl.Key && ctrl.Key != 0 {
				ctrl.Device = append(ctrl.Device, v.Key)
			}
		}
	}
}

// newFile returns an unused name for a disk in the VM's directory; suffix is "-%06d" or "".
func (r *rig) newFile(suffix string) string {
	base := path.Base(strings.TrimSpace(r.dir[strings.Index(r.dir, "]")+1:]))
	for i := 0; ; i++ {
		name := base
		switch {
		case suffix != "":
			name += fmt.Sprintf(suffix, i+1)
		case i > 0:
			name += fmt.Sprintf("_%d", i)
		}
		file := r.dir + "/" + name + ".vmdk"
		if !r.uses(file) {
			return file
		}
	}
}

func (r *rig) uses(file string) bool {
	for _, d := range disks(r.config) {
		for b := backingOf(d); b != nil; b = b.Parent {
			if b.FileName == file {
				return true
			}
		}
	}
	return false
}

func freeKey(devs object.VirtualDeviceList, key int32) int32 {
	for devs.FindByKey(key) != nil {
		key++
	}
	return key
}

func label(d *types.VirtualDevice, name, summary string) {
	if d.DeviceInfo == nil {
		d.DeviceInfo = &types.Description{Label: name, Summary: summary}
	}
}

func disks(c *types.VirtualMachineConfigInfo) []*types.VirtualDisk {
	var out []*types.VirtualDisk
	for _, d := range c.Hardware.Device {
		if disk, ok := d.(*types.VirtualDisk); ok {
			out = append(out, disk)
		}
	}
	return out
}

func nics(c *types.VirtualMachineConfigInfo) []*types.VirtualEthernetCard {
	var out []*types.VirtualEthernetCard
	for _, d := range c.Hardware.Device {
		if nic, ok := d.(types.BaseVirtualEthernetCard); ok {
			out = append(out, nic.GetVirtualEthernetCard())
		}
	}
	return out
}

// backingOf is the disk's file; nil if it has none of the kind that VMs here have.
func backingOf(d *types.VirtualDisk) *types.VirtualDiskFlatVer2BackingInfo {
	b, _ := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
	return b
}

func hasParent(d *types.VirtualDisk) bool {
	b := backingOf(d)
	return b != nil && b.Parent != nil
}

// hardware is the VM as its guest sees it.
func (s *Server) hardware(c *types.VirtualMachineConfigInfo) Hardware {
	hw := Hardware{Name: c.Name, UUID: c.Uuid}
	for _, n := range nics(c) {
		name := ""
		switch b := n.Backing.(type) {
		case *types.VirtualEthernetCardNetworkBackingInfo:
			name = b.DeviceName
		case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
			name = s.nameOf(types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey})
		}
		hw.NICs = append(hw.NICs, HardwareNIC{
			MAC: strings.ToLower(n.MacAddress), Network: name, Connected: n.Connectable != nil && n.Connectable.Connected,
		})
	}
	for _, d := range disks(c) {
		hw.DiskGiB += int(d.CapacityInBytes >> 30)
	}
	return hw
}
