package pool

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// T is the part of *testing.T that this package uses. *testing.T, *testing.B and *testing.F
// satisfy it, Main gives TestMain one, and any T is a testify require.TestingT. The methods mean
// what they mean in package testing; FailNow and Fatalf end the goroutine that calls them.
//
// T will not grow: what a test may have beyond it (Deadline, Failed, ArtifactDir, Attr, Run) is
// used where a type assertion finds it, and never required.
type T interface {
	Helper()
	Name() string
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	FailNow()
}

// TestingM is the part of *testing.M that Main and Run use, so that other wrappers of TestMain
// compose with them.
type TestingM interface {
	Run() int
}

// Main runs setup, then the tests of m, then the cleanups that setup registered, and exits.
// It is all that a TestMain needs:
//
//	func TestMain(m *testing.M) {
//		pool.Main(m, func(t pool.T) { lab = pool.Ensure(t, spec) })
//	}
//
// The exit code is that of the tests; 0 becomes 1 if setup or a cleanup failed or a signal
// stopped the run, and no other code is ever changed.
//
// Setup may do with its t what a test may do with its own, with these differences:
//
//   - When setup fails, by Errorf as much as by FailNow, Fatalf or a panic, no test is run.
//   - Name is "TestMain". Messages go to standard error, those of Logf as they are, those of
//     Errorf and Fatalf after the file and line of the caller. go test merges both outputs of the
//     test binary, and shows them as they come with -v (of one package) or -json, and when it is
//     started in the package's own directory without naming a package; else at the package's end,
//     and of a package that passed or was interrupted not at all. Standard output would do the
//     same, but while an Example runs it belongs to the Example.
//   - Context is cancelled before the cleanups run, as in package testing, and earlier by the
//     first SIGINT or SIGTERM and when setup takes longer than go test's -timeout;
//     [context.Cause] tells which. A cleanup that needs a context makes one with
//     [context.WithoutCancel] and a time limit of its own.
//   - Cleanups run after the tests, last registered first, each on a goroutine of its own: a
//     panic, Fatalf or FailNow in one does not keep the others from running.
//   - Failed, by type assertion, tells in a cleanup whether the setup, a test or an earlier
//     cleanup failed.
//
// The first signal also makes the run fail, but stops no test that does not use setup's Context,
// or something bound to it. Main then waits for the tests and the cleanups; a second signal kills
// the process. A signal that the process was started to ignore, as a shell script's background jobs
// ignore SIGINT, stays ignored.
//
// Cleanups do not run when the process dies: by a second signal, by a panic in a test or in a
// goroutine of setup's own, by os.Exit, by go test's -timeout once the tests run, or when the go
// command kills the binary. It does so at -timeout plus a minute (or plus a tenth, if that is
// more), counted from the start of the process, so that setup and tests together have 11 minutes
// by default. With -timeout 0, -bench or -fuzz it does not.
//
// The result of a package with Main is never cached: go test does not know what setup reads, and so
// not that another vCenter is meant now, or that the pools have gone.
//
// go test -list runs neither setup nor cleanups; go test -run '^$' runs both and no test, and so
// makes ready what setup makes.
func Main(m TestingM, setup func(t T)) { os.Exit(Run(m, setup)) }

// Run is Main without the exit: it returns the exit code, for a TestMain that has more to do:
//
//	os.Exit(pool.Run(m, setup))
//
// The code must reach os.Exit. A TestMain that drops it and returns makes go test print ok for
// a package whose setup failed and whose tests were not run.
//
// When Run returns, nothing that it started runs any more, and signals are as they were before.
func Run(m TestingM, setup func(t T)) (code int) {
	if !flag.Parsed() {
		flag.Parse()
	}
	if testFlag("list") != "" {
		return m.Run()
	}
	if testFlag("testlogfile") != "" {
		// go test notes what the tests read, and repeats an ok while that is the same; but not what is
		// read before them, as by setup. Without that log it does not keep the result.
		_ = flag.Set("test.testlogfile", "") // a string takes every value
	}
	t := newMainT()
	endSignals := t.abortOnSignal()
	defer func() { // deferred, so that cleanups run even if m.Run panics
		if code != 0 {
			t.fail()
		}
		t.cancel(errTestsOver)
		for t.runCleanup() {
		}
		endSignals()
		if code == 0 && t.Failed() {
			t.Logf("TestMain: failed; exit code 1 although the tests passed")
			code = 1
		}
	}()

	endClock := t.abortAtTimeout(processStart, testTimeout())
	t.protect("setup", func() { setup(t) })
	endClock()
	if t.Failed() {
		t.Logf("TestMain: setup failed; no test was run")
		return 1
	}
	code = 1 // for the cleanups, should m.Run panic
	return m.Run()
}

// errTestsOver is the cause that cancels the context of Main's T before the cleanups.
var errTestsOver = errors.New("the tests are over")

