package sshx_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestRunGivesArgumentsAsTheyAre(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		for _, args := range [][]string{
			{"plain", "a b", "", "it's", "$HOME", "*", "-n", "~", "#", ";", "&&"},
			{"needs the header", `\\`, `\n`, "!x", "two\nlines\n", "\t", "ü"},
			{"no UTF-8", "\xff", `\\`},
		} {
			if !m.real() && !utf8.ValidString(args[1]) {
				continue // the interpreter of sshtest says that it cannot
			}
			res, err := c.Run(t.Context(), sshx.Cmd{Args: append([]string{"printf", "%s|"}, args...)})
			require.NoError(t, err)
			assert.Equal(t, strings.Join(args, "|")+"|", string(res.Stdout))
			assert.Zero(t, res.ExitCode)
			assert.False(t, res.Truncated)
		}
	})
}

func TestRunSendsScriptsAsFiles(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		res, err := c.Run(t.Context(), sshx.Cmd{
			Script: "set -eu\ncat\necho \"$A\"; pwd\nread x || echo eof\nexit 7\n",
			Env:    map[string]string{"A": "it's\ntwo $lines", "B": ""}, Dir: "/tmp", Name: "probe",
		})
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 7, ee.Code)
		assert.Equal(t, "m1", ee.Host)
		assert.Equal(t, 7, res.ExitCode)
		assert.Equal(t, "it's\ntwo $lines\n/tmp\neof\n", string(res.Stdout))
		assert.Contains(t, err.Error(), `sshx: m1: run "probe": exit status 7 after `)
	})
}

func TestRunUsesTheInterpreterOfTheFirstLine(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		res, err := c.Run(t.Context(), sshx.Cmd{Script: "#!/bin/bash -u\na=(x y z)\necho ${#a[@]} $1 2>&1\n"})
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.NotZero(t, ee.Code, "-u was not given to bash")
		assert.Contains(t, string(res.Stdout), "unbound variable")
	})
}

func TestRunMergesOrSeparates(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		script := "echo a; echo b >&2; echo c; echo d >&2; exit 3"
		var live, liveErr bytes.Buffer
		res, err := c.Run(t.Context(), sshx.Cmd{Script: script, Stdout: &live})
		require.Error(t, err)
		assert.Equal(t, "a\nb\nc\nd\n", string(res.Stdout))
		assert.Equal(t, "a\nb\nc\nd\n", live.String())
		assert.Empty(t, res.Stderr)
		live.Reset()
		res, err = c.Run(t.Context(), sshx.Cmd{Script: script, Separate: true, Stdout: &live, Stderr: &liveErr})
		require.ErrorContains(t, err, "exit status 3")
		assert.ErrorContains(t, err, "b\nd", "the error shows stderr")
		assert.Equal(t, "a\nc\n", string(res.Stdout))
		assert.Equal(t, "b\nd\n", string(res.Stderr))
		assert.Equal(t, "a\nc\n", live.String())
		assert.Equal(t, "b\nd\n", liveErr.String())
	})
}

func TestRunFeedsStdin(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		data := strings.Repeat("0123456789abcdef\n", 200000)
		res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"wc", "-c"}, Stdin: strings.NewReader(data)})
		require.NoError(t, err)
		assert.Equal(t, "3400000", strings.TrimSpace(string(res.Stdout)))
		res, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"cat"}, Env: map[string]string{"A": "1\n2"}, Stdin: strings.NewReader("x")})
		require.NoError(t, err)
		assert.Equal(t, "x", string(res.Stdout))
		_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}, Stdin: strings.NewReader(data)})
		require.NoError(t, err, "a command need not read its stdin")
	})
}

func TestRunKillsTheCommandWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		for name, cmd := range map[string]sshx.Cmd{
			"args":   {Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}},
			"script": {Script: "echo up; sleep 1000 | cat; echo no\n"},
			"stdin":  {Args: []string{"/bin/sh", "-c", "echo up; cat >/dev/null; sleep 1000"}, Stdin: blocked{t.Context()}},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cause := errors.New("enough")
				ctx, cancel := context.WithCancelCause(t.Context())
				cmd.Stdout = &lines{line: func(string) { cancel(cause) }}
				begun := time.Now()
				res, err := c.Run(ctx, cmd)
				ce, ok := errors.AsType[*sshx.CanceledError](err)
				require.True(t, ok, "%v", err)
				assert.ErrorIs(t, err, cause)
				assert.True(t, ce.Killed, "%v", err)
				assert.True(t, strings.HasPrefix(string(res.Stdout), "up\n"), "%q", res.Stdout)
				assert.Less(t, time.Since(begun), 15*time.Second)
			})
		}
	})
}

// blocked is a reader that never has anything.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, b.ctx.Err() }

func TestBootIDAndHostKeys(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		a, err := c.BootID(t.Context())
		require.NoError(t, err)
		b, err := c.BootID(t.Context())
		require.NoError(t, err)
		assert.Equal(t, a, b)
		keys, err := c.HostKeys(t.Context())
		if m.real() && err != nil {
			t.Skip("this machine has no host keys of its own in /etc/ssh")
		}
		require.NoError(t, err)
		assert.NotEmpty(t, keys)
		assert.Contains(t, m.config(t).HostKeys.Pinned, sshx.AuthorizedKey(c.HostKey()))
	})
}
