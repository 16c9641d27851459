package pool

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/events"
)

// A CheckResult is what one check found on one host.
type CheckResult struct {
	Host, Name string
	Want, Got  string
	Err        error // of the check itself; nil when it could look
	Took       time.Duration

	began time.Time
}

// OK reports whether the check passed.
func (r CheckResult) OK() bool { return r.Err == nil && (r.Want == "" || r.Want == r.Got) }

func (r CheckResult) String() string {
	switch {
	case r.Err != nil && r.Got != "":
		return fmt.Sprintf("check %q: %v (got %q)", r.Name, r.Err, r.Got)
	case r.Err != nil:
		return fmt.Sprintf("check %q: %v", r.Name, r.Err)
	case !r.OK():
		return fmt.Sprintf("check %q: want %q, got %q", r.Name, r.Want, r.Got)
	}
	return fmt.Sprintf("check %q: ok", r.Name)
}

// runChecks runs all checks on a host, several at once, and never stops at a failure. Results are
// in the order of the checks; the error is a *CheckError, or that of ctx.
func runChecks(ctx context.Context, h *Host, checks []Check) ([]CheckResult, error) {
	results := make([]CheckResult, len(checks))
	all := make([]int, len(checks))
	for i := range all {
		all[i] = i
	}
	forAll(all, h.limits.Checks, func(i int) { results[i] = runCheck(ctx, h, checks[i]) })
	if err := context.Cause(ctx); err != nil {
		return results, err
	}
	var failed []CheckResult
	for _, r := range results {
		if !r.OK() {
			failed = append(failed, r)
		}
	}
	if len(failed) > 0 {
		return results, &CheckError{Failed: failed, Of: len(checks)}
	}
	return results, nil
}

func runCheck(ctx context.Context, h *Host, c Check) CheckResult {
	timeout := cmp.Or(c.Timeout, time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no result within its timeout (%s)", timeout))
	defer cancel()
	// What a host printed comes without secrets; without them both are compared, and told.
	r := CheckResult{Host: h.Name, Name: c.Name, Want: h.redact(h.VM.expand(c.Want))}
	r.began = time.Now()
	r.Got, r.Err = protect2(func() (string, error) { return c.Do(ctx, h) })
	r.Got, r.Took = h.redact(strings.TrimSpace(r.Got)), time.Since(r.began)
	recordCheck(ctx, h, r)
	return r
}

// expand puts the values of Env for ${NAME}, and leaves alone what is no name there, or of another
// form.
func (vm VM) expand(text string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		if value, ok := vm.Env[v[2:len(v)-1]]; ok {
			return value
		}
		return v
	})
}

var variable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)

// protect2 turns a panic of a user's function into an error: one bad step spoils one pool.
func protect2[R any](f func() (R, error)) (r R, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

func protect(f func() error) error {
	_, err := protect2(func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// digest stands for the results in a record.
func digest(results []CheckResult) string {
	var all []string
	for _, r := range results {
		all = append(all, r.Name, r.Want, r.Got)
	}
	return hash(all...)
}

// steps runs the steps of a layer in order and notes how long each took.
func runSteps(ctx context.Context, h *Host, steps []Step, report func(string), times *stopwatch) error {
	for _, s := range steps {
		what := fmt.Sprintf("step %q", s.Name)
		report(what)
		timeout := cmp.Or(s.Timeout, 10*time.Minute)
		err := times.measure(ctx, h, events.Step, s.Name, func() error {
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within its timeout (%s)", timeout))
			defer cancel()
			return protect(func() error { return s.Do(ctx, h) })
		})
		if err != nil {
			return &stepError{what, err}
		}
	}
	return nil
}

// awaitNeeds waits until everything that h needs of its earlier peers answers.
func awaitNeeds(ctx context.Context, h *Host, needs []Need, report func(string)) error {
	for _, n := range needs {
		what := fmt.Sprintf("need %q of %s", n.Name, h.Peer(n.Role).Name)
		report("waiting for " + what)
		timeout := cmp.Or(n.Timeout, 5*time.Minute)
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within its timeout (%s)", timeout))
		err := timed(ctx, h, events.Need, n.Name, func() error {
			return poll(ctx, func(ctx context.Context) error {
				return protect(func() error { return n.Do(ctx, h, h.Peer(n.Role)) })
			})
		})
		cancel()
		if err != nil {
			return &stepError{what, err}
		}
	}
	return nil
}

// A stopwatch collects how long the parts of a build took.
type stopwatch struct {
	mu   sync.Mutex
	took []took
}

// Names of parts in a record that predictions read.
const (
	tookClone = "clone"
	tookAll   = "all"
)

// measure notes how long f takes, also as an event of the context, of a host, which may be nil.
func (w *stopwatch) measure(ctx context.Context, h *Host, kind events.Kind, name string, f func() error) error {
	what := name
	if kind == events.Step {
		what = fmt.Sprintf("step %q", name)
	}
	start := time.Now()
	err := timed(ctx, h, kind, name, f)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = append(w.took, took{what, time.Since(start).Round(time.Millisecond).Seconds()})
	return err
}

func (w *stopwatch) of(what string) time.Duration { return account{Took: w.took}.took(what) }

// A CheckError holds every check of a host that failed.
type CheckError struct {
	Failed []CheckResult
	Of     int // how many checks there were
}

func (e *CheckError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d checks failed", len(e.Failed), e.Of)
	for i, r := range e.Failed { // the first line may be all that is shown
		fmt.Fprintf(&b, "%s %q", [...]string{":", ","}[min(i, 1)], r.Name)
		if i == 2 && len(e.Failed) > 3 {
			b.WriteString(" ...")
			break
		}
	}
	for _, r := range e.Failed {
		fmt.Fprintf(&b, "\n%s", r)
	}
	return b.String()
}
