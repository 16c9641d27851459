package vspheretest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
)

func TestLifeOfAPool(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	golden := s.full("golden")
	s.must(golden.PowerOn(s.ctx))
	assert.NotEmpty(t, s.address(golden))
	require.NoError(t, golden.ShutdownGuest(s.ctx))
	s.off(golden)
	snap := s.snapshot(golden, "golden-ready")
	con := s.linked(golden, snap, "con1")
	s.must(con.PowerOn(s.ctx))
	assert.NotEmpty(t, s.address(con))

	var names []string
	for _, e := range s.events(golden.Reference()) {
		names = append(names, fmt.Sprintf("%T", e)[len("*types."):])
	}
	assert.Equal(t, []string{
		"VmClonedEvent", "TaskEvent", "VmStartingEvent", "VmPoweredOnEvent", "VmGuestShutdownEvent", "VmPoweredOffEvent",
		"TaskEvent", "TaskEvent", "VmBeingClonedEvent",
	}, names)
	_ = types.ManagedObjectReference{}
}
