// Package vsphere is a [pool.Provider] on VMware vCenter.
//
//	cfg, err := vsphere.FromEnv() // as govc is configured
//	...
//	provider, err := vsphere.New(cfg) // touches no network
//	...
//	defer provider.Close(ctx)
//
// # Configuration
//
// [FromEnv] reads what govc reads: GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD, GOVC_INSECURE,
// GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS, GOVC_DATACENTER, GOVC_DATASTORE, GOVC_FOLDER,
// GOVC_RESOURCE_POOL and GOVC_NETWORK. TLS is verified unless GOVC_INSECURE says otherwise. Places
// are names or inventory paths; where there is only one, it need not be named; a name that
// fits more than one is refused, and the error lists them. A standalone ESXi host is refused: it
// can neither clone nor keep folders.
//
// A set's VMs live in the folder <GOVC_FOLDER>/<set>, and pool.VM.Folder below it. Both are made
// when first needed. Nothing outside of them is ever changed.
//
// # Privileges
//
// The user needs these, each on the object named; a permission on a VM folder covers neither
// datastores nor networks nor resource pools. [Provider.Preflight] reports what is missing.
//
//	vCenter root, not propagated  none beyond a role's own System.View, System.Read, System.Anonymous
//	datacenter, cluster, hosts,   the read-only role
//	distributed switches
//	GOVC_FOLDER, propagated       Folder.Create
//	                              VirtualMachine.Inventory.Create, CreateFromExisting, Delete
//	                              VirtualMachine.Provisioning.Clone
//	                              VirtualMachine.Config.AdvancedConfig, Annotation, AddRemoveDevice,
//	                              EditDevice, CPUCount, Memory, Settings, Rename, and DiskExtend if
//	                              golden grows its disk
//	                              VirtualMachine.Interact.PowerOn, PowerOff, DeviceConnection
//	                              VirtualMachine.State.CreateSnapshot, RevertToSnapshot
//	template                      VirtualMachine.Provisioning.DeployTemplate, or Clone if it is a VM
//	resource pool                 Resource.AssignVMToPool
//	datastore                     Datastore.AllocateSpace
//	networks                      Network.Assign
//
// # What is asserted
//
// A clone is one call: folder, datastore, resource pool, CPUs, memory, NICs with their MACs, note
// and owner are in its specification. What came of it is read back: a linked clone whose disk has
// no parent, or a NIC with another MAC than asked for, is an error, and the VM is removed. A linked
// clone lives on its source's datastore and has its source's disk size. The owner is the
// ExtraConfig key poolready.owner.
//
// # Lost answers
//
// Every error has a class, by its type, never by its text: rejected (tried again), busy (waited
// for), outcome unknown (read back), permanent. After an answer was lost, or a task vanished
// because vCenter restarted, the Provider waits for what still runs on the VM and looks before it
// repeats: a clone carries a nonce in the ExtraConfig key poolready.clone, a snapshot is known by
// its name and record, and power, names and removal are read. An expired session is logged in
// again, and so is one that vCenter forgot; a refused password is not tried twice. A vCenter that
// was reached once is waited for up to five minutes.
//
// # The ledger
//
// What processes tell each other lies in VMs "<set>-ledger-..." in the folder "ledger" of the
// set's, which have no disk and are never powered on: one for each pool, one for who builds, and
// one for every eight processes that wait. A write is one ReconfigVM_Task with changeVersion, so
// that of two at a time one is told ConcurrentAccess. A ledger lies where Preflight was first told
// that a VM of the set goes, else on the defaults of Config. vCenter's clock is the one that
// counts; keep the user's from being set back and forth.
//
// # What it costs
//
// One session, one property collector with one long poll at a time for everything that is waited
// for, and none while nothing is. Reading a set is one call, however many VMs it has. At most
// 32 calls are in flight, 8 clones, 20 power and 10 snapshot operations (reverts count as such);
// those of other processes are not counted.
//
// # Testing against a vCenter
//
// The package's own suite runs on a real vCenter when GOVC_URL is set, in a scratch folder below
// GOVC_FOLDER which it removes:
//
//	POOLREADY_TEMPLATE=templates/rhel9 go test -count=1 -timeout 2h ./vsphere -run Conformance
//
// It takes Folder.Delete on that folder besides the privileges above.
//
// # Limits
//
// Only the first disk grows, and templates with independent disks are refused, since no revert
// cleans them. Snapshots are taken without quiescing, and with memory only by SnapshotRunning; a
// revert to one with memory is taken to run the VM on whatever host vCenter chooses, and nothing is
// assumed of its boot time and of what its tools say until their next poll, which comes every 30 s.
// PowerOn does not place VMs: in a cluster with manual DRS a VM starts on the host where it is
// registered. A VM's files are told from those it hangs on by their directories.
package vsphere
