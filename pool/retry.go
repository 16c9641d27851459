package pool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// Retry acquires a pool and runs f with it. If that fails by an ErrInfrastructure, and by nothing
// else, Retry runs f once more, with another pool where one is free, and reports that in the
// test's log, and by its attribute "poolready.retried". An assertion that fails is never repeated.
//
// f reports what fails by its t or by the error that it returns. It must be safe to repeat: what it
// did elsewhere than on the pool's hosts is still there (see Pool.Track). Each attempt has a t of its own,
// whose cleanups run, and whose pool is released, when the attempt ends; it has no Run.
//
//	func TestMirror(t *testing.T) {
//		lab.Retry(t, func(t pool.T, p *pool.Pool) error {
//			_, err := p.Host("con").Run(t.Context(), "mirror", "sync")
//			return err
//		})
//	}
func (s *Set) Retry(t T, f func(t T, p *Pool) error) {
	t.Helper()
	first := &attempt{T: t, number: 1}
	first.run(s, f)
	if first.infra == nil || first.failed {
		first.end()
		return
	}
	t.Logf("pool: RETRY: the first attempt failed by the infrastructure, so the test runs again with another pool: %v", first.infra)
	attribute(t, "poolready.retried", firstLine(first.infra))
	second := &attempt{T: t, number: 2}
	second.run(s, f)
	second.end()
}

// An attempt is the T of one run of a test that may be repeated. It keeps failures by the
// infrastructure to itself.
type attempt struct {
	T
	number int
	ctx    context.Context

	mu       sync.Mutex // guards what follows
	cleanups []func()
	failed   bool // reported to T, or will be
	skipped  bool
	infra    error
	panicked any
}

// run runs f, and then the cleanups, and returns when all have ended.
func (a *attempt) run(s *Set, f func(t T, p *Pool) error) {
	a.T.Helper()
	ctx, cancel := context.WithCancel(a.T.Context())
	defer cancel()
	a.ctx = ctx
	a.protect(func() {
		a.T.Helper()
		if err := f(a, s.Acquire(a)); err != nil {
			fatal(a, err, "%w", err)
		}
	})
	cancel()
	for {
		a.mu.Lock()
		n := len(a.cleanups)
		if n == 0 {
			a.mu.Unlock()
			return
		}
		cleanup := a.cleanups[n-1]
		a.cleanups = slices.Delete(a.cleanups, n-1, n)
		a.mu.Unlock()
		a.protect(cleanup)
	}
}

// protect runs f on a goroutine of its own, which FailNow ends, and waits for it.
func (a *attempt) protect(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			p := recover()
			a.mu.Lock()
			defer a.mu.Unlock()
			switch {
			case p != nil:
				a.failed, a.panicked = true, p
			case !returned && a.infra == nil && !a.skipped:
				a.failed = true
			}
		}()
		f()
		returned = true
	}()
	<-done
}

// end passes on to the test how its last attempt ended.
func (a *attempt) end() {
	a.T.Helper()
	switch {
	case a.panicked != nil:
		panic(a.panicked)
	case a.infra != nil:
		fatal(a.T, a.infra, "%w", a.infra)
	case a.failed:
		a.T.FailNow()
	case a.skipped:
		a.T.SkipNow()
	}
}

// blame notes that the infrastructure has failed.
func (a *attempt) blame(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.infra = errors.Join(a.infra, err)
}

func (a *attempt) Context() context.Context { return a.ctx }

func (a *attempt) Cleanup(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleanups = append(a.cleanups, f)
}

// Failed reports whether the attempt has failed, for any reason.
func (a *attempt) Failed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed || a.infra != nil
}

func (a *attempt) fail() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = true
}

func (a *attempt) Errorf(format string, args ...any) {
	a.T.Helper()
	a.fail()
	a.T.Errorf(format, args...)
}

func (a *attempt) Fatalf(format string, args ...any) {
	a.T.Helper()
	a.Errorf(format, args...)
	runtime.Goexit()
}

func (a *attempt) FailNow() {
	a.fail()
	runtime.Goexit()
}

func (a *attempt) Skip(args ...any) {
	a.T.Helper()
	a.T.Logf("%s", fmt.Sprintln(args...))
	a.SkipNow()
}

func (a *attempt) Skipf(format string, args ...any) {
	a.T.Helper()
	a.T.Logf(format, args...)
	a.SkipNow()
}

func (a *attempt) SkipNow() {
	a.mu.Lock()
	a.skipped = true
	a.mu.Unlock()
	runtime.Goexit()
}
