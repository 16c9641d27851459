package pool

import (
	"flag"
	"time"
)

// processStart is when the process started, as near as a package can know. The go command counts
// -timeout from then.
var processStart = time.Now()

// deadline returns the moment at which go test kills the process that t runs in, without
// cleanups; false means never.
func deadline(t T) (time.Time, bool) {
	return deadlineIn(t, processStart, testTimeout())
}

// deadlineIn is deadline in a process started at start with that -timeout: when the go command
// kills the process or, for a *testing.T, when the test binary's own alarm goes off, if that is
// earlier. The alarm counts from the start of the tests, so after a long setup it is later.
func deadlineIn(t T, start time.Time, timeout time.Duration) (time.Time, bool) {
	at, ok := killTime(start, timeout)
	if d, is := beyond[interface{ Deadline() (time.Time, bool) }](t); is {
		if alarm, set := d.Deadline(); set && (!ok || alarm.Before(at)) {
			return alarm, true
		}
	}
	return at, ok
}

// setupDeadline returns the moment at which t's work must be done: in Main's setup when its Context
// is cancelled, which is a minute or more before deadline; elsewhere deadline. false, with the
// zero time, means never.
func setupDeadline(t T) (time.Time, bool) {
	if _, ok := t.(*mainT); !ok {
		return deadline(t)
	}
	timeout := testTimeout()
	if timeout == 0 {
		return time.Time{}, false
	}
	return processStart.Add(timeout), true
}

// killTime returns the moment at which the go command kills a test binary started at start;
// false means never, for a timeout of 0.
func killTime(start time.Time, timeout time.Duration) (time.Time, bool) {
	if timeout <= 0 {
		return time.Time{}, false
	}
	return start.Add(timeout + max(time.Minute, timeout/10)), true
}

// testTimeout returns the -timeout that limits setup and tests; 0 means none, as with -bench and
// -fuzz, under a debugger, and outside of test binaries.
func testTimeout() time.Duration {
	if testFlag("bench") != "" || testFlag("fuzz") != "" {
		return 0
	}
	timeout, err := time.ParseDuration(testFlag("timeout"))
	if err != nil {
		return 0
	}
	return max(timeout, 0)
}

// testFlag returns the value of a flag of the test binary, or "" where there is none.
func testFlag(name string) string {
	f := flag.Lookup("test." + name)
	if f == nil {
		return ""
	}
	return f.Value.String()
}
