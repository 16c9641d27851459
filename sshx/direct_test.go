package sshx_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// forced is a real server that notes every command before sh has its way with it.
func forced(t *testing.T, sh string) (c *sshx.Client, commands func() []string) {
	t.Helper()
	dir := t.TempDir()
	text := "#!/bin/sh\nprintf '%s\\n' \"$SSH_ORIGINAL_COMMAND\" >>" + dir + "/log\n" + sh + "\n"
	require.NoError(t, os.WriteFile(dir+"/force", []byte(text), 0o755))
	c = dial(t, newSSHD(t, "ForceCommand "+dir+"/force"))
	return c, func() []string {
		b, err := os.ReadFile(dir + "/log")
		require.NoError(t, err)
		return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	}
}

func echo(t *testing.T, c *sshx.Client) {
	t.Helper()
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"echo", "it's"}})
	require.NoError(t, err)
	assert.Equal(t, "it's\n", string(res.Stdout))
}

func TestLoginShellsThatCanRunCommandsThemselves(t *testing.T) {
	t.Parallel()
	c, commands := forced(t, `exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"`)
	echo(t, c)
	echo(t, c)
	said := commands()
	require.Len(t, said, 3, "the login shell is probed first")
	assert.True(t, strings.HasPrefix(said[0], "exec /bin/sh -c "), "nothing is known of the shell: %s", said[0])
	for _, s := range said[1:] {
		assert.True(t, strings.HasPrefix(s, "set -- "), s)
	}
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/does/not/exist"}})
	ee, ok := errors.AsType[*sshx.ExitError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 127, ee.Code)
	assert.Contains(t, string(res.Stdout), "/does/not/exist")
}

func TestLoginShellsThatAreNotWhatTheySayRunNothingTwice(t *testing.T) {
	t.Parallel()
	// As fish does, that takes the whole for an error before it runs any of it.
	c, commands := forced(t, `case $SSH_ORIGINAL_COMMAND in "set -- "*) echo "fish: no" >&2; exit 127;; esac
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"`)
	echo(t, c)
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader("in")})
	require.NoError(t, err)
	assert.Equal(t, "in", string(res.Stdout))
	echo(t, c)
	echo(t, c)
	var direct []int
	for i, s := range commands() {
		if strings.HasPrefix(s, "set -- ") {
			direct = append(direct, i)
		}
	}
	assert.Equal(t, []int{1}, direct, "it is tried once, and not with input that cannot be sent again")
}

func TestLoginShellsWithStrangeStartupFilesAreKilled(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		if s, ok := m.(*sshd); ok { // bash reads it if it was built to do so for sshd, as Debian's is
			s.write(t, s.tmp+"/.bashrc", "echo noise; kill() { :; }; set -eu; trap 'echo left' EXIT\n")
		}
		c := dial(t, m)
		echo(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &lines{line: func(string) { cancel() }}
		_, err := c.Run(ctx, sshx.Cmd{Args: []string{"/bin/sh", "-c", "echo up; sleep 1000 | cat"}, Stdout: out})
		ce, ok := errors.AsType[*sshx.CanceledError](err)
		require.True(t, ok, "%v", err)
		assert.True(t, ce.Killed)
	})
}
