package e2e

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// teams are sets with names of their own on one vCenter, whose lab has reserved the addresses of all.
func teams(t *testing.T, topologies ...Topology) (list []*embedded) {
	reserved := map[string]netip.Addr{}
	for _, topology := range topologies {
		maps.Copy(reserved, topology.Reservations())
	}
	first := newEmbeddedIn(t, nil, topologies[0], reserved, fast)
	for _, topology := range topologies {
		topology.RunnerKey, topology.RetryPause = first.topology.RunnerKey, 0
		list = append(list, &embedded{topology: topology, server: first.server})
	}
	return list
}

// TestTwoTeamsSideBySide has two sets built, used and reset on one vCenter at the same time.
func TestTwoTeamsSideBySide(t *testing.T) {
	t.Parallel()
	one, two := testTopology(), testTopology()
	two.Set, two.VLAN, two.PoolBase = "another", 20, netip.MustParseAddr("10.0.4.0")
	require.NoError(t, two.Validate())
	both := teams(t, one, two)
	for _, e := range both {
		t.Run(e.topology.Set, func(t *testing.T) {
			t.Parallel()
			set := pool.Ensure(t, e.spec(t))
			for _, c := range set.Checks() {
				assert.True(t, c.OK(), "%s: %s", c.Host, c)
			}
			for range 2 * len(set.Pools()) { // as they were built, and reset
				t.Run("used", func(t *testing.T) {
					assert.NoError(t, set.Acquire(t).Verify(t.Context()).Err())
				})
			}
			for _, h := range pool.Ensure(t, e.spec(t)).Status() {
				assert.Equal(t, pool.ActionReuse, h.Action, "%s: %s", h.Host, h.Reason)
			}
		})
	}
}

// TestATeamThatOnlyRenamesItsSetIsRefused: it has MACs of its own, but the first one's addresses and
// VLAN, and would break into its pools.
func TestATeamThatOnlyRenamesItsSetIsRefused(t *testing.T) {
	t.Parallel()
	one, two := testTopology(), testTopology()
	one.Pools, two.Pools = 1, 1
	two.Set = "another"
	both := teams(t, one, two)
	both[0].open(t, both[0].spec(t))
	before := both[0].history(t)

	_, err := pool.Open(t.Context(), both[1].spec(t))
	require.ErrorContains(t, err, "nothing was touched")
	for _, host := range []string{"con1", "dis1"} {
		h := one.Host(strings.TrimSuffix(host, "1"), 1)
		assert.ErrorContains(t, err, host)
		assert.ErrorContains(t, err, "/poolready-e2e/pool1/"+host)
		assert.ErrorContains(t, err, h.Lab.String())
		assert.ErrorContains(t, err, "VLAN 10: "+h.VLAN.String())
	}
	assert.Equal(t, before, both[0].history(t), "the first team's hosts are as they were")

	two.PoolBase = netip.MustParseAddr("10.0.4.0")
	both[1].topology.PoolBase = two.PoolBase
	_, err = pool.Open(t.Context(), both[1].spec(t))
	require.ErrorContains(t, err, "VLAN 10: "+one.Host(Con, 1).VLAN.String(), "addresses of its own are not enough")
}
