package vspheretest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// ssh logs in to the guest at addr. The connection ends with the test.
func (s *site) ssh(addr string) *ssh.Client {
	s.Helper()
	_, c := s.logIn(func() string { return addr })
	return c
}

// logIn logs in to a guest whose address may be another with every try.
func (s *site) logIn(where func() string) (addr string, c *ssh.Client) {
	s.Helper()
	require.Eventually(s, func() bool {
		addr = where()
		conn, err := s.srv.DialContext(s.ctx, "tcp", addr+":22")
		if err != nil {
			return false
		}
		cc, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.srv.ClientKey)},
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
				line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
				for _, k := range s.srv.HostKeys {
					if strings.HasPrefix(k, line) {
						return nil
					}
				}
				return errors.New("not the template's host key")
			},
		})
		if err != nil {
			conn.Close()
			return false
		}
		c = ssh.NewClient(cc, chans, reqs)
		return true
	}, 20*time.Second, 5*time.Millisecond)
	s.Cleanup(func() { c.Close() })
	return addr, c
}

func (s *site) run(c *ssh.Client, script string) string {
	s.Helper()
	out, err := try(c, script)
	require.NoError(s, err, "%s", out)
	return out
}

func try(c *ssh.Client, script string) (string, error) {
	sess, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer sess.Close()
	out, err := sess.CombinedOutput(script)
	return strings.TrimSpace(string(out)), err
}

func (s *site) boot(vm *object.VirtualMachine) (addr string, c *ssh.Client) {
	s.Helper()
	s.must(vm.PowerOn(s.ctx))
	// The guest's tools may run again before they report the new address.
	return s.logIn(func() string { return s.address(vm) })
}

func TestDisksFollowTheirVMs(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	golden := s.full("golden")
	first, c := s.boot(golden)
	s.run(c, "echo golden > /etc/made")
	require.NoError(t, golden.ShutdownGuest(s.ctx))
	s.off(golden)
	snap := s.snapshot(golden, "golden-ready")
	_, c = s.boot(golden)
	s.run(c, "echo drifted > /etc/made")

	con := s.linked(golden, snap, "con1")
	_, c = s.boot(con)
	assert.Equal(t, "golden", s.run(c, "cat /etc/made"), "a clone has what the snapshot has")
	s.run(c, "echo con > /etc/made")

	s.must(golden.RevertToSnapshot(s.ctx, snap.Value, false))
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(golden).Runtime.PowerState)
	stale := s.props(golden).Guest
	assert.NotEmpty(t, stale.Net, "what the tools said last stays")
	second, c := s.boot(golden)
	assert.Equal(t, "golden", s.run(c, "cat /etc/made"), "a revert brings the disk back")
	assert.NotEqual(t, first, second, "and another address")
	assert.NotEqual(t, addressOf(types.ArrayOfGuestNicInfo{GuestNicInfo: stale.Net}, s.mac(golden)), second)
	assert.Equal(t, "172.17.0.1", s.props(golden).Guest.IpAddress, "the first address is a container bridge's")
}

func TestGuestPowersItselfOff(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	_, c := s.boot(vm)
	sess, err := c.NewSession()
	require.NoError(t, err)
	_ = sess.Run("poweroff") // the connection may go before the answer
	s.off(vm)
	assert.Equal(t, string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning), s.props(vm).Guest.ToolsRunningStatus)
}

func TestGuestReboots(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	addr, c := s.boot(vm)
	const id = "cat /proc/sys/kernel/random/boot_id"
	before := s.run(c, id)
	sess, err := c.NewSession()
	require.NoError(t, err)
	_ = sess.Run("reboot")
	again := func() {
		require.Eventually(t, func() bool {
			now, err := try(s.ssh(addr), id)
			return err == nil && now != before
		}, 20*time.Second, 10*time.Millisecond)
	}
	again()
	before = s.run(s.ssh(addr), id)
	require.Eventually(t, func() bool { return vm.RebootGuest(s.ctx) == nil }, 20*time.Second, 10*time.Millisecond)
	again()
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(vm).Runtime.PowerState)
}

func TestPulledCableIsNoticed(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	vm := s.full("a")
	s.must(vm.PowerOn(s.ctx))
	addr := s.address(vm)
	link := func(up bool) {
		nic := object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))[0]
		nic.GetVirtualDevice().Connectable.Connected = up
		require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: "edit", Device: nic},
		}}))
		s.wait(vm, []string{"guest.net"}, func(p map[string]any) bool {
			return (addressOf(p["guest.net"], s.mac(vm)) == addr) == up
		})
	}
	link(false)
	_, err := s.srv.DialContext(s.ctx, "tcp", addr+":22")
	assert.ErrorIs(t, err, syscall.EHOSTUNREACH)
	link(true)
	s.ssh(addr)
}

