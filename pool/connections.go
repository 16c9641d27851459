package pool

import (
	"cmp"
	"slices"
	"sync"
)

// idleConnections is how many hosts of a Spec keep a connection that is not in use, those used last: each
// costs a file descriptor and a score of goroutines. Others log in again when they are next used.
const idleConnections = 64

// connections are those of the hosts of one Spec that are not in use, in this process.
type connections struct {
	most int // that are kept; 0 means idleConnections

	mu   sync.Mutex
	idle []*Host // the one used last at the end; guarded by mu
}

// use notes that the host's connection is in use, or gone.
func (c *connections) use(h *Host) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.idle, h); i >= 0 {
		c.idle = slices.Delete(c.idle, i, i+1)
	}
}

// rest notes that the host's connection is not in use, and ends those that have not been for longest.
func (c *connections) rest(h *Host) {
	c.use(h)
	c.mu.Lock()
	c.idle = append(c.idle, h)
	var excess []*Host
	if n := len(c.idle) - cmp.Or(c.most, idleConnections); n > 0 {
		excess = slices.Clone(c.idle[:n])
		c.idle = slices.Delete(c.idle, 0, n)
	}
	c.mu.Unlock()
	for _, h := range excess {
		h.hangUp()
	}
}
