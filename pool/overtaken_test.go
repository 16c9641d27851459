package pool_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
)

// A watched is a Provider that notes what is done without a lease, and lets others come first.
type watched struct {
	pool.Provider
	first  func(shards []string) // called before the ledger is read
	mute   bool                  // the inventory lacks addresses
	refuse string                // what no write to the ledger may have in it

	mu      sync.Mutex // guards what follows
	started int        // how often PowerOn was called
	free    []string   // changes that would be made though the lease is over
}

func (w *watched) note(ctx context.Context, what, vm string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if what == "PowerOn" {
		w.started++
	}
	if !pool.UnderLease(ctx) {
		w.free = append(w.free, what+" "+vm)
	}
}

func (w *watched) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	if w.first != nil {
		w.first(shards)
	}
	return w.Provider.Ledger(ctx, set, shards...)
}

func (w *watched) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	for _, v := range values {
		if w.refuse != "" && strings.Contains(v, w.refuse) {
			return errors.New("no space left")
		}
	}
	return w.Provider.SetLedger(ctx, set, shard, revision, values)
}

func (w *watched) Clone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	w.note(ctx, "Clone", spec.VM.Name)
	return w.Provider.Clone(ctx, spec)
}

func (w *watched) PowerOn(ctx context.Context, id string) error {
	w.note(ctx, "PowerOn", id)
	return w.Provider.PowerOn(ctx, id)
}

func (w *watched) ShutDown(ctx context.Context, id string, grace time.Duration) (bool, error) {
	w.note(ctx, "ShutDown", id)
	return w.Provider.ShutDown(ctx, id, grace)
}

func (w *watched) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	w.note(ctx, "Snapshot", id)
	return w.Provider.Snapshot(ctx, id, name, record)
}

func (w *watched) Revert(ctx context.Context, id, snapshot string) error {
	w.note(ctx, "Revert", id)
	return w.Provider.Revert(ctx, id, snapshot)
}

func (w *watched) Rename(ctx context.Context, id, name string) error {
	w.note(ctx, "Rename", id)
	return w.Provider.Rename(ctx, id, name)
}

func (w *watched) Destroy(ctx context.Context, id string) error {
	w.note(ctx, "Destroy", id)
	return w.Provider.Destroy(ctx, id)
}

func (w *watched) ConnectNIC(ctx context.Context, id, mac string, connected bool) error {
	w.note(ctx, "SetLink", id)
	return w.Provider.(pool.NICConnector).ConnectNIC(ctx, id, mac, connected)
}

func (w *watched) NICState(ctx context.Context, id, mac string) (pool.NICState, error) {
	return w.Provider.(pool.NICConnector).NICState(ctx, id, mac)
}

func (w *watched) Inventory(ctx context.Context, set string, templates ...string) (*pool.Inventory, error) {
	inv, err := w.Provider.Inventory(ctx, set, templates...)
	if err == nil && w.mute {
		for i := range inv.VMs {
			inv.VMs[i].Addrs = nil
		}
	}
	return inv, err
}

// A process that was stopped, and wakes when others have the set, is refused each change by itself.
func TestEveryChangeIsMadeUnderALease(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.wired(1)
	w := &watched{Provider: spec.Provider}
	spec.Provider = w
	ctx := t.Context()
	none := func(when string) {
		t.Helper()
		w.mu.Lock()
		defer w.mu.Unlock()
		assert.Empty(t, w.free, when)
		w.free = nil
	}
	set := r.open(spec)
	none("a build from nothing")
	ft := testOf(t, "TestUser")
	require.NotNil(t, ft.acquire(set), "%v", ft.errs)
	ft.end()
	set.Idle()
	set.Close()
	none("a reset")
	r.snapshot("dis1", "a-look")
	require.NoError(t, pool.Rebuild(ctx, spec, pool.RebuildOptions{Layer: "dis"}))
	none("a VM that is kept under another name")
	r.powerOff("con1")
	r.open(spec).Close()
	none("a VM that was off")
	r.plug("dis1", spec.Roles[1].VM(1).NICs[1].MAC, true)
	r.open(spec).Close()
	assert.Contains(t, r.saying(), "dis1: reset: NIC 2")
	none("a VM that was rewired")
	require.NoError(t, pool.Rebuild(ctx, spec, pool.RebuildOptions{Layer: "golden"}))
	none("a new golden")
	for _, name := range r.names() {
		if strings.HasPrefix(name, "dis1-kept-") {
			r.destroy(name)
		}
	}
	r.open(spec).Close()
	assert.NotContains(t, r.names(), "golden")
	none("an old golden's end")
	books, err := spec.Provider.Ledger(ctx, spec.Name)
	require.NoError(t, err)
	_, err = pool.Destroy(ctx, spec)
	require.NoError(t, err)
	w.free = slices.DeleteFunc(w.free, func(what string) bool { // the ledger goes with its leases
		return slices.ContainsFunc(slices.Collect(maps.Values(books.Shards)), func(s pool.Shard) bool { return what == "Destroy "+s.ID })
	})
	none("the end")
}

