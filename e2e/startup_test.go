package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e/internal/lab"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// TestHostsThatAreUpHaveStarted shows that a host which the pool says is up serves what it serves,
// although sshd lets people in long before.
func TestHostsThatAreUpHaveStarted(t *testing.T) {
	t.Parallel()
	for _, os := range []string{"rhel9", "debian12"} {
		t.Run(os, func(t *testing.T) {
			t.Parallel()
			topology := testTopology().On(os, os)
			topology.Pools = 1
			e := newEmbedded(t, topology, fast, func(s *vspheretest.Server) { s.OS.(*lab.Lab).SetStartup(500 * time.Millisecond) })
			set := pool.Ensure(t, e.spec(t))
			p := set.Acquire(t)
			require.NoError(t, p.Verify(t.Context()).Err(), "after a reset")
			for _, h := range p.Hosts() {
				require.NoError(t, h.Reboot(t.Context()))
				assert.NoError(t, p.Verify(t.Context()).Err(), "after a reboot of %s", h.Name)
			}
		})
	}
}
