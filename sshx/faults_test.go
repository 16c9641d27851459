package sshx_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// Here are the faults of sshtest that no other test of this package brings about.

func TestWaitReadyOutlastsALoginThatIsRefusedUntilThen(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{RefuseAuthUntil: time.Now().Add(time.Hour)})
	said := states{f: func(state string) {
		if state == "login refused" {
			m.SetFaults(sshtest.Faults{RefuseAuthUntil: time.Now()})
		}
	}}
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{Report: said.report}))
	require.NoError(t, err)
	c.Close()
	assert.Equal(t, []string{"login refused", "ready"}, said.got)
}

func TestWaitReadyOutlastsPenalties(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{RefuseAuth: true, DropAfter: 1})
	said := states{f: func(state string) {
		if state != "login refused" {
			m.SetFaults(sshtest.Faults{})
		}
	}}
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{Report: said.report}))
	require.NoError(t, err)
	c.Close()
	require.Len(t, said.got, 3)
	assert.Equal(t, "login refused", said.got[0])
	assert.Contains(t, []string{"hangs up", "reset"}, said.got[1])
	assert.Equal(t, 3, m.connections())
}

func TestWaitReadyOutlastsAPortThatRefuses(t *testing.T) {
	t.Parallel()
	srv := sshtest.NewServer(t)
	srv.Refuse()
	said := states{f: func(state string) {
		if state == "refused" {
			assert.NoError(t, srv.Accept())
		}
	}}
	c, err := sshx.WaitReady(t.Context(), sshx.Config{
		Address: srv.Addr, Keys: []ssh.Signer{srv.ClientKey}, HostKeys: sshx.HostKeys{Pinned: []string{srv.HostKey}},
	}, sshx.Hurried(sshx.Ready{Report: said.report}))
	require.NoError(t, err)
	c.Close()
	assert.Equal(t, []string{"refused", "ready"}, said.got)
}

func TestSessionsLiveThroughARestartOfSSHD(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "echo up; while ! [ -e /tmp/go ]; do sleep 0.01; done", Stdout: &lines{line: func(string) {
		m.StopSSHD()
		_, err := sshx.Dial(t.Context(), m.config(t))
		assert.Error(t, err)
		assert.NoError(t, m.StartSSHD())
		dial(t, m)
		m.write(t, "/tmp/go", "")
	}}})
	require.NoError(t, err)
	require.NoError(t, c.Err())
}

func TestOneSessionAtATimeIsEnough(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{MaxSessions: 1})
	c := dial(t, m)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 3 {
				_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	assert.Equal(t, 1, m.connections())
}

func TestMergedOutputKeepsItsOrder(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	m.SetFaults(sshtest.Faults{StdoutLast: true})
	const script = "echo o1; echo e1 >&2; echo o2; echo e2 >&2"
	for name, cmd := range map[string]sshx.Cmd{"script": {Script: script}, "args": {Args: []string{"/bin/sh", "-c", script}}} {
		res, err := c.Run(t.Context(), cmd)
		require.NoError(t, err, name)
		assert.Equal(t, "o1\ne1\no2\ne2\n", string(res.Stdout), name)
		cmd.Separate = true
		res, err = c.Run(t.Context(), cmd)
		require.NoError(t, err, name)
		assert.Equal(t, "o1\no2\n/e1\ne2\n", string(res.Stdout)+"/"+string(res.Stderr), name)
	}
}

func TestAChannelThatIsNotClosedHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	m.SetFaults(sshtest.Faults{LateEOF: time.Hour})
	res, err := c.Run(t.Context(), sshx.Cmd{Script: "echo out; exit 3", WaitDelay: 20 * time.Millisecond})
	ee, ok := errors.AsType[*sshx.ExitError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 3, ee.Code)
	assert.Equal(t, "out\n", string(res.Stdout))
	assert.True(t, res.Truncated)
}

