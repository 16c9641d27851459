// Package pool builds, reuses and lends pools of virtual machines for the tests of products
// that are installed on machines.
//
// A test package states what it needs in a [Spec], asks for it once in TestMain, and borrows
// whole pools in its tests:
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
// # Words
//
// A set is everything that is built from one Spec on one hypervisor. It consists of pools,
// numbered from 1; a pool has one host of every role. Golden is the VM that all hosts are
// cloned from. A layer is golden or a role. A step changes a host; a check looks at a host and
// changes nothing.
//
// # How a set is built
//
// [Open] reads the inventory once, compares it with the Spec, prints the plan with its reasons, and
// does exactly that, in stages that are strict barriers:
//
//	golden       template --full clone--> golden; steps, checks; shut down; snapshot golden-ready
//	clone ROLE   for each role in order: linked clones from golden-ready, all pools at once
//	ready ROLE   for each role in order: power on, needs, steps, checks; shut down; snapshot
//	             pool-ready; power on again. If Role.Ready is Running: snapshot pool-ready
//	             with memory, and no shutdown
//
// [Plan] returns the plan without doing it.
//
// # Ready
//
// The snapshot is the commit: a VM is ready when it has exactly one snapshot of exactly the
// right name, whose description is our record, and the record's fingerprint is the one that
// the Spec asks for. It is taken after every check has passed and the guest has shut itself
// down, or, of a [Running] role, while it runs, with its memory. Whatever else there is counts as
// unfinished.
//
// The fingerprint of golden is made of the template's identity, the VM's data, and the names
// and versions of the steps and checks in order. That of a role's VM is made of golden's build,
// its own data, steps and checks. So a changed step of the last role rebuilds that role only,
// and a changed golden rebuilds all. A role that needs another ([Need]) is rebuilt with it.
// The plan names the part that changed.
//
//	reuse      it is ready and runs
//	power on   it is ready and off
//	reset      it is ready, but a NIC is not connected as it was then, or it is off and was
//	           running: reverted
//	clone      it is not there
//	rebuild    it is not, or no longer, what the Spec asks for: destroyed and cloned again
//	finish     an interrupted golden that nobody has used: its steps are run again
//	remove     an older golden on whose disks no clone hangs any more
//	refuse     something that we did not make is in the way
//
// A reused host that does not let us in, of a pool that nobody uses, is reverted to its snapshot,
// and so are the later hosts of its pool.
//
// # What is never deleted
//
// Every VM that we make carries a mark, written in the call that clones it, with its set and
// its name. What lacks the mark, or has another name, is not ours: it is neither changed nor
// removed, and if it is in the way the plan refuses. A VM to be rebuilt on which somebody has
// taken snapshots of their own is renamed, not destroyed. The inventory is read again right before
// anything is removed, since a plan may be hours old. An incomplete reading removes nothing. Golden
// is not removed while any VM, in the set or outside, hangs on its disks.
//
// # When something fails
//
// A host that fails spoils its own pool only; the others are made ready. The failed VM is left
// running. The error says host, stage, step or check, what was wanted and got, the end of the
// output, and the ssh command to look; the next run builds the VM anew. An interrupted run
// (Ctrl-C, a timeout, a crash) leaves nothing that the next run cannot go on from.
//
// # Host keys
//
// Spec.SSH.HostKeys proves the template, on the first connection to a new golden. The keys that
// golden has when it is ready are recorded with its snapshot and pinned for its clones, which
// have the same ones unless a step makes new ones; what a host has when it becomes ready
// is recorded with its own snapshot. Any clone can pass for any other: pools are meant for a
// lab network.
//
// # Time
//
// go test kills a test binary after its -timeout, 10 minutes unless set, plus a minute or a
// tenth, and setup counts. Ensure knows from the records how long the plan took last time, and
// fails before it touches anything if that does not fit. To build the pools of a package ahead of
// its tests, with no limit:
//
//	go test -run '^$' -timeout 0 ./examples/quickstart
//
// # Sharing
//
// The packages of one go test, CI runners and laptops share a set on one vCenter. Who uses what is
// written in the set's ledger, in vCenter, by compare-and-swap and vCenter's clock; nothing that is
// reverted or rebuilt holds it. [Status] shows it, as a table or as JSON.
//
// A pool is leased as a whole, for Limits.Lease, and the lease is renewed until the test and what
// follows it are over, three times in that time. With the 3 minutes that are its default, that is
// one small write a minute, a task of vCenter's, for each pool that is held, each in a shard of its
// own, so that holders never meet; and one for each process that waits, or builds, whatever it
// builds. A build writes twice besides, and the first test that gets one of its pools once more. A
// process that dies loses its pools when their leases are over; whoever gets them resets them
// first. A process that cannot renew stops before others may go on: its contexts end with
// [ErrLeaseLost], its hosts no longer work, and its test fails. A stopped process that wakes finds
// so before it touches a host, or a VM. All of that counts by the least that vCenter's clock can
// say, so a slow answer makes a lease shorter for whoever holds it, and never for who waits for it.
// What no one can take back is a call that was on its way to vCenter when the process was stopped.
//
// Of those who Ensure one set at the same time, one builds and the others wait, say for whom,
// and reuse. A builder that dies is replaced when its claim is over. A pool in use is neither
// probed nor cured by others, and who must rebuild it waits in the line of the tests. Processes
// with different Specs for one Name rebuild each other's pools: give them different Names.
//
// # Clean
//
// A pool is lent only if it is proved clean: since its last use every host was reverted and has a
// new boot id, its disk lacks the file that every lent host has, its clock is right, its needs
// answer, and Role.AfterReset passes. The proof is in the ledger, so an idle clean pool is lent at
// once, by any process, if its hosts still have the boot ids of the proof. A host that was resumed
// must have the boot id of its snapshot instead, and lack, in its memory (/dev/shm), the stamp that
// every proof leaves there; that stamp then stands for a boot id of its own. A pool that cannot be
// reset is built anew once; if that fails too, or it was the third time, it rests for five minutes.
//
// [Verify] runs all checks of all hosts; a clean pool in which one fails, such as that of an air
// gap, is reset before it is lent. [Reset] and [Rebuild] do by hand what else happens by
// itself. A test that wants to leave nothing behind calls [Pool.Watch], which names what
// it left.
//
// [Keep] leaves the pool of a failed test to a person; [Release] frees it. [Pool.Track] notes what
// a test makes elsewhere, so that it is cleaned up even if the process dies. [Sweep] removes what
// the Spec no longer has, [Destroy] all of it.
//
// # Running
//
// With Role.Ready [Running], what a reset brings back is a machine that runs: it takes seconds
// instead of a boot. Roles of both kinds go together in one pool; in a reset nobody comes back
// before all the others of the pool are off, and con before dis. Golden is always off. Use it where
// booting takes long; [Off] is simpler, since nothing in a machine that boots is stale.
//
// It costs, for each VM: as much space on the datastore as it has RAM; the time to write that, and
// to read it at every reset; and the VM answers slowly, or not at all, meanwhile. The snapshot is
// not quiesced: with memory, vCenter's API does one or the other. vCenter refuses it for VMs with
// devices that forbid it, such as PCI passthrough, some vGPUs, and independent disks; the error
// names Off as the remedy. A VM may only be resumed by a host with a CPU like that of the host
// where its snapshot was taken.
//
// What is stale in a machine that goes on, and what becomes of it:
//
//   - Connections. Ours are dropped before the snapshot and before each revert. Those that services
//     had among each other are dead, and are noticed when they are next used; services must be able
//     to connect anew. Needs and AfterReset show it.
//   - The clock is as far behind as the snapshot is old. It is set before Needs are looked at:
//     "chronyc makestep" where there is chrony, and, as that corrects only what it has measured,
//     "date -s" with the hypervisor's time, as root (by sudo -n if SSH.User is another); then it is
//     proved to be within Limits.ClockSkew. Where guest tools do it by themselves
//     (time.synchronize.restore), there is nothing left to do. A negative ClockSkew leaves clocks
//     alone.
//   - The address. vCenter is asked for it again with every try to log in, and who answers is the
//     host only if its boot id is that of the snapshot. systemd-networkd is told to renew its
//     leases ("networkctl renew"); NetworkManager and others have no way that leaves connections
//     alone, and renew when they would have, so give such hosts reserved or static addresses, or
//     leases that are longer than a pool lives.
//   - Tokens, certificates and timers that ran out meanwhile. A step that makes such things should
//     make them last.
package pool