// A person has a look at VMs, and keeps them, while a build goes on that has planned to remove
// them.
func TestWhatAPersonKeepsMeanwhileIsNotRemoved(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.shared(2, time.Minute)).Close()
	spec := r.shared(2, time.Minute)
	spec.Golden.Steps = append(spec.Golden.Steps, pool.Script("more", "echo more > /etc/more"))
	var once sync.Once
	spec.Provider = &bent{Provider: spec.Provider, preflight: func() {
		once.Do(func() {
			r.snapshot("golden", "mine")
			r.snapshot("dis1", "mine")
			r.powerOff("dis2") // or it would have the new one\'s MAC and address
			r.rename("dis2", "dis2-mine")
		})
	}}
	r.open(spec)
	names := r.names()
	assert.Contains(t, names, "dis2-mine")
	assert.Contains(t, names, "golden", "it has a snapshot that is not ours")
	assert.True(t, slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "dis1-kept-") }), "%v", names)
	for _, n := range []string{"golden-g2", "con1", "con2", "dis1", "dis2"} {
		assert.Contains(t, names, n)
	}
}

// Somebody builds the pool again between the plan and the lease of whoever only wants to look, or to
// reset it.
func TestAPoolThatIsBuiltMeanwhileIsLookedAtAnew(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.shared(1, time.Minute)).Close()
	spec := r.shared(1, time.Minute)
	w := &watched{Provider: spec.Provider}
	spec.Provider = w
	for _, what := range []string{"verify", "reset"} {
		var once sync.Once
		w.first = func(shards []string) {
			if slices.Contains(shards, "pool-1") {
				once.Do(func() {
					assert.NoError(t, pool.Rebuild(t.Context(), r.shared(1, time.Minute), pool.RebuildOptions{Layer: "dis"}))
				})
			}
		}
		if what == "verify" {
			report, err := pool.Verify(t.Context(), spec)
			require.NoError(t, err)
			require.NoError(t, report.Err())
			assert.Len(t, report.Hosts[1].Checks, 1)
		} else {
			require.NoError(t, pool.Reset(t.Context(), spec))
		}
		st := r.status(spec).Pools[0]
		assert.Zero(t, st.Failures, "%s: %s", what, st.LastFailure)
		assert.NotEqual(t, pool.StateBroken, st.State, what)
	}
}

// What a rebuilt pool's hosts were proved clean over is what the next test gets: nobody hangs up in
// between.
func TestARebuiltPoolKeepsItsConnections(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	d := &dialer{Dialer: r.mem}
	spec.SSH.Dialer = d
	b := &bent{Provider: spec.Provider}
	spec.Provider = b
	set := r.open(spec)
	first := testOf(t, "TestFirst")
	require.NotNil(t, first.acquire(set))
	b.bend(func() { b.on, b.revert = true, failedRevert })
	first.end()
	set.Idle()
	require.Equal(t, 2, r.count("Clone", "con1"))
	before := d.n.Load()
	second := testOf(t, "TestSecond")
	require.NotNil(t, second.acquire(set), "%v", second.errs)
	assert.Equal(t, before, d.n.Load(), "connections made")
	assert.NotContains(t, r.saying(), "though it was clean")
	second.end()
}

// A dialer counts connections.
type dialer struct {
	sshx.Dialer
	n atomic.Int32
}

func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.n.Add(1)
	return d.Dialer.DialContext(ctx, network, address)
}

