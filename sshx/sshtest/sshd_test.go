package sshtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	s, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return s
}

// A guest is a machine that one key lets into, as root and as admin.
type guest struct {
	*Host
	t   *testing.T
	key ssh.Signer
}

func newGuest(t *testing.T, change ...func(h *Host)) *guest {
	t.Helper()
	g := &guest{t: t, key: newSigner(t)}
	line := string(ssh.MarshalAuthorizedKey(g.key.PublicKey()))
	g.Host = newHost(t, append([]func(h *Host){func(h *Host) {
		require.NoError(t, h.Disk().AddUser("root", line))
		require.NoError(t, h.Disk().AddUser("admin", line))
	}}, change...)...)
	return g
}

// connect makes a connection to sshd over loopback.
func (g *guest) connect() net.Conn {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(g.t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		_ = l.Close()
		if err == nil {
			g.ServeConn(c)
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(g.t, err)
	g.t.Cleanup(func() { _ = c.Close(); <-served })
	return c
}

func (g *guest) try(user string, change ...func(*ssh.ClientConfig)) (*ssh.Client, error) {
	cfg := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(g.key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}
	for _, f := range change {
		f(cfg)
	}
	conn, chans, reqs, err := ssh.NewClientConn(g.connect(), "guest:22", cfg)
	if err != nil {
		return nil, err
	}
	c := ssh.NewClient(conn, chans, reqs)
	g.t.Cleanup(func() { _ = c.Close() })
	return c, nil
}

func (g *guest) dial(user string) *ssh.Client {
	g.t.Helper()
	c, err := g.try(user)
	require.NoError(g.t, err)
	return c
}

// ssh runs a command as ssh would; 255 stands for everything but an exit status.
func (g *guest) ssh(c *ssh.Client, command, stdin string) (out, errs string, code int) {
	g.t.Helper()
	s, err := c.NewSession()
	require.NoError(g.t, err)
	defer s.Close()
	var o, e bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader(stdin), &o, &e
	switch err := s.Run(command).(type) {
	case nil:
	case *ssh.ExitError:
		code = err.ExitStatus()
	default:
		code = 255
	}
	return o.String(), e.String(), code
}

func TestExec(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	c := g.dial("admin")
	out, errs, code := g.ssh(c, "cat; echo err >&2; pwd; id -un; exit 4", "in\n")
	assert.Equal(t, "in\n/home/admin\nadmin\n", out)
	assert.Equal(t, "err\n", errs)
	assert.Equal(t, 4, code)
	out, _, code = g.ssh(c, "sudo -n id -un; sudo -n -u nobody whoami; sudo sh -c 'echo $HOME $SUDO_USER'", "")
	assert.Equal(t, "root\nnobody\n/root admin\n", out)
	assert.Zero(t, code)
}

func TestShellReadsCommandsFromStdin(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	s, err := g.dial("root").NewSession()
	require.NoError(t, err)
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("echo a\nx=3\necho $x\nexit 5\necho no\n"), &out
	require.NoError(t, s.Shell())
	err = s.Wait()
	require.ErrorAs(t, err, new(*ssh.ExitError))
	assert.Equal(t, 5, err.(*ssh.ExitError).ExitStatus())
	assert.Equal(t, "a\n3\n", out.String())
}

func TestSFTPIsTheSameDiskWithTheUsersRights(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	c, err := sftp.NewClient(g.dial("admin"), sftp.UseConcurrentWrites(true))
	require.NoError(t, err)
	defer c.Close()
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	f, err := c.Create("up.tmp")
	require.NoError(t, err)
	_, err = f.ReadFrom(bytes.NewReader(data))
	require.NoError(t, err)
	require.NoError(t, f.Chmod(0o640))
	require.NoError(t, f.Close())
	require.NoError(t, c.PosixRename("up.tmp", "up"))
	got, err := g.Disk().ReadFile("/home/admin/up")
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	i, err := g.Disk().Stat("/home/admin/up")
	require.NoError(t, err)
	assert.Equal(t, "admin", i.Sys().(*Owner).User)
	assert.Equal(t, os.FileMode(0o640), i.Mode())
	wd, err := c.Getwd()
	require.NoError(t, err)
	assert.Equal(t, "/home/admin", wd)
	_, err = c.Stat("/nope")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = c.Create("/etc/x")
	require.ErrorIs(t, err, os.ErrPermission)
	_, err = c.Open("/etc/shadow")
	require.ErrorIs(t, err, os.ErrPermission)
	back, err := c.Open("up")
	require.NoError(t, err)
	got, err = io.ReadAll(back)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	require.NoError(t, c.Symlink("up", "link"))
	to, err := c.ReadLink("link")
	require.NoError(t, err)
	assert.Equal(t, "up", to)
}

func TestHaltEndsEverything(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	c := g.dial("root")
	s, err := c.NewSession()
	require.NoError(t, err)
	r, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("echo started; (sleep 1000; echo late >/tmp/late) & cat; sleep 1000"))
	_, err = io.ReadFull(r, make([]byte, 8))
	require.NoError(t, err)
	old := g.BootID()
	g.Halt()
	require.Error(t, s.Wait())
	require.Error(t, c.Wait())
	assert.False(t, g.Running())
	g.Boot()
	assert.NotEqual(t, old, g.BootID())
	out, _, _ := g.ssh(g.dial("root"), "cat /proc/sys/kernel/random/boot_id; ls /tmp/late", "")
	assert.Equal(t, g.BootID()+"\n", out)
}

func TestStartupsBeyondTheLimitAreDropped(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	require.NoError(t, s.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("MaxStartups 2:50:4\n"), 0o600))
	s.Start()
	dropped := 0
	for range 10 {
		c, err := net.Dial("tcp", s.Addr)
		require.NoError(t, err)
		defer c.Close()
		b := make([]byte, 4)
		_, err = io.ReadFull(c, b)
		require.NoError(t, err)
		if string(b) != "SSH-" {
			rest, err := io.ReadAll(c)
			require.NoError(t, err)
			assert.Equal(t, "Exceeded MaxStartups\r\n", string(b)+string(rest))
			dropped++
		}
	}
	assert.Equal(t, 6, dropped, "4 wait for a login, all else is dropped")
}

func TestClientAliveDropsSilentClients(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	require.NoError(t, s.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("ClientAliveInterval 1\nClientAliveCountMax 1\n"), 0o600))
	s.Start()
	raw, err := net.Dial("tcp", s.Addr)
	require.NoError(t, err)
	mute := &muteConn{Conn: raw}
	conn, chans, reqs, err := ssh.NewClientConn(mute, s.Addr, s.ClientConfig("root"))
	require.NoError(t, err)
	c := ssh.NewClient(conn, chans, reqs)
	defer c.Close()
	mute.on.Store(true)
	require.Error(t, c.Wait())
}
