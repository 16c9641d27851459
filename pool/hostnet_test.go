package pool_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func TestHostsRebootAndDial(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	set := r.open(r.spec(1))
	var lent *pool.Host
	t.Run("while lent", func(t *testing.T) {
		lent = set.Acquire(t).Host("con")
		const bootID = "/proc/sys/kernel/random/boot_id"
		before := lent.MustRun(t, "cat", bootID)
		old, err := lent.SSH(t.Context())
		require.NoError(t, err)
		require.NoError(t, lent.Reboot(t.Context()))
		<-old.Done()
		assert.NotEqual(t, before, lent.MustRun(t, "cat", bootID))

		_, err = lent.DialContext(t.Context(), "tcp", "10.0.0.1:80") // these machines reach nobody
		assert.ErrorContains(t, err, "dial 10.0.0.1:80 through con1")
	})
	assert.ErrorIs(t, lent.Reboot(t.Context()), pool.ErrReturned)
	_, err := lent.DialContext(t.Context(), "tcp", "10.0.0.1:80")
	assert.ErrorIs(t, err, pool.ErrReturned)
}
