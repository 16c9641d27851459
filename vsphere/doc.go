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
// GOVC_RESOURCE_POOL, GOVC_NETWORK and GOVC_VIM_VERSION, which else is negotiated. GOVC_LOGIN_TOKEN and
// GOVC_CERTIFICATE are refused. TLS is verified unless GOVC_INSECURE says otherwise. Places
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
//	networks                      Network.Assign, also on those of a source whose NICs a clone keeps
//
// The tables of VMware's security guide list VirtualMachine.Config.AddNewDisk on the folder for
// deploying from a template, too; the API's reference does not list it for a clone, and Preflight does
// not insist on it. Network.Assign is not needed on the networks of a source whose NICs are replaced:
// the clone is never on them. If a vCenter sees either otherwise, it names what is missing in the first
// clone, golden, before anything is removed. Encrypted sources, and those with a virtual TPM, are
// refused: they take keys and cryptographic privileges. Pictures of consoles, which are evidence only,
// take VirtualMachine.Interact.CreateScreenshot or ConsoleInteract; which one is unconfirmed.
//
// # What is asserted
//
// A clone is one call: folder, datastore, resource pool, CPUs, memory, NICs with their MACs, note
// and owner are in its specification. What came of it is read back: a linked clone whose disk has
// no parent, or a NIC with another MAC than requested, is an error, and the VM is removed. A linked
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
// # Bounds
//
// Every wait has a bound, and its error a cause:
//
//	one call                      3 minutes for its answer
//	a task                        Config.TaskTimeout (15 minutes), of a full clone Config.CloneTimeout
//	                              (2 hours)
//	a vCenter that does not       5 minutes from the first failure, if it was reached before; while it
//	answer                        lasts, notices (pool.WithNotices) say so, and since when
//	a system error                3 tries
//	a question about a VM         the operation ends as soon as it is seen, with its text and how to
//	                              answer
//	an address that another       75 seconds, since guest tools report that of before for up to 30 s
//	running VM has, too
//	what a failure leaves         a minute to remove a clone that is not what was requested
//
// An operation that is given up says what vCenter says then: the VM's question, its tasks, and the
// state of its host.
//
// # Neighbours
//
// Static MACs and claims (pool.NIC), in Preflight, and addresses, whenever one is found, are compared with
// those of all VMs on the same network that the user may see. A machine that vCenter does not know, or on another port
// group of the same VLAN, is not seen; that the guest has the VM's MAC, package pool asks at every login.
//
// # The ledger
//
// What processes tell each other lies in VMs "<set>-ledger-..." in the folder "ledger" of the
// set's, which have no disk and are never powered on: one for each pool, one for the claim to build,
// one for the pools that are kept, and one for every eight tickets of waiters. A write is one
// ReconfigVM_Task with changeVersion, so that of two at a time one is told ConcurrentAccess. A ledger
// lies where Preflight was first told that a VM of the set goes, else on the defaults of Config.
// vCenter's clock is the one that counts; do not let it be set back and forth.
//
// # What it costs
//
// One session, one property collector with one long poll at a time for everything that is waited
// for, and none while nothing is. Reading a set is one call, however many VMs it has, beside those
// for the further pages of a long answer. At most 32 calls are in flight; how many operations are
// under way pool.Limits decides. Those of other processes are not counted.
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
// registered. A VM's files are told from those it depends on by their directories. CreateSnapshot_Task is
// called, which every vCenter has; CreateSnapshotEx_Task adds only how to quiesce. VMs that a version
// made before marks named the VM's instance UUID count as copies: destroy sets with the version that
// made them.
package vsphere
