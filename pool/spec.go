package pool

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/poolready/poolready/sshx"
)

// A Spec describes the set of pools that is wanted. It is data: nothing happens until it is given
// to a function such as Ensure or Open, which checks all of it first and returns an ErrInvalidSpec
// with every fault, before anything is touched. Durations are 0, for a default, or at least 1 ms.
type Spec struct {
	// Name names the set: everything built from one Spec on one hypervisor. VMs live in a
	// folder of this name. Processes that use one Name share the VMs. Required: at most 40
	// characters of a-z, 0-9 and "-".
	Name string
	// Provider creates and changes the VMs. Required.
	Provider Provider
	// Pools is how many pools there are, numbered from 1, at most 1000; 0 means 1.
	Pools int
	// Only holds the numbers of the pools that this process uses, each once; empty means all. The
	// others stay as they are, for others to use: pools keep their numbers, hosts and leases.
	Only []int
	// MinPools is how many pools must be ready for Open to succeed; 0 means all.
	MinPools int
	// Golden is the VM that the roles are cloned from.
	Golden Golden
	// Roles are the VMs of one pool, in the order in which they are made ready.
	Roles []Role
	// SSH says how to log in to every host. Its HostKeys must trust the template's keys, which are
	// verified on the first connection to a new golden. From then on the keys that golden has are
	// pinned: clones and reverted VMs have the same ones. Name and Address must be empty.
	SSH sshx.Config
	// Facts is a script like that of Script, which prints what there is on a host, in lines of kind,
	// name and value with tabs between them: "package\tgit\t2.43". See Host.Facts and Pool.Watch. It
	// is no part of the fingerprint.
	Facts string
	// Keep says when a pool stays as its test left it; the zero value means never.
	Keep KeepPolicy
	// Evidence says what is collected of a pool that a test failed on before it is reset.
	Evidence Evidence
	// Events is the directory that the record of the run is written to, one file by each process, and
	// which is made if it does not exist; see package events. "" means "events" in the directory that the
	// environment variable POOLREADY_DIR names, or, if go test has -artifacts, one in that of its
	// -outputdir; else nothing is recorded.
	Events string
	// Cleanups clean up, by kind, what tests make outside of their VMs; see Pool.Track. ref is what
	// Track was given. A cleanup must succeed if the thing is not there.
	Cleanups map[string]func(ctx context.Context, ref string) error
	// Limits bound time and parallelism; the zero value has useful defaults.
	Limits Limits
	// Logf receives one line per event; nil means t.Logf in Ensure, and nothing in Open.
	Logf func(format string, args ...any)

	gates *gates // by withDefaults
}

// Golden is the VM that is configured once and then cloned. It is never destroyed while clones
// use its disks: a changed Golden is built as a new generation beside the old one ("golden",
// "golden-g2", ...), and the old one is removed with its last clone.
// Roles on several datastores get one golden on each, named after it.
type Golden struct {
	VM VM
	// Template is the name or inventory path of the template (or powered-off VM) to start from.
	// Required.
	Template string
	// Snapshot is the name of the snapshot that makes it ready; "" means "golden-ready".
	Snapshot string
	// Steps, in order, then Checks, all of them.
	Steps  []Step
	Checks []Check
	// MaxAge is the age at which golden is rebuilt, at least 1 minute; 0 means that it never is.
	MaxAge time.Duration
	// Expect is how long a build is expected to take if there is no record of an earlier one; 0
	// means 20 minutes.
	Expect time.Duration
}

// A Role is one kind of VM in every pool.
type Role struct {
	// Name is a short name such as "con"; unique in the Spec. Required.
	Name string
	// VM returns the VM of this role in the pool of that number, from 1. Required. It must return
	// the same whenever it is called with the same number; all are checked before anything is built.
	VM func(pool int) VM
	// Golden is the VM that this role is cloned from, if it is another than Spec.Golden: for another
	// operating system, say. nil means Spec.Golden. Roles may share one.
	Golden *Golden
	// Snapshot is the name of the snapshot that makes it ready; "" means "pool-ready".
	Snapshot string
	// Ready is the state that a VM of this role is in when it is ready, and that every reset brings
	// back; "" means ReadyOff. A change rebuilds the role.
	Ready ReadyState
	// Needs are what must answer, of earlier roles of the same pool, before the Steps begin.
	Needs []Need
	// StrictOrder says that a reset does not start this role's VM before the earlier roles of its pool
	// are up and what they need answers: for services that do not try again if they start without what
	// they need. Otherwise all VMs of a pool start at once, and Needs are waited for in order. It is no
	// part of the fingerprint: builds are always in order.
	StrictOrder bool
	// Steps, in order, then Checks, all of them.
	Steps  []Step
	Checks []Check
	// AfterReset are short checks that show, beside what every reset shows, that a host is as it was
	// when ready. They are no part of the fingerprint.
	AfterReset []Check
	// Expect is how long making one VM of this role ready is expected to take if there is no record
	// of an earlier build; 0 means 10 minutes.
	Expect time.Duration
}

