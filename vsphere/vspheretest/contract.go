package vspheretest

import (
	"net"
	"net/netip"
)

// An OS is what the VMs of a Server run. It is set on the Server before Start; see Server.OS.
type OS interface {
	// Install returns the disk of a VM that was not cloned from another: a template, as a rule.
	Install(vm Hardware) Disk
	// Boot starts the system on m's disk. It is called once the VM has been powered on and the
	// latency of booting is over; the guest answers on its network from then on.
	Boot(m *Machine) Guest
}

// A Disk is what a VM's virtual disks hold. Snapshots, clones and reverts copy it.
type Disk interface{ Clone() Disk }

// Hardware is a VM as its guest sees it.
type Hardware struct {
	Name, UUID string
	NICs       []HardwareNIC // in device order
	DiskGiB    int
}

// HardwareNIC is one NIC; Connected is the hypervisor's link state.
type HardwareNIC struct {
	MAC, Network string
	Connected    bool
}

// A Guest is a running system.
type Guest interface {
	// Info is what the guest's tools tell vCenter, NICs in the order the tools list them
	// (container bridges may come first). Asked after booting and whenever Machine.Changed is
	// called.
	Info() GuestInfo
	// ServeConn takes a TCP connection to one of the guest's addresses, made from the lab network.
	// It may refuse at once by closing conn.
	ServeConn(conn net.Conn, to netip.AddrPort)
	// Shutdown asks for an orderly shutdown; the guest ends by calling Machine.PowerOff.
	Shutdown()
	// HardwareChanged tells that a NIC was connected, disconnected, added or removed.
	HardwareChanged(hw Hardware)
	// Kill cuts the power. When it returns nothing of the guest runs or writes to the disk any
	// more.
	Kill()
}

// A MemorySaver is a Guest whose memory a snapshot can keep. The snapshot with memory of any other
// guest that has booted is refused.
type MemorySaver interface {
	Guest
	// SaveMemory returns a copy of the disk and all that the guest knows beside it, of one moment. The
	// guest goes on. An error says what cannot be kept; the snapshot fails with it.
	SaveMemory() (disk Disk, memory []byte, err error)
}

// A Resumer is an OS whose guests are MemorySavers.
type Resumer interface {
	OS
	// Resume is Boot for a VM that has been reverted to a snapshot with memory: the guest goes on
	// from the moment of which m.Disk and memory are. Its connections are gone, and its clock is
	// behind.
	Resume(m *Machine, memory []byte) (Guest, error)
}

// A Starter is an OS that is told which Server it is for.
type Starter interface {
	OS
	// Start is called by Server.Start before anything else is asked of the OS. An error keeps the
	// Server from starting.
	Start(*Server) error
}

// GuestInfo is what open-vm-tools reports.
type GuestInfo struct {
	HostName string
	NICs     []GuestNIC
}

// GuestNIC is one interface as tools report it.
type GuestNIC struct {
	MAC       string
	Connected bool
	Addrs     []netip.Prefix
}
