package e2e

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func TestAConWhoseDnsmasqNeverStartsSpoilsItsOwnPoolOnly(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 2
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)
	var mended atomic.Bool
	steps := slices.Clone(spec.Roles[0].Steps)
	spec.Roles[0].Steps = slices.Insert(steps, slices.IndexFunc(steps, func(s pool.Step) bool { return s.Name == "dnsmasq" }), pool.Step{
		Name: "somebody's setting", Version: "1",
		Do: func(ctx context.Context, h *pool.Host) error {
			if h.Name != "con2" || mended.Load() {
				return nil
			}
			return h.Put(ctx, "/etc/dnsmasq.d/somebody.conf", strings.NewReader("no-such-option\n"), 0o644)
		},
	})
	_, err := pool.Open(t.Context(), spec)
	var not *pool.NotReadyError
	require.ErrorAs(t, err, &not)
	assert.Equal(t, 1, not.Ready)
	require.Len(t, not.Failed, 1)
	var failed *pool.HostError
	require.ErrorAs(t, not.Failed[0], &failed)
	assert.Equal(t, `con2: ready con: step "dnsmasq"`, failed.Host+": "+failed.Stage+": "+failed.Step)
	assert.Contains(t, failed.Look, "ssh root@10.0.2.20")
	h := e.history(t)
	assert.Contains(t, h, "snapshot dis1", "the other pool is ready")
	assert.NotContains(t, h, "on dis2", "there is no sense in configuring it")
	assert.NotContains(t, h, "snapshot con2")

	mended.Store(true)
	h = e.during(t, func() { e.open(t, spec) })
	assert.Contains(t, h, "snapshot con2")
	assert.Contains(t, h, "snapshot dis2")
	for _, line := range h {
		assert.NotContains(t, line, "con1")
		assert.NotContains(t, line, "dis1")
	}
}
