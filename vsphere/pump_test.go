package vsphere

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
		_, err := l.p.Address(short, id, "00:50:56:00:00:99")
		first <- err
	}()
	cancel(stop)
	require.ErrorIs(t, <-first, stop)
	_, err := l.p.Address(ctx, id, "")
	assert.NoError(t, err)
}

func TestGivenUpWaitSaysHowFarTheGuestCame(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	gaveUp := func() error {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := l.p.Address(short, id, "00:50:56:00:00:99")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		return err
	}
	assert.ErrorContains(t, gaveUp(), "last seen: the VM is poweredOff")
	require.NoError(t, l.p.PowerOn(ctx, id))
	_, err := l.p.Address(ctx, id, "")
	require.NoError(t, err)
	assert.ErrorContains(t, gaveUp(), "guest tools run and report only")
}

func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	_, before := l.counts()
	done := make(chan error, 1)
	go func() {
		_, err := l.p.Address(ctx, id, "")
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

// A new address after a revert is a change that vCenter has to be asked for: all that the pump
// heard of the VM was of the boot before. Its pace is slow here, so that all happens between two polls.
func TestAddressAfterARevertIsTheNewOne(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	l.pace = defaultPace
	l.pace.gap = 200 * time.Millisecond
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	id, snap := l.golden(t, ctx)
	seen := map[string]bool{}
	for range 4 {
		require.NoError(t, l.p.PowerOn(ctx, id))
		addr, err := l.p.Address(ctx, id, "")
		require.NoError(t, err)
		assert.False(t, seen[addr.String()], "every boot has an address of its own, but %v came again", addr)
		seen[addr.String()] = true
		require.NoError(t, l.p.Revert(ctx, id, snap))
	}
}

// Another process powers the VM off and on while this one does not look.
func TestAddressIsNotOldWhenNobodyLooked(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	l.pace.fresh = 0
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	require.NoError(t, l.p.PowerOn(ctx, id))
	one, err := l.p.Address(ctx, id, "")
	require.NoError(t, err)

	other := l.provider(t)
	_, err = other.ShutDown(ctx, id, 0)
	require.NoError(t, err)
	require.NoError(t, other.PowerOn(ctx, id))
	two, err := other.Address(ctx, id, "")
	require.NoError(t, err)
	require.NotEqual(t, one, two)

	got, err := l.p.Address(ctx, id, "")
	require.NoError(t, err)
	assert.Equal(t, two, got)
}
