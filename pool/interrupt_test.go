package pool_test

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func init() {
	pool.AddChild("interrupted", interruptedChild)
	pool.AddChild("interrupted build", func(m *testing.M) {
		flag.Parse()
		must(flag.Set("test.run", "^TestInterruptedBuildChild$"))
		pool.Main(m, func(pool.T) { building = true })
	})
}

// building says that this is the process of TestInterruptedBuildChild.
var building bool

// TestInterruptedBuildChild builds the set in a test, and hangs in a step of it.
func TestInterruptedBuildChild(t *testing.T) {
	if !building {
		t.Skip("it runs in the child process of another test")
	}
	spec, provider := labSpec()
	t.Cleanup(func() {
		must(provider.Close(context.Background()))
		say("ended", t.Failed())
	})
	pool.Ensure(t, spec)
}

// Of a process that is interrupted, what its setup left for TestInterruptedChild.
var (
	childSet    *pool.Set
	interrupted context.Context // ends with the first signal
)

// hangEnv has the tests of such a process not end when the work on their pools does.
const hangEnv = "CHILD_HANGS"

// interruptedChild is the TestMain of a process that is interrupted while its tests run.
func interruptedChild(m *testing.M) {
	if os.Getenv(hangEnv) != "" {
		pool.CountEverySignal()
	}
	flag.Parse()
	must(flag.Set("test.run", "^TestInterruptedChild$"))
	must(flag.Set("test.parallel", "10"))
	pool.Main(m, func(t pool.T) {
		spec, provider := labSpec()
		t.Cleanup(func() {
			must(provider.Close(context.Background()))
			say("cleaned up")
		})
		childSet, interrupted = pool.Ensure(t, spec), t.Context()
	})
}

// TestInterruptedChild is what the tests of such a process do: three run a command for an hour, each
// on a pool of its own, one waits for a pool, and one wants a pool when the signal has come.
func TestInterruptedChild(t *testing.T) {
	if childSet == nil {
		t.Skip("it runs in the child processes of other tests")
	}
	var working sync.WaitGroup
	for range 3 {
		working.Add(1)
		t.Run("works", func(t *testing.T) {
			t.Parallel()
			con := childSet.Acquire(t).Host("con")
			t.Cleanup(func() { say("stopped working", t.Failed()) })
			say("works")
			working.Done()
			if os.Getenv(hangEnv) != "" {
				defer func() { select {} }()
			}
			con.MustRun(t, "sleep", "3600")
		})
	}
	t.Run("waits", func(t *testing.T) {
		t.Parallel()
		working.Wait()
		t.Cleanup(func() { say("stopped waiting", t.Failed()) })
		childSet.Acquire(t)
		say("violation")
	})
	t.Run("is late", func(t *testing.T) {
		t.Parallel()
		<-interrupted.Done()
		t.Cleanup(func() { say("was late", t.Failed()) })
		childSet.Acquire(t)
		say("violation")
	})
}

// interruptedLease is longer than any of this may take.
const interruptedLease = 10 * time.Minute

// startInterrupted starts such a process, and returns when three tests work and one waits.
func (s *standing) startInterrupted(spec pool.Spec, env ...string) *talker {
	s.t.Helper()
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if signal.Ignored(sig) { // as by nohup; the process would inherit that
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
	c := s.talk("interrupted", interruptedLease, env...)
	for range 3 {
		c.await("works")
	}
	require.Eventually(s.t, func() bool {
		st, err := pool.ReadStatus(s.t.Context(), spec)
		return err == nil && len(st.Waiting) == 1
	}, time.Minute, 10*time.Millisecond)
	require.Len(s.t, s.leases(spec), 3)
	return c
}

// leases returns the leases that the ledger has, even of a process that is gone, which Status passes
// over.
func (s *standing) leases(spec pool.Spec) (all []*pool.Lease) {
	s.t.Helper()
	l, err := spec.Provider.Ledger(s.t.Context(), spec.Name)
	require.NoError(s.t, err)
	for _, shard := range l.Shards {
		for key, text := range shard.Values {
			if strings.HasPrefix(key, "account.") {
				continue
			}
			var entry struct {
				Lease *pool.Lease `json:"lease"`
			}
			require.NoError(s.t, json.Unmarshal([]byte(text), &entry), text)
			if entry.Lease != nil {
				all = append(all, entry.Lease)
			}
		}
	}
	return all
}

// end returns all that it said, and how it ended.
func (c *talker) end() (string, *os.ProcessState) {
	c.t.Helper()
	for c.lines.Scan() {
		c.said = append(c.said, c.lines.Text())
	}
	_ = c.Wait() // the state says more
	return strings.Join(c.said, "\n"), c.ProcessState
}

func TestTheFirstSignalEndsWhatTestsRunOnPoolsAndReleasesThem(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	_, spec := s.open(interruptedLease)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		c := s.startInterrupted(spec)
		require.NoError(t, c.Process.Signal(sig))
		said, state := c.end()
		assert.Equal(t, 1, state.ExitCode(), said)
		assert.Equal(t, 3, strings.Count(said, "stopped working true"), said)
		assert.Contains(t, said, "stopped waiting true", sig)
		assert.Contains(t, said, "was late true", sig)
		assert.NotContains(t, said, "violation", sig)
		why := regexp.MustCompile(`interrupt_test\.go:\d+: (?:sshx: con\d: run|pool: acquire).*stopped by signal: ` + sig.String())
		assert.Len(t, why.FindAllString(said, -1), 5, "why each test failed:\n%s", said)
		assert.Contains(t, said, "cleaned up", sig)
		assert.Empty(t, s.leases(spec), sig)
	}
}

func TestTheSecondSignalReleasesPoolsBeforeItKills(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	_, spec := s.open(interruptedLease)
	c := s.startInterrupted(spec, hangEnv+"=1")
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	c.await("was late true")
	require.Len(t, s.leases(spec), 3)
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	said, state := c.end()
	assert.Equal(t, syscall.SIGTERM, state.Sys().(syscall.WaitStatus).Signal(), said)
	assert.NotContains(t, said, "stopped working")
	assert.NotContains(t, said, "cleaned up")
	assert.Empty(t, s.leases(spec))
}

func TestTheFirstSignalEndsABuildInATest(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	c := s.talk("interrupted build", 10*time.Minute, "CHILD_HALF=1")
	c.await("half")
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	said, state := c.end()
	assert.Equal(t, 1, state.ExitCode(), said)
	assert.Contains(t, said, "ended true")
	assert.Contains(t, said, "stopped by signal: terminated")
	spec, provider, err := s.spec(10*time.Minute, t.Logf)
	require.NoError(t, err)
	defer func() { assert.NoError(t, provider.Close(context.WithoutCancel(t.Context()))) }()
	assert.Empty(t, s.leases(spec))
}
