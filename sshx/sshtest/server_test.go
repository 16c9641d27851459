package sshtest

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func dialServer(t *testing.T, s *Server, user string) *ssh.Client {
	t.Helper()
	c, err := ssh.Dial("tcp", s.Addr, s.ClientConfig(user))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func run(t *testing.T, c *ssh.Client, command string) (string, error) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, err := s.CombinedOutput(command)
	return string(out), err
}

func TestServerLetsInRootAndAdmin(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	out, err := run(t, dialServer(t, s, "root"), "id -un")
	require.NoError(t, err)
	assert.Equal(t, "root\n", out)
	out, err = run(t, dialServer(t, s, "admin"), "id -un; sudo -n id -un")
	require.NoError(t, err)
	assert.Equal(t, "admin\nroot\n", out)
	assert.Equal(t, 2, s.Accepted())
}

func TestServerRebootsAtOnce(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c, before := dialServer(t, s, "root"), s.BootID()
	_, _ = run(t, c, "reboot; sleep 1000")
	require.Error(t, c.Wait())
	require.Eventually(t, func() bool {
		c, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
		if err != nil {
			return false
		}
		defer c.Close()
		id, err := run(t, c, "cat /proc/sys/kernel/random/boot_id")
		return err == nil && id != before+"\n"
	}, 10*time.Second, 10*time.Millisecond)
}

func TestPowerOffStopsTheServer(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	_, _ = run(t, c, "poweroff; sleep 1000")
	require.Error(t, c.Wait())
	require.Eventually(t, func() bool { return !s.Running() }, 10*time.Second, time.Millisecond)
	_, err := net.Dial("tcp", s.Addr)
	require.Error(t, err)
}

func TestRefusedPortComesBack(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	s.Refuse()
	_, err := net.Dial("tcp", s.Addr)
	require.Error(t, err)
	out, err := run(t, c, "echo still here")
	require.NoError(t, err)
	assert.Equal(t, "still here\n", out)
	require.NoError(t, s.Accept())
	dialServer(t, s, "root")
}

func TestJumpThroughTheMachine(t *testing.T) {
	t.Parallel()
	inner := NewServer(t)
	outer := NewUnstartedServer(t)
	outer.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "inside:22" {
			return nil, fmt.Errorf("dial %s: connection refused", address)
		}
		return new(net.Dialer).DialContext(ctx, network, inner.Addr)
	}
	outer.Start()
	c := dialServer(t, outer, "admin")
	_, err := c.Dial("tcp", "elsewhere:22")
	var refused *ssh.OpenChannelError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, "connection refused", refused.Message)
	conn, err := c.Dial("tcp", "inside:22")
	require.NoError(t, err)
	sc, chans, reqs, err := ssh.NewClientConn(conn, "inside", inner.ClientConfig("root"))
	require.NoError(t, err)
	in := ssh.NewClient(sc, chans, reqs)
	defer in.Close()
	out, err := run(t, in, "echo inside")
	require.NoError(t, err)
	assert.Equal(t, "inside\n", out)

	require.NoError(t, outer.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("AllowTcpForwarding no\n"), 0o600))
	require.NoError(t, outer.StartSSHD())
	_, err = dialServer(t, outer, "admin").Dial("tcp", "inside:22")
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, ssh.Prohibited, refused.Reason)
}
