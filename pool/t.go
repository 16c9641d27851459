package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// T is the part of *testing.T that this package uses. *testing.T, *testing.B and *testing.F
// satisfy it, Main gives TestMain one, and any T is a testify require.TestingT. The methods mean
// what they mean in package testing; FailNow and Fatalf end the goroutine that calls them.
//
// What a test may have beyond T (Deadline, Failed, Skipped, ArtifactDir, Attr, Run) is used where a
// type assertion finds it, and never required.
type T interface {
	Helper()
	Name() string
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	FailNow()
	Skip(args ...any)
	Skipf(format string, args ...any)
	SkipNow()
}

// beyond returns what a test has beyond T, if it has that.
func beyond[I any](t T) (i I, ok bool) {
	if a, is := t.(*attempt); is {
		t = a.T
	}
	i, ok = t.(I)
	return i, ok
}

// attribute sets an attribute of a test, where it can have one.
func attribute(t T, key, value string) {
	if a, ok := beyond[interface{ Attr(key, value string) }](t); ok {
		a.Attr(key, value)
	}
}

// fatal fails t by an error, which is among args, and says which kind it is.
func fatal(t T, err error, format string, args ...any) {
	t.Helper()
	told := fmt.Errorf(format, args...)
	if !errors.Is(err, ErrInfrastructure) {
		t.Fatalf("%v", told)
		return
	}
	switch t := t.(type) {
	case *attempt:
		t.blame(told)
		runtime.Goexit()
	case *mainT:
		t.mu.Lock()
		t.infra = true
		t.mu.Unlock()
	}
	attribute(t, "poolready.failure", "infrastructure")
	t.Fatalf("infrastructure: %v", told)
}

// errTestsOver is the cause that cancels the context of Main's T before the cleanups.
var errTestsOver = errors.New("the tests are over")

// mainT is the T that Main gives to setup.
type mainT struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu       sync.Mutex // guards what follows
	out      io.Writer
	failed   bool
	skipped  bool
	infra    bool      // it failed by an ErrInfrastructure
	began    time.Time // when it became a test of go test -json, or zero
	cleanups []func()
	helpers  map[string]bool // functions that called Helper
}

func newMainT() *mainT {
	ctx, cancel := context.WithCancelCause(interrupted())
	return &mainT{ctx: ctx, cancel: cancel, out: os.Stderr, helpers: make(map[string]bool)}
}

// setOut changes where messages go; restore undoes that.
func (t *mainT) setOut(w io.Writer) (restore func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.out
	t.out = w
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.out = before
	}
}

func (t *mainT) Name() string { return "TestMain" }

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

func (t *mainT) Skip(args ...any) {
	t.print(t.caller() + fmt.Sprintln(args...))
	t.SkipNow()
}

func (t *mainT) Skipf(format string, args ...any) {
	t.print(t.caller() + fmt.Sprintf(format, args...))
	t.SkipNow()
}

func (t *mainT) SkipNow() {
	t.mu.Lock()
	t.skipped = true
	t.mu.Unlock()
	runtime.Goexit()
}

// quiet makes the end of setup neither a failure nor something to tell.
func (t *mainT) quiet() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.skipped = true
}

// Skipped reports whether setup was skipped.
func (t *mainT) Skipped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.skipped
}

// Failed reports whether setup, a test or a cleanup has failed so far, or a signal arrived.
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

// Helper makes caller skip the function that calls it.
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
// not counting helpers; or "" if all are helpers.
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
	t.mu.Lock()
	out := t.out
	t.mu.Unlock()
	_, _ = io.WriteString(out, msg) // there is nowhere left to report an error
}

// protect runs f and waits for it, on its own goroutine, so that the runtime.Goexit in FailNow
// ends f alone. It turns a panic of f into a failure, and also a runtime.Goexit that neither a
// failure nor a skip explains: such a setup has not set up.
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
			case !returned && !t.Failed() && !t.Skipped():
				t.fail()
				t.Logf("TestMain: %s called runtime.Goexit", what)
			}
		}()
		f()
		returned = true
	}()
	<-done
}

// runCleanup runs the cleanup registered last, and reports whether there was one.
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

// report fails the run, and says why and what follows.
func (t *mainT) report(cause error, next string) {
	t.fail()
	t.Logf("TestMain: %v; %s", cause, next)
}

// abortAtTimeout fails the run and cancels its context when the process is as old as timeout,
// unless end is called before: once end has returned, that has happened or never will. 0 means
// never.
func (t *mainT) abortAtTimeout(start time.Time, timeout time.Duration) (end func()) {
	if timeout <= 0 {
		return func() {}
	}
	return during(func(stop <-chan struct{}) {
		timer := time.NewTimer(time.Until(start.Add(timeout)))
		defer timer.Stop()
		select {
		case <-timer.C:
			cause := fmt.Errorf("setup reached go test's -timeout (%v) before the tests started; "+
				"set it to setup plus tests, or 0 for none", timeout)
			t.report(cause, "cancelling it")
			t.cancel(cause)
		case <-stop:
		}
	})
}
