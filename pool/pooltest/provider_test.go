package pooltest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	p := pooltest.NewProvider(t, "template")
	pooltest.TestProvider(t, p, pooltest.Env{
		Template: "template", Timeout: 30 * time.Second, Instant: 500 * time.Millisecond, LeaseByMAC: true,
		BootedAt: func(_ pool.T, id string) time.Time { return p.BootedAt(id) },
	})
}

// What is left in the set of a suite, as by a clone of which a case did not see the end, is removed.
func TestASuiteRemovesClonesBeforeTheirSources(t *testing.T) {
	t.Parallel()
	p := pooltest.NewProvider(t, "templates/rhel9")
	t.Run("suite", func(t *testing.T) {
		pooltest.NewSuite(t, p, pooltest.Env{Template: "templates/rhel9", Set: "left"})
		source := pool.CloneSpec{Set: "left", Source: "templates/rhel9", Template: true, Owner: "left/a", VM: pool.VM{Name: "a"}}
		for _, name := range []string{"b", "c"} {
			id, err := p.Clone(t.Context(), source)
			require.NoError(t, err)
			snapshot, err := p.Snapshot(t.Context(), id, "s", "{}")
			require.NoError(t, err)
			source = pool.CloneSpec{Set: "left", Source: id, Snapshot: snapshot, Owner: "left/" + name, VM: pool.VM{Name: name}}
		}
	})
	inv, err := p.Inventory(t.Context(), "left")
	require.NoError(t, err)
	assert.Empty(t, inv.VMs)
}
