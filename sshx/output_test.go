package sshx_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestLongOutputKeepsHeadAndTail(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		const block = 1 << 20
		file := m.dir(t) + "/big"
		data := strings.Repeat("h", block) + strings.Repeat("m", 2*block) + strings.Repeat("t", block)
		require.NoError(t, c.Put(t.Context(), file, strings.NewReader(data), sshx.PutOptions{}))
		var whole bytes.Buffer
		res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"cat", file}, Stdout: &whole})
		require.NoError(t, err)
		assert.True(t, res.Truncated)
		want := strings.Repeat("h", block) + "\n[... 2097152 bytes left out ...]\n" + strings.Repeat("t", block)
		assert.True(t, want == string(res.Stdout), "%d bytes, want %d", len(res.Stdout), len(want))
		assert.True(t, data == whole.String(), "the writer gets all of it")
	})
}

func TestSecretsAreTakenOut(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m, func(cfg *sshx.Config) { cfg.Secrets = []string{"hunter2", "", "hunter2-long", "näive"} })
		var live bytes.Buffer
		res, err := c.Run(t.Context(), sshx.Cmd{
			Name: "leak hunter2", Env: map[string]string{"PW": "hunter2"},
			Script: "printf hun; sleep 0.05; printf ter; sleep 0.05; echo 2-long; echo $PW; echo hunter1 hunt; echo näive; exit 3\n",
			Stdout: &live,
		})
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		want := "***\n***\nhunter1 hunt\n***\n"
		assert.Equal(t, want, string(res.Stdout))
		assert.Equal(t, want, live.String())
		assert.Equal(t, want, string(ee.Output))
		assert.NotContains(t, err.Error(), "hunter2")
		_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"false", "hunter2"}})
		require.ErrorContains(t, err, `run "false ***"`)
	})
}

func TestSecretsAreInNoArgumentList(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c := dial(t, m, func(cfg *sshx.Config) { cfg.Secrets = []string{"in-the-script"} })
	// All processes of the session, up to sshd.
	file := m.dir(t) + "/seen"
	script := `p=$$; while [ "$p" -gt 1 ]; do tr '\0' ' ' </proc/$p/cmdline; echo; set -- $(cat /proc/$p/stat | sed 's/.*) //'); p=$2; done >` + file
	for name, cmd := range map[string]sshx.Cmd{
		"in a script": {Script: script + " # in-the-script", Env: map[string]string{"PW": "in-the-environment"}},
		"in Env":      {Script: script, Env: map[string]string{"PW": "in-the-environment"}},
	} {
		_, err := c.Run(t.Context(), cmd)
		require.NoError(t, err, name)
		seen := m.read(t, file)
		assert.Contains(t, seen, "sshd", name)
		assert.Contains(t, seen, "/bin/sh", name)
		assert.NotContains(t, seen, "in-the-", name)
	}
}

func TestWriterThatFailsDoesNotFailTheCommand(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		n := 0
		res, err := c.Run(t.Context(), sshx.Cmd{
			Script: "for i in 1 2 3; do echo $i; sleep 0.02; done",
			Stdout: writer(func([]byte) (int, error) { n++; return 0, os.ErrClosed }),
		})
		require.NoError(t, err)
		assert.Equal(t, "1\n2\n3\n", string(res.Stdout))
		assert.Equal(t, 1, n)
	})
}

func TestOneWriterForBothStreamsLosesNothing(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		var both bytes.Buffer
		_, err := c.Run(t.Context(), sshx.Cmd{
			Script:   "i=0; while [ $i -lt 200 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done",
			Separate: true, Stdout: &both, Stderr: &both,
		})
		require.NoError(t, err)
		assert.Equal(t, 400, strings.Count(both.String(), "\n"))
	})
}

func TestWhatKeepsACommandFromStarting(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		for _, cmd := range []sshx.Cmd{{Args: []string{"true"}, Dir: "/no/such"}, {Script: "true", Dir: "/no/such", Separate: true}} {
			_, err := c.Run(t.Context(), cmd)
			se, ok := errors.AsType[*sshx.StartError](err)
			require.True(t, ok, "%v", err)
			assert.Contains(t, se.Text, "/no/such")
		}
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"no-such-program"}})
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 127, ee.Code)
		assert.Contains(t, string(ee.Output), "no-such-program")
		for want, cmd := range map[string]sshx.Cmd{
			"neither Args nor Script":  {},
			"both Args and Script":     {Args: []string{"a"}, Script: "b"},
			"Cmd.Args[1] has a NUL":    {Args: []string{"a", "\x00"}},
			`Cmd.Env: "A-B" is not`:    {Args: []string{"a"}, Env: map[string]string{"A-B": ""}},
			`Cmd.Env["A"] has a NUL`:   {Args: []string{"a"}, Env: map[string]string{"A": "\x00"}},
			"Script has DOS line ends": {Script: "#!/bin/sh\r\ntrue\r\n"},
			"Stdin is for Args":        {Script: "cat", Stdin: strings.NewReader("")},
			"an option of the shell":   {Args: []string{"-c", "true"}},
			"WaitDelay is -1s":         {Args: []string{"a"}, WaitDelay: -time.Second},
			"beginning with _sshx":     {Args: []string{"a"}, Env: map[string]string{"_sshx_t": ""}},
		} {
			_, err := c.Run(t.Context(), cmd)
			require.ErrorContains(t, err, want)
		}
	})
}

func TestRunAsAnotherUser(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		m.sudo(t)
		user := "nobody"
		if !m.real() {
			user = "ops"
		}
		c := dial(t, m)
		for _, cmd := range []sshx.Cmd{
			{Args: []string{"/bin/sh", "-c", "id -un; cat; exit 4"}, Stdin: strings.NewReader("in\n")},
			{Args: []string{"/bin/sh", "-c", "id -un; echo in; exit 4"}},
			{Script: "id -un; echo \"$A\"; exit 4", Env: map[string]string{"A": "in"}},
		} {
			cmd.User = user
			res, err := c.Run(t.Context(), cmd)
			require.ErrorContains(t, err, "exit status 4")
			assert.Equal(t, user+"\nin\n", string(res.Stdout))
		}
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}, User: "no-such-user"})
		se, ok := errors.AsType[*sshx.SudoError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, "no-such-user", se.User)
		assert.NotEmpty(t, se.Text)
	})
}

func TestSudoThatWantsAPasswordIsASudoError(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	require.NoError(t, m.Disk().WriteFile("/etc/sudoers.d/ops", []byte("ops ALL=(ALL) ALL\n"), 0o440))
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "id", User: "root"})
	se, ok := errors.AsType[*sshx.SudoError](err)
	require.True(t, ok, "%v", err)
	assert.Contains(t, se.Text, "password is required")
	require.ErrorContains(t, err, "NOPASSWD")
}
