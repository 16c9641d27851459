package sshx_test

import (
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// onOps runs f against machines on which ops may use sudo with a password, or as sudoers says.
func onOps(t *testing.T, sudoers string, f func(t *testing.T, m machine)) {
	t.Helper()
	t.Run("sshd", func(t *testing.T) {
		t.Parallel()
		f(t, newOps(t, sudoers))
	})
	t.Run("sshtest", func(t *testing.T) {
		t.Parallel()
		m := newSim(t)
		m.Halt()
		m.Passwords = map[string]string{"ops": "correct horse"}
		require.NoError(t, m.Disk().WriteFile("/etc/sudoers.d/ops", []byte(sudoers+"\n"), 0o440))
		m.Boot()
		f(t, m)
	})
}

func asOps(password string) func(*sshx.Config) {
	return func(cfg *sshx.Config) { cfg.User, cfg.SudoPassword = "ops", password }
}

func TestSudoIsToldItsPassword(t *testing.T) {
	t.Parallel()
	for name, sudoers := range map[string]string{
		"asked": "ops ALL=(ALL) ALL", "not asked": "ops ALL=(ALL) NOPASSWD: ALL", "use_pty": "Defaults use_pty\nops ALL=(ALL) ALL",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onOps(t, sudoers, func(t *testing.T, m machine) {
				c := dial(t, m, asOps("correct horse"))
				for name, cmd := range map[string]sshx.Cmd{
					"args":     {Args: []string{"/bin/sh", "-c", "id -un; echo in; exit 4"}},
					"stdin":    {Args: []string{"/bin/sh", "-c", "id -un; cat; exit 4"}, Stdin: strings.NewReader("in\n")},
					"script":   {Script: "id -un; cat; echo \"$A\"; exit 4", Env: map[string]string{"A": "in"}},
					"separate": {Script: "id -un; echo in; exit 4", Separate: true},
				} {
					cmd.User = "root"
					res, err := c.Run(t.Context(), cmd)
					require.ErrorContains(t, err, "exit status 4", name)
					assert.Equal(t, "root\nin\n", string(res.Stdout), name)
					assert.Empty(t, res.Stderr, name)
				}
				res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"echo", "a correct horse"}, User: "root"})
				require.NoError(t, err)
				assert.Equal(t, "a ***\n", string(res.Stdout), "the password is a secret")
				j, err := c.Detach(t.Context(), sshx.Cmd{Script: "id -un", User: "root"})
				require.NoError(t, err)
				res, err = j.Wait(t.Context())
				require.NoError(t, err)
				assert.Equal(t, "root\n", string(res.Stdout))
			})
		})
	}
}

func TestSudoKillsWithItsPassword(t *testing.T) {
	t.Parallel()
	onOps(t, "ops ALL=(ALL) ALL", func(t *testing.T, m machine) {
		c := dial(t, m, asOps("correct horse"))
		for name, cmd := range map[string]sshx.Cmd{
			"script": {Script: "echo up; sleep 1000"},
			"stdin":  {Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}, Stdin: blocked{t.Context()}},
		} {
			ctx, cancel := contextWithLine(t, &cmd)
			defer cancel()
			cmd.User = "root"
			_, err := c.Run(ctx, cmd)
			ce, ok := errors.AsType[*sshx.CanceledError](err)
			require.True(t, ok, "%s: %v", name, err)
			assert.True(t, ce.Killed, "%s: %v", name, err)
		}
	})
}

func TestWrongSudoPasswordIsASudoErrorAtOnce(t *testing.T) {
	t.Parallel()
	onOps(t, "ops ALL=(ALL) ALL", func(t *testing.T, m machine) {
		c := dial(t, m, asOps("wrong horse"))
		begun := time.Now()
		for name, cmd := range map[string]sshx.Cmd{"script": {Script: "id"}} {
			cmd.User = "root"
			_, err := c.Run(t.Context(), cmd)
			se, ok := errors.AsType[*sshx.SudoError](err)
			require.True(t, ok, "%s: %v", name, err)
			assert.Equal(t, "root", se.User)
			require.ErrorContains(t, err, "it did not accept Config.SudoPassword: Sorry, try again.")
			assert.NotContains(t, err.Error(), "horse")
			assert.NotContains(t, err.Error(), "sshx ", "the prompt is ours")
		}
		assert.Less(t, time.Since(begun), 2*30*time.Second, "Config.Timeout was waited for")
		require.NoError(t, c.Err(), "the connection lives on")
		err := c.Put(t.Context(), "/etc/sshx-not-written", strings.NewReader("x"), sshx.PutOptions{User: "root"})
		_, ok := errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%v", err)
	})
}

