package pooltest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/internal/wait"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// A Provider is a [pool.Provider] in memory, to test Specs, Steps and Checks with: no vCenter, no
// port, nothing outside of it. Its VMs run machines of package sshtest, which have a shell, common
// commands and sshd; Commands and Disk add what a Spec's scripts need. It is a
// [pool.NICConnector] and an [sshx.Dialer], and keeps all promises of the suite, those about users
// and lost answers aside, since it has none.
//
// It is as strict as vSphere where a Spec or an engine may be wrong: a VM with linked clones cannot
// be destroyed, their disks do not grow, a revert brings back disk and NICs of the snapshot and
// ends in another address, what tools last reported stays while the VM is off, a guest whose power
// is cut falls silent, and ledger writes compare revisions. Between it and its hypervisor no answer
// is lost; a type that embeds it makes calls fail, before or after they took effect. Package
// vspheretest is for what is vSphere's own: its API, privileges, faults, events and times; and for
// several processes.
//
// Set the fields before the first VM is made. All methods may be called from any goroutine.
type Provider struct {
	// Commands are on every machine, beside sshtest's.
	Commands map[string]sshtest.Command
	// Disk is what the templates have. It lets root in with ClientKey.
	Disk *sshtest.Disk
	// ClientKey is the key that the machines accept.
	ClientKey ssh.Signer
	// Boot is how long a machine takes from power on to sshd, and again until its tools report
	// addresses; 0 means 2 ms.
	Boot time.Duration
	// Datastores, ResourcePools and Networks are those that exist; the first is the default.
	Datastores, ResourcePools, Networks []string

	t         testing.TB // nil without a test
	templates []string
	life      context.Context
	stop      context.CancelFunc
	work      sync.WaitGroup
	net       network

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when a VM or guest changes
	closed  bool
	last    int // number of the last ID, MAC or revision
	vms     map[string]*vm
	ledgers map[string]map[string]pool.Shard // by set and shard
	leases  map[string]netip.Addr            // by MAC and number of reverts
	calls   []Call
}

// A Call is a call of one of a Provider's methods.
type Call struct {
	Method string // such as "Clone"
	Name   string // the VM's name, or the ledger's shard, or ""
	Err    error
}

func (c Call) String() string { return strings.TrimSpace(c.Method + " " + c.Name) }

// Changes reports whether the method changes VMs or the ledger.
func (c Call) Changes() bool {
	switch c.Method {
	case "Inventory", "Preflight", "Place", "Clones", "Address", "Diagnose", "NICState", "Ledger":
		return false
	}
	return true
}

// NewProvider returns a Provider with templates of these inventory paths. It is closed when the test
// ends, and a request for what sshtest does not simulate fails the test. t may be nil
// for a program that calls Close itself.
func NewProvider(t testing.TB, templates ...string) *Provider {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	signer, err := ssh.NewSignerFromKey(key)
	must(err)
	disk := sshtest.NewDisk()
	must(disk.AddUser("root", string(ssh.MarshalAuthorizedKey(signer.PublicKey()))))
	p := &Provider{
		Disk: disk, ClientKey: signer, Boot: 2 * time.Millisecond,
		Datastores: []string{"datastore"}, ResourcePools: []string{"pool"}, Networks: []string{"network"},
		t: t, templates: templates,
		changed: make(chan struct{}), vms: map[string]*vm{}, ledgers: map[string]map[string]pool.Shard{},
		leases: map[string]netip.Addr{},
	}
	p.net.p = p
	p.life, p.stop = context.WithCancel(context.Background())
	if t != nil {
		t.Helper()
		t.Cleanup(p.Close)
	}
	return p
}

// must is for what cannot fail in memory.
func must(err error) {
	if err != nil {
		panic("pooltest: " + err.Error())
	}
}

// Close cuts the power of all machines and ends all connections to them.
func (p *Provider) Close() {
	p.mu.Lock()
	p.closed = true
	var on []*vm
	for _, v := range p.vms {
		on = append(on, v)
	}
	p.mu.Unlock()
	p.stop()
	for _, v := range on {
		p.cutPower(v)
	}
	p.net.close()
	p.work.Wait()
}

// SSH returns how to log in to the machines, as root: the SSH of a Spec.
func (p *Provider) SSH() sshx.Config {
	var keys []string
	files, err := p.Disk.ReadDir("/etc/ssh")
	must(err)
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "_key.pub") {
			line, err := p.Disk.ReadFile("/etc/ssh/" + f.Name())
			must(err)
			keys = append(keys, strings.TrimSpace(string(line)))
		}
	}
	return sshx.Config{Keys: []ssh.Signer{p.ClientKey}, Dialer: p, HostKeys: sshx.HostKeys{Pinned: keys}}
}

// Calls returns the calls that have ended, in that order.
func (p *Provider) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Call(nil), p.calls...)
}

// Machine returns the machine that runs on the VM of that name, to look at it or to break it; nil
// if no VM of the set has that name, or it is off or booting.
func (p *Provider) Machine(set, name string) *sshtest.Host {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.vms {
		if v.set == set && v.name == name && v.guest != nil && v.guest.up {
			return v.guest.host
		}
	}
	return nil
}

// BootedAt returns when the VM of that ID was last powered on.
func (p *Provider) BootedAt(id string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.vms[id]; v != nil {
		return v.bootedAt
	}
	return time.Time{}
}

// record notes that a call has ended, and returns its error as callers see it.
func (p *Provider) record(method, name string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.TrimSpace(strings.ToLower(method)+" "+name), err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, Call{method, name, err})
	return err
}

// latency is how long every change takes.
const latency = 100 * time.Microsecond

// begin is called right before each change.
func (p *Provider) begin(ctx context.Context) error {
	if wait.Sleep(ctx, latency) != nil {
		return context.Cause(ctx)
	}
	return pool.CheckLease(ctx)
}

// broadcast wakes those who wait for a change; with p.mu held.
func (p *Provider) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// errGone is what there is to say of a VM that does not exist.
var errGone = errors.New("the VM does not exist")

// vm waits until nothing else is done to the VM, and returns it; done ends that.
func (p *Provider) vm(ctx context.Context, id string) (v *vm, done func(), err error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	p.mu.Lock()
	v = p.vms[id]
	p.mu.Unlock()
	if v == nil {
		return nil, nil, errGone
	}
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vms[id] != v {
		<-v.turn
		return nil, nil, errGone
	}
	return v, func() { <-v.turn }, nil
}

// nameOf is the name of a VM, or its ID if it is gone.
func (p *Provider) nameOf(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.vms[id]; v != nil {
		return v.name
	}
	return id
}

// next returns a number that nothing has had; with p.mu held.
func (p *Provider) next() int {
	p.last++
	return p.last
}
