package pool

import (
	"fmt"
	"slices"
)

// uses tells whether a pool is among those that the Spec is about.
func (s Spec) uses(pool int) bool { return len(s.Only) == 0 || slices.Contains(s.Only, pool) }

// numbers are those of the pools that the Spec is about, in order.
func (s Spec) numbers() []int {
	var all []int
	for n := 1; n <= s.Pools; n++ {
		if s.uses(n) {
			all = append(all, n)
		}
	}
	return all
}

func (s Spec) validateOnly(f *faults) {
	most := max(s.Pools, 1)
	for i, n := range s.Only {
		if n < 1 || n > most {
			f.addf(fmt.Sprintf("Spec.Only[%d]", i), "is %d: the pools are 1 to %d", n, most)
		}
	}
}
