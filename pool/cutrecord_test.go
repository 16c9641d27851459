package pool_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A vCenter that cuts descriptions is told of at once, and the next run says so again without building
// anything.
func TestACutRecordIsAnErrorAndNoLoop(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(s *vspheretest.Server) { s.DescriptionLimit = 100 })
	_, err := pool.Open(t.Context(), r.spec(1))
	require.ErrorIs(t, err, pool.ErrRecord)
	require.ErrorContains(t, err, "golden")
	n := len(r.Requests())
	_, err = pool.Open(t.Context(), r.spec(1))
	require.ErrorContains(t, err, "has cut its record")
	require.ErrorContains(t, err, "nothing was touched")
	assert.Empty(t, r.asked(n))
	assert.Equal(t, []string{"golden"}, r.names())
}
