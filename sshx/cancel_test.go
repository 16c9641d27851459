package sshx_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

func TestNothingRunsInAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		file := m.dir(t) + "/ran"
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		for range 10 {
			_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}}) // has a session opened ahead
			require.NoError(t, err)
			for _, cmd := range []sshx.Cmd{
				{Args: []string{"touch", file}},
				{Args: []string{"touch", file}, Stdin: strings.NewReader("")},
				{Script: "touch " + file},
			} {
				res, err := c.Run(ctx, cmd)
				require.ErrorIs(t, err, cause)
				assert.NotContains(t, err.Error(), "may still run")
				assert.Empty(t, res.Stdout)
			}
			_, err = c.Detach(ctx, sshx.Cmd{Script: "touch " + file})
			require.ErrorIs(t, err, cause)
		}
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.NoError(t, err)
		assert.False(t, m.exists(t, file))
	})
}

// settle makes the next command cost one request: its session is open, its login shell known.
func settle(t *testing.T, c *sshx.Client) {
	t.Helper()
	for range 2 {
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.NoError(t, err)
	}
	require.Eventually(t, c.HasSpare, quick, time.Millisecond)
}

// The machine has been asked to run the command, and has not answered yet.
func TestCommandThatIsCancelledWhileItStartsIsKilled(t *testing.T) {
	t.Parallel()
	for name, cmd := range map[string]sshx.Cmd{
		"args":   {Args: []string{"sleep", "1000"}},
		"stdin":  {Args: []string{"sleep", "1000"}, Stdin: strings.NewReader("in")},
		"script": {Script: "sleep 1000"},
		"user":   {Args: []string{"sleep", "1000"}, Stdin: strings.NewReader("in"), User: "ops"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSim(t)
			c := dial(t, m)
			settle(t, c)
			m.SetFaults(sshtest.Faults{Frozen: true})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			context.AfterFunc(ctx, func() { m.SetFaults(sshtest.Faults{}) })
			_, err := c.Run(ctx, cmd)
			ce, ok := errors.AsType[*sshx.CanceledError](err)
			require.True(t, ok, "%v", err)
			assert.True(t, ce.Killed, "%v", err)
			require.NoError(t, c.Err())
		})
	}
}

func TestInputThatFailsEndsTheCommand(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		broken := errors.New("broken pipe of ours")
		for range 3 { // the third is run by the login shell itself
			in := io.MultiReader(strings.NewReader("some\n"), iotest.ErrReader(broken))
			_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/bin/sh", "-c", "trap '' PIPE; cat; sleep 1000"}, Stdin: in})
			ce, ok := errors.AsType[*sshx.CanceledError](err)
			require.True(t, ok, "%v", err)
			require.ErrorIs(t, err, broken)
			assert.True(t, ce.Killed, "%v", err)
			_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
			require.NoError(t, err)
		}
	})
}

func TestWriterThatBlocksHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		blocked, release := make(chan struct{}), make(chan struct{})
		defer close(release)
		var once sync.Once
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-blocked; cancel() }()
		_, err := c.Run(ctx, sshx.Cmd{
			Script: "echo up; sleep 1000",
			Stdout: writer(func(p []byte) (int, error) { once.Do(func() { close(blocked) }); <-release; return len(p), nil }),
		})
		ce, ok := errors.AsType[*sshx.CanceledError](err)
		require.True(t, ok, "%v", err)
		assert.True(t, ce.Killed)
		closed := make(chan struct{})
		go func() { defer close(closed); c.Close() }()
		select {
		case <-closed:
		case <-time.After(quick):
			t.Error("Close waits for a writer of ours")
		}
	})
}

// A tripwire makes connections that call f when so many bytes were sent since it was set.
type tripwire struct {
	mu   sync.Mutex
	left int
	f    func()
}

func (w *tripwire) set(left int, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.left, w.f = left, f
}

func (w *tripwire) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return &wired{c, w}, err
}

type wired struct {
	net.Conn
	w *tripwire
}

func (c *wired) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.left -= n; c.w.left <= 0 && c.w.f != nil {
		c.w.f()
		c.w.f = nil
	}
	return n, err
}

func TestConnectionThatIsLostAtAnyStage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		faults sshtest.Faults // once the connection is there
		sent   int            // bytes, until it is lost
		cmd    sshx.Cmd
	}{
		"a session is opened":  {sshtest.Faults{RefuseSessions: true}, 1, sshx.Cmd{Args: []string{"true"}}},
		"the command is asked": {sshtest.Faults{Frozen: true}, 1, sshx.Cmd{Args: []string{"true"}}},
		"the script is sent":   {sshtest.Faults{StallWindow: true}, 1 << 20, sshx.Cmd{Script: strings.Repeat("# 0123456789abcdef\n", 1<<18)}},
		"stdin is sent":        {sshtest.Faults{StallWindow: true}, 1 << 20, sshx.Cmd{Args: []string{"cat"}, Stdin: endless{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSim(t)
			wire := &tripwire{}
			cl := dial(t, m, func(cfg *sshx.Config) { cfg.Dialer = wire })
			if name != "a session is opened" {
				settle(t, cl)
			}
			m.SetFaults(c.faults)
			wire.set(c.sent, m.DropConnections)
			_, err := cl.Run(t.Context(), c.cmd)
			require.Error(t, err)
			assert.NotZero(t, cl.Err())
			if name == "a session is opened" {
				require.ErrorIs(t, err, cl.Err())
				return
			}
			de, ok := errors.AsType[*sshx.DisconnectedError](err)
			require.True(t, ok, "%v", err)
			require.ErrorIs(t, err, cl.Err())
			if name != "stdin is sent" { // the marker may have come, or not yet
				assert.False(t, de.Started, "%v", err)
			}
		})
	}
}

// endless is a reader that always has more.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// The login shell is not what $SHELL says, and is asked by several at once whether it is.
func TestLoginShellsThatAreNotWhatTheySayToSeveralAtOnce(t *testing.T) {
	t.Parallel()
	c, _ := forced(t, `case $SSH_ORIGINAL_COMMAND in "set -- "*) echo "fish: no" >&2; exit 127;; esac
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"`)
	echo(t, c)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"echo"}})
			assert.NoError(t, err)
		})
	}
	wg.Wait()
}

// Who gives up on Detach never learns the job's ID: there must be no job.
func TestDetachThatIsCancelledLeavesNoJob(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	t.Cleanup(func() { removeJobs(t, dir) })
	// The session ends when we give up, some time after the job was started.
	c, _ := forced(t, `case $SSH_ORIGINAL_COMMAND in *"setsid: not found"*)
	/bin/sh -c "$SSH_ORIGINAL_COMMAND" >/dev/null; while [ ! -s `+dir+`/pid ]; do sleep 0.01; done; touch `+dir+`/up; cat >/dev/null; exit 0;; esac
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := c.Detach(ctx, sshx.Cmd{Script: "echo $$ >" + dir + "/pid; sleep 1000"})
		done <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(dir + "/up"); return err == nil }, quick, 10*time.Millisecond)
	cancel()
	ce, ok := errors.AsType[*sshx.CanceledError](<-done)
	require.True(t, ok)
	assert.True(t, ce.Killed)
	b, err := os.ReadFile(dir + "/pid")
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	assert.False(t, running(pid), "the job goes on")
}

// contextWithLine returns a context that ends when cmd prints a line.
func contextWithLine(t *testing.T, cmd *sshx.Cmd) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd.Stdout = &lines{line: func(string) { cancel() }}
	return ctx, cancel
}
