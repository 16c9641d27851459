package sshx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

func TestRefusedSessionsAreTriedAgainOnTheSameConnection(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		// More at once than MaxSessions lets in.
		c := dial(t, m, func(cfg *sshx.Config) { cfg.Sessions = 30 })
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				for j := range 3 {
					want := fmt.Sprint(i, j)
					res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"echo", want}})
					if assert.NoError(t, err) {
						assert.Equal(t, want+"\n", string(res.Stdout))
					}
				}
			})
		}
		wg.Wait()
		assert.NoError(t, c.Err())
		if s, ok := m.(*sim); ok {
			assert.Equal(t, 1, s.connections())
		}
	})
}

func TestFewSessionsAreEnough(t *testing.T) {
	t.Parallel()
	for _, max := range []string{"1", "2"} {
		t.Run(max, func(t *testing.T) {
			t.Parallel()
			c := dial(t, newSSHD(t, "MaxSessions "+max))
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
			ctx, cancel := context.WithCancel(t.Context())
			out := &lines{line: func(string) { cancel() }}
			_, err := c.Run(ctx, sshx.Cmd{Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}, Stdin: blocked{t.Context()}, Stdout: out})
			require.ErrorIs(t, err, context.Canceled)
			_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
			require.NoError(t, err)
		})
	}
}

func TestOpeningWhileTheConnectionDiesEnds(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	for range 20 {
		c := dial(t, m)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					if _, err := c.Run(context.Background(), sshx.Cmd{Args: []string{"true"}}); err != nil {
						return
					}
				}
			})
		}
		_, _ = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		m.DropConnections()
		wg.Wait()
		require.NoError(t, c.Close())
	}
}

func TestSessionsWaitTheirTurn(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	var now, most atomic.Int32
	m.Commands = map[string]sshtest.Command{"busy": func(ctx context.Context, p *sshtest.Proc) int {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		runtime.Gosched()
		return 0
	}}
	c := dial(t, m, func(cfg *sshx.Config) { cfg.Sessions = 2 })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"busy"}})
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, most.Load(), int32(2))
}

func TestSessionsRefusedForGood(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	c.GiveUpAfter(200 * time.Millisecond)
	m.SetFaults(sshtest.Faults{RefuseSessions: true})
	_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	se, ok := errors.AsType[*sshx.SessionError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "m1", se.Host)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = c.Run(ctx, sshx.Cmd{Args: []string{"true"}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, c.Err(), "the connection lives on")
	m.SetFaults(sshtest.Faults{})
	_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	require.NoError(t, err)
}

func TestExitStatusCountsBeforeTheEndOfOutput(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		res, err := c.Run(t.Context(), sshx.Cmd{Script: "echo out; sleep 10 & exit 7", WaitDelay: 50 * time.Millisecond})
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 7, ee.Code)
		assert.Equal(t, "out\n", string(res.Stdout))
		assert.True(t, res.Truncated, "the output came to its end: nothing was given up waiting for")
	})
}

func TestLostConnectionIsNotAFailedCommand(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		out := &lines{line: func(string) { drop(m) }}
		res, err := c.Run(t.Context(), sshx.Cmd{Script: "echo up; sleep 300", Stdout: out})
		de, ok := errors.AsType[*sshx.DisconnectedError](err)
		require.True(t, ok, "%v", err)
		assert.True(t, de.Started)
		assert.NotNil(t, de.Cause)
		assert.Equal(t, "up\n", string(res.Stdout))
		assert.Equal(t, "up\n", string(de.Output))
		assert.Equal(t, -1, res.ExitCode)
	})
}

func TestDropsAtTheEndOfACommand(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	settled := func() *sshx.Client {
		m.SetFaults(sshtest.Faults{})
		c := dial(t, m)
		settle(t, c)
		return c
	}
	c := settled()
	m.SetFaults(sshtest.Faults{DropAtExit: true})
	_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	_, ok := errors.AsType[*sshx.DisconnectedError](err)
	require.True(t, ok, "no exit status: %v", err)
	c = settled()
	m.SetFaults(sshtest.Faults{DropAfterExit: true})
	_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"false"}})
	if ee, ok := errors.AsType[*sshx.ExitError](err); ok {
		assert.Equal(t, 1, ee.Code)
	} else {
		// An exit status overtakes output, of which the connection's end may leave nothing: then
		// nobody knows whose status it was.
		de, ok := errors.AsType[*sshx.DisconnectedError](err)
		require.True(t, ok, "%v", err)
		assert.False(t, de.Started)
	}
}

// On a real machine, whatever a runner that was killed had started must not go on for days.
func TestProcessesDieWithTheConnection(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	for name, cmd := range map[string]sshx.Cmd{
		"args":   {Args: []string{"/bin/sh", "-c", "echo $$; sleep 1000"}},
		"script": {Script: "echo $$; (trap '' TERM; sleep 1000) & sleep 1000 | cat"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, m)
			pid := make(chan int, 1)
			cmd.Stdout = writer(func(p []byte) (int, error) {
				if n, err := strconv.Atoi(strings.TrimSpace(string(p))); err == nil {
					pid <- n
				}
				return len(p), nil
			})
			done := make(chan error, 1)
			go func() { _, err := c.Run(context.Background(), cmd); done <- err }()
			n := <-pid
			c.Close()
			require.Error(t, <-done)
			require.Eventually(t, func() bool { return !running(n) }, 10*time.Second, 5*time.Millisecond)
		})
	}
}

// running reports whether a process is there and more than a zombie.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z'
}

func TestBackgroundProcessesOfAnEndedCommandLive(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c := dial(t, m)
	res, err := c.Run(t.Context(), sshx.Cmd{Script: "sleep 1000 >/dev/null 2>&1 & echo $!"})
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout)))
	require.NoError(t, err)
	_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	require.NoError(t, err)
	assert.True(t, running(pid))
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestStalledReaderHoldsUpOnlyItsOwnCommand(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		stalled, release := make(chan bool), make(chan bool)
		var once sync.Once
		done := make(chan error, 1)
		go func() {
			_, err := c.Run(context.Background(), sshx.Cmd{
				Args:   []string{"head", "-c", "8000000", "/dev/zero"},
				Stdout: writer(func(p []byte) (int, error) { once.Do(func() { close(stalled); <-release }); return len(p), nil }),
			})
			done <- err
		}()
		<-stalled
		for range 5 {
			_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
			require.NoError(t, err)
		}
		close(release)
		require.NoError(t, <-done)
	})
}

// What a command says when it is killed is often the best there is.
func TestLastWordsOfAKilledCommandAreKept(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c := dial(t, m)
	for name, cmd := range map[string]sshx.Cmd{
		"args": {Args: []string{"/bin/sh", "-c", "trap 'echo caught; sleep 0.1; echo gone; exit 1' TERM; echo up; while :; do sleep 0.01; done"}},
	} {
		ctx, cancel := contextWithLine(t, &cmd)
		res, err := c.Run(ctx, cmd)
		cancel()
		ce, ok := errors.AsType[*sshx.CanceledError](err)
		require.True(t, ok, "%s: %v", name, err)
		assert.Contains(t, string(ce.Output), "caught", name)
		assert.Contains(t, string(ce.Output), "gone\n", name)
		assert.Equal(t, string(ce.Output), string(res.Stdout), name)
	}
}
