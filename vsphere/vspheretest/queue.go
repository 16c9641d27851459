package vspheretest

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Limits is how much is done at once. What goes beyond waits, with its task in state queued.
type Limits struct {
	// Operations of all kinds on the whole vCenter; 0 means 640.
	Operations int
	// HostUnits are those that each host has for provisioning; 0 means 16. A full clone takes 4
	// of the host it goes to while it runs, a linked clone 1.
	HostUnits int
}

const (
	costFull   = 4
	costLinked = 1
)

func (l Limits) withDefaults() Limits {
	if l.Operations == 0 {
		l.Operations = 640
	}
	if l.HostUnits == 0 {
		l.HostUnits = 16
	}
	return l
}

// A queue holds the operations that wait, oldest first, and counts those that run.
type queue struct {
	waiting []*waiter
	running int
	units   map[*simulator.HostSystem]int // in use
}

type waiter struct {
	host  *simulator.HostSystem
	cost  int
	ready chan struct{} // closed when it may run
}

// admit waits until the job may run. The fault tells that it was cancelled before.
func (s *Server) admit(ctx context.Context, j job) types.BaseMethodFault {
	w := &waiter{host: j.host, cost: j.cost, ready: make(chan struct{})}
	s.mu.Lock()
	s.queue.waiting = append(s.queue.waiting, w)
	s.advance()
	s.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.queue.waiting, w)
	if i >= 0 {
		s.queue.waiting = slices.Delete(s.queue.waiting, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		s.retire(j) // it was admitted at the same moment
	}
	return &types.RequestCanceled{}
}

// retire releases what an admitted job took.
func (s *Server) retire(j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.running--
	if j.host != nil {
		s.queue.units[j.host] -= j.cost
	}
	s.advance()
}

// advance admits whom there is room for, in order: no job overtakes on the same host. The
// caller holds s.mu.
func (s *Server) advance() {
	q := &s.queue
	if q.units == nil {
		q.units = make(map[*simulator.HostSystem]int)
	}
	full := make(map[*simulator.HostSystem]bool)
	q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
		if q.running >= s.Limits.Operations || w.host != nil && full[w.host] {
			return false
		}
		if w.host != nil && q.units[w.host]+w.cost > max(s.Limits.HostUnits, w.cost) {
			full[w.host] = true
			return false
		}
		q.running++
		if w.host != nil {
			q.units[w.host] += w.cost
		}
		close(w.ready)
		return true
	})
}
