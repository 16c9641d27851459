package lease

import "os"

// A Process identifies a process of one machine, for those that run on the same one: they can see
// whether it has ended. All of it must be known, or nothing is concluded.
type Process struct {
	Boot  string `json:"boot"`  // the kernel's boot ID
	PIDs  string `json:"pids"`  // the PID namespace
	PID   int    `json:"pid"`   // in that namespace
	Start string `json:"start"` // when the process began, in the kernel's ticks since boot
}

// Self returns this process, or nil where the system does not tell.
func Self() *Process {
	p := machine()
	if p == nil {
		return nil
	}
	p.PID = os.Getpid()
	if p.Start = started(p.PID); p.Start == "" {
		return nil
	}
	return p
}

// Ended reports whether the process ran on this machine and has ended. It is false if there is
// any doubt.
func (p *Process) Ended() bool {
	here := machine()
	if p == nil || here == nil || p.Boot != here.Boot || p.PIDs != here.PIDs || p.Start == "" {
		return false
	}
	if start := started(p.PID); start != "" {
		return start != p.Start
	}
	return !exists(p.PID)
}