// Every wrong password counts towards the account's lock.
func TestPutWithAWrongSudoPasswordAsksOnce(t *testing.T) {
	t.Parallel()
	m := newOps(t, "ops ALL=(ALL) ALL")
	c := dial(t, m, asOps("wrong horse"))
	for name, err := range map[string]error{
		"file": c.Put(t.Context(), "/etc/sshx-not-written", strings.NewReader("x"), sshx.PutOptions{User: "root"}),
		"tree": c.PutTree(t.Context(), "/etc/sshx-not-written", fstest.MapFS{"f": {}}, sshx.PutOptions{User: "root"}),
	} {
		_, ok := errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%s: %v", name, err)
	}
	shell(t, c, ":")
	commands := func() int {
		m.mu.Lock()
		defer m.mu.Unlock()
		return strings.Count(m.log.String(), "Starting session: command for ops")
	}
	require.Eventually(t, func() bool { return commands() >= 4 }, quick, quick/1000)
	assert.Equal(t, 4, commands(), "with the probe")
}

func TestSFTPIsRefusedBySudoInItsWords(t *testing.T) {
	t.Parallel()
	onOps(t, "ops ALL=(ALL) ALL", func(t *testing.T, m machine) {
		c := dial(t, m, asOps(""))
		_, err := c.SFTP(t.Context(), "root")
		_, ok := errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%v", err)
		require.ErrorContains(t, err, "a password is required")
		require.ErrorContains(t, c.GetTree(t.Context(), "/etc", t.TempDir(), sshx.GetOptions{User: "root"}), "a password is required")
	})
}

func TestSudoThatRefusesInSpiteOfThePassword(t *testing.T) {
	t.Parallel()
	onOps(t, "ops ALL=(ALL) /usr/bin/id", func(t *testing.T, m machine) {
		c := dial(t, m, asOps("correct horse"))
		_, err := c.Run(t.Context(), sshx.Cmd{Script: "id", User: "root"})
		se, ok := errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%v", err)
		assert.Contains(t, se.Text, "not allowed")
		_, err = c.SFTP(t.Context(), "root")
		_, ok = errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%v", err)
	})
}

func TestRequireTTYIsASudoErrorWithAHint(t *testing.T) {
	t.Parallel()
	onOps(t, "Defaults requiretty\nops ALL=(ALL) NOPASSWD: ALL", func(t *testing.T, m machine) {
		c := dial(t, m, asOps(""))
		_, err := c.Run(t.Context(), sshx.Cmd{Script: "id -un", User: "root"})
		_, ok := errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%v", err)
		require.ErrorContains(t, err, "remove requiretty")
	})
}

// The password is neither in an argument list nor in an environment that the command, or anybody
// between sshd and it, can see.
func TestSudoPasswordIsNowhereToBeSeen(t *testing.T) {
	t.Parallel()
	m := newOps(t, "ops ALL=(ALL) ALL")
	c := dial(t, m, asOps("correct horse"))
	script := `p=$$; while [ "$p" -gt 1 ]; do tr '\0' ' ' </proc/$p/cmdline; tr '\0' ' ' </proc/$p/environ; echo; set -- $(sed 's/.*) //' /proc/$p/stat); p=$2; done`
	var raw strings.Builder
	sc, err := c.SFTP(t.Context(), "root") // bytes as they are, past the redaction
	require.NoError(t, err)
	defer sc.Close()
	seen := "/root/sshx-seen-" + rand.Text()
	_, err = c.Run(t.Context(), sshx.Cmd{Script: "(" + script + ") >" + seen + " || exit 1", User: "root"})
	require.NoError(t, err)
	f, err := sc.Open(seen)
	require.NoError(t, err)
	_, err = io.Copy(&raw, f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, sc.Remove(seen))
	assert.Contains(t, raw.String(), "sudo")
	assert.NotContains(t, raw.String(), "horse")
}
