package vsphere

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Neighbours are the VMs that have a NIC on one network, as far as the user may see them. A machine
// that vCenter does not know, or on another port group of the same VLAN, is none.

// readNetworks reads properties of all VMs on some networks.
func (p *Provider) readNetworks(ctx context.Context, nets []types.ManagedObjectReference, props ...string) ([]mo.VirtualMachine, error) {
	spec := types.PropertyFilterSpec{
		PropSet:                       []types.PropertySpec{{Type: "VirtualMachine", PathSet: props}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}
	for _, net := range nets {
		spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{
			Obj: net, Skip: types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: "Network", Path: "vm"}},
		})
	}
	objects, err := p.s.retrieve(ctx, spec)
	if err != nil {
		return nil, err
	}
	var all []mo.VirtualMachine
	for _, o := range objects {
		if o.Obj.Type != "VirtualMachine" {
			continue
		}
		vm, err := asVM(o)
		if err != nil {
			return nil, err
		}
		all = append(all, vm)
	}
	return all, nil
}

// A claimed is what only one VM may have on a network: a static MAC, or one of pool.NIC.Claims.
type claimed struct {
	network types.ManagedObjectReference // zero for MACs, which no two networks share
	what    string
}

func (c claimed) String() string {
	if c.network.Value == "" {
		return "MAC " + c.what
	}
	return c.what
}

// preflightNeighbours refuses static MACs and claims that VMs on the same networks have, but for those
// that the clones replace. VMs of the set that are off, such as one that was renamed to be kept, and
// copies that somebody made of the set's VMs, such as replicas, count only while they run.
func (p *Provider) preflightNeighbours(ctx context.Context, clones []pool.CloneSpec, report func(error)) error {
	wanted := map[claimed]string{} // by whom
	var nets []types.ManagedObjectReference
	err := p.lookUp(ctx, func(t *tree) error {
		nets = nil
		for _, c := range clones {
			for _, nic := range c.VM.NICs {
				net, err := t.find(networkKind, first(nic.Network, p.cfg.Network))
				if err != nil || nic.MAC == "" && len(nic.Claims) == 0 {
					continue // preflightPlaces has said so
				}
				if nic.MAC != "" {
					wanted[claimed{what: normalMAC(nic.MAC)}] = c.VM.Name
				}
				for _, claim := range nic.Claims {
					wanted[claimed{net.ref, claim}] = c.VM.Name
				}
				if !slices.Contains(nets, net.ref) {
					nets = append(nets, net.ref)
				}
			}
		}
		return nil
	})
	if err != nil || len(nets) == 0 {
		return err
	}
	all, err := p.readNetworks(ctx, nets, "name", "parent", "config.hardware.device", "config.template", "config.extraConfig")
	if err != nil {
		return err
	}
	t, err := p.inventory(ctx, time.Time{})
	if err != nil {
		return err
	}
	for _, vm := range all {
		var both []string
		wanting := ""
		for _, c := range p.claims(t, vm) {
			if by := wanted[c]; by != "" {
				both, wanting = append(both, c.String()), by
			}
		}
		if wanting == "" || vm.Config.Template {
			continue
		}
		if err := p.taken(ctx, clones, vm, both, wanting, report); err != nil {
			return err
		}
	}
	return nil
}

// claims are what a VM has for itself on its networks.
func (p *Provider) claims(t *tree, vm mo.VirtualMachine) (all []claimed) {
	macs, nets := macsOf(vm), p.wired(t, vm)
	for _, mac := range macs {
		all = append(all, claimed{what: mac})
	}
	var claims [][]string
	_ = json.Unmarshal([]byte(extra(vm, claimsKey)), &claims) // others write there what they like
	for i, list := range claims[:min(len(claims), len(macs))] {
		for _, c := range list {
			all = append(all, claimed{nets[macs[i]], c})
		}
	}
	return all
}

// claimsOf is what a VM keeps of its claims; "" if it has none.
func claimsOf(vm pool.VM) string {
	var all [][]string
	some := false
	for _, nic := range vm.NICs {
		all, some = append(all, nic.Claims), some || len(nic.Claims) > 0
	}
	if !some {
		return ""
	}
	data, err := json.Marshal(all)
	if err != nil {
		panic(err) // they are strings
	}
	return string(data)
}

