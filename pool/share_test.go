package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// A fakeT is the T of a test that may fail.
type fakeT struct {
	pool.T
	name     string
	ctx      context.Context
	mu       sync.Mutex
	cleanups []func()
	errs     []string
	failed   bool
}

func (f *fakeT) Name() string             { return f.name }
func (f *fakeT) Context() context.Context { return f.ctx }
func (f *fakeT) Cleanup(g func())         { f.cleanups = append(f.cleanups, g) }
func (f *fakeT) Failed() bool             { return f.failed }
func (f *fakeT) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = true
	f.errs = append(f.errs, fmt.Sprintf(format, args...))
}

func (f *fakeT) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	panic(f)
}

// a test that runs on another goroutine, or in another process, or fails.
func testOf(t *testing.T, name string) *fakeT {
	return &fakeT{T: t, name: name, ctx: t.Context()}
}

// acquire returns nil if the test failed.
func (f *fakeT) acquire(s *pool.Set) (p *pool.Pool) {
	defer func() {
		if r := recover(); r != nil && r != f {
			panic(r)
		}
	}()
	return s.Acquire(f)
}

// end runs the cleanups.
func (f *fakeT) end() {
	for _, g := range slices.Backward(f.cleanups) {
		g()
	}
	f.cleanups = nil
}

// shared is a spec for another process: with a provider of its own.
func (r *rig) shared(pools int, lease time.Duration) pool.Spec {
	spec := r.spec(pools)
	spec.Limits.Lease = lease
	return spec
}

func TestPoolsAreLentToOneProcessAtATime(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	a, b := r.open(r.shared(1, 20*time.Second)), r.open(r.shared(1, 20*time.Second))

	first := testOf(t, "TestFirst")
	p := first.acquire(a)
	require.NotNil(t, p)
	p.Host("con").MustRun(t, "touch", "/var/dirt")

	late := testOf(t, "TestLate")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("no time left"))
	defer cancel()
	late.ctx = ctx
	require.Nil(t, late.acquire(b))
	require.Len(t, late.errs, 1)
	assert.Contains(t, late.errs[0], `pool: acquire a pool of set "lab": none was free: no time left; pool 1 is held by`)
	assert.Contains(t, late.errs[0], "(TestFirst) since")

	got := make(chan *pool.Pool)
	second := testOf(t, "TestSecond")
	go func() { got <- second.acquire(b) }()
	select {
	case <-got:
		t.Error("two have the pool")
	case <-time.After(200 * time.Millisecond):
	}
	first.end()
	q := <-got
	require.NotNil(t, q)
	for _, h := range q.Hosts() {
		_, err := h.Run(t.Context(), "test", "-e", "/var/dirt")
		assert.Error(t, err, "%s is clean", h.Name)
	}
	_, err := p.Host("con").Run(t.Context(), "true")
	require.ErrorIs(t, err, pool.ErrReleased, "a pool that was given back is not used any more")
	require.ErrorIs(t, context.Cause(p.Context()), pool.ErrReleased)
	second.end()
	assert.Empty(t, second.errs)
}

func TestAnIdleCleanPoolIsLentAtOnce(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	a := r.open(r.shared(1, 20*time.Second))
	b := r.open(r.shared(1, 20*time.Second))
	n := r.calls()
	first := testOf(t, "TestFirst")
	require.NotNil(t, first.acquire(b), "just built by another process")
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, "Revert")
	}
	first.end()
	b.Close() // the reset after TestFirst may be cut short by it

	c := testOf(t, "TestAgain")
	require.NotNil(t, c.acquire(a), "%v", c.errs)
	c.end()
	require.Eventually(t, func() bool { return strings.Contains(r.saying(), "pool 1: reset in") }, 10*time.Second, time.Millisecond)
}

func (r *rig) saying() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.said, "\n")
}

func TestACleanPoolThatWasRebootedIsResetBeforeItIsLent(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.shared(1, 20*time.Second))
	set.Pools()[0].Host("con").MustRun(t, "touch", "/var/dirt")
	r.reboot("con1")
	p := set.Acquire(t)
	_, err := p.Host("con").Run(t.Context(), "test", "-e", "/var/dirt")
	require.Error(t, err)
	assert.Contains(t, r.saying(), "pool 1: reset, though it was clean: ")
}