// A host is on and its address is not known: to look at it is no reason to power anything on.
func TestVerifyPowersNothingOn(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.shared(1, time.Minute)).Close()
	spec := r.shared(1, time.Minute)
	w := &watched{Provider: spec.Provider, mute: true}
	spec.Provider = w
	report, err := pool.Verify(t.Context(), spec)
	require.NoError(t, err)
	require.NoError(t, report.Err())
	assert.Zero(t, w.started)
}

// Whoever waits for a connection that another makes waits no longer than its own context.
func TestAWaitForAnothersConnectionEnds(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, time.Minute)
	s := &stuck{Dialer: r.mem, met: make(chan struct{}, 8)}
	spec.SSH.Dialer = s
	con := r.open(spec).Pools()[0].Host("con")
	c, err := con.SSH(t.Context())
	require.NoError(t, err)
	s.on.Store(true)
	c.Close()
	first, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := con.Run(first, "true")
		ended <- err
	}()
	<-s.met
	second, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	_, err = con.Run(second, "true")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "con1: ")
	select {
	case err := <-ended:
		require.Fail(t, "the first one still dials", "%v", err)
	default:
	}
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// A stuck dialer, once it is on, makes no connection until the context ends.
type stuck struct {
	sshx.Dialer
	on  atomic.Bool
	met chan struct{}
}

func (s *stuck) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if !s.on.Load() {
		return s.Dialer.DialContext(ctx, network, address)
	}
	s.met <- struct{}{}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// That a pool is kept is said only if the ledger says so.
func TestAPoolThatCannotBeKeptIsNotSaidToBe(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	spec.Keep = pool.KeepPolicy{When: "always"}
	w := &watched{Provider: spec.Provider, refuse: `"state":"kept"`}
	spec.Provider = w
	set := r.open(spec)
	ft := testOf(t, "TestKeeper")
	require.NotNil(t, ft.acquire(set), "%v", ft.errs)
	ft.end()
	set.Idle()
	assert.Contains(t, r.saying(), "pool 1: not released")
	assert.NotContains(t, r.saying(), "kept as TestKeeper left it")
}

// What is tracked when the pool has been given back would be the next test's to clean up, if
// anybody's.
func TestAPoolThatWasGivenBackTracksNothing(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.shared(1, 20*time.Second)
	gate, cleaning := make(chan struct{}), make(chan struct{}, 1)
	spec.Cleanups = map[string]func(context.Context, string) error{"record": func(context.Context, string) error {
		cleaning <- struct{}{}
		<-gate
		return nil
	}}
	set := r.open(spec)
	ft := testOf(t, "TestMaker")
	p := ft.acquire(set)
	require.NotNil(t, p, "%v", ft.errs)
	require.NoError(t, p.Track(t.Context(), "record", "a"))
	ft.end()
	<-cleaning // the lease goes on
	err := p.Track(t.Context(), "record", "b")
	close(gate)
	require.ErrorIs(t, err, pool.ErrReleased)
	set.Idle()
	assert.Empty(t, r.status(spec).Pools[0].Tracked)
}

// The default datastore is another one now, and a step has changed: linked clones would lie where
// golden lies. So golden is rebuilt first, where it is wanted, and no VM is destroyed for nothing.
func TestGoldenIsRebuiltWhereItsClonesAreWanted(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(s *vspheretest.Server) { s.Datastores = []string{"first", "second"} })
	on := func(datastore string) pool.Spec {
		spec := r.spec(1)
		cfg, _ := access.Config(r.Server)
		cfg.Datastore = datastore
		provider, err := vsphere.New(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, provider.Close(context.WithoutCancel(t.Context()))) })
		spec.Provider = provider
		return spec
	}
	r.open(on("first")).Close()
	assert.Equal(t, "reuse", r.plan(on("first"))["con1"])
	spec := on("second")
	spec.Roles[1].Steps[0] = pool.Script("use", `echo "$NAME uses it" > /etc/used # differently`)
	plan := r.plan(spec)
	assert.Contains(t, plan["golden-g2"], "rebuild: datastore is ")
	assert.Contains(t, plan["con1"], "rebuild: golden-g2 is rebuilt")
	r.open(spec).Close()
	assert.Equal(t, "reuse", r.plan(spec)["con1"])
	assert.Equal(t, "reuse", r.plan(spec)["golden-g2"])
}