// taken reports what a VM has that clones are to have, unless they may.
func (p *Provider) taken(ctx context.Context, clones []pool.CloneSpec, vm mo.VirtualMachine, both []string, wanting string, report func(error)) error {
	read, err := p.readVM(ctx, vm.Self, append([]string{"runtime.powerState"}, identityProps...)...)
	if isGone(err, vm.Self) || err == nil && read.Config == nil {
		return nil // gone, or nearly so
	}
	if err != nil {
		return err
	}
	path, err := p.vmPaths(ctx, []mo.VirtualMachine{vm})
	if err != nil {
		return err
	}
	off := read.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff
	owner, copyOf := ownerOf(read)
	for _, c := range clones {
		folder, err := p.setFolder(ctx, c.Set)
		if err != nil || folder == nil {
			continue // preflightNames says so
		}
		in := false
		if err := p.lookUp(ctx, func(t *tree) error {
			in = vm.Parent != nil && (*vm.Parent == *folder || t.below(t.all[*vm.Parent], *folder))
			return nil
		}); err != nil {
			return err
		}
		if in && (off || owner != "" && owner == c.Owner && vm.Name == c.VM.Name) {
			return nil
		}
	}
	if off && copyOf != "" {
		return nil
	}
	state := "powered on"
	if off {
		state = "powered off"
	}
	verb, another := "is that", "another"
	if len(both) > 1 {
		verb, another = "are those", "others"
	}
	report(refuse("VM %q: its %s %s of VM %s, which is %s; give it %s, or remove that VM",
		wanting, strings.Join(both, ", "), verb, path[0], state, another))
	return nil
}

// uniqueFor is how long an address counts as its VM's alone without looking again.
const uniqueFor = 15 * time.Second

// neighbourhood keeps readings of what guests on networks report, and what was found unique.
type neighbourhood struct {
	reading gate

	mu       sync.Mutex
	networks map[types.ManagedObjectReference]map[string]types.ManagedObjectReference // of VMs, by MAC
	readings map[types.ManagedObjectReference]guestsReading                           // by network
	unique   map[types.ManagedObjectReference]uniqueAddr                              // by VM
}

type guestsReading struct {
	at  time.Time
	vms []mo.VirtualMachine
}

type uniqueAddr struct {
	at   time.Time
	addr netip.Addr
}

func newNeighbourhood() *neighbourhood {
	return &neighbourhood{
		reading:  make(gate, 1),
		networks: map[types.ManagedObjectReference]map[string]types.ManagedObjectReference{},
		readings: map[types.ManagedObjectReference]guestsReading{},
		unique:   map[types.ManagedObjectReference]uniqueAddr{},
	}
}

// A twin is another VM that reports an address.
type twin struct {
	path  string
	cause string
}

// twin returns another running VM on the same network whose guest tools report the address that the
// VM reports on the NIC of that MAC, or nil.
func (p *Provider) twin(ctx context.Context, vm types.ManagedObjectReference, mac string, addr netip.Addr) (*twin, error) {
	n := p.near
	n.mu.Lock()
	known := n.unique[vm]
	n.mu.Unlock()
	if known.addr == addr && time.Since(known.at) < uniqueFor {
		return nil, nil
	}
	net, err := p.networkOf(ctx, vm, mac)
	if err != nil || net.Value == "" {
		return nil, err
	}
	start := time.Now()
	for since := start.Add(-p.intervals.near); ; since = start {
		r, err := p.guestsOn(ctx, net, since)
		if err != nil {
			return nil, err
		}
		other, why := findTwin(r.vms, vm, mac, addr)
		switch {
		case other == nil:
			n.mu.Lock()
			defer n.mu.Unlock()
			n.unique[vm] = uniqueAddr{r.at, addr}
			return nil, nil
		case r.at.Before(start): // it may be gone by now
			continue
		}
		paths, err := p.vmPaths(ctx, []mo.VirtualMachine{*other})
		if err != nil {
			return nil, err
		}
		return &twin{strings.TrimSuffix(paths[0], unreadable), why}, nil
	}
}

