package realguests

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

//go:embed container
var containerFS embed.FS

// Stacks are who configures the network of a template: "ifupdown" is Debian as installed, where the
// recipe then uses systemd-networkd; "networkmanager" has NetworkManager besides; "cloud" is like
// Debian's cloud images, with cloud-init, netplan, networkd and resolved.
var Stacks = []string{"ifupdown", "networkmanager", "cloud"}

// A Kind is a kind of guests.
type Kind string

const (
	// Containers run under systemd-nspawn, at native speed, on this machine's kernel and clock.
	Containers Kind = "containers"
	// VMs run under QEMU: with KVM if it answers, else emulated, 15 to 30 times slower.
	VMs Kind = "vms"
)

// Options say what a Site is to be.
type Options struct {
	// Kind is Containers or VMs; "" means Containers.
	Kind Kind
	// Topology has the names and addresses of the lab, and the system of the template. Con and dis
	// must be on the same.
	Topology e2e.Topology
	// Stack is one of Stacks; "" means the first.
	Stack string
	// Cache keeps images, of some 500 MB each, and has what runs; "" means a directory of the
	// user's cache directory. Its file system must be one that overlayfs can write to.
	Cache string
	// Logf says what takes long and what is not as on a real machine; nil discards it.
	Logf func(format string, args ...any)
}

// A Site is an OS for a vspheretest.Server whose guests are real machines, and their networks.
// Close it after the Server.
type Site struct {
	kind     Kind
	topology e2e.Topology
	image    image
	logf     func(format string, args ...any)
	dir      string   // of this run
	lock     *os.File // of dir, until the run is over
	release  func()   // of the image
	wire     *wire
	vlans    bool // the kernel has 802.1Q
	kvm      bool // KVM answers
	serial   atomic.Int64
	life     context.Context // ends with Close
	end      context.CancelFunc
}

var _ vspheretest.OS = (*Site)(nil)

// Open builds the image if it is not in the cache, removes what killed processes have left, and
// starts the lab. Its error is a Missing if this machine lacks something. The caller calls Close.
func Open(ctx context.Context, o Options) (_ *Site, err error) {
	if o.Kind == "" {
		o.Kind = Containers
	}
	if o.Stack == "" {
		o.Stack = Stacks[0]
	}
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("open a site: %w", err)
	}
	if err := Check(ctx, o.Kind); err != nil {
		return nil, err
	}
	s := &Site{kind: o.Kind, topology: o.Topology, logf: o.Logf}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	s.life, s.end = life, end
	if s.logf == nil {
		s.logf = func(string, ...any) {}
	}
	if o.Cache == "" {
		if o.Cache, err = DefaultCache(); err != nil {
			return nil, err
		}
	}
	if o.Cache, err = filepath.Abs(o.Cache); err != nil {
		return nil, err
	}
	golden := o.Topology.VM(o.Topology.Host(e2e.Golden, 0))
	packages := golden.Env["PACKAGES"]
	spec := imageSpec{system: o.Topology.OS, stack: o.Stack, kind: o.Kind, packages: packages}
	s.image, s.release, err = openImage(ctx, o.Cache, spec, s.logf)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	runs := filepath.Join(o.Cache, "runs")
	if err := os.MkdirAll(runs, 0o755); err != nil {
		return nil, err
	}
	if err := sweep(runs); err != nil {
		return nil, err
	}
	if s.dir, s.lock, err = newRun(runs); err != nil {
		return nil, err
	}
	if s.wire, err = newWire(life, o.Topology, s.dir, s.image.repo()); err != nil {
		return nil, err
	}
	switch o.Kind {
	case VMs:
		if s.kvm = s.kvmAnswers(ctx); !s.kvm {
			s.logf("KVM does not answer: the machines are emulated, which is 15 to 30 times as slow")
		}
	case Containers:
		if s.vlans = hasVLANs(); !s.vlans {
			s.logf("NOT SHOWN: 802.1Q, which this kernel lacks; a macvlan stands in for the VLAN")
		}
	}
	return s, nil
}

