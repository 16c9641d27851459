package pool

// VM is what one virtual machine is made of: data, and part of its fingerprint.
type VM struct {
	// Name is the VM's name, unique in the set; at most 63 characters of a-z, 0-9 and "-".
	Name string
	// Folder is where the VM lives, below the set's folder; "" is the set's folder itself.
	Folder string
	// Datastore, ResourcePool and the NICs' Network are names or inventory paths; "" is the
	// provider's default.
	Datastore, ResourcePool string
	CPUs, MemoryMiB         int // 0: as in the source
	// DiskGiB is the size that the first disk of a golden is grown to; 0 keeps the template's.
	// A linked clone cannot grow: it must be 0 there.
	DiskGiB int
	// NICs in the order of the guest's devices. None: those of the source, with fresh MACs.
	NICs []NIC
	// Env is what the scripts and checks of this VM are given as environment variables.
	Env map[string]string
}

// NIC is one network interface.
type NIC struct {
	Network string
	MAC     string // "" lets the hypervisor choose; vCenter wants static ones in 00:50:56:00:00:00-00:50:56:3f:ff:ff
}
