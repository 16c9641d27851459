//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSecondInterruptDoesNotWait(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	dir, out := t.TempDir(), new(output)
	cmd := exec.Command(self, "-state", dir, "-guests", "plain", "-addr", "127.0.0.1:0", "-jump", "127.0.0.1:0", "-latency", "fast")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	said := func(what string) func() bool {
		return func() bool { return strings.Contains(out.String(), what) }
	}
	if !assert.Eventually(t, said("Ctrl-C"), 30*time.Second, time.Millisecond) {
		_ = cmd.Process.Kill()
		<-ended //nolint:errcheck // that it ended counts
		t.FailNow()
	}

	// What it saves to is a pipe that nobody reads, so by itself it never ends.
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "state.json.tmp"), 0o600))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Eventually(t, said("# saving to"), 30*time.Second, time.Millisecond)
	deadline := time.After(30 * time.Second)
	for {
		select {
		case err := <-ended:
			exit, ok := errors.AsType[*exec.ExitError](err)
			require.True(t, ok, "it ended as if all were saved: %v\n%s", err, out)
			status, _ := exit.Sys().(syscall.WaitStatus)
			assert.Equal(t, syscall.SIGINT, status.Signal())
			return
		case <-deadline:
			assert.Fail(t, "it waits")
			_ = cmd.Process.Kill()
			<-ended //nolint:errcheck // that it ended counts
			return
		case <-time.After(20 * time.Millisecond): // one that came before the first was taken note of is lost
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
}
