package pool

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestLimitsGrowWithTheHypervisor(t *testing.T) {
	t.Parallel()
	for hosts, want := range map[int][4]int{
		0: {8, 4, 16, 10}, 1: {8, 4, 16, 10}, 3: {48, 12, 56, 48}, 64: {1024, 256, 200, 1024},
	} {
		c := Limits{}.on(hosts)
		assert.Equal(t, want, [4]int{c.Clones, c.FullClones, c.Hosts, c.Snapshots}, "%d hosts", hosts)
	}
	assert.Equal(t, 3, Limits{Clones: 3}.on(4).FullClones)
}
