package pool

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// children are what TestMain may be in a child process; other files of this package's tests add
// theirs in an init function.
var children = map[string]func(m *testing.M){
	"ok":    inSetup(func(T) {}),
	"fatal": inSetup(func(t T) { t.Fatalf("no template %q", "photon") }),
	"error": inSetup(func(t T) { t.Errorf("first"); t.Errorf("second") }),
	"failnow": inSetup(func(t T) {
		defer t.Logf("deferred")
		t.FailNow()
	}),
	"skip":     inSetup(func(t T) { t.Skip("no", "vCenter") }),
	"skipf":    inSetup(func(t T) { t.Skipf("no %s", "vCenter") }),
	"skip now": inSetup(func(t T) { t.SkipNow() }),
	"fail and skip": inSetup(func(t T) {
		t.Errorf("first")
		t.SkipNow()
	}),
	"skip in a cleanup": inSetup(func(t T) {
		t.Cleanup(func() { t.Skip("nothing to clean") })
	}),
	"require": inSetup(func(t T) { require.Equal(t, 2, 3, "hosts") }),
	"panic":   inSetup(panicker),
	"goexit":  inSetup(func(T) { runtime.Goexit() }),
	"worker": inSetup(func(t T) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			t.Fatalf("from a worker")
		}()
		<-done
		t.Logf("setup goes on")
	}),
	"cleanups": inSetup(func(t T) {
		t.Cleanup(func() { t.Logf("cleanup one") })
		t.Cleanup(func() { t.Fatalf("cleanup two") })
		t.Cleanup(func() { panic("cleanup three") })
		t.Cleanup(func() { t.Cleanup(func() { t.Logf("cleanup five") }) })
	}),
	"cleanup context": inSetup(func(t T) {
		t.Cleanup(func() {
			t.Logf("cause: %v", context.Cause(t.Context()))
			t.Logf("without cancel: %v", context.WithoutCancel(t.Context()).Err())
			t.Logf("failed: %v", t.(interface{ Failed() bool }).Failed())
		})
	}),
	"background": inSetup(func(t T) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			<-t.Context().Done()
			t.Errorf("heartbeat lost")
		}()
		t.Cleanup(func() { <-ended })
	}),
	"other code": func(*testing.M) {
		Main(fakeM(func() int { return 7 }), func(t T) {
			t.Cleanup(func() { t.Errorf("cleanup fails") })
		})
	},
	"m panics": func(*testing.M) {
		Main(fakeM(func() int { panic("no tests today") }), func(t T) {
			t.Cleanup(func() { t.Logf("failed: %v", t.(*mainT).Failed()) })
		})
	},
	"code dropped": func(m *testing.M) { Run(m, func(t T) { t.Fatalf("no template") }) },
	"wait":         inSetup(func(t T) { waitCancelled(t); t.Fatalf("ensure: %v", context.Cause(t.Context())) }),
	"wait and go on": inSetup(func(t T) {
		waitCancelled(t)
	}),
	"kill":  killable(0),
	"burst": killable(time.Hour),
	"kill hangs": func(m *testing.M) {
		signalBurst = 0
		atKill(func(ctx context.Context) {
			fmt.Println("hangs", ctx.Err())
			<-ctx.Done()
			fmt.Println("done", ctx.Err())
			select {}
		})
		hang(m)
	},
	"wait in test": inSetup(func(t T) { inTest = func() { waitCancelled(t) } }),
	"fail in test": inSetup(func(t T) {
		t.Cleanup(func() { t.Logf("failed: %v", t.(*mainT).Failed()) })
		inTest = func() { panic(failTest) }
	}),
	"panic in test": inSetup(func(T) { inTest = func() { panic("in a test") } }),
	"run after a signal": func(m *testing.M) {
		wait := func(t T) { waitCancelled(t) }
		fmt.Println("code", Run(m, wait))
		fmt.Println("code", Run(m, func(T) { fmt.Println("setup") }))
		os.Exit(0)
	},
	"interrupt ignored": func(m *testing.M) {
		signal.Ignore(os.Interrupt, syscall.SIGHUP)
		Main(m, func(T) {
			fmt.Println("ready")
			_, _ = io.Copy(io.Discard, os.Stdin)
		})
	},
	"after run": func(m *testing.M) {
		fmt.Println("code", Run(m, func(T) {}))
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	},
	"leaks": func(m *testing.M) {
		code := Run(m, func(t T) { t.Cleanup(func() {}) })
		if err := goleak.Find(); err != nil {
			fmt.Println(err)
			code = 3
		}
		os.Exit(code)
	},
	"composed": func(m *testing.M) {
		goleak.VerifyTestMain(fakeM(func() int { return Run(m, func(T) {}) }))
	},
	"deadlines": inSetup(func(t T) {
		for _, f := range []func(T) (time.Time, bool){setupDeadline, deadline} {
			at, ok := f(t)
			if at.IsZero() {
				t.Logf("none %v", ok)
				continue
			}
			t.Logf("%v %v", at.Sub(processStart), ok)
		}
	}),
}

