package sshx_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// kinds are the ways in which commands are sent.
func kinds(proof string) map[string]sshx.Cmd {
	return map[string]sshx.Cmd{
		"args":     {Args: []string{"/bin/sh", "-c", "echo hi; touch " + proof}},
		"script":   {Script: "echo hi; touch " + proof},
		"env":      {Script: "echo hi; touch " + proof, Env: map[string]string{"A": "b"}},
		"file":     {Script: "echo hi; touch " + proof + "\n# $0\n"},
		"stdin":    {Args: []string{"/bin/sh", "-c", "cat; touch " + proof}, Stdin: strings.NewReader("hi\n")},
		"separate": {Script: "echo hi; touch " + proof, Separate: true},
	}
}

func TestWhatOnlyRepeatsTheRequestRunsNothing(t *testing.T) {
	t.Parallel()
	for _, force := range []string{
		`echo "not allowed: $SSH_ORIGINAL_COMMAND"`,
		`echo "not allowed: $SSH_ORIGINAL_COMMAND"; exit 1`,
		`echo "not allowed: $SSH_ORIGINAL_COMMAND" >&2`,
		`echo "$SSH_ORIGINAL_COMMAND"; cat`,
	} {
		t.Run(force, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t, "ForceCommand "+force)
			c := dial(t, m)
			proof := m.dir(t) + "/proof"
			for name, cmd := range kinds(proof) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := c.Run(ctx, cmd)
				cancel()
				require.Error(t, err, name)
				assert.NoFileExists(t, proof, name)
				if !strings.Contains(force, "cat") {
					_, ok := errors.AsType[*sshx.StartError](err)
					require.True(t, ok, "%s: %v", name, err)
					require.ErrorContains(t, err, "not allowed", name)
					assert.NotContains(t, err.Error(), "exec 2>&1", "the wrapper is of no interest")
				}
			}
		})
	}
}

func TestTracesOfTheRequestAreNoOutput(t *testing.T) {
	t.Parallel()
	for _, force := range []string{`sh -x -c "$SSH_ORIGINAL_COMMAND"`, `bash -v -c "$SSH_ORIGINAL_COMMAND"`, `env SHELLOPTS=xtrace bash -c "$SSH_ORIGINAL_COMMAND"`} {
		t.Run(force, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t, "ForceCommand "+force)
			c := dial(t, m)
			for range 3 {
				res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/bin/echo", "hi"}, Separate: true})
				require.NoError(t, err)
				assert.Equal(t, "hi\n", string(res.Stdout))
				assert.Empty(t, string(res.Stderr))
			}
		})
	}
}

// A terminal merges both streams, and so both markers.
func TestTerminalsThatMergeTheStreamsAddNoOutput(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip("no script(1) on this machine, which runs a command in a terminal")
	}
	c := dial(t, newSSHD(t, `ForceCommand script -qec "$SSH_ORIGINAL_COMMAND" /dev/null`))
	for name, cmd := range map[string]sshx.Cmd{
		"program": {Args: []string{"/bin/echo", "hi"}, Separate: true}, "script": {Script: "echo hi", Separate: true}, "merged": {Script: "echo hi"},
	} {
		res, err := c.Run(t.Context(), cmd)
		require.NoError(t, err, name)
		assert.Equal(t, "hi\r\n", string(res.Stdout), name)
	}
}

// bashrc gives the login shell a startup file, and skips the test where none is read.
func bashrc(t *testing.T, text string) *sshd {
	t.Helper()
	m := newSSHD(t)
	m.write(t, m.tmp+"/.bashrc", "echo read\n")
	c := plain(t, m)
	if out := session(c, "", execute("true")); !strings.Contains(out, "read") {
		t.Skipf("the login shell reads no .bashrc: %s", out)
	}
	m.write(t, m.tmp+"/.bashrc", text)
	return m
}

