package vspheretest

// A Machine is a powered-on VM, as its Guest sees it.
type Machine struct {
	Disk     Disk // what the guest reads and writes while it runs
	Hardware Hardware
}

// PowerOff tells the hypervisor that the guest has powered the machine off.
func (m *Machine) PowerOff() {}

// Rebooted tells that the guest restarts by itself (tools go away and come back).
func (m *Machine) Rebooted() {}

// Changed tells that Guest.Info may say something new.
func (m *Machine) Changed() {}
