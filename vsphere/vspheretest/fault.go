package vspheretest

import (
	"fmt"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// A Fault is something that goes wrong with certain calls of a client, told by method, name and
// number, so that it happens again in the next run. Faults add up: a call may meet several.
// Those of Server.Client meet none.
type Fault struct {
	// Method is the API method: "CloneVM_Task"; "" means any.
	Method string
	// Name is that of the object that the call is for (for a snapshot, its VM's), or the name
	// that the call gives to something new; "" means any.
	Name string
	// Nth is the first call that meets the Fault, among those that match, from 1; 0 means 1.
	Nth int
	// Times is how many calls meet it, one after the other; 0 means 1, and -1 all from Nth on.
	Times int
	// Effect is what happens.
	Effect Effect
}

// An Injection is a Fault that is in force.
type Injection struct {
	s     *Server
	fault Fault

	// Guarded by Server.mu.
	seen, hits int
	removed    bool
}

// Inject puts a Fault in force from the next call on.
func (s *Server) Inject(f Fault) *Injection {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := &Injection{s: s, fault: f}
	s.injections = append(s.injections, i)
	return i
}

// Hits returns how many calls have met the Fault.
func (i *Injection) Hits() int {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	return i.hits
}

// Remove ends the Fault.
func (i *Injection) Remove() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.removed = true
}

// met returns the effects of the Faults that a call meets.
func (s *Server) met(c *call) (effects []Effect) {
	if c.admin {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.injections {
		f := &i.fault
		if i.removed || f.Method != "" && f.Method != c.req.Method || f.Name != "" && !slices.Contains(c.names, f.Name) {
			continue
		}
		i.seen++
		first, times := max(f.Nth, 1), f.Times
		if times == 0 {
			times = 1
		}
		if i.seen >= first && (times < 0 || i.seen < first+times) {
			i.hits++
			effects = append(effects, f.Effect)
		}
	}
	return effects
}

// An Effect is what a Fault does. The variables and functions of this package make them.
type Effect struct {
	name    string
	lose    bool
	cut     bool
	drop    bool
	deaf    bool
	status  int
	stall   time.Duration
	refuse  types.BaseMethodFault
	fail    types.BaseMethodFault
	late    bool // fail after the effect
	slow    float64
	asks    string // a question, with choices
	choices []string
	act     func(*Server, *call)
}

// String names the effect.
func (e Effect) String() string { return e.name }

var (
	// LoseReply does what the call asks for, and cuts the connection instead of answering.
	LoseReply = Effect{name: "lose reply", lose: true}
	// Truncate does what the call asks for, and cuts the connection after half of the answer.
	Truncate = Effect{name: "truncate", cut: true}
	// Drop cuts the connection before the call is looked at.
	Drop = Effect{name: "drop", drop: true}
	// ExpireSession ends the caller's session just before the call: NotAuthenticated, in either
	// of its forms, is what the client gets until it logs in again.
	ExpireSession = Effect{name: "expire session", act: func(s *Server, c *call) { s.expire(c.req.Session) }}
	// RestartVpxd is Server.Restart, without a time of absence, just before the call.
	RestartVpxd = Effect{name: "restart vpxd", act: func(s *Server, _ *call) { s.Restart(0) }}
	// VanishVM makes the VM that the call is for vanish just before the call.
	VanishVM = Effect{name: "vanish VM", act: func(s *Server, c *call) { s.Vanish(c.req.Name) }}
	// Deaf makes a guest take ShutdownGuest without ever doing it.
	Deaf = Effect{name: "deaf guest", deaf: true}
)

// Status answers the call with an HTTP status, such as 503, without looking at it.
func Status(code int) Effect { return Effect{name: fmt.Sprintf("status %d", code), status: code} }

// Stall holds the call for d before it is looked at; a negative d means until the client gives up.
func Stall(d time.Duration) Effect { return Effect{name: fmt.Sprintf("stall %s", d), stall: d} }

// Refuse answers the call with a SOAP fault.
func Refuse(f types.BaseMethodFault) Effect {
	return Effect{name: fmt.Sprintf("refuse %T", f), refuse: f}
}

// FailTask lets the call's task take its time and then fail without having done anything.
func FailTask(f types.BaseMethodFault) Effect {
	return Effect{name: fmt.Sprintf("fail task %T", f), fail: f}
}

// FailTaskAfter lets the call's task do what it is to do, and report a failure.
func FailTaskAfter(f types.BaseMethodFault) Effect {
	return Effect{name: fmt.Sprintf("fail task after %T", f), fail: f, late: true}
}

// SlowTask makes the call's task take so many times its time.
func SlowTask(factor float64) Effect {
	return Effect{name: fmt.Sprintf("slow task by %g", factor), slow: factor}
}