func TestWhatTheLoginShellSaysIsNoOutput(t *testing.T) {
	t.Parallel()
	m := bashrc(t, "echo warning >&2; echo greeting\n")
	c := dial(t, m)
	for range 10 {
		for name, cmd := range kinds(m.tmp + "/proof") {
			res, err := c.Run(t.Context(), cmd)
			require.NoError(t, err, name)
			require.Equal(t, "hi\n", string(res.Stdout), name)
			require.Empty(t, string(res.Stderr), name)
		}
	}
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "echo why; exit 3"})
	require.NotContains(t, err.Error(), "warning")
}

func TestLoginShellsThatReadStdinRunNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"read -r x\n", "cat >/dev/null\n", "exec /bin/bash\n", "exec /bin/sh -s\n"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			m := bashrc(t, text)
			c := dial(t, m)
			proof := m.dir(t) + "/proof"
			for name, cmd := range kinds(proof) {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				_, err := c.Run(ctx, cmd)
				cancel()
				require.ErrorIs(t, err, context.DeadlineExceeded, name)
				require.ErrorContains(t, err, "may read stdin", name)
				assert.NoFileExists(t, proof, name)
			}
			_, err := c.Detach(contextOf(t, 300*time.Millisecond), sshx.Cmd{Script: "touch " + proof})
			require.ErrorContains(t, err, "may read stdin")
			require.NoError(t, c.Close())
			m.kill()
			assert.NoFileExists(t, proof, "a command ran after it was cancelled")
		})
	}
}

func contextOf(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestShortScriptsNeedNoFile(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	none := m.tmp + "/none"
	require.NoError(t, os.Mkdir(none, 0o555))
	c := dial(t, m)
	for name, script := range map[string]string{
		"sh":    "echo hi >&2\n! false\nprintf '%s ' 'a\\b' \"it's\" \"${HOME:+home}\"; echo\nfor i in 1 2; do echo $i; done\ncat\nexit 3\n",
		"shell": "#!/bin/bash -eu\na=(hi)\necho ${a[0]}; printf '%s ' 'a\\b' \"it's\" home; echo; echo 1; echo 2; exit 3\n",
		"env":   "#!/usr/bin/env bash\na=(hi)\necho ${a[0]}; printf '%s ' 'a\\b' \"it's\" home; echo; echo 1; echo 2; exit 3\n",
	} {
		for range 3 { // the first of them by another shell
			res, err := c.Run(t.Context(), sshx.Cmd{Script: script})
			ee, ok := errors.AsType[*sshx.ExitError](err)
			require.True(t, ok, "%s: %v", name, err)
			assert.Equal(t, 3, ee.Code, name)
			assert.Equal(t, "hi\na\\b it's home \n1\n2\n", string(res.Stdout), name)
		}
	}
	// What looks at its own name is a file.
	res, err := c.Run(t.Context(), sshx.Cmd{Script: "#!/bin/bash\n[ -f \"$0\" ] && [ \"$0\" = \"${BASH_SOURCE[0]}\" ] && echo file\n"})
	require.NoError(t, err)
	assert.Equal(t, "file\n", string(res.Stdout))
	_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"cat"}, Stdin: io.LimitReader(zeros{}, 1<<20)})
	require.NoError(t, err)
}

func TestScriptsWithDOSLineEndsAreRefused(t *testing.T) {
	t.Parallel()
	c := dial(t, newSim(t))
	for _, script := range []string{"#!/bin/sh\r\necho hi\r\n", "if true; then\r\necho hi\r\nfi\r\n"} {
		_, err := c.Run(t.Context(), sshx.Cmd{Script: script})
		require.ErrorContains(t, err, "CRLF")
	}
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "\ufeffecho hi\n"})
	require.ErrorContains(t, err, "BOM")
	_, err = c.Run(t.Context(), sshx.Cmd{Script: "set -e\nprintf 'a\rb'\n"})
	require.NoError(t, err)
}
