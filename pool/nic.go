package pool

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// A NICConnector is a Provider that can connect and disconnect the NICs of VMs, as by pulling their
// cables. Only NIC.Unplugged and Host.ConnectNIC need it.
type NICConnector interface {
	// ConnectNIC connects the NIC of that MAC, or disconnects it, both now and at every power on, and
	// keeps the guest from changing that. It reads back what it did.
	ConnectNIC(ctx context.Context, id, mac string, connected bool) error
	// NICState returns how the NIC of that MAC is connected.
	NICState(ctx context.Context, id, mac string) (NICState, error)
}

func (s NICState) String() string {
	word := map[bool]string{true: "connected", false: "disconnected"}
	guest := "the guest may not change it"
	if s.GuestControl {
		guest = "the guest may change it"
	}
	return fmt.Sprintf("%s, %s at power on, %s", word[s.Connected], word[s.AtPowerOn], guest)
}

// ConnectNIC connects or disconnects, in the hypervisor, the NIC of that number in VM.NICs, from 0,
// now and at every power on. The NIC must have a MAC there, and the Provider be a NICConnector.
func (h *Host) ConnectNIC(ctx context.Context, nic int, connected bool) error {
	p, mac, err := h.connector(nic)
	if err != nil {
		return err
	}
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return err
	}
	defer done()
	return h.blame(p.ConnectNIC(ctx, h.id, mac, connected))
}

// NICState returns how the NIC of that number in VM.NICs, from 0, is connected in the hypervisor.
// The NIC must have a MAC there, and the Provider be a NICConnector.
func (h *Host) NICState(ctx context.Context, nic int) (NICState, error) {
	p, mac, err := h.connector(nic)
	if err != nil {
		return NICState{}, err
	}
	return p.NICState(ctx, h.id, mac)
}

// unplug disconnects the NICs that are to be so when the host is ready.
func (h *Host) unplug(ctx context.Context) error {
	for i, nic := range h.VM.NICs {
		if nic.Unplugged {
			if err := h.ConnectNIC(ctx, i, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// unplugged proves that they are.
func (h *Host) unplugged(ctx context.Context) error {
	for i, nic := range h.VM.NICs {
		if !nic.Unplugged {
			continue
		}
		state, err := h.NICState(ctx, i)
		if err != nil {
			return err
		}
		if state != (NICState{}) {
			return fmt.Errorf("NIC %d (%s) is %s; the Spec has it unplugged", i+1, nic.MAC, state)
		}
	}
	return nil
}

func (s Spec) validateUnplugged(f *faults, at string, vm VM) {
	_, can := s.Provider.(NICConnector)
	for i, nic := range vm.NICs {
		path := fmt.Sprintf("%s.NICs[%d].Unplugged", at, i)
		switch {
		case !nic.Unplugged:
		case i == 0:
			f.addf(path, "SSH goes to this NIC")
		case nic.MAC == "":
			f.addf(path, "the NIC has no MAC")
		case !can && s.Provider != nil:
			f.addf(path, "the provider (%T) cannot connect and disconnect NICs: it is no pool.NICConnector", s.Provider)
		}
	}
}

func (h *Host) connector(nic int) (NICConnector, string, error) {
	if nic < 0 || nic >= len(h.VM.NICs) || h.VM.NICs[nic].MAC == "" {
		return nil, "", fmt.Errorf("%s: NIC %d has no MAC in VM.NICs, which has %d NICs", h.Name, nic, len(h.VM.NICs))
	}
	p, ok := h.provider.(NICConnector)
	if !ok {
		return nil, "", fmt.Errorf("%s: the provider (%T) cannot connect and disconnect NICs: it is no pool.NICConnector", h.Name, h.provider)
	}
	return p, h.VM.NICs[nic].MAC, nil
}

// mac is that of the NIC SSH goes to; "" is the first one the VM has.
func (vm VM) mac() string {
	if len(vm.NICs) == 0 {
		return ""
	}
	mac, err := net.ParseMAC(vm.NICs[0].MAC)
	if err != nil {
		return "" // none given: validate has looked at the others
	}
	return mac.String()
}

// subnets are those that the address for SSH may lie in; none is any.
func (vm VM) subnets() []netip.Prefix {
	if len(vm.NICs) == 0 || !vm.NICs[0].Subnet.IsValid() {
		return nil
	}
	return []netip.Prefix{vm.NICs[0].Subnet}
}
