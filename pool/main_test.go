package pool

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var (
	_ T                = (*testing.T)(nil)
	_ T                = (*testing.B)(nil)
	_ T                = (*testing.F)(nil)
	_ T                = (*mainT)(nil)
	_ TestingM         = (*testing.M)(nil)
	_ require.TestingT = T(nil)
)

// childEnv names, in a child process, the entry of children that is its TestMain.
const childEnv = "POOLREADY_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300) // a simulated vCenter makes much garbage, and keeps little
	}
	if mode := os.Getenv(childEnv); mode != "" {
		main, ok := children[mode]
		if !ok {
			fmt.Fprintf(os.Stderr, "no child %q\n", mode)
			os.Exit(99)
		}
		main(m)
		return
	}
	// Most tests wait, for machines and for leases; those that measure time or count calls are not
	// parallel. -parallel overrides this.
	_ = flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0))))
	cache, err := os.MkdirTemp("", "pool-test-") // for what Host.Login writes
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("XDG_CACHE_HOME", cache)
	_ = os.Setenv("POOLREADY_DIR", cache)
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(cache)
		os.Exit(code)
	}))
}

func TestMainRunsSetupTestsAndCleanups(t *testing.T) {
	t.Parallel()
	const ran, last = "test runs\n", "last cleanup\n"
	const notRun = "TestMain: setup failed; no test was run\n"
	tests := []struct {
		name, mode string
		args       []string
		code       int
		want       []string // in this order
		not        []string
	}{
		{name: "all well", mode: "ok", want: []string{ran, "PASS\n", last}, not: []string{"TestMain"}},
		{name: "run ^$ runs setup and no test", mode: "ok", args: []string{"-test.run=^$"}, want: []string{last}, not: []string{ran}},
		{name: "list runs tests' list alone", mode: "fatal", args: []string{"-test.list=."}, want: []string{"TestChild\n"}, not: []string{"photon", last}},
		{name: "fatal setup", mode: "fatal", code: 1, want: []string{"child_test.go:", `: no template "photon"` + "\n", notRun, last}, not: []string{ran}},
		{name: "errors in setup", mode: "error", code: 1, want: []string{": first\n", ": second\n", notRun, last}, not: []string{ran}},
		{name: "fail now runs defers", mode: "failnow", code: 1, want: []string{"deferred\n", notRun, last}, not: []string{ran}},
		{name: "setup skips", mode: "skip", want: []string{"child_test.go:", ": no vCenter\n", "TestMain: setup skipped; no test was run\n", "testing: warning: no tests to run\n", last}, not: []string{ran}},
		{name: "setup skips with a format", mode: "skipf", want: []string{"child_test.go:", ": no vCenter\n", "setup skipped", last}, not: []string{ran}},
		{name: "setup skips without a word", mode: "skip now", want: []string{"setup skipped", last}, not: []string{ran}},
		{name: "setup fails and skips", mode: "fail and skip", code: 1, want: []string{": first\n", notRun, last}, not: []string{ran, "setup skipped"}},
		{name: "skip in a cleanup", mode: "skip in a cleanup", want: []string{ran, "PASS\n", ": nothing to clean\n", last}, not: []string{"setup skipped"}},
		{name: "testify in setup", mode: "require", code: 1, want: []string{"Error Trace:", "child_test.go:", "hosts", notRun, last}, not: []string{ran}},
		{name: "panic in setup with its stack", mode: "panic", code: 1, want: []string{"TestMain: panic in setup: boom\n", "pool.panicker(", notRun, last}, not: []string{ran}},
		{name: "goexit in setup", mode: "goexit", code: 1, want: []string{"TestMain: setup called runtime.Goexit\n", notRun, last}, not: []string{ran}},
		{name: "fatal on another goroutine", mode: "worker", code: 1, want: []string{": from a worker\n", "setup goes on\n", notRun, last}, not: []string{ran}},
		{
			name: "each cleanup runs whatever the others do", mode: "cleanups", code: 1,
			want: []string{ran, "PASS\n", "cleanup five\n", "panic in a cleanup: cleanup three\n", ": cleanup two\n", "cleanup one\n", last, "TestMain: failed; exit code 1 although the tests passed\n"},
		},
		{
			name: "context is over before cleanups", mode: "cleanup context",
			want: []string{ran, "cause: the tests are over\n", "without cancel: <nil>\n", "failed: false\n", last},
		},
		{name: "failure in the background after setup", mode: "background", code: 1, want: []string{ran, "PASS\n", ": heartbeat lost\n", last}},
		{name: "failing test", mode: "fail in test", code: 1, want: []string{ran, "FAIL\n", "failed: true\n", last}, not: []string{"although"}},
		{name: "panicking test ends the process", mode: "panic in test", code: 2, want: []string{ran, "panic: in a test"}, not: []string{last}},
		{name: "other codes stay", mode: "other code", code: 7, want: []string{": cleanup fails\n"}},
		{name: "panic of m", mode: "m panics", code: 2, want: []string{"failed: true\n", "panic: no tests today"}},
		{name: "code dropped is a silent pass", mode: "code dropped", code: 0, want: []string{": no template\n"}, not: []string{ran}},
		{name: "run leaves no goroutine", mode: "leaks", want: []string{ran, "PASS\n"}},
		{name: "run within another wrapper", mode: "composed", want: []string{ran, "PASS\n"}},
		{
			name: "setup reaches the timeout", mode: "wait", args: []string{"-test.timeout=10ms"}, code: 1,
			want: []string{"TestMain: setup reached go test's -timeout (10ms)", ": ensure: setup reached go test's -timeout (10ms) before the tests started; set it to setup plus tests, or 0 for none\n", notRun, last}, not: []string{ran},
		},
		{
			name: "setup ignores the timeout", mode: "wait and go on", args: []string{"-test.timeout=10ms"}, code: 1,
			want: []string{"-timeout (10ms)", notRun, last}, not: []string{ran},
		},
		{name: "deadlines", mode: "deadlines", args: []string{"-test.timeout=20m"}, want: []string{"20m0s true\n22m0s true\n"}},
		{name: "no deadlines without timeout", mode: "deadlines", args: []string{"-test.timeout=0"}, want: []string{"none false\n", "none false\n"}, not: []string{"true"}},
		{name: "no deadlines with benchmarks", mode: "deadlines", args: []string{"-test.bench=^none$"}, want: []string{"none false\n", "none false\n"}, not: []string{"true"}},
		{name: "no deadlines with fuzzing", mode: "deadlines", args: []string{"-test.fuzz=^none$", "-test.fuzzcachedir=" + t.TempDir()}, want: []string{"none false\n", "none false\n"}, not: []string{"true"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, state := startChild(t, tt.mode, tt.args...).wait()
			assert.Equalf(t, tt.code, state.ExitCode(), "%v, output:\n%s", state, out)
			inOrder(t, out, tt.want...)
			for _, not := range tt.not {
				assert.NotContains(t, out, not)
			}
		})
	}
}