// A ReadyState is what the ready snapshot of a role is taken of.
type ReadyState string

const (
	// ReadyOff is a VM that has shut itself down. A reset boots it: everything about it is new, and nothing
	// stale. It costs nothing but the time of a boot.
	ReadyOff ReadyState = "off"

	// ReadyRunning is the running VM, right after its checks have passed. A reset resumes it, in seconds:
	// services are up, and need not start. It is for roles whose boot takes long and whose services
	// can go on after a pause in which the world went on. See "Running" in the package's documentation
	// for what it costs and what is stale then.
	ReadyRunning ReadyState = "running"
)

// VM is what one virtual machine is made of: data, and part of its fingerprint.
type VM struct {
	// Name is the VM's name, unique in the set; at most 63 characters of a-z, 0-9 and "-", 40 for a golden.
	Name string
	// Folder is the path of the VM's folder below the set's folder, such as "pool1"; "" is the set's
	// folder itself. The folder "ledger" is reserved.
	Folder string
	// Datastore, ResourcePool and the NICs' Network are names or inventory paths; "" is the
	// provider's default.
	Datastore, ResourcePool string

	// CPUs are 1 to 768, MemoryMiB a multiple of 4 up to 24 TiB; 0 means as in the source.
	CPUs, MemoryMiB int
	// DiskGiB is the size that the first disk of a golden is grown to, up to 63488; 0 keeps that of
	// the template. A linked clone's disk cannot grow: it must be 0 in a Role.
	DiskGiB int
	// NICs, at most 10, are in the order of the guest's devices; SSH uses the first one. Without any,
	// the VM has those of the source, with new MACs.
	NICs []NIC
	// Env holds the environment variables of this VM's scripts. Records and logs have a hash of the
	// values, not the values; what a script prints, or a Check wants, is shown, except SSH.Secrets.
	Env map[string]string
}

// NIC is one network interface.
type NIC struct {
	Network string
	// MAC is in the form 00:50:56:00:01:02; "" lets the hypervisor choose. vCenter wants static
	// ones from 00:50:56:00:00:00 to 00:50:56:3f:ff:ff.
	MAC string
	// Subnet is the one that the address for SSH lies in, of the first NIC; the zero value takes any.
	// It keeps a virtual address that moves between machines (keepalived, kube-vip) from being taken. One
	// of a single address, as a DHCP reservation gives, is dialled without waiting for the guest tools.
	Subnet netip.Prefix
	// Claims name what, beside its MAC, only one VM may have on the network: an address that a DHCP
	// server keeps for it, or that steps give it, as "10.0.2.10" or "VLAN 10: 10.10.20.1". A VM keeps
	// the claims that it was made with, and Preflight refuses those of VMs of other sets. Of two sets
	// that are made at the same time, neither sees the other's.
	Claims []string
	// Unplugged tells that the NIC is disconnected in the hypervisor when the host is ready: that
	// happens after the last step and before the checks, and is proved by every reset. The NIC must
	// have a MAC, not be the first one, nor golden's, and the Provider be a NICConnector.
	Unplugged bool
}

// A Step is one named change to a host. Script and Files make the common ones.
type Step struct {
	Name string // unique in its layer
	// Version stands for what Do does: functions cannot be hashed, so a VM counts as ready
	// only if the names and versions of all its steps are those it was built with. Required;
	// Script and Files derive it from their content.
	Version string
	// Timeout limits Do; 0 means 10 minutes.
	Timeout time.Duration
	// Do makes the change. It must be safe to repeat.
	Do func(ctx context.Context, h *Host) error

	fault  error   // what its constructor found
	script *string // the text of Script
}

// A Check examines a host and changes nothing. ScriptCheck makes the common one.
type Check struct {
	Name string // unique in its layer
	// Version stands for what Do does, as in Step. Required.
	Version string
	// Want is what Do must return, with ${NAME} standing for a variable of VM.Env, which must have it.
	// It has no surrounding white space; "" accepts everything that Do returns without an error.
	Want string
	// Timeout limits Do; 0 means 1 minute.
	Timeout time.Duration
	// Do returns what it found. Surrounding white space does not count.
	Do func(ctx context.Context, h *Host) (got string, err error)

	script *string // the text of ScriptCheck
}

// A Need is a service of an earlier role, in the same pool, that must answer before a host is
// configured, and again after every reset. It is tried until it succeeds or Timeout is over.
type Need struct {
	Name string
	Role string // an earlier role
	// Timeout limits the wait; 0 means 5 minutes.
	Timeout time.Duration
	// Do tries once. h is the host that needs the service, of is the host that provides it.
	Do func(ctx context.Context, h, of *Host) error
}

