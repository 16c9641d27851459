package pool

import (
	"context"
	"flag"
	"fmt"
	"os"
)

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
// stopped the run, and no other code is ever changed. It is ExitInfrastructure if Ensure failed in
// setup by an ErrInfrastructure.
//
// Setup may do with its t what a test may do with its own, with these differences:
//
//   - When setup fails, by Errorf as much as by FailNow, Fatalf or a panic, no test is run.
//   - When setup skips, no test is run either, and the exit code is 0. go test then says
//     "[no tests to run]" after the package's ok, and setup's reason with -v. In a cleanup, Skip
//     ends that cleanup and has no other effect.
//   - Name is "TestMain". Messages go to standard error, those of Logf as they are, those of
//     Errorf and Fatalf after the file and line of the caller. go test merges both outputs of the
//     test binary, and shows them as they come with -v (of one package) or -json, and when it is
//     started in the package's own directory without naming a package; else at the package's end,
//     and of a package that passed or was interrupted not at all. Standard output would do the
//     same, but while an Example runs it belongs to the Example.
//   - Context is cancelled before the cleanups run, as in package testing, and earlier by the
//     first signal and when setup takes longer than go test's -timeout; [context.Cause] returns
//     which. A cleanup that needs a context makes one with [context.WithoutCancel] and a time
//     limit of its own.
//   - Cleanups run after the tests, last registered first, each on a goroutine of its own: a
//     panic, Fatalf or FailNow in one does not keep the others from running.
//   - Failed and Skipped, by type assertion, report in a cleanup whether setup, a test or an
//     earlier cleanup failed, and whether setup skipped.
//
// The first SIGINT, SIGTERM or SIGHUP makes the run fail and ends setup's Context. Whatever tests
// run on hosts of a pool ends too, and every later Acquire fails at once; tests that use neither go
// on. Main waits for the tests and the cleanups, which release the leases. A second signal, half
// a second or more after the first, kills the process, once its leases are released or two seconds
// have passed. A signal that the process was started to ignore stays ignored, such as SIGHUP under
// nohup, or SIGINT in the background jobs of a shell script.
//
// Cleanups do not run when the process dies: by a second signal, by a panic in a test or in a
// goroutine of setup's own, by os.Exit, by go test's -timeout once the tests run, or when the go
// command kills the binary. It does so at -timeout plus a minute (or plus a tenth, if that is
// more), counted from the start of the process, so that setup and tests together have 11 minutes
// by default. With -timeout 0, -bench or -fuzz it does not, and neither does a debugger, or a shell
// that runs a binary of go test -c: then nothing limits setup.
//
// The result of a package with Main is never cached: go test does not know what setup reads, so it
// cannot know that another vCenter is meant now, or that the pools are gone.
//
// # Operations
//
// Instead of running tests, the test binary does with the set that setup gives to Ensure what the
// arguments after its flags ask for. With "go test -v ./mytests -args", or a binary that "go test -c -o
// lab ./mytests" made for people without Go, in place of lab:
//
//	lab status                     # or plan, verify, diff
//	lab keep -pools 2 -for 8h      # or release, reset
//	lab rebuild -role con          # go test needs -timeout 0 for that
//	lab sweep -yes                 # or destroy
//	lab exec -role con -- uname -r # or logs -since 1h
//	lab ssh con2
//
// Each takes -json, -o FILE, and, of several sets, -set NAME; those about pools take -pools 1-2,4; what
// else each takes, -h says. No flag of the test binary is defined for this, and setup runs only as far
// as Ensure, which builds nothing. They work whatever state the set is in. The exit code is 0, or 1 if
// the operation failed (verify: if a check did), or 2 if it was not understood; any other argument that
// is no flag is refused so, too. -v makes go test show what is printed; progress goes to standard error.
//
// ssh runs the real ssh on the terminal, or prints the command if there is none. exec leases each pool,
// which is reset before a test gets it, and leaves alone what others hold; pools that are kept it just uses.
//
// go test -list runs neither setup nor cleanups; go test -run '^$' runs both and no test, and so
// builds the pools ahead of the tests.
func Main(m TestingM, setup func(t T)) { os.Exit(Run(m, setup)) }

// Run is Main without the exit: it returns the exit code, for a TestMain that has more to do:
//
//	os.Exit(pool.Run(m, setup))
//
// The code must reach os.Exit. A TestMain that drops it and returns makes go test print ok for
// a package whose setup failed and whose tests were not run.
//
// When Run returns, nothing that it started is still running, and signals are as they were before.
func Run(m TestingM, setup func(t T)) (code int) {
	if !flag.Parsed() {
		flag.Parse()
	}
	line, err := parseCommandLine(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if testFlag("list") != "" {
		return m.Run()
	}
	if testFlag("testlogfile") != "" {
		// go test logs what the tests read, and repeats an ok while that is unchanged; but it does not
		// log what is read before them, as by setup. Without the log it does not cache the result.
		_ = flag.Set("test.testlogfile", "") // a string takes every value
	}
	t := newMainT()
	if line != nil {
		o := &operation{commandLine: line, t: t}
		operating.Store(o)
		defer operating.Store(nil)
	}
	if cause := context.Cause(t.ctx); cause != nil {
		t.Logf("TestMain: %v; no test was run", cause) // an earlier Run was
		return 1
	}
	endSignals := process.handle(func(cause error) {
		t.report(cause, "cleaning up; a second signal kills")
	})
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
	t.endCases()
	if o := operating.Load(); o != nil {
		return o.finish()
	}
	switch {
	case t.Failed():
		t.Logf("TestMain: setup failed; no test was run")
		if t.infra { // setup is over
			return ExitInfrastructure
		}
		return 1
	case t.Skipped():
		t.Logf("TestMain: setup skipped; no test was run\n%s", noTestsToRun)
		return 0
	}
	code = 1 // for the cleanups, should m.Run panic
	return m.Run()
}

// noTestsToRun is the line of package testing that makes go test add "[no tests to run]" to the
// package's ok, the one line that it prints without -v.
const noTestsToRun = "testing: warning: no tests to run"