func TestMainSignals(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("one process cannot send another an interrupt on Windows")
	}
	const ran, last = "test runs\n", "last cleanup\n"
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if signal.Ignored(s) {
			t.Logf("%v is ignored by this process, and so by its children: not tested", s)
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			stopped := "TestMain: stopped by signal: " + s.String() + "; cleaning up; a second signal kills\n"
			start := func(t *testing.T, mode string) *child {
				t.Helper()
				t.Parallel()
				c := startChild(t, mode)
				c.await("ready")
				c.signal(s)
				return c
			}
			killed := func(t *testing.T, c *child) string {
				t.Helper()
				out, state := c.wait()
				status := state.Sys().(syscall.WaitStatus)
				require.Truef(t, status.Signaled(), "%v, output:\n%s", state, out)
				assert.Equal(t, s, status.Signal())
				return out
			}

			t.Run("cancels setup", func(t *testing.T) {
				out, state := start(t, "wait").wait()
				assert.Equal(t, 1, state.ExitCode(), out)
				inOrder(t, out, stopped, ": ensure: stopped by signal: "+s.String()+"\n", "no test was run\n", last)
				assert.NotContains(t, out, ran)
			})
			t.Run("skips the tests if setup takes no notice", func(t *testing.T) {
				out, state := start(t, "wait and go on").wait()
				assert.Equal(t, 1, state.ExitCode(), out)
				inOrder(t, out, stopped, "no test was run\n", last)
				assert.NotContains(t, out, ran)
			})
			t.Run("lets tests end and fails the run", func(t *testing.T) {
				out, state := start(t, "wait in test").wait()
				assert.Equal(t, 1, state.ExitCode(), out)
				inOrder(t, out, ran, stopped, "PASS\n", last)
			})
			cancelled := "cancelled: stopped by signal: " + s.String()
			t.Run("kills the second time", func(t *testing.T) {
				c := start(t, "kill")
				c.await(cancelled)
				c.signal(s)
				out := killed(t, c)
				inOrder(t, out, stopped, cancelled+"\n", "released\n")
				assert.NotContains(t, out, last)
				assert.NotContains(t, out, "forgotten")
			})
			t.Run("does not kill if several come at once", func(t *testing.T) {
				c := start(t, "burst")
				c.await(cancelled)
				c.signal(syscall.SIGTERM)
				c.signal(s)
				// Once the process ends, a signal that is still pending has its default effect.
				status := fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid)
				require.Eventually(t, func() bool {
					text, err := os.ReadFile(status)
					return err != nil || strings.Contains(string(text), "ShdPnd:\t0000000000000000\n")
				}, time.Minute, time.Millisecond)
				require.NoError(t, c.stdin.Close())
				out, state := c.wait()
				assert.Equal(t, 1, state.ExitCode(), out)
				assert.NotContains(t, out, "released")
			})
			t.Run("runs nothing later", func(t *testing.T) {
				out, state := start(t, "run after a signal").wait()
				assert.Equal(t, 0, state.ExitCode(), out)
				inOrder(t, out, stopped, "code 1\n", "TestMain: stopped by signal: "+s.String()+"; no test was run\n", "code 1\n")
				assert.NotContains(t, out, "setup\n")
			})
			t.Run("kills after Run", func(t *testing.T) {
				out := killed(t, start(t, "after run"))
				inOrder(t, out, ran, "code 0\n")
			})
		})
	}

	t.Run("kills what delays the end", func(t *testing.T) {
		t.Parallel()
		c := startChild(t, "kill hangs")
		c.await("ready")
		c.signal(syscall.SIGTERM)
		c.await("cancelled: stopped by signal: terminated")
		c.signal(syscall.SIGTERM)
		out, state := c.wait()
		assert.Equal(t, syscall.SIGTERM, state.Sys().(syscall.WaitStatus).Signal(), out)
		inOrder(t, out, "hangs <nil>\n")
	})
	t.Run("ignored from the start stays ignored", func(t *testing.T) {
		t.Parallel()
		c := startChild(t, "interrupt ignored")
		c.await("ready")
		c.signal(os.Interrupt)
		c.signal(syscall.SIGHUP)
		require.NoError(t, c.stdin.Close())
		out, state := c.wait()
		assert.Equal(t, 0, state.ExitCode(), out)
		inOrder(t, out, ran, "PASS\n")
	})
}

