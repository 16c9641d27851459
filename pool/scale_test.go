package pool_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// light is a set of many pools: what is done on their machines is not the point.
func (r *rig) light(pools int) pool.Spec {
	s := r.spec(pools)
	for i := range s.Roles {
		s.Roles[i].Steps, s.Roles[i].Checks, s.Roles[i].Needs = nil, nil, nil
	}
	return s
}

func TestWhatDestroyAsksGrowsWithTheSet(t *testing.T) {
	t.Parallel()
	perVM := func(pools int) float64 {
		r := newRig(t, nil)
		spec := r.light(pools)
		r.open(spec).Close()
		n := len(r.Requests())
		removed, err := pool.Destroy(t.Context(), spec)
		require.NoError(t, err)
		require.Len(t, removed, 2*pools+1)
		asked := count(methods(r.Requests()[n:]))
		t.Logf("%d VMs: %v", len(removed), asked)
		assert.LessOrEqual(t, asked["ReconfigVM_Task"], pools+3, "a lease is written once")
		calls := len(r.Requests()) - n - asked["WaitForUpdatesEx"] - asked["ModifyListView"]
		return float64(calls) / float64(len(removed))
	}
	few, many := perVM(3), perVM(8)
	t.Logf("%.1f and %.1f calls per VM, without waits", few, many)
	assert.LessOrEqual(t, many, 4., "with waits not more than 6")
	assert.LessOrEqual(t, many, few+.5, "leases are renewed by the clock")
}

func TestManyFirstLeasesAtOnceShareReadings(t *testing.T) {
	t.Parallel()
	const pools = 12
	r := newRig(t, nil)
	spec := r.light(pools)
	r.open(spec).Close()
	set := r.open(spec)
	n := len(r.Requests())
	var got [pools]*fakeT
	var wg sync.WaitGroup
	for i := range got {
		got[i] = testOf(t, fmt.Sprint("TestFirst", i))
		wg.Go(func() { assert.NotNil(t, got[i].acquire(set), "%v", got[i].errs) })
	}
	wg.Wait()
	asked := count(methods(r.Requests()[n:]))
	t.Logf("%d leases: %v", pools, asked)
	for _, ft := range got {
		ft.end()
		assert.Empty(t, ft.errs)
	}
	assert.LessOrEqual(t, asked["RetrievePropertiesEx"], 2*pools/3, "each does not read the ledger for itself")
	assert.LessOrEqual(t, asked["ReconfigVM_Task"], 2*pools+2)
}
