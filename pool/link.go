package pool

import (
	"context"
	"fmt"
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
