package sshtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
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

func TestMaxSessionsFreesSlotsLate(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	require.NoError(t, s.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("MaxSessions 2\n"), 0o600))
	s.Start()
	c := dialServer(t, s, "root")
	var open []*ssh.Session
	for range 2 {
		x, err := c.NewSession()
		require.NoError(t, err)
		open = append(open, x)
	}
	_, err := c.NewSession()
	var refused *ssh.OpenChannelError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, ssh.ConnectionFailed, refused.Reason)
	assert.Equal(t, "open failed", refused.Message)
	require.NoError(t, open[0].Run("true"))
	_ = open[0].Close()
	late := 0
	require.Eventually(t, func() bool {
		_, err := c.NewSession()
		if err != nil {
			late++
		}
		return err == nil
	}, 10*time.Second, time.Millisecond)
	assert.NotZero(t, late, "the slot is free only after the next request")
	s.SetFaults(Faults{RefuseSessions: true})
	_, err = dialServer(t, s, "admin").NewSession()
	require.ErrorAs(t, err, &refused)
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

func TestDropConnectionsLeavesCommandsRunning(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	x, err := c.NewSession()
	require.NoError(t, err)
	out, err := x.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, x.Start("echo on; while ! [ -e /tmp/go ]; do sleep 0.01; done; touch /tmp/done"))
	_, err = io.ReadFull(out, make([]byte, 3))
	require.NoError(t, err)
	s.DropConnections()
	require.Error(t, c.Wait())
	require.NoError(t, s.Disk().WriteFile("/tmp/go", nil, 0o644))
	require.Eventually(t, func() bool { _, err := s.Disk().Stat("/tmp/done"); return err == nil }, 10*time.Second, time.Millisecond)
}

// rawSession is a session whose requests can be seen.
func rawSession(t *testing.T, c *ssh.Client, command string) (ssh.Channel, <-chan *ssh.Request) {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	require.NoError(t, err)
	ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ C string }{command}))
	require.NoError(t, err)
	require.True(t, ok)
	return ch, reqs
}

func TestExitStatusComesBeforeTheEndOfOutput(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	ch, reqs := rawSession(t, c, "(while ! [ -e /tmp/go ]; do sleep 0.01; done; echo late) & exit 7")
	r := <-reqs
	assert.Equal(t, "exit-status", r.Type)
	assert.Equal(t, []byte{0, 0, 0, 7}, r.Payload)
	require.NoError(t, s.Disk().WriteFile("/tmp/go", nil, 0o644))
	out, err := io.ReadAll(ch)
	require.NoError(t, err)
	assert.Equal(t, "late\n", string(out))

	ch, reqs = rawSession(t, c, "sleep 1000 >/dev/null 2>&1 & echo $!")
	out, err = io.ReadAll(ch)
	require.NoError(t, err, "a background job with other output holds nothing")
	assert.Equal(t, "exit-status", (<-reqs).Type)
	_, err = run(t, c, "kill -0 "+string(out))
	require.NoError(t, err, "and runs on")

	s.SetFaults(Faults{LateEOF: 50 * time.Millisecond})
	ch, reqs = rawSession(t, c, "true")
	<-reqs
	begin := time.Now()
	_, err = io.ReadAll(ch)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(begin), 40*time.Millisecond)
}

func TestSignals(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	for _, tc := range []struct {
		user  string
		fault bool
		ends  bool
	}{{"admin", false, true}, {"admin", true, false}, {"root", false, false}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			s.SetFaults(Faults{IgnoreSignals: tc.fault})
			c := dialServer(t, s, tc.user)
			x, err := c.NewSession()
			require.NoError(t, err)
			out, err := x.StdoutPipe()
			require.NoError(t, err)
			mark := "/tmp/go" + tc.user + fmt.Sprint(tc.fault)
			require.NoError(t, x.Start("echo on; while ! [ -e "+mark+" ]; do sleep 0.01; done"))
			_, err = io.ReadFull(out, make([]byte, 3))
			require.NoError(t, err)
			require.NoError(t, x.Signal(ssh.SIGTERM))
			if tc.ends {
				var exit *ssh.ExitError
				require.ErrorAs(t, x.Wait(), &exit)
				assert.Equal(t, "TERM", exit.Signal())
				return
			}
			_, err = run(t, c, "true") // the signal has been seen by now
			require.NoError(t, err)
			require.NoError(t, s.Disk().WriteFile(mark, nil, 0o644))
			require.NoError(t, x.Wait())
		})
	}
}

func TestRootSignalsReachLaterVersions(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	s.RootSignals = true
	s.Start()
	x, err := dialServer(t, s, "root").NewSession()
	require.NoError(t, err)
	require.NoError(t, x.Start("sleep 1000"))
	require.NoError(t, x.Signal(ssh.SIGKILL))
	var exit *ssh.ExitError
	require.ErrorAs(t, x.Wait(), &exit)
	assert.Equal(t, "KILL", exit.Signal())
}

func TestTerminalHangsUp(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	x, err := c.NewSession()
	require.NoError(t, err)
	require.NoError(t, x.RequestPty("xterm", 24, 80, nil))
	out, err := x.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, x.Start("echo $$; echo err >&2; sleep 1000"))
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid, crlf := strings.CutSuffix(line, "\r\n")
	assert.True(t, crlf)
	_ = x.Close()
	require.Eventually(t, func() bool { _, err := run(t, c, "kill -0 "+pid); return err != nil }, 10*time.Second, 5*time.Millisecond)
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

func TestPenaltyDropsUnheard(t *testing.T) {
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
	s.SetFaults(Faults{})
	dialServer(t, s, "root")
}

func TestStartupsBeyondTheLimitAreDropped(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	require.NoError(t, s.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("MaxStartups 2:50:4\n"), 0o600))
	s.Start()
	closed := 0
	for range 10 {
		c, err := net.Dial("tcp", s.Addr)
		require.NoError(t, err)
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			closed++
		}
	}
	assert.Equal(t, 6, closed, "4 wait for a login, all else is dropped")
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

func TestBigOutputArrivesWhole(t *testing.T) {
	t.Parallel()
	s := NewServer(t)
	c := dialServer(t, s, "root")
	x, err := c.NewSession()
	require.NoError(t, err)
	x.Stdin = bytes.NewReader(make([]byte, 8<<20))
	out, err := x.Output("cat | wc -c; head -c 3000000 /dev/zero")
	require.NoError(t, err)
	assert.Len(t, out, 3000000+len("8388608\n"))
}
