package pooltest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// Env is what the suite has to work with. Only Template is required.
type Env struct {
	// Template is the inventory path of a VM template whose guest has tools, gets an address by
	// itself and shuts down when asked.
	Template string
	// Set is the name of the suite's set, and begins those of its others; "" makes one up. No VM may
	// be in it.
	Set string
	// Timeout bounds each case; 0 means 15 minutes.
	Timeout time.Duration
	// Instant is how long calls are watched that must not wait, or must not return; 0 means 2 s.
	Instant time.Duration
	// Parallel is how many cases run at once; 0 means 4.
	Parallel int

	// Lose makes the hypervisor's next answer to the operation on the VM of that name be lost on
	// the way, after the operation took effect. nil skips the cases that need it.
	Lose func(t pool.T, op Operation, vm string)
	// BootedAt returns the hypervisor's own record of when the running VM of that ID was last powered
	// on. Only that shows for certain that a VM was not powered off and on: it may be back, with the
	// same address, before anybody looks. nil skips the case that needs it.
	BootedAt func(t pool.T, id string) time.Time
	// Copy makes a full copy of a VM, off, as a person does without this package, under another name in
	// the same folder, and returns its ID. nil skips the case that needs it.
	Copy func(t pool.T, id, name string) string
	// LeaseByMAC says that guests with one MAC on one network get one address, as a DHCP server gives
	// them that goes by MACs. false skips the case that needs it.
	LeaseByMAC bool
	// RecordLimit is how many bytes of a snapshot's record the hypervisor keeps; 0, no limit that is
	// known, skips the case that needs one.
	RecordLimit int
	// Ask makes the hypervisor ask a question when the VM is powered on next, and answer it
	// when t ends. nil skips the case that needs it.
	Ask func(t pool.T, id, name, text string)
	// WrongPassword returns a provider with a user's name and a password, which are not valid
	// together.
	WrongPassword func(t pool.T) (p pool.Provider, user, password string)
	// ReadOnly returns a provider whose user may see everything and change nothing, while t lasts.
	ReadOnly func(t pool.T) pool.Provider
}

// An Operation is one that Env.Lose loses the answer to.
type Operation string

// The operations are the methods of a Provider.
const (
	Clone    Operation = "Clone"
	PowerOn  Operation = "PowerOn"
	PowerOff Operation = "PowerOff" // of ShutDown without grace
	Snapshot Operation = "Snapshot"
	Revert   Operation = "Revert"
	Rename   Operation = "Rename"
	Destroy  Operation = "Destroy"
)

// A Case is one promise.
type Case struct {
	Name  string // what holds
	needs func(Env) bool
	able  func(pool.Provider) bool // nil: every provider is
	test  func(f *fixture)
}

// Cases returns all promises.
func Cases() []Case {
	var all []Case
	for _, group := range [][]Case{listing, cloning, power, cables, snapshots, running, changes, promises, preflight, books, endings, lost} {
		all = append(all, group...)
	}
	return all
}

// TestProvider runs every case as a subtest, with p.
func TestProvider(t *testing.T, p pool.Provider, env Env) {
	s := NewSuite(t, p, env)
	gate := make(chan struct{}, s.env.Parallel)
	t.Run("cases", func(t *testing.T) { // ends when all of them have
		for _, c := range Cases() {
			t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
				t.Parallel()
				if c.needs != nil && !c.needs(s.env) {
					t.Skip("pooltest.Env does not say how")
				}
				if c.able != nil && !c.able(p) {
					t.Skip("the provider lacks the capability")
				}
				gate <- struct{}{}
				defer func() { <-gate }()
				s.Check(t, c, p)
			})
		}
	})
}

// Suite is what cases share: their sets, and a golden to clone from.
type Suite struct {
	base pool.Provider
	env  Env

	mu               sync.Mutex
	macs             int
	run              [2]byte
	golden, snapshot string // IDs, "" until made
}

// NewSuite returns a Suite that sets up and looks with base. When t ends, all that is left in its
// sets is removed.
func NewSuite(t pool.T, base pool.Provider, env Env) *Suite {
	t.Helper()
	require.NotEmpty(t, env.Template, "Env.Template")
	if env.Set == "" {
		env.Set = "conformance-" + strings.ToLower(rand.Text()[:8])
	}
	if env.Timeout == 0 {
		env.Timeout = 15 * time.Minute
	}
	if env.Instant == 0 {
		env.Instant = 2 * time.Second
	}
	if env.Parallel == 0 {
		env.Parallel = 4
	}
	s := &Suite{base: base, env: env}
	_, _ = rand.Read(s.run[:])
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), max(env.Timeout, 5*time.Minute))
		defer cancel()
		for _, set := range []string{s.env.Set, s.other()} {
			s.sweep(ctx, t, set)
		}
		s.burn(ctx, t)
	})
	return s
}

