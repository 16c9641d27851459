package pool

import (
	"context"
	"net/netip"
	"time"
)

// A Provider does the work on a hypervisor: it reads, clones, powers, snapshots and destroys VMs.
// Package vsphere has the one for VMware vCenter; pooltest.TestProvider says, as a test suite,
// what every one promises. Methods may be called from any goroutine, end when ctx does, and
// return errors that name operation, object, cause and remedy.
//
// A method that changes something looks before it repeats: when the hypervisor's answer was lost,
// it reads back whether the change took effect, so that one call makes at most one change. It asks
// CheckLease right before.
type Provider interface {
	// Inventory reads all that the hypervisor knows of the set, in one bulk reading, and the
	// templates named. A set without a VM has an empty Inventory, not an error; a template that
	// does not exist is absent from Inventory.Templates.
	Inventory(ctx context.Context, set string, templates ...string) (*Inventory, error)

	// Preflight reports, without changing anything, every reason why the clones could not be
	// made: datastores, resource pools and networks that do not exist or that no usable host of the
	// resource pool reaches, missing privileges, names taken outside the set. All reasons are joined
	// in one error. A source that does not exist yet has the Source and the Snapshot ""; give the
	// one that there is, since only then is it checked. A static MAC is taken if another VM on the same
	// network has it, unless one of the clones replaces that VM: the error names it. NIC.Claims are taken
	// likewise, if the Provider keeps them.
	Preflight(ctx context.Context, clones []CloneSpec) error

	// Place returns, for each of the VMs, where Clone would put it, with all defaults resolved, in the
	// words of VMInfo.Placement. What does not exist or is ambiguous is an error, all of it at once.
	Place(ctx context.Context, vms ...VM) ([]Placement, error)

	// Clone makes one powered-off VM, with everything that spec says, in one call to the
	// hypervisor, and returns its ID. If a VM of that name exists in the folder, it returns
	// an error for which errors.Is(err, ErrExists) holds.
	Clone(ctx context.Context, spec CloneSpec) (id string, err error)

	// PowerOn starts the VM; a VM that runs is left alone.
	PowerOn(ctx context.Context, id string) error

	// ShutDown asks the guest to shut down, waits up to grace for the power to be off, and then
	// cuts it. Guest tools that do not run yet are waited for within grace. With grace 0, or if the
	// guest has no tools, it cuts the power at once. forced reports whether the power was cut, and
	// Notice says why. A VM that is off is left alone.
	ShutDown(ctx context.Context, id string, grace time.Duration) (forced bool, err error)

	// Snapshot takes a snapshot, without memory, with record as its description, reads back what was
	// stored, and returns the snapshot's ID. If the hypervisor kept another record, cut it or refused
	// it, it returns an error for which errors.Is(err, ErrRecord) holds.
	Snapshot(ctx context.Context, id, name, record string) (snapshot string, err error)

	// SnapshotRunning is Snapshot with the memory of a VM that runs, not quiesced, and the VM runs on.
	// It is an error if the VM does not run, or if what came of it has no memory.
	SnapshotRunning(ctx context.Context, id, name, record string) (snapshot string, err error)

	// Revert puts the VM back to the snapshot, whatever it does now. After that of Snapshot it is off.
	// After that of SnapshotRunning it runs, and has not booted: it goes on from the moment of the
	// snapshot. What its guest tools then report may for a while be what they reported before the
	// revert.
	Revert(ctx context.Context, id, snapshot string) error

	// Rename renames the VM. ErrExists as in Clone.
	Rename(ctx context.Context, id, name string) error

	// Destroy removes the VM and its disks, cutting its power first. A VM that is gone is no error.
	// If disks of other VMs depend on its own, it does nothing, not even cut the power, and returns an
	// error that names them, for which errors.Is(err, ErrHasClones) holds.
	Destroy(ctx context.Context, id string) error

	// Clones returns the inventory paths of all VMs, in the set or not, whose disks depend on
	// those of the VM.
	Clones(ctx context.Context, id string) ([]string, error)

	// Annotate sets the note that people see on the VM. No decision rests on it.
	Annotate(ctx context.Context, id, note string) error

	// Address waits until the guest runs and has, since it was last powered on, reported an address on
	// the NIC of that MAC ("" is the first NIC), and returns it. With subnets, only an address in one
	// of them counts. Of several, IPv4 is preferred, and one that came with a lease or has a subnet
	// over one that stands alone (/32), which may be a virtual address that moves between machines;
	// link-local addresses do not count, nor one that another running VM on the same network reports:
	// the error names both VMs, and why that may be. With a valid except, it waits until the address is
	// another one than that.
	Address(ctx context.Context, id, mac string, except netip.Addr, subnets ...netip.Prefix) (netip.Addr, error)

	// Diagnose reads, at once and without waiting for anything, how one VM is. A VM that does not
	// exist is a Diagnosis, not an error.
	Diagnose(ctx context.Context, id string) (Diagnosis, error)

	// A Provider keeps the ledger of its sets.
	LedgerStore
}

