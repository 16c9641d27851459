package vspheretest_test

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

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
	assert.Less(t, ours, theirs)
}

// A contender is vcsim or a Server, with 400 VMs, and a user of it.
type contender struct {
	*testing.B
	c      *govmomi.Client
	folder *object.Folder
	src    *object.VirtualMachine
	made   []*object.VirtualMachine
}

func contend(b *testing.B, u *url.URL) *contender {
	b.Helper()
	c, err := govmomi.NewClient(b.Context(), u, true)
	require.NoError(b, err)
	b.Cleanup(c.CloseIdleConnections)
	f := find.NewFinder(c.Client)
	folder, err := f.Folder(b.Context(), "/DC0/vm")
	require.NoError(b, err)
	src, err := f.VirtualMachine(b.Context(), "/DC0/vm/DC0_C0_RP0_VM7")
	require.NoError(b, err)
	return &contender{B: b, c: c, folder: folder, src: src}
}

func wait(b *testing.B, task *object.Task, err error) any {
	b.Helper()
	require.NoError(b, err)
	info, err := task.WaitForResult(b.Context())
	require.NoError(b, err)
	return info.Result
}

func (c *contender) clone() {
	b := c.B
	b.Helper()
	c.made = nil
	for i := range 10 {
		task, err := c.src.Clone(b.Context(), c.folder, fmt.Sprintf("clone%d", i), types.VirtualMachineCloneSpec{})
		c.made = append(c.made, object.NewVirtualMachine(c.c.Client, wait(b, task, err).(types.ManagedObjectReference)))
	}
}

// each does something with all clones, one after the other.
func (c *contender) each(do func(*object.VirtualMachine) (*object.Task, error)) {
	b := c.B
	b.Helper()
	for _, vm := range c.made {
		task, err := do(vm)
		wait(b, task, err)
	}
}

// destroyAtOnce destroys all clones, eight at a time.
func (c *contender) destroyAtOnce() {
	b := c.B
	b.Helper()
	var wg sync.WaitGroup
	for vms := range slices.Chunk(c.made, (len(c.made)+7)/8) {
		wg.Go(func() {
			for _, vm := range vms {
				task, err := vm.Destroy(b.Context())
				if assert.NoError(b, err) {
					assert.NoError(b, task.Wait(b.Context()))
				}
			}
		})
	}
	wg.Wait()
}

func (c *contender) read(properties ...string) {
	b := c.B
	b.Helper()
	v, err := view.NewManager(c.c.Client).CreateContainerView(b.Context(), c.c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	require.NoError(b, err)
	var vms []mo.VirtualMachine
	require.NoError(b, v.Retrieve(b.Context(), nil, properties, &vms))
	require.Len(b, vms, 400)
	require.NoError(b, v.Destroy(b.Context()))
}

func (c *contender) find() {
	b := c.B
	b.Helper()
	all, err := find.NewFinder(c.c.Client).VirtualMachineList(b.Context(), "/DC0/vm/*")
	require.NoError(b, err)
	require.Len(b, all, 400)
}

// BenchmarkAgainstStock does the same with vcsim and with a Server, by turns, while each has 400 VMs,
// and prints how long the Server takes as a multiple of vcsim: of the quickest of several rounds.
func BenchmarkAgainstStock(b *testing.B) {
	model := func() *simulator.Model {
		m := simulator.VPX()
		m.Host, m.Machine, m.Autostart = 0, 400, false
		return m
	}
	stock := model()
	require.NoError(b, stock.Create())
	b.Cleanup(stock.Remove)
	stock.Service.TLS = new(tls.Config) // as program vcsim has it
	vcsim := stock.Service.NewServer()
	b.Cleanup(vcsim.Close)
	srv := vspheretest.NewUnstartedServer(b)
	srv.Model, srv.Latency = model(), vspheretest.Latency{Scale: 1e-9} // none
	srv.Start()
	works := []struct {
		name string
		do   func(*contender)
	}{
		{"clone", (*contender).clone},
		{"power on", func(c *contender) {
			c.each(func(vm *object.VirtualMachine) (*object.Task, error) { return vm.PowerOn(b.Context()) })
		}},
		{"power off", func(c *contender) {
			c.each(func(vm *object.VirtualMachine) (*object.Task, error) { return vm.PowerOff(b.Context()) })
		}},
		{"destroy", func(c *contender) {
			c.each(func(vm *object.VirtualMachine) (*object.Task, error) { return vm.Destroy(b.Context()) })
		}},
		{"", (*contender).clone},
		{"destroy 8 at once", (*contender).destroyAtOnce},
		{"find", (*contender).find},
		{"read names and states", func(c *contender) { c.read("name", "runtime.powerState") }},
		{"read configurations", func(c *contender) { c.read("config") }},
		{"read everything", func(c *contender) { c.read() }},
	}
	theirs, ours := contend(b, vcsim.URL), contend(b, srv.URL)
	least := make([][2]time.Duration, len(works))
	for b.Loop() {
		for range 10 {
			for i, w := range works {
				for k, c := range []*contender{theirs, ours} {
					began := time.Now()
					w.do(c)
					if d := time.Since(began); least[i][k] == 0 || d < least[i][k] {
						least[i][k] = d
					}
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of all together: no use to anybody
	fmt.Printf("\n| %-21s | vcsim    | a Server | times |\n|---|---|---|---|\n", "with 400 VMs")
	for i, w := range works {
		if w.name != "" {
			fmt.Printf("| %-21s | %5.1f ms | %5.1f ms | %5.2f |\n", w.name,
				least[i][0].Seconds()*1000, least[i][1].Seconds()*1000, least[i][1].Seconds()/least[i][0].Seconds())
		}
	}
}
