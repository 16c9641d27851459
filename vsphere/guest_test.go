package vsphere

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	on      = types.VirtualMachinePowerStatePoweredOn
	off     = types.VirtualMachinePowerStatePoweredOff
	running = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	stopped = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
	mac     = "00:50:56:00:00:01"
)

func power(p types.VirtualMachinePowerState) types.PropertyChange {
	return types.PropertyChange{Name: "runtime.powerState", Val: p}
}

func tools(s string) types.PropertyChange {
	return types.PropertyChange{Name: "guest.toolsRunningStatus", Val: s}
}

func boot(minute int) types.PropertyChange {
	return types.PropertyChange{Name: "runtime.bootTime", Val: time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)}
}

func guestNet(nics ...types.GuestNicInfo) types.PropertyChange {
	return types.PropertyChange{Name: "guest.net", Val: types.ArrayOfGuestNicInfo{GuestNicInfo: nics}}
}

func nic(mac string, addrs ...string) types.GuestNicInfo {
	n := types.GuestNicInfo{MacAddress: mac, IpConfig: &types.NetIpConfigInfo{}}
	for _, a := range addrs {
		n.IpConfig.IpAddress = append(n.IpConfig.IpAddress, types.NetIpConfigInfoIpAddress{IpAddress: a, State: "preferred"})
	}
	return n
}

func TestAddressCountsOnlySinceThePowerCameOn(t *testing.T) {
	t.Parallel()
	type news []types.PropertyChange
	addr := guestNet(nic(mac, "10.0.0.1"))
	for _, c := range []struct {
		name          string
		before, after []news // our power on is between
		want          bool
	}{
		{"tools start afterwards", []news{{power(off), tools(stopped)}}, []news{{power(on), boot(1)}, {tools(running), addr}}, true},
		{"tools run but report nothing yet", []news{{power(off), tools(stopped)}}, []news{{power(on), boot(1)}, {tools(running)}}, false},
		{"the power is still off", []news{{power(off), tools(stopped), addr}}, nil, false},
		{"tools and address are of the last boot", []news{{power(on), boot(1), tools(running), addr}, {power(off), types.PropertyChange{Name: "runtime.bootTime"}}}, []news{{power(on)}}, false},
		{"tools stop and start again", []news{{power(on), boot(1), tools(running), addr}, {power(off)}}, []news{{power(on), boot(2)}, {tools(stopped)}, {tools(running)}}, true},
		{"tools stop and start again, and no boot is reported", []news{{power(on), tools(running), addr}, {power(off)}}, []news{{power(on)}, {tools(stopped)}, {tools(running)}}, true},
		{"tools ran all the time, and no boot is reported", []news{{power(on), tools(running), addr}, {power(off)}}, []news{{power(on)}}, false},
		{"nothing is reported since", []news{{power(on), boot(1), tools(running), addr}}, nil, false},
		{"all changes arrive at once, with a newer boot", []news{{power(on), boot(1), tools(running), addr}, {power(off)}}, []news{{power(on), boot(2), tools(running)}}, true},
		{"everything is news of one reading", []news{{power(off), tools(stopped)}}, []news{{power(on), boot(1), tools(running), addr}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var s vmState
			for _, n := range c.before {
				s.change(n)
			}
			s.poweringOn()
			for _, n := range c.after {
				s.change(n)
			}
			_, ok := s.address(mac)
			assert.Equal(t, c.want, ok, s.describe())
		})
	}
}

func TestAddressOfAVMThatSomebodyElsePoweredOn(t *testing.T) {
	t.Parallel()
	var s vmState
	s.change([]types.PropertyChange{power(on), boot(1), tools(running), guestNet(nic(mac, "10.0.0.1"))})
	a, ok := s.address(mac)
	assert.True(t, ok)
	assert.Equal(t, netip.MustParseAddr("10.0.0.1"), a)
}

func TestAddressChoosesAmongThoseOfItsNIC(t *testing.T) {
	t.Parallel()
	tentative := nic(mac, "10.0.0.8")
	tentative.IpConfig.IpAddress[0].State = "tentative"
	for _, c := range []struct {
		name string
		nics []types.GuestNicInfo
		want string
	}{
		{"IPv4 before IPv6", []types.GuestNicInfo{nic(mac, "fe80::1", "2001:db8::1", "10.0.0.1")}, "10.0.0.1"},
		{"IPv6 if there is no other", []types.GuestNicInfo{nic(mac, "fe80::1", "2001:db8::1")}, "2001:db8::1"},
		{"link-local is none", []types.GuestNicInfo{nic(mac, "fe80::1", "169.254.1.1")}, ""},
		{"other NICs are none", []types.GuestNicInfo{nic("02:42:00:00:00:01", "172.17.0.1"), nic(mac, "10.0.0.1")}, "10.0.0.1"},
		{"tentative is none", []types.GuestNicInfo{tentative}, ""},
		{"without ipConfig there is none", []types.GuestNicInfo{{MacAddress: mac, IpAddress: []string{"10.0.0.1"}}}, ""},
		{"MACs in any case", []types.GuestNicInfo{nic("00-50-56-00-00-01", "10.0.0.1")}, "10.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var s vmState
			s.change([]types.PropertyChange{power(on), tools(running), guestNet(c.nics...)})
			a, ok := s.address(mac)
			assert.Equal(t, c.want != "", ok)
			if ok {
				assert.Equal(t, c.want, a.String())
			}
		})
	}
}
