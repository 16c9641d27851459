package vsphere

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestWaitEndsWithItsContextAndLeavesTheOthers(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	require.NoError(t, l.p.PowerOn(ctx, id))
	stop := errors.New("enough")
	short, cancel := context.WithCancelCause(ctx)
	first := make(chan error, 1)
	go func() {
		_, err := l.p.Address(short, id, "00:50:56:00:00:99", netip.Addr{})
		first <- err
	}()
	cancel(stop)
	require.ErrorIs(t, <-first, stop)
	_, err := l.p.Address(ctx, id, "", netip.Addr{})
	assert.NoError(t, err)
}

func TestGivenUpWaitSaysHowFarTheGuestCame(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	// says waits for a wait that gives up and says so: what vCenter has told by then depends on its speed.
	says := func(want string) {
		for limit := 300 * time.Millisecond; ; limit *= 2 {
			short, cancel := context.WithTimeout(ctx, limit)
			_, err := l.p.Address(short, id, "00:50:56:00:00:99", netip.Addr{})
			cancel()
			require.NoError(t, ctx.Err(), err)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if strings.Contains(err.Error(), want) {
				return
			}
		}
	}
	says("last seen: the VM is poweredOff")
	require.NoError(t, l.p.PowerOn(ctx, id))
	_, err := l.p.Address(ctx, id, "", netip.Addr{})
	require.NoError(t, err)
	says("guest tools run and report only")
}

func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	_, before := l.counts()
	done := make(chan error, 1)
	go func() {
		_, err := l.p.Address(ctx, id, "", netip.Addr{})
		done <- err
	}()
	require.Eventually(t, func() bool {
		for _, r := range l.Requests()[before:] {
			if r.Method == "WaitForUpdatesEx" {
				return true
			}
		}
		return false
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, l.p.Close(ctx))
	assert.ErrorIs(t, <-done, errClosed)
	assert.NoError(t, l.p.Close(ctx), "twice")
	_, err := l.p.Inventory(ctx, "set")
	assert.ErrorIs(t, err, errClosed)
	calls, _ := l.counts()
	assert.Equal(t, calls["Login"], calls["Logout"])
}

// As when the network swallows the login that another call has begun.
func TestWaitsEndWhileALoginHangs(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	short, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := l.p.Address(short, id, "", netip.Addr{})
		done <- err
	}()
	polling := func() bool {
		l.p.watcher.mu.Lock()
		defer l.p.watcher.mu.Unlock()
		return l.p.watcher.polling
	}
	require.Eventually(t, polling, 20*time.Second, time.Millisecond)
	require.NoError(t, l.p.s.acquire(ctx))
	defer l.p.s.release()
	l.ExpireSessions() // which ends the poll
	require.Eventually(t, func() bool { return !polling() }, 20*time.Second, time.Millisecond)
	cancel()
	select {
	case err := <-done:
		assert.ErrorIs(t, err, context.Canceled)
	case <-time.After(5 * time.Second):
		assert.Fail(t, "the wait has not ended with its context")
	}
}

// After a revert and a boot, vCenter tells only what is other than what it told before. The interval is
// slow here, so that all of it happens between two polls.
func TestAddressAfterARevert(t *testing.T) {
	t.Parallel()
	for _, fixed := range []bool{true, false} {
		t.Run(map[bool]string{true: "may be the old one", false: "is the new one"}[fixed], func(t *testing.T) {
			t.Parallel()
			l := newLab(t, vspheretest.Fast())
			l.os.fixed.Store(fixed)
			l.intervals = defaultIntervals
			l.intervals.gap, l.intervals.fresh = 200*time.Millisecond, 0
			l.p = l.provider(t)
			ctx := within(t, 30*time.Second)
			id, snap := l.golden(t, ctx)
			seen := map[string]bool{}
			for range 3 {
				require.NoError(t, l.p.PowerOn(ctx, id))
				addr := newAddress(t, ctx, l.p, id, func(a string) bool { return fixed || !seen[a] })
				seen[addr] = true
				require.NoError(t, l.p.Revert(ctx, id, snap))
			}
		})
	}
}

// Another process powers the VM off and on while this one does not look.
func TestAddressIsNotOldWhenNobodyLooked(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	l.intervals.fresh = 0
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	require.NoError(t, l.p.PowerOn(ctx, id))
	one, err := l.p.Address(ctx, id, "", netip.Addr{})
	require.NoError(t, err)

	other := l.provider(t) // with the same intervals
	_, err = other.ShutDown(ctx, id, 0)
	require.NoError(t, err)
	require.NoError(t, other.PowerOn(ctx, id))
	two := newAddress(t, ctx, other, id, func(a string) bool { return a != one.String() })

	got, err := l.p.Address(ctx, id, "", netip.Addr{})
	require.NoError(t, err)
	assert.Equal(t, two, got.String())
}

// newAddress asks until the guest has reported since it was powered on, as whoever connects does:
// tools run for a moment before they report, and what they reported last is all that vCenter knows.
func newAddress(t *testing.T, ctx context.Context, p *Provider, id string, fresh func(string) bool) (addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		a, err := p.Address(ctx, id, "", netip.Addr{})
		addr = a.String()
		return err == nil && fresh(addr)
	}, 20*time.Second, 5*time.Millisecond)
	return addr
}

// A task that ended is looked at again right after, before vCenter was polled without it: then it
// has neither left the view nor entered it.
func TestATaskIsWaitedForAgainAtOnce(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		t.Run(map[bool]string{false: "known", true: "forgotten"}[lost], func(t *testing.T) {
			t.Parallel()
			l := newLab(t, vspheretest.Fast())
			l.intervals.enter, l.intervals.fresh = time.Hour, 0 // without a look at what is not reported
			if lost {
				l.intervals.enter = 20 * time.Millisecond
			}
			l.p = l.provider(t)
			ctx := within(t, 30*time.Second)
			id, _ := l.golden(t, ctx)
			var task types.ManagedObjectReference
			require.NoError(t, l.p.s.do(ctx, func(c *conn) error {
				res, err := methods.PowerOnVM_Task(ctx, c, &types.PowerOnVM_Task{This: vmRef(id)})
				if err == nil {
					task = res.Returnval
				}
				return err
			}))
			for range 3 {
				require.NoError(t, l.p.watcher.task(ctx, task))
				if lost {
					l.p.watcher.mu.Lock()
					l.p.watcher.objects = map[types.ManagedObjectReference]*object{}
					l.p.watcher.mu.Unlock()
				}
			}
		})
	}
}
