package pool_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// A retriedT is a test of which Retry may run the body twice.
type retriedT struct {
	*attributedT
	skipped bool
}

func (r *retriedT) FailNow() {
	r.failed = true
	panic(r.fakeT)
}

func (r *retriedT) SkipNow() {
	r.skipped = true
	panic(r.fakeT)
}

func TestATestThatFailsByTheInfrastructureRunsAgainWithAnotherPool(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(2)
	spec.Evidence.When = "never"
	spec.SSH.KeepAlive, spec.SSH.DeadAfter = time.Second, 3*time.Second
	set := r.open(spec)
	lost := fmt.Errorf("no host: %w", pool.ErrInfrastructure)
	for _, test := range []struct {
		name  string
		f     func(try int, t pool.T, p *pool.Pool) error
		tries int
		errs  []string // parts of what fails the test
		skips bool
	}{
		{"passes at once", func(int, pool.T, *pool.Pool) error { return nil }, 1, nil, false},
		{"passes the second time", func(try int, t pool.T, p *pool.Pool) error {
			if try == 1 {
				r.powerOff(p.Host("con").Name)
			}
			p.Host("con").MustRun(t, "true")
			return nil
		}, 2, nil, false},
		{"returns an error of the infrastructure", func(try int, _ pool.T, _ *pool.Pool) error {
			return map[int]error{1: lost}[try]
		}, 2, nil, false},
		{"never gets through", func(int, pool.T, *pool.Pool) error { return lost }, 2, []string{"infrastructure: no host"}, false},
		{"fails", func(_ int, t pool.T, _ *pool.Pool) error { t.Fatalf("no mirror"); return nil }, 1, []string{"no mirror"}, false},
		{"returns an error", func(int, pool.T, *pool.Pool) error { return errors.New("no mirror") }, 1, []string{"no mirror"}, false},
		{"fails, and then by the infrastructure", func(_ int, t pool.T, _ *pool.Pool) error {
			t.Errorf("no mirror")
			return lost
		}, 1, []string{"no mirror", "infrastructure: "}, false},
		{"requires", func(_ int, t pool.T, _ *pool.Pool) error { require.Equal(t, 1, 2); return nil }, 1, []string{"Not equal"}, false},
		{"skips", func(_ int, t pool.T, _ *pool.Pool) error { t.Skipf("not today"); return nil }, 1, nil, true},
		{"skips the second time", func(try int, t pool.T, _ *pool.Pool) error {
			if try == 2 {
				t.SkipNow()
			}
			return lost
		}, 2, nil, true},
	} {
		of := &retriedT{attributedT: &attributedT{&heardT{fakeT: testOf(t, test.name)}, map[string]string{}}}
		var pools []int
		var ends []bool
		of.use(func() {
			set.Retry(of, func(t pool.T, p *pool.Pool) error {
				pools = append(pools, p.Number)
				t.Cleanup(func() {
					ends = append(ends, t.(interface{ Failed() bool }).Failed())
					assert.Error(of.T, t.Context().Err(), "the attempt is over")
				})
				return test.f(len(pools), t, p)
			})
		})
		require.Len(t, pools, test.tries, test.name)
		require.Len(t, ends, test.tries, "%s: each attempt is cleaned up", test.name)
		assert.Equal(t, len(test.errs) > 0, of.failed, test.name)
		require.Len(t, of.errs, len(test.errs), test.name)
		for i, part := range test.errs {
			assert.Contains(t, of.errs[i], part, test.name)
		}
		assert.Equal(t, test.skips, of.skipped, test.name)
		said := strings.Count(strings.Join(of.said, "\n"), "RETRY")
		assert.Equal(t, test.tries-1, said, test.name)
		if test.tries == 2 {
			assert.NotEqual(t, pools[0], pools[1], test.name)
			assert.True(t, ends[0], "%s: what the cleanups of the first attempt saw", test.name)
			assert.NotEmpty(t, of.attrs["poolready.retried"], test.name)
		}
		assert.Eventually(t, func() bool { // for the next one, which needs both
			st, err := pool.ReadStatus(t.Context(), spec)
			return err == nil && st.Pools[0].State == pool.StateClean && st.Pools[1].State == pool.StateClean
		}, time.Minute, 10*time.Millisecond, test.name)
	}
}

func TestAPanicOfAnAttemptIsTheTests(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.shared(1, 20*time.Second))
	of := &retriedT{attributedT: &attributedT{&heardT{fakeT: testOf(t, "TestPanics")}, map[string]string{}}}
	assert.PanicsWithValue(t, "no such thing", func() {
		set.Retry(of, func(pool.T, *pool.Pool) error { panic("no such thing") })
	})
	next := testOf(t, "TestNext")
	require.NotNil(t, next.acquire(set), "its pool was released")
	next.end()
}