type fakeM func() int

func (f fakeM) Run() int { return f() }

// inSetup makes a TestMain whose setup is f, and which tells when cleanups run.
func inSetup(f func(T)) func(*testing.M) {
	return func(m *testing.M) {
		Main(m, func(t T) {
			t.Cleanup(func() { t.Logf("last cleanup") })
			f(t)
		})
	}
}

func panicker(T) { panic("boom") }

// hang is a TestMain that goes on after its first signal, until its input ends.
func hang(m *testing.M) {
	Main(m, func(t T) {
		waitCancelled(t)
		t.Logf("cancelled: %v", context.Cause(interrupted()))
		_, _ = io.Copy(io.Discard, os.Stdin)
	})
}

// killable is hang where signals of the first burst do not kill, and others first run a function.
func killable(burst time.Duration) func(*testing.M) {
	return func(m *testing.M) {
		signalBurst = burst
		atKill(func(context.Context) { fmt.Println("released") })
		atKill(func(context.Context) { fmt.Println("forgotten") })()
		hang(m)
	}
}

// waitCancelled waits for the end of t's context, once it has said that it does.
func waitCancelled(t T) {
	fmt.Println("ready")
	<-t.Context().Done()
}

// inTest is what TestChild does, as setup left it; a panic with failTest fails the test.
var inTest = func() {}

const failTest = "test is to fail"

// TestChild is the test that runs in the child processes.
func TestChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("it is the test that the child processes of other tests run")
	}
	fmt.Println("test runs")
	defer func() {
		switch r := recover(); r {
		case nil:
		case failTest:
			t.Error(r)
		default:
			panic(r)
		}
	}()
	inTest()
}

// child is a process of this test binary whose TestMain is an entry of children.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	from  *bufio.Reader // both its outputs, in the order written
	out   strings.Builder
}

func startChild(t *testing.T, mode string, args ...string) *child {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a child that hangs is killed
	t.Cleanup(cancel)
	args = append([]string{"-test.run=^TestChild$", "-test.timeout=10m"}, args...)
	cmd := exec.CommandContext(ctx, exe, args...)
	// The race detector would have each child sleep for a second at its end.
	cmd.Env = append(os.Environ(), childEnv+"="+mode, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	require.NoError(t, w.Close())
	require.NoError(t, err)
	return &child{t: t, cmd: cmd, stdin: stdin, from: bufio.NewReader(r)}
}

// await reads the child's output up to the line.
func (c *child) await(line string) {
	c.t.Helper()
	for {
		got, err := c.from.ReadString('\n')
		c.out.WriteString(got)
		require.NoErrorf(c.t, err, "child ended without the line %q:\n%s", line, &c.out)
		if got == line+"\n" {
			return
		}
	}
}

func (c *child) signal(s os.Signal) {
	c.t.Helper()
	require.NoError(c.t, c.cmd.Process.Signal(s))
}

// wait returns all of the child's output and how it ended.
func (c *child) wait() (string, *os.ProcessState) {
	c.t.Helper()
	_, err := io.Copy(&c.out, c.from)
	require.NoError(c.t, err)
	var exit *exec.ExitError
	if err := c.cmd.Wait(); !errors.As(err, &exit) {
		require.NoError(c.t, err)
	}
	return c.out.String(), c.cmd.ProcessState
}

// inOrder asserts that text holds the parts, in that order.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, ok := strings.Cut(rest, part)
		require.Truef(t, ok, "want %q, in the order of %q, in:\n%s", part, parts, text)
		rest = after
	}
}
