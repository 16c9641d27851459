package pool_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

func TestHostsRebootAndDial(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(1)
	d := &heldDialer{Dialer: spec.SSH.Dialer, asked: make(chan struct{}), release: make(chan struct{})}
	spec.SSH.Dialer = d
	set := r.open(spec)
	var lent *pool.Host
	t.Run("while lent", func(t *testing.T) {
		lent = set.Acquire(t).Host("con")
		const bootID = "/proc/sys/kernel/random/boot_id"
		before := lent.MustRun(t, "cat", bootID)
		old, err := lent.SSH(t.Context())
		require.NoError(t, err)
		d.hold.Store(true)
		rebooted := make(chan error)
		go func() { rebooted <- lent.Reboot(t.Context()) }()
		<-d.asked // who wants a connection now waits, but not for longer than it wants to
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(enough)
		_, err = lent.Run(ctx, "true")
		require.ErrorIs(t, err, enough)
		close(d.release)
		require.NoError(t, <-rebooted)
		<-old.Done()
		assert.NotEqual(t, before, lent.MustRun(t, "cat", bootID))

		_, err = lent.DialContext(t.Context(), "tcp", "10.0.0.1:80") // these machines reach nobody
		assert.ErrorContains(t, err, "dial 10.0.0.1:80 through con1")
	})
	assert.ErrorIs(t, lent.Reboot(t.Context()), pool.ErrReleased)
	_, err := lent.DialContext(t.Context(), "tcp", "10.0.0.1:80")
	assert.ErrorIs(t, err, pool.ErrReleased)
}

// A heldDialer makes who dials wait, while hold is set, until release is closed.
type heldDialer struct {
	sshx.Dialer
	hold    atomic.Bool
	asked   chan struct{}
	release chan struct{}
}

func (d *heldDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.hold.CompareAndSwap(true, false) {
		close(d.asked)
		<-d.release
	}
	return d.Dialer.DialContext(ctx, network, address)
}