// An Inventory is one reading of a set.
type Inventory struct {
	// VMs holds every VM in the set's folder, made by us or not, in no order.
	VMs []VMInfo
	// Templates maps the requested templates that exist to their identity, which changes when a clone
	// of the template would differ: other disks, hardware or snapshots, or another VM. A note or a
	// custom value is no such change.
	Templates map[string]string
	// Incomplete says why the reading may lack VMs, or is empty. Nothing is deleted on the
	// strength of an incomplete reading.
	Incomplete string
}

// BeingCreated is the VMInfo.Problem of a VM that a call to clone it has not finished yet.
const BeingCreated = "being created"

// VMInfo is what an Inventory says of one VM.
type VMInfo struct {
	ID     string // the hypervisor's own, stable while the VM exists
	Name   string
	Folder string // below the set's folder, "/"-separated; "" is the set's folder itself
	// Owner is CloneSpec.Owner of the call that made this very VM. "" is a VM that we did not make;
	// a copy of one of ours is such a VM, whatever it inherited.
	Owner string
	// CopyOf is the Owner of the VM of ours that this one is a copy of, made by hand or restored from
	// a backup; else "".
	CopyOf string
	// UUID is that of the machine as its guest reads it from the firmware, in lower case.
	UUID      string
	MACs      []string // of the NICs, in device order, in lower case
	Placement Placement
	On        bool   // powered on (or suspended)
	Problem   string // why the hypervisor cannot use the VM now ("orphaned", BeingCreated), or ""
	Snapshots []Snapshot
	// Linked reports that at least one disk has a parent that belongs to another VM.
	Linked bool
	// NICs maps the MACs of NICs, in lower case, to how they are connected. nil is not known, as of
	// a Provider that is no NICConnector.
	NICs map[string]NICState
	// Addrs maps the MACs of NICs, in lower case, to the addresses the guest last reported
	// there, in the order in which Address prefers them. They may be stale: only a host that proves its key is the host.
	Addrs map[string][]netip.Addr
}

// A Snapshot of a VM.
type Snapshot struct {
	ID, Name string
	Record   string // its description
	Created  time.Time
	Running  bool // it has the memory of a VM that ran
}

// CloneSpec is one VM to be made.
type CloneSpec struct {
	Set      string // names the set's folder, which is made if it does not exist
	Source   string // a VM's ID or a template's inventory path
	Template bool   // Source is a template: a full clone of its current state
	Snapshot string // the snapshot of Source that is the parent of a linked clone; "" makes a full clone
	Owner    string // read back as VMInfo.Owner
	Note     string // for people
	VM       VM
}

// A LedgerStore keeps a set's ledger: small texts that processes share, on the hypervisor, where no
// revert, rebuild or clone of the set's VMs touches them. It is divided into shards, each
// written as a whole and by itself, so that writers of different shards never meet.
type LedgerStore interface {
	// Ledger reads the shards named, or all if none is, in one bulk reading, and the hypervisor's
	// clock. A set without a ledger has no shards; that is no error, and neither is a shard that
	// is not there.
	Ledger(ctx context.Context, set string, shards ...string) (*Ledger, error)

	// SetLedger writes values to a shard if its revision still is what Ledger read; "" makes a
	// shard that must not be there yet, and the set's folder with it. Keys that are not in values
	// stay as they are; those with the value "" are removed. It is one atomic change, made wholly or
	// not at all. If somebody else was faster, it returns an error for which errors.Is(err,
	// ErrChanged) holds: read again and decide again. After any other error the outcome is unknown:
	// read again, too. Keys are made of a-z, 0-9, "." and "-"; values are shorter than 4 KiB.
	SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error
}

// A LedgerWatcher is a LedgerStore that reports when a ledger changes. With one, a test that waits for a pool
// learns at once that another process has released it; without, within 3 seconds.
type LedgerWatcher interface {
	// AwaitLedger waits until a shard of the set has another revision than revisions, which maps names of
	// shards to revisions that were read, or is gone. It returns earlier with an error when ctx ends.
	AwaitLedger(ctx context.Context, set string, revisions map[string]string) error
}

// A Ledger is one reading of a set's ledger.
type Ledger struct {
	// Now is the hypervisor's clock, by which all leases are measured. It was not earlier when Ledger
	// returned, and later by no more than Slack, which is how long the clock took to answer.
	Now    time.Time
	Slack  time.Duration
	Shards map[string]Shard
}

// A Shard is one part of a ledger.
type Shard struct {
	ID       string // the VM that holds it
	Revision string // never empty; changes with every write
	Values   map[string]string
}

// NICState is how a NIC is connected, as the hypervisor has it.
type NICState struct {
	Connected    bool // now; always false while the VM is off
	AtPowerOn    bool
	GuestControl bool // the guest may change both
}