func TestLabNetworkBehavesLikeOne(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	_, err := s.srv.DialContext(s.ctx, "tcp", "10.99.99.99:22")
	assert.ErrorIs(t, err, syscall.EHOSTUNREACH)
	ctx, cancel := context.WithTimeout(s.ctx, time.Millisecond)
	defer cancel()
	_, err = s.srv.DialContext(ctx, "tcp", "10.99.99.99:22")
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)

	vm := s.full("a")
	s.must(vm.PowerOn(s.ctx))
	addr := s.address(vm)
	_, err = s.srv.DialContext(s.ctx, "tcp", addr+":8443")
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	for _, nic := range s.props(vm).Guest.Net {
		for _, a := range nic.IpConfig.IpAddress {
			if a.IpAddress != addr { // of a bridge inside, or good on one link only
				_, err = s.srv.DialContext(s.ctx, "tcp", net.JoinHostPort(a.IpAddress, "22"))
				assert.ErrorIs(t, err, syscall.EHOSTUNREACH, a.IpAddress)
			}
		}
	}

	conn, err := s.srv.DialContext(s.ctx, "tcp", addr+":22")
	require.NoError(t, err)
	defer conn.Close()
	banner := make([]byte, 8)
	_, err = io.ReadFull(conn, banner)
	require.NoError(t, err)
	assert.Equal(t, "SSH-2.0-", string(banner))

	// The power is cut: the peer falls silent. When somebody has its address again, it answers
	// what it does not know with a reset.
	s.must(vm.PowerOff(s.ctx))
	_, err = io.Copy(io.Discard, &deadlined{conn, 20 * time.Millisecond})
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = conn.Write([]byte("hello?"))
	assert.NoError(t, err)
	s.must(vm.PowerOn(s.ctx))
	s.address(vm)
	_, err = conn.Write([]byte("hello?"))
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	require.NoError(t, conn.SetReadDeadline(time.Time{}))
	_, err = conn.Read(banner)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
}

// deadlined gives up a read when nothing has come for a while.
type deadlined struct {
	net.Conn
	timeout time.Duration
}

func (d *deadlined) Read(p []byte) (int, error) {
	_ = d.SetReadDeadline(time.Now().Add(d.timeout))
	return d.Conn.Read(p)
}

// An echo is an OS whose guests give back what they get, on all ports but 9, which drops.
type echo struct{ addr string }

type echoDisk struct{}

func (echoDisk) Clone() vspheretest.Disk                     { return echoDisk{} }
func (echo) Install(vspheretest.Hardware) vspheretest.Disk   { return echoDisk{} }
func (o echo) Boot(m *vspheretest.Machine) vspheretest.Guest { return &echoGuest{o, m} }

type echoGuest struct {
	echo
	m *vspheretest.Machine
}

func (g *echoGuest) Info() vspheretest.GuestInfo {
	return vspheretest.GuestInfo{HostName: "echo", NICs: []vspheretest.GuestNIC{{
		MAC: g.m.Hardware.NICs[0].MAC, Connected: true, Addrs: prefixes(g.addr),
	}}}
}
func (g *echoGuest) Shutdown()                            { g.m.PowerOff() }
func (g *echoGuest) HardwareChanged(vspheretest.Hardware) {}
func (g *echoGuest) Kill()                                {}

func TestLabConnections(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.OS = echo{"10.1.2.3/8"} })
	s.must(s.full("a").PowerOn(s.ctx))
	dial := func(ctx context.Context, port string) (net.Conn, error) {
		return s.srv.DialContext(ctx, "tcp", "10.1.2.3:"+port)
	}
	var conn net.Conn
	require.Eventually(t, func() (ok bool) {
		var err error
		conn, err = dial(s.ctx, "7")
		return err == nil
	}, 10*time.Second, time.Millisecond)

	// More than any buffer holds, in both directions at once.
	sent := bytes.Repeat([]byte("poolready"), 100_000)
	var got []byte
	var wg sync.WaitGroup
	wg.Go(func() { got, _ = io.ReadAll(conn) })
	_, err := conn.Write(sent)
	require.NoError(t, err)
	require.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
	wg.Wait()
	assert.True(t, bytes.Equal(sent, got))
	require.NoError(t, conn.Close())
	_, err = conn.Read(make([]byte, 1))
	assert.ErrorIs(t, err, net.ErrClosed)

	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Millisecond)
	defer cancel()
	_, err = dial(ctx, "9")
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "a dropped packet gets no answer")

	conn, err = dial(s.ctx, "7")
	require.NoError(t, err)
	s.srv.Close()
	_, err = conn.Read(make([]byte, 1))
	assert.Error(t, err, "closing the server ends all connections")
}

func prefixes(p string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(p)} }

func (g *echoGuest) ServeConn(conn net.Conn, to netip.AddrPort) {
	if to.Port() == 9 {
		return
	}
	_, _ = io.Copy(conn, conn)
	_ = conn.Close()
}