// withDefaults returns a copy with every default filled in.
func (s Spec) withDefaults() Spec {
	s.Pools = cmp.Or(s.Pools, 1)
	s.MinPools = cmp.Or(s.MinPools, len(s.numbers()))
	s.Limits = s.Limits.withDefaults()
	if s.gates == nil {
		s.gates = &gates{limits: s.Limits}
	}
	s.Golden = s.Golden.withDefaults()
	roles := make([]Role, len(s.Roles))
	for i, r := range s.Roles {
		r.Snapshot = cmp.Or(r.Snapshot, "pool-ready")
		r.Ready = cmp.Or(r.Ready, ReadyOff)
		r.Expect = cmp.Or(r.Expect, 10*time.Minute)
		if r.Golden != nil {
			g := r.Golden.withDefaults()
			r.Golden = &g
		}
		roles[i] = r
	}
	s.Roles = roles
	if s.Logf == nil {
		s.Logf = func(string, ...any) {}
	}
	return s
}

func (g Golden) withDefaults() Golden {
	g.Snapshot = cmp.Or(g.Snapshot, "golden-ready")
	g.Expect = cmp.Or(g.Expect, 20*time.Minute)
	return g
}

// golden returns the golden that role r is cloned from.
func (s Spec) golden(r Role) Golden {
	if r.Golden != nil {
		return *r.Golden
	}
	return s.Golden
}

// goldens returns the goldens that roles are cloned from, in the order of roles.
func (s Spec) goldens() []Golden {
	var all []Golden
	for _, r := range s.Roles {
		g := s.golden(r)
		if !slices.ContainsFunc(all, func(o Golden) bool { return o.VM.Name == g.VM.Name }) {
			all = append(all, g)
		}
	}
	return all
}

// vm returns the VM of role r in a pool, with golden's datastore where it names none: a linked
// clone lies where its golden does.
func (s Spec) vm(r Role, pool int) VM {
	vm := r.VM(pool)
	vm.Datastore = cmp.Or(vm.Datastore, s.golden(r).VM.Datastore)
	return vm
}

// uses reports whether the Spec is about the pool of that number.
func (s Spec) uses(pool int) bool { return len(s.Only) == 0 || slices.Contains(s.Only, pool) }

// hasHost reports whether one of the pools that the Spec is about has a VM of that name.
func (s Spec) hasHost(name string) bool {
	return slices.ContainsFunc(s.numbers(), func(n int) bool {
		return slices.ContainsFunc(s.Roles, func(r Role) bool { return s.vm(r, n).Name == name })
	})
}

// numbers returns the numbers of the pools that the Spec is about, in order.
func (s Spec) numbers() []int {
	var all []int
	for n := 1; n <= s.Pools; n++ {
		if s.uses(n) {
			all = append(all, n)
		}
	}
	return all
}

// KeepPolicy says when a pool stays as its test left it, for a person to look at.
type KeepPolicy struct {
	// When is "failed", "always" or "never". Required if Pools or For is set; else "" means "never".
	When string
	// Pools is how many are kept at most, of all processes; 0 means 1.
	Pools int
	// For is how long; 0 means 4 hours. Then the pool is reset for the next test that wants it.
	For time.Duration
}

// Evidence says what is collected of a pool's hosts before it is reset, and when. The zero value
// collects, when a test fails or a host could not be made ready, of each host: its journal since the
// test began, processes, listening ports, free space and the kernel's errors, the transcript of the
// commands that the test ran there, and the screen of the VM's console, if the Provider is a
// Screenshotter; and the status of the pool.
//
// It is in t.ArtifactDir() if go test has -artifacts, else in Dir, else in the directory that the environment
// variable POOLREADY_DIR names, else in one below the directory for temporary files; the failure
// message says where. Secrets of Spec.SSH are taken out of all texts. A run in which nothing fails
// costs no call and no command.
type Evidence struct {
	// When is "failed", "always" or "never"; "" means "failed". The environment variable
	// POOLREADY_EVIDENCE, one of the same words, overrides it.
	When string
	// Files are files of the hosts to copy, as absolute paths, which may be patterns for a shell:
	// "/var/log/mirror/*.log". Of each the end is copied; what does not exist is left out.
	Files []string
	// Collectors are asked, too.
	Collectors []Collector
	// Dir is a directory that is made if it does not exist; "" means as above.
	Dir string
	// Timeout limits the time for all hosts of a pool; 0 means 30 seconds. A host that does not
	// answer takes no more than 10 seconds of it.
	Timeout time.Duration
	// MaxBytes limits each file; 0 means 1 MiB.
	MaxBytes int64
}

// A Collector collects something of a host as evidence.
type Collector struct {
	// Name is that of the file that gets the output, of A-Z, a-z, 0-9, ".", "-" and "_". Required.
	Name string
	// Script is a program for the host, as in Host.Script. Either it or Do is required.
	Script string
	// Do returns what it found.
	Do func(ctx context.Context, h *Host) (string, error)
}