func TestAbortAtTimeout(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name                 string
		age, timeout, lasted time.Duration // of the process, of go test, of setup
		abort                bool
	}{
		{name: "setup in time", timeout: time.Minute, lasted: time.Minute - 1},
		{name: "setup too long", timeout: time.Minute, lasted: time.Minute + 1, abort: true},
		{name: "counts from the start of the process", age: time.Hour, timeout: 61 * time.Minute, lasted: time.Minute + 1, abort: true},
		{name: "process already too old", age: time.Hour, timeout: time.Minute, lasted: 1, abort: true},
		{name: "no timeout", lasted: 1000 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				m := newMainT()
				m.out = &out
				begun := time.Now()
				end := m.abortAtTimeout(begun.Add(-tt.age), tt.timeout)
				select {
				case <-m.Context().Done():
					assert.Equal(t, max(0, tt.timeout-tt.age), time.Since(begun))
				case <-time.After(tt.lasted):
				}
				end()
				time.Sleep(24 * time.Hour) // of the bubble: what may still fire, fires
				synctest.Wait()
				assert.Equal(t, tt.abort, m.Failed())
				assert.Equal(t, tt.abort, m.Context().Err() != nil)
				assert.Equal(t, tt.abort, strings.Contains(out.String(), "-timeout ("+tt.timeout.String()+")"))
			})
		})
	}
}

func TestErrorsNameTheCallerOfHelpers(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	m := newMainT()
	m.out = &out
	line := func() int {
		_, _, line, _ := runtime.Caller(1)
		return line
	}
	inner := func(t T) {
		t.Helper()
		t.Errorf("not %d", 3)
	}
	outer := func(t T) {
		t.Helper()
		inner(t)
	}
	want := fmt.Sprintf("main_test.go:%d: not 3\n", line()+1)
	outer(m)
	assert.Equal(t, want, out.String())

	out.Reset()
	m.Logf("con1: cloned")
	m.Logf("con2: two\nlines\n")
	assert.Equal(t, "con1: cloned\ncon2: two\nlines\n", out.String())
}
