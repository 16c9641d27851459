package pool_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func init() {
	pool.AddChild("cannot set up", func(m *testing.M) {
		pool.Main(m, func(t pool.T) {
			spec, provider := labSpec()
			t.Cleanup(func() { must(provider.Close(context.WithoutCancel(t.Context()))) })
			spec.Golden.Template = "templates/nothing"
			pool.Ensure(t, spec)
		})
	})
}

// An attributedT is a heardT with attributes.
type attributedT struct {
	*heardT
	attrs map[string]string
}

func (a *attributedT) Attr(key, value string) { a.attrs[key] = value }

// use runs f as the test, whose Fatalf ends it.
func (a *attributedT) use(f func()) {
	defer func() {
		if r := recover(); r != nil && r != a.fakeT {
			panic(r)
		}
	}()
	f()
}

func TestAFailureOfTheInfrastructureIsToldApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.spec(1)
	spec.Evidence.When = "never"
	spec.SSH.KeepAlive, spec.SSH.DeadAfter = time.Second, 3*time.Second
	set := r.open(spec)
	test := func(name string) *attributedT {
		return &attributedT{&heardT{fakeT: testOf(t, name)}, map[string]string{}}
	}

	a := test("TestAssertion")
	p := set.Acquire(a)
	assert.Equal(t, "lab/1", a.attrs["poolready.pool"])
	a.use(func() { p.Host("con").MustRun(a, "false") })
	_, err := p.Host("con").Run(t.Context(), "false")
	require.Error(t, err)
	assert.NotErrorIs(t, err, pool.ErrInfrastructure, "a command that fails")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = p.Host("con").Run(ctx, "sleep", "60")
	require.Error(t, err)
	assert.NotErrorIs(t, err, pool.ErrInfrastructure, "the caller's time is over")
	require.Len(t, a.errs, 1)
	assert.NotContains(t, a.errs[0], "infrastructure")
	assert.NotContains(t, a.attrs, "poolready.failure")

	r.byHand(r.vm("con1").PowerOff)
	a.use(func() { p.Host("con").MustRun(a, "true") })
	require.Len(t, a.errs, 2)
	assert.Regexp(t, "^infrastructure: ", a.errs[1])
	assert.Equal(t, "infrastructure", a.attrs["poolready.failure"])
	a.end()

	spec.Golden.Template = ""
	_, err = pool.Open(t.Context(), spec)
	require.ErrorIs(t, err, pool.ErrInvalidSpec)
	require.NotErrorIs(t, err, pool.ErrInfrastructure, "a fault of the Spec")
	spec.Name, spec.Golden.Template = "other", "templates/nothing"
	_, err = pool.Open(t.Context(), spec)
	require.ErrorIs(t, err, pool.ErrInfrastructure)
	assert.ErrorIs(t, fmt.Errorf("wrapped: %w", &pool.HostError{Err: err}), pool.ErrInfrastructure)
}

func TestSetupThatFailsByTheInfrastructureHasAnExitCode(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	_, errs, code := operator{t, s.env(10 * time.Second)}.run("cannot set up")
	assert.Equal(t, pool.ExitInfrastructure, code)
	assert.Contains(t, errs, "infrastructure: pool: ")
}
