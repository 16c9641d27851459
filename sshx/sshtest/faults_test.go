package sshtest

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func TestSilentSaysNothing(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{Silent: true})
	c, err := net.Dial("tcp", s.Addr)
	require.NoError(t, err)
	defer c.Close()
	_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	n, err := c.Read(make([]byte, 1))
	assert.Zero(t, n)
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	assert.True(t, ne.Timeout())
}

func TestSlowKeyExchangeWaits(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{SlowKeyExchange: 50 * time.Millisecond})
	begin := time.Now()
	dialServer(t, s, "root")
	assert.GreaterOrEqual(t, time.Since(begin), 50*time.Millisecond)
}

func TestBootingIsABannerAndEOF(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	try := func(user string) (banner string, err error) {
		cfg := s.ClientConfig(user)
		cfg.BannerCallback = func(m string) error { banner = m; return nil }
		c, err := ssh.Dial("tcp", s.Addr, cfg)
		if err == nil {
			_ = c.Close()
		}
		return banner, err
	}
	require.NoError(t, s.Disk().WriteFile("/run/nologin", []byte("System is booting up.\n"), 0o644))
	banner, err := try("admin")
	require.ErrorContains(t, err, "handshake failed")
	assert.NotContains(t, err.Error(), "unable to authenticate")
	assert.Equal(t, "System is booting up.\n", banner)
	banner, err = try("root")
	require.NoError(t, err, "root may log in")
	assert.Equal(t, "System is booting up.\n", banner)
	require.NoError(t, s.Disk().Remove("/run/nologin"))
	_, err = try("admin")
	require.NoError(t, err)
	s.SetFaults(Faults{Booting: "wait\n"})
	banner, err = try("root")
	require.Error(t, err)
	assert.Equal(t, "wait\n", banner)
}

func TestRefusedAuthenticationIsToldApart(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{RefuseAuth: true})
	_, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
	require.ErrorContains(t, err, "unable to authenticate")
	s.SetFaults(Faults{})
	dialServer(t, s, "root")
}

func TestHostKeyChangesWithTheNextBoot(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	require.NoError(t, s.Disk().RemoveHostKeys())
	dialServer(t, s, "root") // sshd still has the old ones
	s.Boot()
	_, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
	require.ErrorContains(t, err, "host key mismatch")
}

func TestDropAtExitLeavesNoStatus(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	s.SetFaults(Faults{DropAtExit: true})
	_, err := run(t, c, "true")
	var missing *ssh.ExitMissingError
	require.ErrorAs(t, err, &missing)
	require.Error(t, c.Wait())
}

func TestDropAfterExitLeavesAStatus(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	s.SetFaults(Faults{DropAfterExit: true})
	_, err := run(t, c, "exit 3")
	var exit *ssh.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 3, exit.ExitStatus())
	require.Error(t, c.Wait())
}

func TestKeepAliveIsAnsweredWithFailureOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
	require.NoError(t, err)
	assert.False(t, ok)
	s.SetFaults(Faults{NoKeepAlive: true})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _, _ = c.SendRequest("keepalive@openssh.com", true, nil)
	}()
	_, err = run(t, c, "true") // came later, and is answered
	require.NoError(t, err)
	select {
	case <-answered:
		t.Error("answered")
	default:
	}
	_ = c.Close()
	<-answered
}

func TestNoSFTP(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "admin")
	s.SetFaults(Faults{NoSFTP: true})
	_, err := sftp.NewClient(c)
	require.ErrorContains(t, err, "subsystem request failed")

	// The program works all the same, as root too.
	x, err := c.NewSession()
	require.NoError(t, err)
	w, err := x.StdinPipe()
	require.NoError(t, err)
	r, err := x.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, x.Start("exec sudo -n /usr/libexec/openssh/sftp-server"))
	f, err := sftp.NewClientPipe(r, w)
	require.NoError(t, err)
	g, err := f.Create("/root/made")
	require.NoError(t, err)
	require.NoError(t, g.Close())
	require.NoError(t, f.Close())
	i, err := s.Disk().Stat("/root/made")
	require.NoError(t, err)
	assert.Equal(t, "root", i.Sys().(*Owner).User)
}

