package vsphere

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// vmState is what the pump knows of a VM. Its zero value knows nothing.
type vmState struct {
	// What vCenter has reported through the view. Nothing else may change these: it reports only
	// what differs from what it reported before.
	power types.VirtualMachinePowerState
	boot  time.Time // when last powered on; zero when off
	tools string    // guest.toolsRunningStatus
	nics  []types.GuestNicInfo

	// What is known from any source.
	firstMAC string    // of the VM's hardware; "" is not known
	off      bool      // the power was off when last heard of
	lastBoot time.Time // the latest boot heard of

	// Since this process powered the VM on, if it did.
	ours      bool      // it did: tools and addresses of the boot before are told apart
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
	s.off, s.ours, s.before, s.toolsDown = false, true, s.lastBoot, false
}

// reverted notes that this process reverted the VM. If it runs now it has not booted: vCenter is
// not known to tell its boot time, or that its tools stopped meanwhile, so there is nothing to wait
// for.
func (s *vmState) reverted() { s.off, s.ours = false, false }

// up tells whether guest tools run that have been started since the VM was powered on.
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

// address returns the best address that the guest reports on the NIC of that MAC.
func (s *vmState) address(mac string) (netip.Addr, bool) {
	if !s.up() {
		return netip.Addr{}, false
	}
	addrs := nicAddrs(s.nics)[mac]
	for _, a := range addrs {
		if a.Is4() {
			return a, true
		}
	}
	for _, a := range addrs {
		return a, true
	}
	return netip.Addr{}, false
}

// describe says how far the guest has come, for whoever gave up waiting.
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
	for mac, addrs := range nicAddrs(s.nics) {
		seen = append(seen, fmt.Sprintf("%s %v", mac, addrs))
	}
	if len(seen) == 0 {
		return "guest tools run, but report no address yet"
	}
	return "guest tools run and report only " + strings.Join(seen, ", ")
}

// nicAddrs maps MACs, in lower case, to the usable addresses reported there, in the guest's order.
func nicAddrs(nics []types.GuestNicInfo) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
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
			all[mac] = append(all[mac], a.Unmap())
		}
	}
	return all
}

// normalMAC is the MAC in lower case with colons.
func normalMAC(mac string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(mac), "-", ":"))
}
