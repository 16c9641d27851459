package pool

import (
	"context"
	"fmt"
	"net"
)

// A Linker is a Provider that can pull the cable of a VM's NIC. It is a capability of its own:
// what nobody asks for need not be there.
type Linker interface {
	// SetLink connects the NIC of that MAC, or disconnects it, both now and at every power on, and
	// keeps the guest from changing that. It reads back what it did.
	SetLink(ctx context.Context, id, mac string, connected bool) error
	// Link tells how the NIC of that MAC is.
	Link(ctx context.Context, id, mac string) (Link, error)
}

// Link is how a NIC is connected, as the hypervisor has it.
type Link struct {
	Connected    bool // now; always false while the VM is off
	AtPowerOn    bool
	GuestControl bool // the guest may change both
}

func (l Link) String() string {
	word := map[bool]string{true: "connected", false: "disconnected"}
	guest := "the guest may not change it"
	if l.GuestControl {
		guest = "the guest may change it"
	}
	return fmt.Sprintf("%s, %s at power on, %s", word[l.Connected], word[l.AtPowerOn], guest)
}

// SetLink connects or disconnects, in the hypervisor, the NIC of that number in VM.NICs, from 0,
// now and at every power on. The NIC must have a MAC there, and the Provider be a Linker.
func (h *Host) SetLink(ctx context.Context, nic int, connected bool) error {
	l, mac, err := h.linker(nic)
	if err != nil {
		return err
	}
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return err
	}
	defer done()
	return h.blame(l.SetLink(ctx, h.id, mac, connected))
}

// Link tells how the NIC of that number in VM.NICs, from 0, is connected in the hypervisor.
// The NIC must have a MAC there, and the Provider be a Linker.
func (h *Host) Link(ctx context.Context, nic int) (Link, error) {
	l, mac, err := h.linker(nic)
	if err != nil {
		return Link{}, err
	}
	return l.Link(ctx, h.id, mac)
}

// unplug disconnects the NICs that are to be so when the host is ready.
func (h *Host) unplug(ctx context.Context) error {
	for i, nic := range h.VM.NICs {
		if nic.Unplugged {
			if err := h.SetLink(ctx, i, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// unplugged shows that they are.
func (h *Host) unplugged(ctx context.Context) error {
	for i, nic := range h.VM.NICs {
		if !nic.Unplugged {
			continue
		}
		l, err := h.Link(ctx, i)
		if err != nil {
			return err
		}
		if l != (Link{}) {
			return fmt.Errorf("NIC %d (%s) is %s; the Spec has it unplugged", i+1, nic.MAC, l)
		}
	}
	return nil
}

// rewired says which NIC of a ready VM is not connected as it was when it became ready, or "".
func rewired(vm VM, info VMInfo) string {
	if info.Links == nil {
		return ""
	}
	for i, nic := range vm.NICs {
		mac, err := net.ParseMAC(nic.MAC)
		if err != nil {
			continue
		}
		l, there := info.Links[mac.String()]
		switch {
		case !there:
			return fmt.Sprintf("NIC %d (%s) is gone", i+1, nic.MAC)
		case nic.Unplugged && l != (Link{}):
			return fmt.Sprintf("NIC %d (%s), which was unplugged when it became ready, is %s", i+1, nic.MAC, l)
		case !nic.Unplugged && (!l.AtPowerOn || info.On && !l.Connected):
			return fmt.Sprintf("NIC %d (%s), which was connected when it became ready, is %s", i+1, nic.MAC, l)
		}
	}
	return ""
}

func (s Spec) validateUnplugged(f *faults, at string, vm VM) {
	_, can := s.Provider.(Linker)
	for i, nic := range vm.NICs {
		path := fmt.Sprintf("%s.NICs[%d].Unplugged", at, i)
		switch {
		case !nic.Unplugged:
		case i == 0:
			f.addf(path, "SSH goes to this NIC")
		case nic.MAC == "":
			f.addf(path, "the NIC has no MAC")
		case !can && s.Provider != nil:
			f.addf(path, "the provider (%T) cannot connect and disconnect NICs: it is no pool.Linker", s.Provider)
		}
	}
}

func (h *Host) linker(nic int) (Linker, string, error) {
	if nic < 0 || nic >= len(h.VM.NICs) || h.VM.NICs[nic].MAC == "" {
		return nil, "", fmt.Errorf("%s: NIC %d has no MAC in VM.NICs, which has %d NICs", h.Name, nic, len(h.VM.NICs))
	}
	l, ok := h.provider.(Linker)
	if !ok {
		return nil, "", fmt.Errorf("%s: the provider (%T) cannot connect and disconnect NICs: it is no pool.Linker", h.Name, h.provider)
	}
	return l, h.VM.NICs[nic].MAC, nil
}