// mainT is the T that Main gives to setup.
type mainT struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    io.Writer

	mu       sync.Mutex // guards what follows
	failed   bool
	cleanups []func()
	helpers  map[string]bool // functions that called Helper
}

func newMainT() *mainT {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &mainT{ctx: ctx, cancel: cancel, out: os.Stderr, helpers: make(map[string]bool)}
}

func (t *mainT) Name() string             { return "TestMain" }
func (t *mainT) Context() context.Context { return t.ctx }

func (t *mainT) Logf(format string, args ...any) { t.print(fmt.Sprintf(format, args...)) }

func (t *mainT) Errorf(format string, args ...any) {
	t.fail()
	t.print(t.caller() + fmt.Sprintf(format, args...))
}

func (t *mainT) Fatalf(format string, args ...any) {
	t.fail()
	t.print(t.caller() + fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (t *mainT) FailNow() {
	t.fail()
	runtime.Goexit()
}

// Failed tells whether setup, a test or a cleanup has failed so far, or a signal arrived.
func (t *mainT) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

func (t *mainT) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// Helper makes caller pass over the function that calls it.
func (t *mainT) Helper() {
	var pc [1]uintptr
	if runtime.Callers(2, pc[:]) == 0 {
		return
	}
	frame, _ := runtime.CallersFrames(pc[:]).Next()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.helpers[frame.Function] = true
}

// caller returns "file.go:12: ", which is where the exported method that calls it was called,
// not counting helpers; or "" if there are but helpers.
func (t *mainT) caller() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		frame, more := frames.Next()
		if frame.Function != "" && !t.helpers[frame.Function] {
			return fmt.Sprintf("%s:%d: ", filepath.Base(frame.File), frame.Line)
		}
		if !more {
			return ""
		}
	}
}

func (t *mainT) fail() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = true
}

// print writes the message as whole lines, in one call, so that those of two goroutines do not mix.
func (t *mainT) print(msg string) {
	if !strings.HasSuffix(msg, "\n") {
		msg += "\n"
	}
	_, _ = io.WriteString(t.out, msg) // there is nowhere left to report an error
}

// protect runs f and waits for it, on its own goroutine, so that the runtime.Goexit in FailNow
// ends f alone. It turns a panic of f into a failure, and also an end that is none of f's
// returning, failing or panicking: setup that called runtime.Goexit has not set up.
func (t *mainT) protect(what string, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			switch r := recover(); {
			case r != nil:
				t.fail()
				t.Logf("TestMain: panic in %s: %v\n\n%s", what, r, debug.Stack())
			case !returned && !t.Failed():
				t.fail()
				t.Logf("TestMain: %s called runtime.Goexit", what)
			}
		}()
		f()
		returned = true
	}()
	<-done
}

// runCleanup runs the cleanup registered last, and tells whether there was one.
func (t *mainT) runCleanup() bool {
	t.mu.Lock()
	n := len(t.cleanups)
	if n == 0 {
		t.mu.Unlock()
		return false
	}
	f := t.cleanups[n-1]
	t.cleanups = t.cleanups[:n-1]
	t.mu.Unlock()
	t.protect("a cleanup", f)
	return true
}

// abort fails the run and cancels its context, once it has said why.
func (t *mainT) abort(cause error, next string) {
	t.fail()
	t.Logf("TestMain: %v; %s", cause, next)
	t.cancel(cause)
}

// abortOnSignal makes the first SIGINT or SIGTERM abort the run, and leaves all others to their
// default, which is to kill the process. The end that it returns stops that.
func (t *mainT) abortOnSignal() (end func()) {
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		if !signal.Ignored(s) { // Notify would bring it back
			signal.Notify(signals, s)
		}
	}
	return during(func(stop <-chan struct{}) {
		var s os.Signal
		select {
		case s = <-signals:
		case <-stop:
		}
		signal.Stop(signals) // before the context ends: who sees that may rely on a second one to kill
		if s == nil {
			select {
			case s = <-signals: // came together with stop
			default:
				return
			}
		}
		t.abort(fmt.Errorf("stopped by signal: %v", s), "cleaning up; a second signal kills")
	})
}

// abortAtTimeout aborts the run when the process is as old as timeout, unless end is called
// before: once end has returned, the run is aborted or will not be. 0 means never.
func (t *mainT) abortAtTimeout(start time.Time, timeout time.Duration) (end func()) {
	if timeout <= 0 {
		return func() {}
	}
	return during(func(stop <-chan struct{}) {
		timer := time.NewTimer(time.Until(start.Add(timeout)))
		defer timer.Stop()
		select {
		case <-timer.C:
			t.abort(fmt.Errorf("setup reached go test's -timeout (%v) before the tests started; "+
				"set it to setup plus tests, or 0 for none", timeout), "cancelling it")
		case <-stop:
		}
	})
}

// during runs f on a goroutine; end tells it to stop and waits for it.
func during(f func(stop <-chan struct{})) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		f(stop)
	}()
	return func() {
		close(stop)
		<-ended
	}
}
