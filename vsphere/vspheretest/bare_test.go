package vspheretest_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestNeitherShellNorSFTPIsLinked(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), "github.com/vmware/govmomi/simulator")
	for dep := range strings.Lines(string(out)) {
		for _, heavy := range []string{"github.com/poolready/poolready/sshx", "github.com/pkg/sftp", "mvdan.cc/sh", "github.com/stretchr/"} {
			assert.False(t, strings.HasPrefix(dep, heavy), dep)
		}
	}
}

// bare starts a Server with the default OS.
func bare(t *testing.T, set func(*vspheretest.Server)) *site {
	t.Helper()
	return start(t, func(srv *vspheretest.Server) {
		srv.OS = nil
		if set != nil {
			set(srv)
		}
	})
}

func TestBareMachinesHaveAddressesAndRefuse(t *testing.T) {
	t.Parallel()
	s := bare(t, nil)
	vm := s.full("a")
	s.must(vm.PowerOn(s.ctx))
	addr := s.address(vm)
	_, err := s.srv.DialContext(s.ctx, "tcp", addr+":22")
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	net := s.props(vm).Guest.Net
	require.Len(t, net, 2)
	assert.Equal(t, []string{"172.17.0.1"}, net[0].IpAddress, "a bridge comes first")
	assert.Equal(t, "fe80:", net[1].IpAddress[0][:5], "and a link-local address before the other one")

	require.NoError(t, vm.RebootGuest(s.ctx))
	s.reaches(vm, func(now string) bool { return now == addr }) // the DHCP server knows it
	require.Eventually(t, func() bool { return vm.ShutdownGuest(s.ctx) == nil }, 20*time.Second, time.Millisecond, "tools come back")
	s.off(vm)
}

func TestBareMachinesFollowSnapshots(t *testing.T) {
	t.Parallel()
	s := bare(t, nil)
	vm := s.full("a")
	off := s.snapshot(vm, "off")
	s.must(vm.PowerOn(s.ctx))
	first := s.address(vm)
	on := s.must(vm.CreateSnapshot(s.ctx, "on", "", true, false)).(types.ManagedObjectReference)

	s.must(vm.RevertToSnapshot(s.ctx, off.Value, false))
	s.must(vm.PowerOn(s.ctx))
	s.reaches(vm, func(addr string) bool { return addr != first })
	s.must(vm.RevertToSnapshot(s.ctx, on.Value, false))
	s.reaches(vm, func(addr string) bool { return addr == first })
}

// reaches waits until the VM has an address that ok wants: tools may say the last one for a while.
func (s *site) reaches(vm *object.VirtualMachine, ok func(addr string) bool) {
	s.Helper()
	mac := s.props(vm).Guest.Net[1].MacAddress
	s.wait(vm, []string{"guest.net"}, func(p map[string]any) bool {
		addr := addressOf(p["guest.net"], mac)
		return addr != "" && ok(addr)
	})
}

func TestBareMachinesAreCustomizedAndKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *site { return bare(t, func(srv *vspheretest.Server) { srv.StateDir = dir }) }
	s := open()
	dhcp, fixed := s.full("dhcp"), s.full("fixed")
	s.must(fixed.Customize(s.ctx, types.CustomizationSpec{
		Identity: &types.CustomizationLinuxPrep{HostName: &types.CustomizationFixedName{Name: "web"}},
		NicSettingMap: []types.CustomizationAdapterMapping{{Adapter: types.CustomizationIPSettings{
			Ip: &types.CustomizationFixedIp{IpAddress: "10.1.2.3"}, SubnetMask: "255.0.0.0",
		}}},
	}))
	s.must(dhcp.PowerOn(s.ctx))
	s.must(fixed.PowerOn(s.ctx))
	leased := s.address(dhcp)
	assert.Equal(t, "10.1.2.3", s.address(fixed))
	s.srv.Close()

	s = open()
	assert.Equal(t, leased, s.address(s.vm("dhcp")))
	assert.Equal(t, "10.1.2.3", s.address(s.vm("fixed")))
	assert.Equal(t, "web", s.props(s.vm("fixed")).Guest.HostName)
}