func TestCancelKillsWhereSignalsAreIgnored(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{IgnoreSignals: true})
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	for name, cmd := range map[string]sshx.Cmd{
		"script": {Script: "echo up; sleep 1000"},
		"args":   {Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}},
		"stdin":  {Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}, Stdin: blocked{t.Context()}},
		"root":   {Script: "echo up; sleep 1000", User: "root"},
	} {
		ctx, cancel := contextWithLine(t, &cmd)
		begun := time.Now()
		_, err := c.Run(ctx, cmd)
		cancel()
		_, ok := errors.AsType[*sshx.CanceledError](err)
		require.True(t, ok, "%s: %v", name, err)
		assert.Less(t, time.Since(begun), quick, name)
		out, code := m.Host.Run(t.Context(), "pgrep -x sleep")
		assert.Equal(t, 1, code, "%s: still there: %s", name, out)
	}
}

func TestKeepAliveWithoutAnswerIsDeath(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{NoKeepAlive: true})
	c := dial(t, m, func(cfg *sshx.Config) { cfg.KeepAlive, cfg.DeadAfter = 10*time.Millisecond, 300*time.Millisecond })
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "for i in 1 2 3 4 5 6; do sleep 0.1; echo $i; done"})
	require.NoError(t, err, "who speaks is alive")
	_, err = c.Run(t.Context(), sshx.Cmd{Script: "sleep 1000"})
	require.ErrorIs(t, err, sshx.ErrDead)
	require.ErrorIs(t, c.Err(), sshx.ErrDead)
}

func TestSFTPWithoutSubsystem(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{NoSFTP: true})
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	for user, owner := range map[string]string{"": "ops", "root": "root"} {
		sc, err := c.SFTP(t.Context(), user)
		require.NoError(t, err)
		file := "/home/ops/of-" + owner
		f, err := sc.Create(file)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		require.NoError(t, sc.Close())
		i, err := m.Disk().Stat(file)
		require.NoError(t, err)
		assert.Equal(t, owner, i.Sys().(*sshtest.Owner).User)
	}
}

func TestAWindowThatRunsOutHoldsUpOnlyItsOwnCommand(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	m.SetFaults(sshtest.Faults{StallWindow: true})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read := make(chan struct{})
	stalled := make(chan error, 1)
	go func() {
		_, err := c.Run(ctx, sshx.Cmd{Args: []string{"cat"}, Stdin: io.MultiReader(io.LimitReader(zeros{}, 1<<20), once{close: read}, zeros{})})
		stalled <- err
	}()
	<-read
	m.SetFaults(sshtest.Faults{})
	_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-stalled, context.Canceled)
	require.NoError(t, c.Err())
}

func TestNewHostKeysAfterABootAreAnError(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	m.SetFaults(sshtest.Faults{NewHostKeys: true})
	m.Boot()
	_, err := sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
	hk, ok := errors.AsType[*sshx.HostKeyError](err)
	require.True(t, ok, "%v", err)
	assert.True(t, hk.Changed())
	assert.Equal(t, 1, m.connections())
}

// A snapshot with memory brings the old boot id back, so that a new one is not to be waited for.
func TestBootIDThatStaysIsNoRestart(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	old := m.BootID()
	m.SetFaults(sshtest.Faults{KeepBootID: true})
	m.Boot()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("enough")
	_, err := sshx.WaitReady(ctx, m.config(t), sshx.Hurried(sshx.Ready{PreviousBootID: old, Report: func(state string) {
		assert.Equal(t, "not restarted yet", state)
		cancel(enough)
	}}))
	require.ErrorIs(t, err, enough)
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Ready{})
	require.NoError(t, err)
	defer c.Close()
	id, err := c.BootID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, old, id)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// once is an empty reader that tells that it has been come to.
type once struct{ close chan struct{} }

func (o once) Read([]byte) (int, error) { close(o.close); return 0, io.EOF }
