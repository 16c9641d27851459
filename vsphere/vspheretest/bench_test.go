package vspheretest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"

	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// startModel starts and closes a Server with vcsim's inventory, and startVcsim vcsim.
func startModel(tb testing.TB) {
	tb.Helper()
	srv := vspheretest.NewUnstartedServer(nil)
	srv.Model, srv.Latency = simulator.VPX(), vspheretest.Fast()
	srv.Start()
	srv.Close()
}

func startVcsim(tb testing.TB) {
	tb.Helper()
	m := simulator.VPX()
	vspheretest.BuildMu.Lock()
	err := m.Create()
	vspheretest.BuildMu.Unlock()
	require.NoError(tb, err)
	m.Service.NewServer().Close()
	m.Remove()
}

func BenchmarkStart(b *testing.B) {
	for name, start := range map[string]func(testing.TB){
		"vcsim":             startVcsim,
		"vcsim's inventory": startModel,
		"default": func(testing.TB) {
			srv := vspheretest.NewUnstartedServer(nil)
			srv.Start()
			srv.Close()
		},
		"with machines to log in to": func(testing.TB) {
			srv := sshguest.NewUnstartedServer(nil)
			srv.Start()
			srv.Close()
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				start(b)
			}
		})
	}
}

// quickest returns the shortest of some times that each takes, by turns, as the machine may be busy with
// others.
func quickest(rounds int, a, b func()) (ofA, ofB time.Duration) {
	ofA, ofB = time.Hour, time.Hour
	for range rounds {
		began := time.Now()
		a()
		ofA = min(ofA, time.Since(began))
		began = time.Now()
		b()
		ofB = min(ofB, time.Since(began))
	}
	return ofA, ofB
}

func TestStartTakesTheTimeOfVcsims(t *testing.T) {
	theirs, ours := quickest(5, func() { startVcsim(t) }, func() { startModel(t) })
	t.Logf("vcsim %s, a Server %s", theirs, ours)
	assert.Less(t, ours, 2*theirs)
}

// What programs read most, of 400 VMs.
func BenchmarkManyVMs(b *testing.B) {
	many := func() *simulator.Model {
		m := simulator.VPX()
		m.Host, m.Machine, m.Autostart = 0, 400, false
		return m
	}
	stock := many()
	require.NoError(b, stock.Create())
	b.Cleanup(stock.Remove)
	vcsim := stock.Service.NewServer()
	b.Cleanup(vcsim.Close)
	theirs, err := govmomi.NewClient(b.Context(), vcsim.URL, true)
	require.NoError(b, err)
	srv := vspheretest.NewUnstartedServer(b)
	srv.Model, srv.Latency = many(), vspheretest.Fast()
	srv.Start()
	ours, err := srv.Client(b.Context())
	require.NoError(b, err)
	read := func(b *testing.B, c *govmomi.Client, properties ...string) {
		b.Helper()
		v, err := view.NewManager(c.Client).CreateContainerView(b.Context(), c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
		require.NoError(b, err)
		var vms []mo.VirtualMachine
		require.NoError(b, v.Retrieve(b.Context(), nil, properties, &vms))
		require.Len(b, vms, 400)
		require.NoError(b, v.Destroy(b.Context()))
	}
	for _, kind := range []struct {
		name string
		c    *govmomi.Client
	}{{"vcsim", theirs}, {"a Server", ours}} {
		b.Run("find on "+kind.name, func(b *testing.B) {
			for b.Loop() {
				all, err := find.NewFinder(kind.c.Client).VirtualMachineList(b.Context(), "/DC0/vm/*")
				require.NoError(b, err)
				require.Len(b, all, 400)
			}
		})
		b.Run("read names and states on "+kind.name, func(b *testing.B) {
			for b.Loop() {
				read(b, kind.c, "name", "runtime.powerState")
			}
		})
		b.Run("read configurations on "+kind.name, func(b *testing.B) {
			for b.Loop() {
				read(b, kind.c, "config")
			}
		})
	}
}
