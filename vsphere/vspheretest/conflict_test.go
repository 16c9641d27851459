package vspheretest_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

const staticMAC = "00:50:56:00:00:11"

// withMAC makes a VM of the template whose NIC has a MAC by hand, on that network.
func (s *site) withMAC(name, mac, network string) *object.VirtualMachine {
	s.Helper()
	nic := object.VirtualDeviceList(s.props(s.vm("template")).Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))[0]
	card := nic.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	card.AddressType, card.MacAddress = string(types.VirtualEthernetCardMacTypeManual), mac
	card.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: network},
	}
	vm, err := s.cloneOf(s.vm("template"), name, func(c *types.VirtualMachineCloneSpec) {
		c.Config = &types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: nic},
		}}
	})
	require.NoError(s, err)
	return vm
}

// read is what a command prints on the other end of a connection.
func (s *site) read(c *ssh.Client, command string) (string, error) {
	sess, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer sess.Close()
	out, err := sess.Output(command)
	return strings.TrimSpace(string(out)), err
}

const readBootID = "cat /proc/sys/kernel/random/boot_id"

// boots are the boot IDs of whom n dials to addr reach, one after the other, each with a connection
// that ends.
func (s *site) boots(addr string, n int) (ids []string) {
	s.Helper()
	for range n {
		c := s.ssh(addr)
		id, err := s.read(c, readBootID)
		require.NoError(s, err)
		c.Close()
		ids = append(ids, id)
	}
	return ids
}

func conflicts(s *site, vm *object.VirtualMachine) (names []string) {
	for _, e := range s.events(vm.Reference()) {
		if c, ok := e.(*types.VmMacConflictEvent); ok {
			assert.Equal(s, staticMAC, c.Mac)
			assert.Contains(s, c.FullFormattedMessage, staticMAC)
			names = append(names, c.ConflictedVm.Name)
		}
	}
	return names
}

func TestTwoVMsWithOneMACAreToldOf(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	a := s.withMAC("a", staticMAC, "VM Network")
	assert.Empty(t, conflicts(s, a))
	b := s.withMAC("b", strings.ToUpper(staticMAC), "VM Network")
	for _, e := range s.events(b.Reference()) {
		if c, ok := e.(*types.VmMacConflictEvent); ok {
			assert.Equal(t, "a", c.ConflictedVm.Name)
		}
	}
	assert.Empty(t, conflicts(s, a), "it was there first")
	s.must(b.Destroy(s.ctx))
	s.must(a.Rename(s.ctx, "a2"))
	assert.Equal(t, []string{"a2"}, conflicts(s, s.withMAC("c", staticMAC, "VM Network")))
}

// Frames for one MAC go now to the one, now to the other.
func TestTwoVMsWithOneMACTakeTurns(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Networks = []string{"VM Network", "lab"} })
	a, b := s.withMAC("a", staticMAC, "VM Network"), s.withMAC("b", staticMAC, "VM Network")
	elsewhere := s.withMAC("c", staticMAC, "lab")
	s.must(a.PowerOn(s.ctx))
	s.must(elsewhere.PowerOn(s.ctx))
	addr := s.addressOn(a, staticMAC)
	s.addressOn(elsewhere, staticMAC)
	alone := s.boots(addr, 2)
	assert.Equal(t, alone[0], alone[1], "a VM on another network disturbs nobody")
	first := s.ssh(addr)
	s.must(b.PowerOn(s.ctx))
	s.addressOn(b, staticMAC)
	_, err := s.read(first, readBootID)
	require.Error(t, err, "the other one gets its packets now")

	ids := s.boots(addr, 4)
	assert.NotEqual(t, ids[0], ids[1])
	assert.Equal(t, ids[0], ids[2])
	assert.Equal(t, ids[1], ids[3])
	assert.Contains(t, ids, alone[0])
	s.must(b.PowerOff(s.ctx))
	assert.Equal(t, []string{alone[0], alone[0]}, s.boots(addr, 2))
}

// One that has the MAC behind an address, and another address, drops what it gets.
func TestOneMACWithTwoAddressesLosesPackets(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Latency.NoRoute = time.Hour })
	a, b := s.withMAC("a", staticMAC, "VM Network"), s.withMAC("b", staticMAC, "VM Network")
	snap := s.snapshot(b, "s")
	s.must(b.RevertToSnapshot(s.ctx, snap.Value, false)) // the DHCP server gives it another address
	s.must(a.PowerOn(s.ctx))
	addr := s.addressOn(a, staticMAC)
	mine := s.ssh(addr)
	s.must(b.PowerOn(s.ctx))
	require.NotEqual(t, addr, s.addressOn(b, staticMAC))
	done := make(chan error, 1)
	go func() {
		_, err := s.read(mine, readBootID)
		done <- err
	}()
	reached := 0
	var waiting net.Conn
	for range 2 {
		ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
		conn, err := s.srv.DialContext(ctx, "tcp", addr+":22")
		cancel()
		if err == nil {
			reached++
			waiting = conn
		}
	}
	assert.Equal(t, 1, reached, "every other one")
	waiting.Close()
	mine.Close()
	assert.Error(t, <-done, "lost with the packets that the other one got")
}

func TestClonesWithOneMachineIDShareALease(t *testing.T) {
	t.Parallel()
	for _, shared := range []bool{false, true} {
		s := start(t, func(srv *vspheretest.Server) { srv.OS = &sshguest.OS{LeaseByMachineID: shared} })
		golden := s.full("golden")
		s.must(golden.PowerOn(s.ctx))
		c := s.ssh(s.address(golden))
		if !shared {
			_, err := s.read(c, ": >/etc/machine-id")
			require.NoError(t, err)
		}
		s.must(golden.PowerOff(s.ctx))
		snap := s.snapshot(golden, "golden-ready")
		a, b := s.linked(golden, snap, "a"), s.linked(golden, snap, "b")
		s.must(a.PowerOn(s.ctx))
		s.must(b.PowerOn(s.ctx))
		at, other := s.address(a), s.address(b)
		assert.Equal(t, shared, at == other)
		ids := s.boots(at, 2)
		assert.Equal(t, shared, ids[0] != ids[1], "two machines answer at it")
		if shared {
			continue
		}
		one, err := s.read(s.ssh(at), "cat /etc/machine-id")
		require.NoError(t, err)
		two, err := s.read(s.ssh(other), "cat /etc/machine-id")
		require.NoError(t, err)
		assert.Len(t, one, 32)
		assert.NotEqual(t, one, two, "an empty one is filled at boot")
	}
}
