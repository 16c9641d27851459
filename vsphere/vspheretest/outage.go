package vspheretest

import (
	"math"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Slow makes everything that begins from now on take factor times as long: RPCs, tasks, boots.
// 1 is the speed that Latency sets.
func (s *Server) Slow(factor float64) { s.pace.Store(math.Float64bits(factor)) }

// paced is d at the current pace.
func (s *Server) paced(d time.Duration) time.Duration {
	if b := s.pace.Load(); b != 0 {
		return time.Duration(float64(d) * math.Float64frombits(b))
	}
	return d
}

// ExpireSessions ends all sessions but those of Server.Client. What lived in them, such as
// views, collectors and filters, is gone; tasks are not.
func (s *Server) ExpireSessions() {
	for _, u := range s.sessions() {
		s.expire(u)
	}
}

// sessions lists the keys of the clients' sessions.
func (s *Server) sessions() (keys []string) {
	ctx := s.context(nil)
	sm := ctx.Session.Get(*contentOf(ctx.Map).SessionManager).(*simulator.SessionManager)
	for _, u := range sm.SessionList {
		if u.UserName != adminUser {
			keys = append(keys, u.Key)
		}
	}
	return keys
}

func (s *Server) expire(key string) {
	if key == "" {
		return
	}
	ctx := s.context(nil)
	ctx.Map.SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: []string{key}})
	s.hub.broadcast() // who waits for updates is to find out
}

// Restart restarts vCenter's service: calls under way get no reply, and for down every call is
// answered with 503; sessions and all that lived in them are gone, and so are finished tasks.
// What the hosts are doing goes on, and so do sessions of Server.Client.
func (s *Server) Restart(down time.Duration) {
	s.mu.Lock()
	s.downUntil = time.Now().Add(down)
	for _, c := range s.calls {
		if !c.admin {
			c.cut = true
			c.cancel()
		}
	}
	for id := range s.rest {
		s.rest[id] = false
	}
	s.mu.Unlock()
	s.ExpireSessions()
	s.ForgetTasks()
}

// ForgetTasks removes all finished tasks, as vCenter does ten minutes after their end.
func (s *Server) ForgetTasks() {
	ctx := s.context(nil)
	for _, obj := range ctx.Map.AllReference("Task") {
		task, ok := obj.(*simulator.Task)
		if !ok {
			continue
		}
		done := false
		ctx.WithLock(task.Self, func() { done = task.Info.CompleteTime != nil })
		if done {
			ctx.Map.Remove(ctx, task.Self)
		}
	}
}

// Vanish removes all VMs of that name, running or not, as an administrator does on a host
// behind vCenter's back. It waits until no operation is under way on them.
func (s *Server) Vanish(name string) {
	ctx := s.context(nil)
	for _, v := range s.allVMs() {
		var is bool
		v.look(ctx, func(o *mo.VirtualMachine) { is = o.Name == name })
		if !is {
			continue
		}
		release, ok := s.hold(v)
		if !ok {
			return
		}
		s.stopGuest(v)
		s.remove(ctx, v)
		release()
	}
}