// validate returns all faults of the options.
func (o Options) validate() error {
	var errs []error
	if o.Topology.Mixed() {
		errs = append(errs, errors.New("con and dis must be on the same system"))
	}
	if o.Kind != Containers && o.Kind != VMs {
		errs = append(errs, fmt.Errorf("unknown Kind %q; want %q or %q", o.Kind, Containers, VMs))
	}
	if !slices.Contains(Stacks, o.Stack) {
		errs = append(errs, fmt.Errorf("unknown Stack %q; want one of %q", o.Stack, Stacks))
	}
	return errors.Join(errs...)
}

// DefaultCache is the directory that an empty Options.Cache means.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "poolready-realguests"), err
}

// Close ends all that runs and removes the run's directory.
func (s *Site) Close() {
	s.end()
	if s.wire != nil {
		s.wire.close()
	}
	removeRun(s.dir)
	s.lock.Close()
	s.release()
}

// KeyFile is the private key that logs in to guests as root.
func (s *Site) KeyFile() string { return filepath.Join(s.image.dir, keyFile) }

// HostKeys are those of the template. vspheretest.Server publishes them.
func (s *Site) HostKeys() []string {
	keys, err := s.image.hostKeys()
	if err != nil {
		s.logf("%v", err)
	}
	return keys
}

// Configure sets the fields of an unstarted Server that the site is made of: OS, ClientKey,
// Networks, Templates, and Latency, since real guests take their own time.
func (s *Site) Configure(srv *vspheretest.Server) error {
	key, err := s.image.key()
	if err != nil {
		return err
	}
	t := s.topology
	srv.OS, srv.ClientKey = s, key
	srv.Networks = []string{t.LabNetwork, t.PrivateNetwork, t.ExternalNetwork}
	srv.Templates = []vspheretest.Template{
		{
			Path:     t.Template,
			Networks: srv.Networks[:1:1],
			GuestID:  "debian12_64Guest",
			DiskGiB:  imageGiB,
		},
	}
	srv.Latency = vspheretest.Fast()
	return nil
}

// RunnerKey is the public key of ClientKey, as e2e.Topology has it.
func RunnerKey(key ssh.Signer) string {
	k := authorizedKey(key)
	return string(k[:len(k)-1])
}

// Install implements vspheretest.OS.
func (s *Site) Install(vspheretest.Hardware) vspheretest.Disk {
	if s.kind == VMs {
		return s.installVM()
	}
	return s.installTree()
}

// Boot implements vspheretest.OS. A guest that cannot be started powers itself off.
func (s *Site) Boot(m *vspheretest.Machine) vspheretest.Guest {
	if s.kind == Containers {
		return s.bootContainer(m, m.Disk.(*tree))
	}
	v, err := s.newVM(m, m.Disk.(*vmDisk), "")
	if err != nil {
		s.logf("%s: %v", m.Hardware.Name, err)
		m.PowerOff()
	}
	return v
}

// unique returns a name that nothing else of the run has.
func (s *Site) unique(what string) string { return fmt.Sprintf("%s%d", what, s.serial.Add(1)) }

// newRun makes the directory of a run. Until lock is closed or this process ends, sweep lets it be.
func newRun(runs string) (dir string, lock *os.File, err error) {
	// No sweep comes between the making of the directory and its lock.
	all, err := openLock(filepath.Join(runs, "lock"), unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	if dir, err = os.MkdirTemp(runs, "r"); err != nil {
		return "", nil, err
	}
	lock, err = openLock(filepath.Join(dir, "lock"), unix.LOCK_EX)
	return dir, lock, err
}

// sweep removes the runs of processes that are gone. Their guests went with them.
func sweep(runs string) error {
	all, err := openLock(filepath.Join(runs, "lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer all.Close()
	entries, err := os.ReadDir(runs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(runs, e.Name())
		lock, err := openLock(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // it runs
		}
		if err != nil {
			return err
		}
		removeRun(dir)
		lock.Close()
	}
	return nil
}

func removeRun(dir string) {
	for _, name := range cgroupsOf(dir) {
		removeCgroup(name)
	}
	_ = os.RemoveAll(dir)
}
