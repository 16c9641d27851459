package vspheretest

import "strings"

// A Machine is a powered-on VM, as its Guest sees it. Its methods return at once and may be
// called from any goroutine; after the power has gone they do nothing.
type Machine struct {
	Disk     Disk // what the guest reads and writes while it runs
	Hardware Hardware
	Reverts  int // how often the VM had been reverted when the power came on

	run *running
}

// PowerOff tells the hypervisor that the guest has powered the machine off. The hypervisor calls
// the Guest's Kill on another goroutine.
func (m *Machine) PowerOff() {
	if m.run != nil {
		m.run.s.goWork(func() { m.run.s.guestOff(m.run) })
	}
}

// Rebooted tells that the guest restarts by itself (tools go away and come back).
func (m *Machine) Rebooted() {
	if m.run != nil {
		poke(m.run.rebooted)
	}
}

// Changed tells that Guest.Info may say something new. vCenter shows it at the tools' next poll.
func (m *Machine) Changed() {
	if m.run != nil {
		poke(m.run.changed)
	}
}

// AfterBoot calls f on a goroutine once the latency of booting is over, unless the power goes before:
// it is for a guest that restarts by itself, which answers on its network from then on.
func (m *Machine) AfterBoot(f func()) {
	if m.run == nil {
		return
	}
	s := m.run.s
	s.goWork(func() {
		if sleep(m.run.life, s.paced(s.lat.Boot)) == nil {
			f()
			s.lab.broadcast()
		}
	})
}

// NotSimulated reports what the guest refused because it does not simulate it, to OnNotSimulated.
func (m *Machine) NotSimulated(refusal error) {
	if m.run == nil {
		return
	}
	switch s := m.run.s; {
	case s.OnNotSimulated != nil:
		s.OnNotSimulated(m.Hardware.Name, refusal)
	case s.t != nil:
		s.t.Errorf("vspheretest: VM %s: %v; simulate it, or set Server.OnNotSimulated if the test expects it", m.Hardware.Name, refusal)
	case s.Logf != nil:
		s.Logf("VM %s: %v", m.Hardware.Name, refusal)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sameMAC(a, b string) bool { return strings.EqualFold(a, b) }
