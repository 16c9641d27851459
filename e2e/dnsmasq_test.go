package e2e

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
	spec.Roles[1].Needs[0].Timeout = 300 * time.Millisecond
	var starts atomic.Bool
	break2 := func(name string, now func() bool) pool.Step {
		return pool.Step{Name: name, Version: "1", Do: func(ctx context.Context, h *pool.Host) error {
			if h.Name != "con2" || !now() {
				return nil
			}
			return h.Put(ctx, "/etc/dnsmasq.d/somebody.conf", strings.NewReader("no-such-option\n"), 0o644)
		}}
	}
	steps := slices.Clone(spec.Roles[0].Steps)
	steps = slices.Insert(steps, slices.IndexFunc(steps, func(s pool.Step) bool { return s.Name == "dnsmasq" }),
		break2("somebody's setting", func() bool { return !starts.Load() }))
	spec.Roles[0].Steps = append(steps, break2("a time bomb", starts.Load))
	_, err := pool.Open(t.Context(), spec)
	var not *pool.NotReadyError
	require.ErrorAs(t, err, &not)
	assert.Equal(t, 1, not.Ready)
	require.Len(t, not.Failed, 1)
	var failed *pool.HostError
	require.ErrorAs(t, not.Failed[0], &failed)
	assert.Equal(t, `con2: ready con: step "dnsmasq"`, failed.Host+": "+failed.Stage+": "+failed.Step)
	assert.Contains(t, failed.Look, "ssh -F ")
	h := e.history(t)
	assert.Contains(t, h, "snapshot dis1", "the other pool is ready")
	assert.NotContains(t, h, "on dis2", "there is no sense in configuring it")
	assert.NotContains(t, h, "snapshot con2")

	// It starts, and dies when con2 has become ready: its checks have passed.
	starts.Store(true)
	h = e.during(t, func() { _, err = pool.Open(t.Context(), spec) })
	require.Error(t, err)
	for _, want := range []string{"1 of the 2 pools wanted are ready", "dis2", `need "name server" of con2`, "no answer within its timeout (300ms)"} {
		assert.Contains(t, err.Error(), want)
	}
	assert.Contains(t, h, "snapshot con2")
	for _, line := range h {
		assert.NotContains(t, line, "con1")
		assert.NotContains(t, line, "dis1")
	}
}