// other is a second set.
func (s *Suite) other() string { return s.env.Set + "-other" }

// sweep removes the VMs of a set, those of which others are clones after these.
func (s *Suite) sweep(ctx context.Context, t pool.T, set string) {
	inv, err := s.base.Inventory(ctx, set)
	if !assert.NoError(t, err, "what is left in set %q must be removed by hand", set) {
		return
	}
	left := inv.VMs
	for before := -1; len(left) != before; {
		before = len(left)
		left = slices.DeleteFunc(left, func(vm pool.VMInfo) bool { return s.base.Destroy(ctx, vm.ID) == nil })
	}
	for _, vm := range left {
		assert.NoError(t, s.base.Destroy(ctx, vm.ID), "VM %q of set %q must be removed by hand", vm.Name, set)
	}
}

// Check runs one case with p. If p keeps the promise, t does not fail.
func (s *Suite) Check(t pool.T, c Case, p pool.Provider) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.env.Timeout)
	t.Cleanup(cancel)
	c.test(&fixture{T: t, Suite: s, p: p, ctx: ctx})
}

// fixture is what one case works with.
type fixture struct {
	pool.T
	*Suite
	p   pool.Provider // the one that is tested; the Suite's sets up and looks
	ctx context.Context
}

// mac returns a static MAC that no other NIC of the suite has. It has a letter.
func (s *Suite) mac() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.macs++
	return fmt.Sprintf("00:50:56:%02x:%02x:%02x", s.run[0]&0x3f, s.run[1]|0xa0, s.macs)
}

// name returns a VM's name that no other VM of the suite has.
func (s *Suite) name(what string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.macs++
	return fmt.Sprintf("%s-%d", what, s.macs)
}

// source returns the shared golden and its snapshot, made when first needed.
func (f *fixture) source() (golden, snapshot string) {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.snapshot == "" {
		var err error
		f.golden, err = f.base.Clone(f.ctx, pool.CloneSpec{
			Set: f.env.Set, Source: f.env.Template, Template: true, Owner: f.env.Set + "/golden", Note: "conformance",
			VM: pool.VM{Name: "golden"},
		})
		require.NoError(f, err, "make golden")
		f.Suite.snapshot, err = f.base.Snapshot(f.ctx, f.golden, "golden-ready", "{}")
		require.NoError(f, err, "snapshot golden")
	}
	return f.golden, f.Suite.snapshot
}

// spec is that of a linked clone with one NIC.
func (f *fixture) spec(name string) pool.CloneSpec {
	f.Helper()
	golden, snapshot := f.source()
	return pool.CloneSpec{
		Set: f.env.Set, Source: golden, Snapshot: snapshot, Owner: f.env.Set + "/" + name, Note: "conformance",
		VM: pool.VM{Name: name, NICs: []pool.NIC{{MAC: f.mac()}}},
	}
}

// vm makes a linked clone, with the Suite's provider, that lives as long as the case.
func (f *fixture) vm(what string) (id string, spec pool.CloneSpec) {
	f.Helper()
	spec = f.spec(f.name(what))
	id, err := f.base.Clone(f.ctx, spec)
	require.NoError(f, err, "make a VM")
	f.removeLater(id)
	return id, spec
}

// up makes a VM that runs and has an address.
func (f *fixture) up(what string) (id string, spec pool.CloneSpec) {
	f.Helper()
	id, spec = f.vm(what)
	require.NoError(f, f.base.PowerOn(f.ctx, id))
	_, err := f.base.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
	require.NoError(f, err)
	return id, spec
}

func (f *fixture) removeLater(id string) {
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), max(f.env.Timeout, 5*time.Minute))
		defer cancel()
		assert.NoError(f, f.base.Destroy(ctx, id))
	})
}

// list reads a set with the Suite's provider.
func (f *fixture) list(set string) map[string]pool.VMInfo {
	f.Helper()
	inv, err := f.base.Inventory(f.ctx, set)
	require.NoError(f, err)
	return byID(inv)
}

// look reads one VM with the Suite's provider.
func (f *fixture) look(id string) pool.VMInfo {
	f.Helper()
	vm, ok := f.list(f.env.Set)[id]
	require.True(f, ok, "VM %s is in the inventory", id)
	return vm
}

// named returns the VMs of a set that have a name.
func (f *fixture) named(set, name string) (found []pool.VMInfo) {
	f.Helper()
	for _, vm := range f.list(set) {
		if vm.Name == name {
			found = append(found, vm)
		}
	}
	return found
}

func byID(inv *pool.Inventory) map[string]pool.VMInfo {
	all := map[string]pool.VMInfo{}
	for _, vm := range inv.VMs {
		all[vm.ID] = vm
	}
	return all
}
