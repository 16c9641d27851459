package sshx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// withGuard is a connection to a real sshd that has a guard, and the guard's directory.
func withGuard(t *testing.T, m machine) (*sshx.Client, string) {
	t.Helper()
	c := dial(t, m)
	for range 8 {
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return c.Guard() != "" }, quick, time.Millisecond)
	return c, c.Guard()
}

// guardPID is the guard's process.
func guardPID(t *testing.T, dir string) int {
	t.Helper()
	_, token, _ := strings.Cut(filepath.Base(dir), ".")
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range lines {
		b, err := os.ReadFile(name)
		if err == nil && strings.HasPrefix(string(b), "/bin/sh\x00-c\x00") && strings.HasSuffix(string(b), "\x00"+token+"\x00") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			require.NoError(t, err)
			return pid
		}
	}
	require.Fail(t, "no guard", "%s", dir)
	return 0
}

// A running command prints its process ID first.
type runningCommand struct {
	pid  int
	done chan error
	end  context.CancelFunc
}

func runs(t *testing.T, c *sshx.Client, script string) runningCommand {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := runningCommand{done: make(chan error, 1), end: cancel}
	pid := make(chan int, 1)
	go func() {
		_, err := c.Run(ctx, sshx.Cmd{Args: []string{"/bin/sh", "-c", "echo $$; " + script}, Stdout: &lines{line: func(s string) {
			if n, err := strconv.Atoi(s); err == nil {
				pid <- n
			}
		}}})
		r.done <- err
	}()
	select {
	case r.pid = <-pid:
	case err := <-r.done:
		require.NoError(t, err)
		require.Fail(t, "it has ended")
	}
	return r
}

func TestGuardedCommandsDieWithTheConnection(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c, dir := withGuard(t, m)
	var all []runningCommand
	for _, script := range []string{"sleep 1000", "sleep 1000 | cat", "(trap '' TERM; sleep 1000) & sleep 1000", "trap '' TERM; sleep 1000; sleep 1000"} {
		all = append(all, runs(t, c, script))
	}
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"}})
	require.NoError(t, err)
	left, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout)))
	require.NoError(t, err)
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(files), 5, "no command of these has a process of its own that watches it")
	require.NoError(t, c.Close())
	for _, r := range all {
		require.Error(t, <-r.done)
		require.Eventually(t, func() bool { return syscall.Kill(-r.pid, 0) != nil }, 10*time.Second, 5*time.Millisecond)
	}
	require.Eventually(t, func() bool {
		dirs, err := filepath.Glob(dir + "*")
		return err == nil && len(dirs) == 0
	}, 10*time.Second, 5*time.Millisecond, "its directory is left")
	assert.True(t, running(left), "what a command left behind is left alone")
	require.NoError(t, syscall.Kill(left, syscall.SIGKILL))
}

func TestGuardedCommandsAreCancelledOneByOne(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c, _ := withGuard(t, m)
	one, two, deaf := runs(t, c, "sleep 1000 | cat"), runs(t, c, "sleep 1000"), runs(t, c, "trap '' TERM; while :; do sleep 1; done")
	for _, r := range []runningCommand{one, deaf} {
		r.end()
		ce, ok := errors.AsType[*sshx.CanceledError](<-r.done)
		require.True(t, ok)
		assert.True(t, ce.Killed)
		require.Eventually(t, func() bool { return syscall.Kill(-r.pid, 0) != nil }, 10*time.Second, 5*time.Millisecond)
	}
	assert.True(t, running(two.pid))
	require.NoError(t, c.Err())
	_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	require.NoError(t, err)
}

// What is cancelled as it starts does not run afterwards: the guard may hear of it before it is there.
func TestGuardedCommandsThatAreCancelledAtOnce(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c, _ := withGuard(t, m)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*500*time.Microsecond)
			defer cancel()
			_, err := c.Run(ctx, sshx.Cmd{Args: []string{"sleep", "1234.5"}})
			assert.Error(t, err)
		})
	}
	wg.Wait()
	for range 2 { // one that was told to be gone is
		for _, name := range sleepers(t) {
			assert.Fail(t, "it runs", "%s", name)
		}
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.NoError(t, err)
	}
}

func sleepers(t *testing.T) (all []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, name := range lines {
		if b, err := os.ReadFile(name); err == nil && string(b) == "sleep\x001234.5\x00" {
			all = append(all, name)
		}
	}
	return all
}

func TestCommandsWhoseGuardIsGone(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, dir string){
		"it was killed":             func(t *testing.T, dir string) { require.NoError(t, syscall.Kill(guardPID(t, dir), syscall.SIGKILL)) },
		"its directory was removed": func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(dir)) },
		"its directory is full": func(t *testing.T, dir string) {
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.WriteFile(dir, nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t)
			c, dir := withGuard(t, m)
			t.Cleanup(func() { os.RemoveAll(dir) })
			before := runs(t, c, "sleep 1000")
			harm(t, dir)
			if name == "it was killed" {
				require.Eventually(t, func() bool { return c.Guard() == "" }, quick, time.Millisecond)
			}
			once := m.tmp + "/" + strconv.Itoa(len(name))
			_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/bin/sh", "-c", fmt.Sprintf("echo >>%s", once)}})
			require.NoError(t, err)
			b, err := os.ReadFile(once)
			require.NoError(t, err)
			assert.Equal(t, "\n", string(b), "it ran once")
			assert.Empty(t, c.Guard())
			after := runs(t, c, "sleep 1000")
			for _, r := range []runningCommand{before, after} {
				r.end()
				ce, ok := errors.AsType[*sshx.CanceledError](<-r.done)
				require.True(t, ok)
				assert.True(t, ce.Killed)
				require.Eventually(t, func() bool { return !running(r.pid) }, 10*time.Second, 5*time.Millisecond)
			}
		})
	}
}

func TestGuardForgetsCommandsThatHaveEnded(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c, dir := withGuard(t, m)
	r := runs(t, c, "sleep 1000")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 50 {
				_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool {
		files, err := os.ReadDir(dir)
		return err == nil && len(files) < 100
	}, 10*time.Second, 5*time.Millisecond)
	r.end()
	ce, ok := errors.AsType[*sshx.CanceledError](<-r.done)
	require.True(t, ok)
	assert.True(t, ce.Killed, "its own is not forgotten")
}

func TestAGuardGivesWayWhereSessionsAreFew(t *testing.T) {
	t.Parallel()
	for _, most := range []string{"1", "2"} {
		t.Run(most, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t, "MaxSessions "+most)
			for range 3 {
				c := dial(t, m, func(cfg *sshx.Config) { cfg.Sessions = 2 })
				for range 7 {
					_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
					require.NoError(t, err)
				}
				c.StartGuard()
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						for range 5 {
							_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
							assert.NoError(t, err)
						}
					})
				}
				wg.Wait()
				c.Close()
			}
		})
	}
}
