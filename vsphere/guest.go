package vsphere

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// vmState is what the watcher knows of a VM. Its zero value knows nothing.
type vmState struct {
	// What vCenter has reported through the view. Nothing else may change these: it reports only
	// what differs from what it reported before.
	power types.VirtualMachinePowerState
	boot  time.Time // when last powered on; zero when off
	tools string    // guest.toolsRunningStatus
	nics  []types.GuestNicInfo
	// version is config.changeVersion.
	version string

	// What is known from any source.
	firstMAC string    // of the VM's hardware; "" is not known
	off      bool      // the power was off when last heard of
	lastBoot time.Time // the latest boot heard of

	// Since this process powered the VM on, if it did.
	ours      bool      // it did: tools and addresses of the boot before are told apart
	at        time.Time // when, by our clock
	before    time.Time // lastBoot then
	toolsDown bool      // tools were reported not running
}

// change takes over what the view reports.
func (s *vmState) change(changes []types.PropertyChange) {
	for _, c := range changes {
		switch c.Name {
		case "runtime.powerState":
			s.power, _ = c.Val.(types.VirtualMachinePowerState)
		case "runtime.bootTime":
			s.boot, _ = c.Val.(time.Time)
		case "guest.toolsRunningStatus":
			s.tools, _ = c.Val.(string)
		case "config.changeVersion":
			s.version, _ = c.Val.(string)
		case "guest.net":
			nics, _ := c.Val.(types.ArrayOfGuestNicInfo)
			s.nics = nics.GuestNicInfo
		}
	}
	s.toolsDown = s.toolsDown || !s.toolsRunning()
	s.heard(s.power, s.boot)
}

// heard takes note of a reading, of the view or not.
func (s *vmState) heard(power types.VirtualMachinePowerState, boot time.Time) {
	s.off = power == types.VirtualMachinePowerStatePoweredOff
	if boot.After(s.lastBoot) {
		s.lastBoot = boot
	}
}

func (s *vmState) toolsRunning() bool {
	return s.tools == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

// poweringOn notes that this process powers the VM on.
func (s *vmState) poweringOn() {
	s.off, s.ours, s.at, s.before, s.toolsDown = false, true, time.Now(), s.lastBoot, false
}

// reverted notes that this process reverted the VM. If it runs now it has not booted: vCenter is
// not known to tell its boot time, or that its tools stopped meanwhile, so there is nothing to wait
// for.
func (s *vmState) reverted() { s.off, s.ours = false, false }

// up reports whether guest tools run that have been started since the VM was powered on.
func (s *vmState) up() bool {
	switch {
	case s.power != types.VirtualMachinePowerStatePoweredOn || !s.toolsRunning():
		return false
	case !s.ours:
		return true
	case !s.boot.IsZero():
		return s.boot.After(s.before)
	}
	return s.toolsDown
}

// address returns the best address that the guest reports on the NIC of that MAC, in one of the
// subnets if any are given.
func (s *vmState) address(mac string, subnets ...netip.Prefix) (netip.Addr, bool) {
	if !s.up() {
		return netip.Addr{}, false
	}
	all := nicAddrs(s.nics)[mac]
	if len(subnets) > 0 {
		all = slices.DeleteFunc(all, func(a guestAddr) bool {
			return !slices.ContainsFunc(subnets, func(p netip.Prefix) bool { return p.Contains(a.addr) })
		})
	}
	if len(all) == 0 {
		return netip.Addr{}, false
	}
	return slices.MinFunc(all, better).addr, true
}

// guestAddr is an address as guest tools report it.
type guestAddr struct {
	addr   netip.Addr
	bits   int    // the subnet's length; 0 is not known
	origin string // types.NetIpConfigInfoIpAddressOrigin, or ""
}

// better orders addresses by rank, the best first.
func better(a, b guestAddr) int { return cmp.Compare(b.rank(), a.rank()) }

// rank orders the addresses of one NIC. One without a subnet is, as a rule, a virtual address that
// keepalived or kube-vip has put there, and may be another machine's a moment later.
func (a guestAddr) rank() (n int) {
	if a.addr.Is4() {
		n += 4
	}
	if a.bits < a.addr.BitLen() {
		n += 2
	}
	switch a.origin {
	case string(types.NetIpConfigInfoIpAddressOriginDhcp), string(types.NetIpConfigInfoIpAddressOriginLinklayer):
		n++
	}
	return n
}

// describe says how far the guest has come, for the error of a wait that gave up.
func (s *vmState) describe() string {
	switch {
	case s.power == "":
		return "vCenter has said nothing of the VM yet"
	case s.power != types.VirtualMachinePowerStatePoweredOn:
		return "the VM is " + string(s.power)
	case !s.toolsRunning():
		return "the VM is on, but its guest tools do not run (" + s.tools + ")"
	case !s.up():
		return "the VM is on, but its guest tools have not started since it was powered on"
	}
	var seen []string
	for mac, addrs := range plainAddrs(s.nics) {
		seen = append(seen, fmt.Sprintf("%s %v", mac, addrs))
	}
	if len(seen) == 0 {
		return "guest tools run, but report no address yet"
	}
	return "guest tools run and report only " + strings.Join(seen, ", ")
}

// nicAddrs maps MACs, in lower case, to the usable addresses reported there, in the guest's order.
func nicAddrs(nics []types.GuestNicInfo) map[string][]guestAddr {
	all := map[string][]guestAddr{}
	for _, n := range nics {
		mac := normalMAC(n.MacAddress)
		if mac == "" || n.IpConfig == nil {
			continue
		}
		for _, ip := range n.IpConfig.IpAddress {
			switch types.NetIpConfigInfoIpAddressStatus(ip.State) {
			case "", types.NetIpConfigInfoIpAddressStatusPreferred, types.NetIpConfigInfoIpAddressStatusDeprecated,
				types.NetIpConfigInfoIpAddressStatusUnknown:
			default: // tentative, duplicate, invalid, inaccessible
				continue
			}
			a, err := netip.ParseAddr(ip.IpAddress)
			if err != nil || !a.IsGlobalUnicast() { // link-local and loopback are not
				continue
			}
			all[mac] = append(all[mac], guestAddr{a.Unmap(), int(ip.PrefixLength), ip.Origin})
		}
	}
	return all
}

// plainAddrs is nicAddrs without what else is known of the addresses, the best first.
func plainAddrs(nics []types.GuestNicInfo) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for mac, addrs := range nicAddrs(nics) {
		slices.SortStableFunc(addrs, better)
		for _, a := range addrs {
			all[mac] = append(all[mac], a.addr)
		}
	}
	return all
}

// normalMAC is the MAC in lower case with colons.
func normalMAC(mac string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(mac), "-", ":"))
}
