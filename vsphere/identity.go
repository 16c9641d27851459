package vsphere

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A clone inherits its source's ExtraConfig, so a mark there says nothing by itself. It counts on
// the VM whose instance UUID it names: vCenter gives every VM one of its own.

// ownerOf returns the owner of the VM, if it is the very VM that was made for it, and else the owner
// of the VM that it is a copy of.
func ownerOf(vm mo.VirtualMachine) (owner, copyOf string) {
	mark := extra(vm, ownerKey)
	if mark == "" {
		return "", ""
	}
	if id := extra(vm, instanceKey); id != "" && strings.EqualFold(id, vm.Config.InstanceUuid) {
		return mark, ""
	}
	return "", mark
}

// identityProps are what ownerOf and identityOf read.
var identityProps = []string{"config.extraConfig", "config.instanceUuid"}

// claim makes the mark of a new VM name the instance UUID that it has, if vCenter gave it another
// one than was requested.
func (p *Provider) claim(ctx context.Context, vm mo.VirtualMachine) error {
	if vm.Config == nil || strings.EqualFold(extra(vm, instanceKey), vm.Config.InstanceUuid) {
		return nil
	}
	_, err := p.perform(ctx, operation{
		name: "mark", object: p.label(vm.Self.Value), entity: vm.Self,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.ReconfigVM_Task(ctx, c, &types.ReconfigVM_Task{
				This: vm.Self, Spec: types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
					&types.OptionValue{Key: instanceKey, Value: vm.Config.InstanceUuid},
				}},
			})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(context.Context) (bool, types.AnyType, error) { return false, nil, nil }, // twice is as well
	})
	return err
}

// templateProps are what templateIdentity reads.
var templateProps = []string{
	"name", "runtime.connectionState", "config.instanceUuid", "config.version", "config.guestId",
	"config.firmware", "config.hardware", "snapshot.currentSnapshot",
}

// templateIdentity returns what clones of a template would differ by, as parts "name=value" with
// ";" between them: which VM it is, its disks, its other hardware, and its snapshot.
func templateIdentity(vm mo.VirtualMachine) string {
	hw := vm.Config.Hardware
	var disks, other []string
	for _, dev := range hw.Device {
		switch d := dev.(type) {
		case *types.VirtualDisk:
			// A file that is written to has another content only if somebody ran the VM, for which it
			// must be made a VM again: that gives the disk a new content ID.
			disks = append(disks, fmt.Sprint(d.Key, d.CapacityInBytes, chainOf(d.Backing), contentID(d.Backing)))
		case types.BaseVirtualEthernetCard:
			other = append(other, fmt.Sprintf("%T", dev), d.GetVirtualEthernetCard().AddressType)
		default:
			other = append(other, fmt.Sprintf("%T %d", dev, dev.GetVirtualDevice().Key))
		}
	}
	other = append(other, fmt.Sprint(hw.NumCPU, hw.MemoryMB), vm.Config.Version, vm.Config.GuestId, vm.Config.Firmware)
	if hw.NumCoresPerSocket != nil {
		other = append(other, fmt.Sprint(*hw.NumCoresPerSocket))
	}
	snapshot := "none"
	if vm.Snapshot != nil && vm.Snapshot.CurrentSnapshot != nil {
		snapshot = vm.Snapshot.CurrentSnapshot.Value
	}
	return strings.Join([]string{
		"vm=" + vm.Config.InstanceUuid, "disks=" + digest(disks), "hardware=" + digest(other), "snapshot=" + snapshot,
	}, ";")
}

// contentID is vCenter's mark of a disk's content, which changes with the first write after the
// disk was opened; "" if it has none.
func contentID(backing types.BaseVirtualDeviceBackingInfo) string {
	switch b := backing.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return b.ContentId
	case *types.VirtualDiskSeSparseBackingInfo:
		return b.ContentId
	case *types.VirtualDiskSparseVer2BackingInfo:
		return b.ContentId
	}
	return ""
}

func digest(of []string) string {
	slices.Sort(of)
	sum := sha256.Sum256([]byte(strings.Join(of, "\x00")))
	return hex.EncodeToString(sum[:8])
}