func TestALostLeaseEndsTheWorkOnThePool(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.shared(1, time.Minute)).Close()
	spec := r.shared(1, 8*time.Second)
	set := r.open(spec)
	ft := testOf(t, "TestVictim")
	p := ft.acquire(set)
	require.NotNil(t, p, "%v", ft.errs)
	running := make(chan error)
	go func() {
		_, err := p.Host("con").Run(t.Context(), "sleep", "60")
		running <- err
	}()
	r.Restart(10 * time.Second)
	require.ErrorIs(t, <-running, pool.ErrLeaseLost, "what runs ends")
	require.ErrorIs(t, context.Cause(p.Context()), pool.ErrLeaseLost)
	_, err := p.Host("dis").Run(t.Context(), "true")
	require.ErrorIs(t, err, pool.ErrLeaseLost, "and nothing new begins")
	require.ErrorIs(t, p.Host("dis").ConnectNIC(t.Context(), 0, false), pool.ErrLeaseLost, "in vCenter neither")
	ft.end()
	require.Len(t, ft.errs, 1)
	assert.Contains(t, ft.errs[0], "the lease on the pool is lost")
	require.Eventually(t, func() bool { _, err := pool.MakePlan(t.Context(), spec); return err == nil }, 20*time.Second, 10*time.Millisecond, "vCenter is back")
}

func TestARestartOfVCenterIsSurvived(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.shared(1, time.Minute)
	spec.Cleanups = map[string]func(context.Context, string) error{"record": func(context.Context, string) error { return nil }}
	set := r.open(spec)
	ft := testOf(t, "TestLong")
	p := ft.acquire(set)
	require.NotNil(t, p, "%v", ft.errs)
	until := func() time.Time { return r.status(spec).Pools[0].Lease.ExpiresAt }
	before := until()
	r.Restart(time.Second)
	require.NoError(t, p.Track(t.Context(), "record", "a"), "what is written renews the lease, too")
	assert.True(t, until().After(before))
	p.Host("con").MustRun(t, "true")
	require.NoError(t, p.Context().Err())
	ft.end()
	assert.Empty(t, ft.errs)
}

func TestAPoolThatCannotBeResetIsBuiltAnew(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	b := &bent{Provider: spec.Provider}
	spec.Provider = b
	set := r.open(spec)
	first := testOf(t, "TestFirst")
	require.NotNil(t, first.acquire(set))
	b.bend(func() { b.on, b.revert = true, failedRevert })
	first.end()
	second := testOf(t, "TestSecond")
	p := second.acquire(set)
	require.NotNil(t, p, "%v", second.errs)
	assert.Equal(t, "dis1 uses it", p.Host("dis").MustRun(t, "cat", "/etc/used"))
	assert.Equal(t, 2, r.count("Clone", "con1"))
	assert.Equal(t, 2, r.count("Clone", "dis1"))
	assert.Equal(t, 1, r.count("Clone", "golden"))
	second.end()
}

func TestAPoolThatCannotBeRebuiltEitherCoolsDown(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	b := &bent{Provider: spec.Provider}
	spec.Provider = b
	set := r.open(spec)
	first := testOf(t, "TestFirst")
	require.NotNil(t, first.acquire(set))
	b.bend(func() { b.on, b.revert, b.full = true, failedRevert, true })
	first.end()
	second := testOf(t, "TestSecond")
	require.Nil(t, second.acquire(set))
	assert.Contains(t, second.errs[0], "no pool is left: pool 1 is quarantined until")
	assert.Contains(t, second.errs[0], errFull.Error())
	_, err := pool.Open(t.Context(), r.shared(1, 20*time.Second))
	require.ErrorContains(t, err, "pool 1 is quarantined until", "nobody builds it over and over")
}

// A recipe whose AfterReset can never pass builds well each time.
func TestAPoolThatIsNeverCleanIsNotRebuiltForEver(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	spec.Roles[1].AfterReset = []pool.Check{pool.ScriptCheck("never", "yes", "echo no")}
	set := r.open(spec)
	ft := testOf(t, "TestFirst")
	require.Nil(t, ft.acquire(set))
	require.Len(t, ft.errs, 1)
	assert.Contains(t, ft.errs[0], "no pool is left: pool 1 is quarantined until")
	assert.Contains(t, ft.errs[0], `1 of 1 checks failed: "never"`)
	assert.LessOrEqual(t, r.count("Clone", "dis1"), 3, "the build of Open, and one after each of two resets")
}

