package realguests

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestABootLeavesNoCable shows that a machine that is off, or boots again, answers no longer.
func TestABootLeavesNoCable(t *testing.T) {
	m := newMachine(t)
	cables := func() int {
		links, err := m.site.wire.LinkList()
		require.NoError(t, err)
		return len(links)
	}
	on := cables()
	m.guest.Kill()
	assert.Equal(t, on-len(m.hw.NICs), cables())
}