func TestStalledWindowRunsOut(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{StallWindow: true})
	c := dialServer(t, s, "root")
	ch, _ := rawSession(t, c, "cat >/dev/null")
	var sent int64
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		sent, _ = io.Copy(ch, io.LimitReader(zeros{}, 64<<20))
	}()
	_, err := run(t, c, "true")
	require.NoError(t, err, "others go on")
	_ = ch.Close()
	_ = c.Close()
	<-stuck
	assert.Less(t, sent, int64(64<<20))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestFrozenThaws(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	s.SetFaults(Faults{Frozen: true})
	done := make(chan string, 1)
	go func() {
		out, _ := run(t, c, "echo thawed")
		done <- out
	}()
	select {
	case <-done:
		t.Fatal("a frozen machine answered")
	case <-time.After(30 * time.Millisecond):
	}
	s.SetFaults(Faults{})
	assert.Equal(t, "thawed\n", <-done)
}

func TestPenaltyDropsWithAWord(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{DropAfter: 2, RefuseAuth: true})
	for range 2 {
		_, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
		require.ErrorContains(t, err, "unable to authenticate")
	}
	require.Eventually(t, func() bool { // the server counts when it has closed
		_, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
		return !strings.Contains(err.Error(), "unable to authenticate")
	}, 10*time.Second, time.Millisecond)
	c, err := net.Dial("tcp", s.Addr)
	require.NoError(t, err)
	defer c.Close()
	said, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "Not allowed at this time\r\n", string(said))
	s.SetFaults(Faults{})
	dialServer(t, s, "root")
}

func TestAuthenticationIsRefusedForATime(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{RefuseAuthUntil: time.Now().Add(time.Hour)})
	_, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
	require.ErrorContains(t, err, "unable to authenticate")
	s.SetFaults(Faults{RefuseAuthUntil: time.Now()})
	dialServer(t, s, "root")
}

func TestNewHostKeysComeWithTheNextBoot(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{NewHostKeys: true})
	dialServer(t, s, "root")
	s.Boot()
	_, err := ssh.Dial("tcp", s.Addr, s.ClientConfig("root"))
	require.ErrorContains(t, err, "host key mismatch")
}

func TestBootIDIsKeptByASnapshotWithMemory(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	before := s.BootID()
	s.SetFaults(Faults{KeepBootID: true})
	s.Boot()
	assert.Equal(t, before, s.BootID())
	out, err := run(t, dialServer(t, s, "root"), "cat /proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	assert.Equal(t, before+"\n", out)
	s.SetFaults(Faults{})
	s.Boot()
	assert.NotEqual(t, before, s.BootID())
}

func TestFewerSessionsThanConfigured(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{MaxSessions: 1})
	c := dialServer(t, s, "root")
	_, err := c.NewSession()
	require.NoError(t, err)
	_, err = c.NewSession()
	var refused *ssh.OpenChannelError
	require.ErrorAs(t, err, &refused)
}

func TestStdoutComesLast(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	s.SetFaults(Faults{StdoutLast: true})
	c := dialServer(t, s, "root")
	ch, _ := rawSession(t, c, "echo out; echo err >&2; while ! [ -e /tmp/go ]; do sleep 0.01; done")
	var came atomic.Bool
	out := make(chan string, 1)
	go func() {
		b := make([]byte, 4)
		_, _ = io.ReadFull(ch, b)
		came.Store(true)
		out <- string(b)
	}()
	_, err := io.ReadFull(ch.Stderr(), make([]byte, len("err\n")))
	require.NoError(t, err)
	_, err = run(t, c, "true") // whatever was sent before has come
	require.NoError(t, err)
	assert.False(t, came.Load(), "stdout has come before the end of stderr")
	require.NoError(t, s.Disk().WriteFile("/tmp/go", nil, 0o644))
	assert.Equal(t, "out\n", <-out)
}

func TestListenerRestartsWhileSessionsLiveOn(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	x, err := c.NewSession()
	require.NoError(t, err)
	require.NoError(t, x.Start("while ! [ -e /tmp/go ]; do sleep 0.01; done"))
	s.Refuse()
	s.StopSSHD()
	require.NoError(t, s.StartSSHD())
	require.NoError(t, s.Accept())
	dialServer(t, s, "root")
	out, err := run(t, c, "touch /tmp/go; echo here")
	require.NoError(t, err)
	assert.Equal(t, "here\n", out)
	require.NoError(t, x.Wait())
}