func TestAPoolThatAnotherProcessRebuiltIsFound(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	a := r.open(r.shared(1, 20*time.Second))
	r.powerOff("dis1")
	r.destroy("dis1")
	r.open(r.shared(1, 20*time.Second)).Close()
	ft := testOf(t, "TestOld")
	p := ft.acquire(a)
	require.NotNil(t, p, "%v", ft.errs)
	assert.Equal(t, "dis1 uses it", p.Host("dis").MustRun(t, "cat", "/etc/used"))
	ft.end()

	// And one that was rebuilt from another Spec is not what this process wants.
	a2 := r.open(r.shared(1, 20*time.Second))
	other := r.shared(1, 20*time.Second)
	other.Roles[1].Steps = append(other.Roles[1].Steps, pool.Script("more", "echo more > /etc/more"))
	r.open(other).Close()
	last := testOf(t, "TestLast")
	require.Nil(t, last.acquire(a2))
	assert.Contains(t, last.errs[0], `it is no longer what this Spec asks for: dis1: rebuild: step "more" is gone`)
}

func TestABuilderWaitsForWhoUsesThePool(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	a := r.open(r.shared(2, 20*time.Second))
	ft := testOf(t, "TestLong")
	p := ft.acquire(a)
	require.NotNil(t, p)
	other := r.shared(2, 20*time.Second)
	other.Roles[1].Steps = append(other.Roles[1].Steps, pool.Script("more", "echo more > /etc/more"))
	opened := make(chan error, 1)
	go func() {
		s, err := pool.Open(t.Context(), other)
		if err == nil {
			s.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("the pool was taken from under its holder: %v", err)
	case <-time.After(500 * time.Millisecond):
	}
	p.Host("dis").MustRun(t, "true")
	ft.end()
	require.NoError(t, <-opened)
}

// A elsewhere dials one address in the place of another.
type elsewhere struct {
	sshx.Dialer
	instead atomic.Pointer[map[string]string]
}

func (e *elsewhere) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if m := e.instead.Load(); m != nil && (*m)[address] != "" {
		address = (*m)[address]
	}
	return e.Dialer.DialContext(ctx, network, address)
}

// While a run probes what it reuses, another process uses the pool and resets it, so that its hosts have other
// addresses, and another machine has that of dis. Nothing is wrong with the pool: it is left as it is.
func TestAPoolThatOthersUsedMeanwhileIsNotRepaired(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	others := r.open(r.shared(1, time.Minute))
	spec := r.shared(1, time.Minute)
	dialer := &elsewhere{Dialer: spec.SSH.Dialer}
	spec.SSH.Dialer = dialer
	old := others.Pools()[0].Host("dis").Addr()
	var once sync.Once
	reverts := 0
	spec.Logf = func(format string, args ...any) {
		r.logf(format, args...)
		if !strings.Contains(fmt.Sprintf(format, args...), "ready con: done") {
			return
		}
		once.Do(func() {
			for range 2 {
				ft := testOf(t, "TestOther")
				p := ft.acquire(others)
				if !assert.NotNil(t, p, "%v", ft.errs) {
					return
				}
				assert.NoError(t, p.Verify(t.Context()).Err())
				ft.end()
			}
			assert.Eventually(t, func() bool { return r.status(spec).Pools[0].State == pool.StateClean }, time.Minute, 20*time.Millisecond)
			con, dis := others.Pools()[0].Host("con").Addr(), others.Pools()[0].Host("dis").Addr()
			assert.NotEqual(t, old, dis)
			dialer.instead.Store(&map[string]string{old.String() + ":22": con.String() + ":22"})
			reverts = r.count("Revert", "")
		})
	}
	set := r.open(spec)
	require.Positive(t, reverts)
	assert.Equal(t, reverts, r.count("Revert", ""))
	assert.Equal(t, pool.StateClean, r.status(spec).Pools[0].State)
	for _, h := range set.Pools()[0].Hosts() {
		h.MustRun(t, "true") // it is looked for
	}
	ft := testOf(t, "TestLate")
	p := ft.acquire(set)
	require.NotNil(t, p, "%v", ft.errs)
	defer ft.end()
	assert.Equal(t, reverts, r.count("Revert", ""), "it was clean")
	assert.NoError(t, p.Verify(t.Context()).Err())
}