// findTwin returns another VM that reports the address of a VM on the same network, and why that may
// be.
func findTwin(all []mo.VirtualMachine, vm types.ManagedObjectReference, mac string, addr netip.Addr) (other *mo.VirtualMachine, why string) {
	ours, network := reports(all, vm, mac, addr)
	for _, o := range all {
		if o.Self == vm || o.Guest == nil || o.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn ||
			o.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
			continue
		}
		for _, nic := range o.Guest.Net {
			if network != "" && nic.Network != "" && nic.Network != network {
				continue // private networks may use the same addresses
			}
			its := nicAddrs([]types.GuestNicInfo{nic})[normalMAC(nic.MacAddress)]
			if i := slices.IndexFunc(its, func(a guestAddr) bool { return a.addr == addr }); i >= 0 {
				return &o, whyTwins(mac, normalMAC(nic.MacAddress), ours.origin, its[i].origin)
			}
		}
	}
	return nil, ""
}

// reports returns how the VM itself reports the address, and the name of the network that it is on.
func reports(all []mo.VirtualMachine, vm types.ManagedObjectReference, mac string, addr netip.Addr) (ours guestAddr, network string) {
	for _, o := range all {
		if o.Self != vm || o.Guest == nil {
			continue
		}
		for _, nic := range o.Guest.Net {
			if normalMAC(nic.MacAddress) != mac {
				continue
			}
			network = nic.Network
			for _, a := range nicAddrs([]types.GuestNicInfo{nic})[mac] {
				if a.addr == addr {
					ours = a
				}
			}
		}
	}
	return ours, network
}

// whyTwins says why two machines have one address, as far as MACs and origins tell.
func whyTwins(ours, theirs, origin, other string) string {
	const (
		static = "one of them has it as a static address, such as one of its template's"
		leased = "clones of a template with a filled /etc/machine-id, or a DHCP client ID of its own, get one lease; empty them in the template"
	)
	manual, dhcp := string(types.NetIpConfigInfoIpAddressOriginManual), string(types.NetIpConfigInfoIpAddressOriginDhcp)
	switch {
	case ours == theirs:
		return "both have the MAC " + ours
	case origin == manual || other == manual:
		return static
	case origin == dhcp && other == dhcp:
		return leased
	}
	return leased + "; or " + static
}

// guestsOn reads what the guests on a network report, or returns a reading begun after since.
func (p *Provider) guestsOn(ctx context.Context, net types.ManagedObjectReference, since time.Time) (guestsReading, error) {
	n := p.near
	if err := n.reading.enter(ctx); err != nil {
		return guestsReading{}, err
	}
	defer n.reading.leave()
	n.mu.Lock()
	last := n.readings[net]
	n.mu.Unlock()
	if last.at.After(since) {
		return last, nil
	}
	r := guestsReading{at: time.Now()}
	var err error
	r.vms, err = p.readNetworks(ctx, []types.ManagedObjectReference{net},
		"name", "parent", "runtime.powerState", "guest.toolsRunningStatus", "guest.net")
	if err != nil {
		return r, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.readings[net] = r
	return r, nil
}

// networkOf returns the network that the NIC of that MAC is on; none is one that cannot be told.
func (p *Provider) networkOf(ctx context.Context, vm types.ManagedObjectReference, mac string) (types.ManagedObjectReference, error) {
	p.near.mu.Lock()
	net, ok := p.near.networks[vm][mac]
	p.near.mu.Unlock()
	if ok {
		return net, nil
	}
	read, err := p.readVM(ctx, vm, "config.hardware.device")
	if err != nil {
		return net, err
	}
	t, err := p.inventory(ctx, time.Time{})
	if err != nil {
		return net, err
	}
	return p.wired(t, read)[mac], nil
}

// wired notes and returns, by MAC, the networks that a VM's NICs are on.
func (p *Provider) wired(t *tree, vm mo.VirtualMachine) map[string]types.ManagedObjectReference {
	nets := map[string]types.ManagedObjectReference{}
	if vm.Config != nil {
		for _, dev := range vm.Config.Hardware.Device {
			if card, ok := dev.(types.BaseVirtualEthernetCard); ok {
				c := card.GetVirtualEthernetCard()
				nets[normalMAC(c.MacAddress)] = t.networkRef(c.Backing)
			}
		}
	}
	p.near.mu.Lock()
	defer p.near.mu.Unlock()
	p.near.networks[vm.Self] = nets
	return nets
}

// twinError is the end of a wait for an address that another VM has, too.
type twinError struct {
	addr netip.Addr
	twin
}

func (e *twinError) Error() string {
	return fmt.Sprintf("the address %s is reported by VM %s, too, which is powered on: %s", e.addr, e.path, e.cause)
}
