package sshtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

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
