package pool

import (
	"fmt"
	"slices"
)

// uses reports whether the Spec is about the pool of that number.
func (s Spec) uses(pool int) bool { return len(s.Only) == 0 || slices.Contains(s.Only, pool) }

// numbers returns the numbers of the pools that the Spec is about, in order.
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
		at := fmt.Sprintf("Spec.Only[%d]", i)
		if n < 1 || n > most {
			f.addf(at, "is %d: the pools are 1 to %d", n, most)
		} else if j := slices.Index(s.Only, n); j < i {
			f.addf(at, "is %d, like Spec.Only[%d]", n, j)
		}
	}
}
