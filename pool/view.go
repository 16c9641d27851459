package pool

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// A view shows the work on hosts beside the lines that tell of it. Its methods may be called from any
// goroutine.
type view interface {
	// at reports what is being done with a host; the first call begins the host. expect is how long that is
	// expected to take, or 0.
	at(stage, host, what string, expect time.Duration)
	// finished reports that a host has finished, with a line about it.
	finished(stage, host, line string, took time.Duration, err error)
	// ended reports that a stage has ended.
	ended(stage, line string, took time.Duration, failed bool)
	// close ends the view.
	close()
}

// newView returns what shows the work for t, or nil.
func newView(t T, set string) view {
	m, isMain := t.(*mainT)
	if isMain && testFlag("v") == "test2json" {
		return newCases(m, set)
	}
	switch how := os.Getenv("POOLREADY_PROGRESS"); {
	case how == "tty":
		if tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
			return newLive(tty, nil, func() { tty.Close() })
		}
	case how == "plain" || os.Getenv("TERM") == "dumb":
	case isMain && isTerminal(m.out):
		return newLive(m.out, m, func() {})
	case !isMain && testFlag("v") == "false" && isTerminal(os.Stderr): // until t is over, its log is not shown
		return newLive(os.Stderr, nil, func() {})
	}
	return nil
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// cases show the work of setup, which is part of no test, as tests to readers of go test -json: each host
// of a stage is one, such as TestMain/lab/ready_con/con2, and each stage of which none failed, below one for
// all of setup.
type cases struct {
	t    *mainT
	name string

	mu     sync.Mutex // guards what follows
	failed []string
}

// caseMark is what go test -json tells its own lines by, from what tests print.
const caseMark = "\x16"

func newCases(t *mainT, set string) *cases {
	t.beginCases()
	return &cases{t: t, name: t.Name() + "/" + set}
}

// beginCases makes setup a test of the output.
func (t *mainT) beginCases() {
	t.mu.Lock()
	first := t.began.IsZero()
	if first {
		t.began = time.Now()
	}
	t.mu.Unlock()
	if first {
		t.print(fmt.Sprintf("%s=== RUN   %s\n", caseMark, t.Name()))
	}
}

// endCases ends the test that setup is in the output, if it is one.
func (t *mainT) endCases() {
	if t.began.IsZero() { // setup is over
		return
	}
	result := "PASS"
	switch {
	case t.Failed():
		result = "FAIL"
	case t.Skipped():
		result = "SKIP"
	}
	t.print(fmt.Sprintf("%s--- %s: %s (%.2fs)\n%s=== NAME  \n", caseMark, result, t.Name(), time.Since(t.began).Seconds(), caseMark))
}

// one writes a test with its output and result, after which lines are of all of setup again.
func (c *cases) one(name, output string, took time.Duration, ok bool) {
	name = c.name + "/" + strings.ReplaceAll(name, " ", "_")
	result := "PASS"
	if !ok {
		result = "FAIL"
		c.mu.Lock()
		c.failed = append(c.failed, name)
		c.mu.Unlock()
	}
	output = strings.ReplaceAll(output, caseMark, "")
	c.t.print(fmt.Sprintf("%s=== RUN   %s\n%s\n%s--- %s: %s (%.2fs)\n%s=== NAME  %s\n", caseMark, name, output, caseMark, result, name, took.Seconds(), caseMark, c.t.Name()))
}

func (c *cases) at(string, string, string, time.Duration) {}

func (c *cases) finished(stage, host, line string, took time.Duration, err error) {
	if err != nil {
		line += "\n    " + indent(err.Error(), "    ")
	}
	c.one(stage+"/"+host, line, took, err == nil)
}

func (c *cases) ended(stage, line string, took time.Duration, failed bool) {
	if failed {
		c.t.print(line) // its hosts are what failed
		return
	}
	c.one(stage, line, took, true)
}

func (c *cases) close() {}

// told returns an error in the place of one whose causes hosts have told already.
func (c *cases) told(err error) error {
	n, ok := errors.AsType[*NotReadyError](err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ok || len(n.Failed) != len(c.failed) {
		return err
	}
	short := *n
	short.Failed = nil
	return &toldError{fmt.Sprintf("%s; see %s", short.Error(), strings.Join(c.failed, ", ")), err}
}

// A toldError is an error with a text that leaves out what was said before.
type toldError struct {
	text string
	err  error
}

func (e *toldError) Error() string { return e.text }
func (e *toldError) Unwrap() error { return e.err }

// logfAt returns a Logf of t whose lines have the file and line of the caller of the caller of this
// function, also when other goroutines write them.
func logfAt(t T) func(format string, args ...any) {
	o, ok := t.(interface{ Output() io.Writer })
	_, file, line, known := runtime.Caller(2)
	if !ok || !known {
		return t.Logf
	}
	at := fmt.Sprintf("%s:%d: ", filepath.Base(file), line)
	return func(format string, args ...any) {
		_, _ = io.WriteString(o.Output(), at+indent(fmt.Sprintf(format, args...), "    ")+"\n") // as t.Logf does
	}
}

// cause is why a host failed, in one line.
func cause(err error) string {
	if he, ok := errors.AsType[*HostError](err); ok {
		return cmp.Or(he.Step, firstLine(he.Err))
	}
	return firstLine(err)
}
