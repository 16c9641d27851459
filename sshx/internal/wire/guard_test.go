//go:build unix

package wire

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A guarded is a Guard that runs, and its directory.
type guarded struct {
	*proc

	dir string
}

func startGuard(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) guarded {
	t.Helper()
	token := rand.Text()
	p := start(t, sh(true, Guard, token), "")
	l, err := p.out.ReadString('\n')
	require.NoError(t, err, "%s", p.err.String())
	dir, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), Marker+Answer(token)+" ")
	require.True(t, ok, "%q", l)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return guarded{p, dir}
}

// end closes the guard's stdin, as the end of the connection does, and waits for its end.
func (g guarded) end(t *testing.T) {
	t.Helper()
	require.NoError(t, g.in.Close())
	_, code := g.finish(t)
	assert.Zero(t, code)
	left, err := filepath.Glob(g.dir + "*")
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestGuardEndsTheCommandsThatRun(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		g := startGuard(t, sh)
		var groups []int
		for i, script := range []string{"sleep 1000 | cat", `(trap "" TERM; sleep 1000) & sleep 1000`, `trap "" TERM; sleep 1000; sleep 1000`} {
			token := fmt.Sprintf("command-%08d", i)
			p := start(t, sh(true, Exec, token, "mg", g.dir, "sh", "-c", "echo up; "+script), "")
			l, err := p.out.ReadString('\n')
			require.NoError(t, err)
			f := strings.Fields(l)
			require.Equal(t, []string{"sshx", Answer(token)}, f[:2])
			group, err := strconv.Atoi(f[2])
			require.NoError(t, err)
			l, err = p.out.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "up\n", l)
			groups = append(groups, group)
			go func() { _ = p.Wait() }()
		}
		daemon := start(t, sh(true, Exec, "daemon-12345678", "mg", g.dir, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"), "")
		out, code := daemon.finish(t)
		require.Zero(t, code)
		for _, group := range groups {
			assert.True(t, lives(group))
		}
		g.end(t)
		for _, group := range groups {
			gone(t, group)
		}
		_, pid, _ := strings.Cut(strings.TrimSpace(out), "\n")
		n, err := strconv.Atoi(pid)
		require.NoError(t, err, "%q", out)
		left, err := os.FindProcess(n)
		require.NoError(t, err)
		require.NoError(t, left.Kill(), "what a command left behind is left alone")
	})
}

func TestGuardCancelsOneCommand(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		g := startGuard(t, sh)
		var all []*proc
		for _, token := range []string{"command-00000001", "command-00000002"} {
			p := start(t, sh(true, Exec, token, "mg", g.dir, "sleep", "1000"), "")
			_, err := p.out.ReadString('\n')
			require.NoError(t, err)
			all = append(all, p)
		}
		_, err := io.WriteString(g.in, "command-00000002\n")
		require.NoError(t, err)
		_, code := all[1].finish(t)
		assert.Equal(t, 128+15, code)
		assert.True(t, lives(all[0].Process.Pid))

		// One that has not begun never does.
		_, err = io.WriteString(g.in, "command-00000003\n")
		require.NoError(t, err)
		require.Eventually(t, func() bool { _, err := os.Stat(g.dir + "/command-00000003.c"); return err == nil }, 10*time.Second, time.Millisecond)
		out, code := start(t, sh(true, Exec, "command-00000003", "mg", g.dir, "echo", "it runs"), "").finish(t)
		assert.Equal(t, Failed, code)
		assert.Empty(t, out)
		g.end(t)
		_, code = all[0].finish(t)
		assert.Equal(t, 128+15, code)
	})
}

func TestGuardForgetsWhoHasEnded(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		g := startGuard(t, sh)
		for i := range 20 {
			_, code := start(t, sh(true, Exec, fmt.Sprintf("command-%08d", i), "mg", g.dir, "true"), "").finish(t)
			require.Zero(t, code)
		}
		p := start(t, sh(true, Exec, "command-99999999", "mg", g.dir, "sleep", "1000"), "")
		_, err := p.out.ReadString('\n')
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(g.dir+"/command-starting", nil, 0o600))
		// Its number is another process's now: the file is of a process that began at another time.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getpid()))
		require.NoError(t, err)
		before, after, _ := strings.Cut(string(stat), ") ")
		f := strings.Fields(after)
		f[19] = "1"
		require.NoError(t, os.WriteFile(g.dir+"/command-before", []byte(before+") "+strings.Join(f, " ")+"\n"), 0o600))
		_, err = io.WriteString(g.in, "\n")
		require.NoError(t, err)
		var names []string
		require.Eventually(t, func() bool {
			files, err := os.ReadDir(g.dir)
			names = nil
			for _, f := range files {
				names = append(names, f.Name())
			}
			return err == nil && len(names) == 2
		}, 10*time.Second, time.Millisecond, "%v", names)
		assert.Equal(t, []string{"command-99999999", "command-starting"}, names)
		g.end(t)
		_, code := p.finish(t)
		assert.Equal(t, 128+15, code)
	})
}

func TestNoCommandStartsWithoutItsGuard(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		g := startGuard(t, sh)
		g.end(t)
		out, code := start(t, sh(true, Exec, "command-00000001", "mg", g.dir, "echo", "it runs"), "").finish(t)
		assert.Equal(t, Failed, code)
		assert.NotContains(t, out, Marker)
	})
}

func TestGuardIsDeaf(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		g := startGuard(t, sh)
		require.NoError(t, exec.CommandContext(t.Context(), "kill", "-TERM", strconv.Itoa(g.Process.Pid)).Run())
		require.NoError(t, exec.CommandContext(t.Context(), "kill", "-HUP", strconv.Itoa(g.Process.Pid)).Run())
		p := start(t, sh(true, Exec, "command-00000001", "mg", g.dir, "sleep", "1000"), "")
		_, err := p.out.ReadString('\n')
		require.NoError(t, err)
		g.end(t)
		_, code := p.finish(t)
		assert.Equal(t, 128+15, code)
	})
}
