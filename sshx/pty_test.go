package sshx_test

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// contextWithLine returns a context that ends when cmd prints a line.
func contextWithLine(t *testing.T, cmd *sshx.Cmd) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd.Stdout = &lines{line: func(string) { cancel() }}
	return ctx, cancel
}

func TestTerminalMergesAndHasAName(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m, func(cfg *sshx.Config) { cfg.Secrets = []string{"two\nlines"} })
		res, err := c.Run(t.Context(), sshx.Cmd{
			Script: "echo \"$TERM $A\"; echo e >&2; echo o; echo \"two\r\nlines\"; exit 3\n", Dir: "/",
			Env: map[string]string{"A": "it's\na line"}, PTY: &sshx.PTY{Term: "vt100"},
		})
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 3, ee.Code)
		assert.Equal(t, "vt100 it's\na line\ne\no\n***\n", string(res.Stdout))
		long := strings.Repeat("# 0123456789abcdef\n", 20000) + "echo \"$0\" | sed 's/.*sshx/sshx/'; echo long"
		res, err = c.Run(t.Context(), sshx.Cmd{Script: long, PTY: &sshx.PTY{}})
		require.NoError(t, err, "a script of 400 kB goes through the terminal")
		assert.Regexp(t, `^sshx\.[0-9a-zA-Z]+\nlong\n$`, string(res.Stdout))
	})
}

func TestTerminalIsOne(t *testing.T) {
	t.Parallel()
	c := dial(t, newSSHD(t))
	res, err := c.Run(t.Context(), sshx.Cmd{
		Script: "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : >/dev/tty && stty size; echo $TERM", PTY: &sshx.PTY{Columns: 132, Rows: 43},
	})
	require.NoError(t, err)
	assert.Equal(t, "43 132\nxterm\n", string(res.Stdout))
	res, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"stty", "size"}, PTY: &sshx.PTY{}})
	require.NoError(t, err)
	assert.Equal(t, "24 80\n", string(res.Stdout))
}

func TestTerminalIsTypedInto(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		for in, want := range map[string]string{"": "|", "one\ntwo\n": "one\ntwo\n|", "no end": "no end|", strings.Repeat("x\n", 10000): strings.Repeat("x\n", 10000) + "|"} {
			res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/bin/sh", "-c", "cat; printf '|'"}, Stdin: strings.NewReader(in), PTY: &sshx.PTY{}})
			require.NoError(t, err)
			assert.Equal(t, want, string(res.Stdout), "no echo, and an end")
		}
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}, Stdin: strings.NewReader("unread\n"), PTY: &sshx.PTY{}})
		require.NoError(t, err)
	})
}

func TestTerminalIsKilled(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		for name, cmd := range map[string]sshx.Cmd{
			"args":   {Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}},
			"script": {Script: "echo up; sleep 1000 | cat; echo no\n"},
			"stdin":  {Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}, Stdin: blocked{t.Context()}},
		} {
			cmd.PTY = &sshx.PTY{}
			ctx, cancel := contextWithLine(t, &cmd)
			defer cancel()
			_, err := c.Run(ctx, cmd)
			ce, ok := errors.AsType[*sshx.CanceledError](err)
			require.True(t, ok, "%s: %v", name, err)
			assert.True(t, ce.Killed, "%s: %v", name, err)
		}
	})
}

// What ignores the hang-up of its terminal is killed all the same.
func TestTerminalHangsUpWithItsConnection(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	for name, script := range map[string]string{
		"dies of it": "echo $$; sleep 1000",
		"ignores it": "trap '' HUP; echo $$; sleep 1000; sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, m)
			pid := make(chan int, 1)
			out := &lines{line: func(s string) {
				if n, err := strconv.Atoi(s); err == nil {
					pid <- n
				}
			}}
			done := make(chan error, 1)
			go func() {
				_, err := c.Run(context.Background(), sshx.Cmd{Script: script, Stdin: nil, Stdout: out, PTY: &sshx.PTY{}})
				done <- err
			}()
			n := <-pid
			c.Close()
			require.Error(t, <-done)
			require.Eventually(t, func() bool { return !running(n) }, 10*time.Second, 5*time.Millisecond)
		})
	}
}

func TestTerminalThatIsNotGiven(t *testing.T) {
	t.Parallel()
	c := dial(t, newSSHD(t, "PermitTTY no"))
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "true", PTY: &sshx.PTY{}})
	_, ok := errors.AsType[*sshx.StartError](err)
	require.True(t, ok, "%v", err)
	require.ErrorContains(t, err, "PermitTTY")
	for want, cmd := range map[string]sshx.Cmd{
		"one stream":     {Args: []string{"true"}, PTY: &sshx.PTY{}, Separate: true},
		"not outlast":    {Args: []string{"true"}, PTY: &sshx.PTY{}, ExpectDisconnect: true},
		"out of range":   {Args: []string{"true"}, PTY: &sshx.PTY{Columns: -1}},
		"Term is not a ": {Args: []string{"true"}, PTY: &sshx.PTY{Term: "x y"}},
	} {
		_, err := c.Run(t.Context(), cmd)
		require.ErrorContains(t, err, want)
	}
	_, err = c.Detach(t.Context(), sshx.Cmd{Args: []string{"true"}, PTY: &sshx.PTY{}, Stdout: io.Discard})
	require.ErrorContains(t, err, "not for detached")
}

// The machine's /bin/sh is another one, as it is elsewhere.
func TestTerminalUnderOtherShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "busybox"} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("this machine lacks %s", shell)
			}
			m := newSSHD(t)
			m.mount(t, map[string]string{"/bin/sh": path})
			c := dial(t, m)
			res, err := c.Run(t.Context(), sshx.Cmd{
				Script: "cmp /bin/sh " + path + " && [ -t 0 ] && [ -t 2 ] && echo \"$A\"; exit 3", Env: map[string]string{"A": "it's\na line"}, PTY: &sshx.PTY{},
			})
			require.ErrorContains(t, err, "exit status 3")
			assert.Equal(t, "it's\na line\n", string(res.Stdout))
			res, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader("typed\n"), PTY: &sshx.PTY{}})
			require.NoError(t, err)
			assert.Equal(t, "typed\n", string(res.Stdout))
			cmd := sshx.Cmd{Script: "echo up; (trap '' TERM HUP; sleep 1000) & sleep 1000 | cat", PTY: &sshx.PTY{}}
			ctx, cancel := contextWithLine(t, &cmd)
			defer cancel()
			_, err = c.Run(ctx, cmd)
			ce, ok := errors.AsType[*sshx.CanceledError](err)
			require.True(t, ok, "%v", err)
			assert.True(t, ce.Killed, "%v", err)
		})
	}
}
