// Package vspheretest provides a vCenter to test against: govmomi's simulator, vcsim, made to
// behave as the real thing where it matters to programs that build, snapshot and revert VMs.
//
//	srv := vspheretest.NewServer(t)
//	c, err := srv.Client(ctx) // or anything that is configured with srv.URL, srv.CAFile, ...
//
// Those who come from vcsim find what to change in VCSIM.md: simulator.Test becomes [Test].
//
// It is like httptest: NewUnstartedServer, fields, Start, Close. There is no state outside the
// Server, so tests with one each run in parallel.
//
// # What it is faithful in
//
// Stock vcsim lets wrong programs pass. Here
//
//   - a revert brings back configuration, extraConfig, annotation, devices, disks and the power
//     state of the snapshot, and leaves name, folder, pool and custom values; changeVersion is new;
//   - a snapshot with memory of a VM that runs takes longer, and a revert to it goes on from that
//     moment: boot id, /run, leases and services are those of then, the clock reads what it read
//     then, and connections are dead. Of a VM that is off it has no memory. Passthrough devices and
//     independent disks forbid it;
//   - a clone is made of its snapshot, or else of the VM as it is: configuration, disks,
//     annotation, extraConfig. Linked clones need a snapshot, have its files as parents and stay on
//     its datastore; a disk locator without a move type means a full copy; disks with parents or
//     snapshots do not grow; MACs are new unless they are manual; faulty device changes fail;
//   - names are unique in a folder, under races, for create, clone, rename, reconfigure and move;
//   - ReconfigVM_Task compares changeVersion, atomically, and changes all or nothing; power
//     changes, snapshots, reverts and renames make a new version;
//   - a VM with an operation under way refuses others with TaskInProgress, in turns at submission
//     and in the task; the source of clones is shared by clones;
//   - VMs that are being made are seen, without a config;
//   - golden VMs and snapshots that linked clones depend on cannot be destroyed;
//   - guests boot, are seen by their tools, and show addresses, one after the other; what the tools
//     said last stays when the power goes; container bridges and link-local addresses come first,
//     and lead nowhere; ShutdownGuest needs tools, takes time and may never be followed;
//   - of two VMs with one MAC on one network, or with one address, each gets what is sent to it by
//     turns, and connections to the other end; an event tells of the MAC; an empty /etc/machine-id
//     is filled at boot, and the DHCP server may go by it;
//   - a VM with a MAC by hand that VMware keeps for itself, or with one of a group, does not power
//     on; an instance UUID that another VM has is replaced;
//   - guestinfo.* set while a VM runs is gone when it stops; empty values delete; keys that a
//     ConfigSpec has a field for are ignored;
//   - snapshots are 32 deep at most; templates have no snapshots and no power; snapshot names are
//     stored with / \ and % escaped;
//   - a VM is placed, and started, only on a host that is connected, not in maintenance mode, and
//     sees its datastores and networks: DRS chooses one, and NoCompatibleHost says why each cannot
//     be it; without DRS the host must be named; a host of another cluster is refused;
//   - nothing is done with the VMs of a disconnected host, which run on; entering maintenance mode
//     waits until no VM runs there, and DRS moves those that do;
//   - HostDatastoreSystem.RemoveDatastore and HostNetworkSystem.RemovePortGroup are for one host;
//     networks list their VMs;
//   - an operation that asks a [Question] waits for AnswerVM, and a VM has one question at a time;
//   - CPUs must be a multiple of the cores per socket, and reservations must fit the memory;
//   - a CD-ROM drive that is to be connected keeps its VM to hosts that see the ISO's datastore; if
//     the file is missing, power on asks about it, and a running VM cannot connect it;
//   - a suspended VM keeps its hardware, is not cloned, destroyed or made a template, and a snapshot
//     with memory of it is one that a revert suspends it to;
//   - a call with whatever arguments has an answer: what vcsim does not survive is refused as not
//     simulated;
//   - faults say in text what vCenter says, in meaning, in faultstring and localizedMessage;
//   - events and tasks are all kept, with times, chains and who they were about;
//   - waits for updates see every property, come in batches of 100 objects, and end with their
//     session or client; bulk reads come in pages of 100;
//   - operations beyond what vCenter and its hosts do at once are queued (see Limits).
//
// # Faults and time
//
// [Fault] names a call, by method, name and number, and what goes wrong with it. Server.Restart,
// ExpireSessions, Vanish, ForgetTasks, Deny and Slow are for what is not tied to a call. [Latency]
// says how long everything takes.
//
// # Guests
//
// Each VM that is powered on runs a [Guest] of the Server's [OS], on a [Disk] that is cloned,
// snapshotted and reverted with the VM. Server.DialContext is the network that it is on: an address
// without a machine is no route, a closed port refuses, a guest whose power is cut falls silent.
// Server.Jump is for other processes.
//
// By default guests are bare: they boot, have tools and addresses, and refuse every connection. Package
// sshguest has machines with a shell and an SSH server; what passes on vCenter's interfaces is the same.
//
// # What is different from a real vCenter
//
// Not simulated, and refused rather than ignored: snapshots with memory of guests in
// which programs run that sessions have left behind, and of guests whose OS is no [Resumer]; instant
// clones and encryption.
//
// Not simulated, and not noticed:
//
//   - that a VM stands still while its memory is written, that the memory takes space on the
//     datastore, and that only a host with a CPU like the first one can resume it;
//   - how much CPU and memory hosts have, and reservations of them;
//   - the files of VMs on datastores, sizes and free space; tags; permissions on single objects
//     (Deny takes a privilege on all of them); alarms; performance counters; high availability;
//     what a failing host or datastore does;
//   - distributed switches (the Server's networks are standard port groups) and DRS
//     recommendations;
//   - two waits at once on one collector, which on a real vCenter disturb each other: here the
//     second waits for its turn, and either may get the other's updates;
//   - user agents of sessions, which carry the number of a call here;
//   - partial updates: a changed property is sent whole.
//
// Unconfirmed, so the side was chosen that shows a careless program:
//
//   - whether TaskInProgress comes at submission or in the task: both, in turns;
//   - whether a reading without a session fails as a whole or per property: both, in turns;
//   - what becomes of clones when their golden is destroyed: it is refused (ResourceInUse);
//   - whether a linked clone may go to another datastore: it may not;
//   - whether the tools' last words stay after power off and revert: they do;
//   - whether a guest has its address back after a revert: guests get another one when they
//     boot. One that goes on has the address of then;
//   - what vCenter tells of a VM right after a revert to memory: tools that run and the addresses
//     of before the revert, until the tools' next poll, and the boot time of then;
//   - whether a vGPU forbids a snapshot with memory: it does;
//   - whether a suspended VM can be cloned or destroyed: it cannot; and powered off: it can, as newer
//     hosts do, though the API reference says that it cannot;
//   - what power on does about a missing ISO file: it asks, and waits;
//   - which fault tells that a named host does not see a datastore: InaccessibleDatastore;
//   - how turns are taken between two VMs with one MAC: at every dial, and whenever a guest speaks;
//   - whether names that differ only in case are the same: they are not;
//   - whether the inventory name is part of a snapshot: it is not;
//   - how much vCenter returns of a bulk read at once: 100 objects;
//   - which privileges exactly a call needs: those of the API reference, of all objects involved;
//   - in which order QueryEvents returns: the newest first. Sort by key.
//
// Times are chosen, not measured: see [Brisk], [Fast] and [Realistic]. The units of a host and the
// 640 operations of a vCenter are published limits; what a clone takes of its source's host is
// not counted.
package vspheretest
