package vsphere

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

var _ pool.NICConnector = (*Provider)(nil)

// ConnectNIC implements pool.NICConnector. A disconnected NIC is taken from the guest, too: by default its
// tools may connect it again.
func (p *Provider) ConnectNIC(ctx context.Context, id, mac string, connected bool) error {
	vm, what := vmRef(id), "disconnect NIC "+mac
	if connected {
		what = "connect NIC " + mac
	}
	want := types.VirtualDeviceConnectInfo{Connected: connected, StartConnected: connected, AllowGuestControl: connected}
	_, err := p.perform(ctx, operation{
		name: what, object: p.label(id), entity: vm,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			dev, version, err := p.card(ctx, id, mac)
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			dev.GetVirtualEthernetCard().Connectable = &want
			res, err := methods.ReconfigVM_Task(ctx, c, &types.ReconfigVM_Task{This: vm, Spec: types.VirtualMachineConfigSpec{
				ChangeVersion: version, // of a VM that somebody has reverted or rebuilt since, vCenter refuses it
				DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
					Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: dev.(types.BaseVirtualDevice),
				}},
			}})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(context.Context) (bool, types.AnyType, error) { return false, nil, nil }, // twice is as well
	})
	if err != nil {
		return err
	}
	got, err := p.NICState(ctx, id, mac)
	if err != nil {
		return err
	}
	if got.AtPowerOn != connected || got.Connected && !connected {
		return p.errorf(fmt.Errorf("%s: vCenter accepted the change, but the NIC is %s", p.label(id), got), what)
	}
	return nil
}

// NICState implements pool.NICConnector.
func (p *Provider) NICState(ctx context.Context, id, mac string) (pool.NICState, error) {
	dev, _, err := p.card(ctx, id, mac)
	if err != nil {
		return pool.NICState{}, p.errorf(err, "read NIC "+mac)
	}
	c := dev.GetVirtualEthernetCard().Connectable
	if c == nil {
		return pool.NICState{}, p.errorf(fmt.Errorf("%s: vCenter does not say whether the NIC is connected", p.label(id)), "read NIC "+mac)
	}
	return asNICState(*c), nil
}

// links are how a VM's NICs are connected, by MAC; nil if vCenter does not say.
func nicStates(vm mo.VirtualMachine) map[string]pool.NICState {
	if vm.Config == nil {
		return nil
	}
	all := map[string]pool.NICState{}
	for _, dev := range vm.Config.Hardware.Device {
		card, ok := dev.(types.BaseVirtualEthernetCard)
		if !ok {
			continue
		}
		c := card.GetVirtualEthernetCard()
		if c.Connectable == nil {
			return nil
		}
		all[normalMAC(c.MacAddress)] = asNICState(*c.Connectable)
	}
	return all
}

func asNICState(c types.VirtualDeviceConnectInfo) pool.NICState {
	return pool.NICState{Connected: c.Connected, AtPowerOn: c.StartConnected, GuestControl: c.AllowGuestControl}
}

// card reads the NIC of that MAC, and the VM's change version.
func (p *Provider) card(ctx context.Context, id, mac string) (types.BaseVirtualEthernetCard, string, error) {
	vm, err := p.readVM(ctx, vmRef(id), "config.hardware.device", "config.changeVersion")
	if err != nil {
		return nil, "", err
	}
	if vm.Config != nil {
		for _, dev := range vm.Config.Hardware.Device {
			if card, ok := dev.(types.BaseVirtualEthernetCard); ok && normalMAC(card.GetVirtualEthernetCard().MacAddress) == normalMAC(mac) {
				return card, vm.Config.ChangeVersion, nil
			}
		}
	}
	return nil, "", refuse("%s has no NIC with that MAC", p.label(id))
}
