package vspheretest_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestStateOutlivesTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *site {
		return start(t, func(srv *vspheretest.Server) { srv.StateDir = dir })
	}
	s := open()
	thumbprint := s.srv.Thumbprint
	golden := s.full("golden")
	_, c := s.boot(golden)
	s.run(c, "echo golden > /etc/made; ln -s made /etc/link; chmod 600 /etc/made")
	s.must(golden.PowerOff(s.ctx))
	snap := s.snapshot(golden, "golden-ready")
	con := s.linked(golden, snap, "con1")
	_, c = s.boot(con)
	s.run(c, "echo con > /etc/made")
	before := s.props(con)
	s.srv.Close()

	s = open()
	assert.Equal(t, thumbprint, s.srv.Thumbprint)
	golden, con = s.vm("golden"), s.vm("con1")
	after := s.props(con)
	assert.Equal(t, before.Self, after.Self)
	assert.Equal(t, before.Config.Uuid, after.Config.Uuid)
	assert.Equal(t, before.Config.Hardware.NumCPU, after.Config.Hardware.NumCPU)
	assert.Equal(t, s.disk(con).Backing.(*types.VirtualDiskFlatVer2BackingInfo).Parent.FileName,
		s.props(golden).Config.Hardware.Device[len(s.props(golden).Config.Hardware.Device)-2].(*types.VirtualDisk).Backing.(*types.VirtualDiskFlatVer2BackingInfo).Parent.FileName)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, after.Runtime.PowerState, "what was on comes up again")
	c = s.ssh(s.address(con))
	assert.Equal(t, "con", s.run(c, "cat /etc/link"))
	found, err := golden.FindSnapshot(s.ctx, "golden-ready")
	require.NoError(t, err)
	assert.Equal(t, snap, found.Reference())
	dis := s.linked(golden, snap, "dis1")
	_, c = s.boot(dis)
	assert.Equal(t, "golden 600", s.run(c, `echo $(cat /etc/link) $(stat -c %a /etc/made)`))
	_, err = s.do(s.vm("golden").Destroy(s.ctx))
	assert.Error(t, err, "clones hang on it")
}

// other is an OS that is not the default one.
type other struct{ vspheretest.OS }

func (other) HostKeys() []string { return []string{"ssh-ed25519 AAAA"} }

func TestOtherSystemsSayTheirKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := vspheretest.SSHKey(dir, "id")
	require.NoError(t, err)
	again, err := vspheretest.SSHKey(dir, "id")
	require.NoError(t, err)
	assert.Equal(t, key.PublicKey(), again.PublicKey())
	fresh, err := vspheretest.SSHKey("", "id")
	require.NoError(t, err)
	assert.NotEqual(t, key.PublicKey(), fresh.PublicKey())

	plain := start(t, nil)
	s := start(t, func(srv *vspheretest.Server) {
		srv.OS, srv.ClientKey, srv.JumpAddr = other{plain.srv.OS}, key, "127.0.0.1:0"
	})
	assert.Equal(t, []string{"ssh-ed25519 AAAA"}, s.srv.HostKeys)
	jump, err := ssh.Dial("tcp", s.srv.Jump, &ssh.ClientConfig{
		User: "anybody", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	require.NoError(t, err, "the key that was set is let in")
	assert.NoError(t, jump.Close())
}

func TestStateOfAnotherInventoryIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, func(srv *vspheretest.Server) { srv.StateDir = dir })
	s.srv.Close()
	f := &fatal{T: t}
	func() {
		defer func() { _ = recover() }()
		srv := vspheretest.NewUnstartedServer(f)
		srv.StateDir, srv.Networks = dir, []string{"Other"}
		srv.Start()
	}()
	assert.Contains(t, f.said, "use the same, or another directory")
}

func TestJumpHostReachesGuests(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.JumpAddr = "127.0.0.1:0" })
	addr, _ := s.boot(s.full("a"))
	known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.srv.JumpKey))
	require.NoError(t, err)
	jump, err := ssh.Dial("tcp", s.srv.Jump, &ssh.ClientConfig{
		User: "anybody", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.srv.ClientKey)}, HostKeyCallback: ssh.FixedHostKey(known),
	})
	require.NoError(t, err)
	defer jump.Close()
	conn, err := jump.Dial("tcp", net.JoinHostPort(addr, "22"))
	require.NoError(t, err)
	cc, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.srv.ClientKey)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	require.NoError(t, err)
	guest := ssh.NewClient(cc, chans, reqs)
	assert.Equal(t, "root", s.run(guest, "id -un"))
	require.NoError(t, guest.Close())
	_, err = jump.Dial("tcp", net.JoinHostPort(addr, "8443"))
	assert.ErrorContains(t, err, "refused")
	_, err = jump.NewSession()
	assert.Error(t, err, "it only passes connections on")

	other, err := ssh.Dial("tcp", s.srv.Jump, &ssh.ClientConfig{User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err == nil {
		other.Close()
	}
	assert.Error(t, err, "without a key nobody gets in")
}

// A fatal records what a Server says when it cannot start.
type fatal struct {
	*testing.T
	said string
}

func (f *fatal) Fatalf(format string, args ...any) {
	for _, a := range args {
		if err, ok := a.(error); ok {
			f.said = err.Error()
		}
	}
	panic("fatal")
}
