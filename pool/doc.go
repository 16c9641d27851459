// Package pool builds, reuses and leases pools of virtual machines for the tests of products that
// are installed on machines.
//
// A test package states what it needs in a [Spec], asks for it once in TestMain, and acquires whole
// pools in its tests:
//
//	var lab *pool.Set
//
//	func TestMain(m *testing.M) {
//		pool.Main(m, func(t pool.T) { lab = pool.Ensure(t, spec) })
//	}
//
//	func TestMirror(t *testing.T) {
//		t.Parallel()
//		p := lab.Acquire(t) // a whole pool, as it was when ready, until t ends
//		con, dis := p.Host("con"), p.Host("dis")
//		con.MustRun(t, "mirror", "sync")
//		dis.MustRun(t, "mirror", "verify")
//	}
//
// # Terms
//
// A set is everything built from one Spec on one hypervisor. It consists of pools, numbered from 1;
// a pool has one host of every role. Golden is the VM that hosts are cloned from; a role may have
// another one (Role.Golden). A layer is golden or a role. A step changes a host; a check reads a host
// and changes nothing.
//
// # How a set is built
//
// Open reads the ledger and the inventory once, prints the plan with its reasons, leases what the
// plan changes, and carries it out in stages that are strict barriers:
//
//	golden       template --full clone--> golden; steps, checks; shut down; snapshot golden-ready
//	clone ROLE   for each role in order: linked clones from golden-ready, all pools at once
//	ready ROLE   for each role in order: power on, needs, steps, checks; shut down; snapshot
//	             pool-ready; power on again. With ReadyRunning: snapshot pool-ready with memory,
//	             and no shutdown
//
// [MakePlan] returns the plan without carrying it out. If another process changes the set before
// everything is leased, Open plans again.
//
// The snapshot is the commit: a VM is ready when it has exactly one snapshot of exactly the right
// name, whose description is our record, and the record's fingerprint is that of the Spec. The
// fingerprint of golden is made of the template's identity, the VM's data, and the names and versions
// of the steps and checks in order; that of a role's VM of golden's build, its own data, steps and
// checks. So a changed step of the last role rebuilds that role only, and a changed golden rebuilds
// every VM that is cloned from it. A role that needs another (Need) is rebuilt with it. See [Action]
// for what a plan may do with a VM.
//
// A host that is off is never called ready: to power it on, or to reset it, is part of the plan, and
// waits for the holder of its pool.
//
// # Acquire
//
// Acquire leases each pool to one test at a time, of all processes that use the set: the packages of
// one go test, CI runners and laptops. A pool that was used is reset before another test gets it,
// and proved clean: every host was reverted and has rebooted (with ReadyRunning, resumed), its disk
// lacks the dirty marker that every used host has, its clock is right, its needs answer, and
// Role.AfterReset passes. All hosts of the pool start at once, when all are off, unless
// Role.StrictOrder says otherwise. The proof is kept, so an idle clean pool is acquired at once. A pool
// that cannot be reset is rebuilt once; if that fails too, or it was the third failure, it is
// quarantined for five minutes.
//
// After every login a host proves that it is the VM that was meant: its guest has the MAC of the
// VM's login NIC, if the Provider knows that. All clones of a golden have its host keys, so these do
// not tell them apart; pools are meant for a lab network.
//
// # When something fails
//
// A host that fails fails its own pool only; the others are made ready. The failed VM is left
// running. The error says host, stage, step or check, what was wanted and got, the end of the
// output, and the ssh command to look; the next run rebuilds the VM. An interrupted run (Ctrl-C, a
// timeout, a crash) leaves nothing that the next run cannot go on from: on the same machine at
// once, on another one when its leases expire (Limits.Lease).
//
// # What is never deleted
//
// What we did not make. The Provider knows the very VMs that we made; a copy of one by hand is
// somebody else's. If such a VM is in the way, the plan refuses. A VM to be rebuilt on which somebody
// has taken snapshots of their own is renamed, not destroyed. The inventory is read again right
// before anything is removed. An incomplete reading removes nothing, and neither golden nor any other
// VM is removed while the disks of another VM depend on its own.
//
// # Time
//
// go test kills a test binary after its -timeout, 10 minutes unless set, plus a minute or a
// tenth, and setup counts. Ensure predicts from the records how long the plan takes, and fails
// before it touches anything if that does not fit. To build the pools of a package ahead of its
// tests, with no limit:
//
//	go test -run '^$' -timeout 0 ./examples/quickstart
//
// # Operations
//
// [MakePlan], [ReadStatus], [Verify], [Reset], [Rebuild], [Keep], [Release], [Sweep], [Destroy] and
// [Visit] take a context and the Spec. Sweep and Destroy act on the whole set, the others on the pools
// that the Spec is about (Spec.Only). None changes a pool that has another holder. See [State] for what
// a pool may be.
//
// # Running
//
// With ReadyRunning, a reset brings back a machine that runs: it takes seconds instead of a boot.
// Roles of both kinds go together in one pool. Golden is always off. Use it where booting takes long;
// ReadyOff is simpler, since nothing in a machine that boots is stale.
//
// It costs, for each VM: as much space on the datastore as it has RAM; the time to write that, and
// to read it at every reset; and the VM answers slowly, or not at all, meanwhile. The snapshot is not
// quiesced: with memory, vCenter's API does one or the other. vCenter refuses it for VMs with devices
// that forbid it, such as PCI passthrough, some vGPUs, and independent disks. A VM may only be
// resumed by a host with a CPU like that of the host where its snapshot was taken.
//
// What is stale in a machine that resumes:
//
//   - Connections. Ours are dropped before the snapshot and before each revert. Those that services
//     had among each other are dead, and are noticed when they are next used; services must be able
//     to reconnect.
//   - The clock is as far behind as the snapshot is old. It is set before Needs are tried: "chronyc
//     makestep" where there is chrony, and "date -s" with the hypervisor's time, as root (by
//     sudo -n if SSH.User is another); then it is proved to be within Limits.ClockSkew. A negative
//     ClockSkew leaves clocks alone.
//   - The address. systemd-networkd is told to renew its leases ("networkctl renew"); NetworkManager
//     and others renew when they would have, so give such hosts reserved or static addresses, or
//     leases that are longer than a pool lives.
//   - Tokens, certificates and timers that expired meanwhile. A step that makes such things should
//     make them last.
package pool
