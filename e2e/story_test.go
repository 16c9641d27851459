package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func fast(s *vspheretest.Server) { s.Latency = vspheretest.Fast() }

// history is vCenter's own account of what was done to the VMs, oldest first: "cloned con1",
// "on con1", "off con1", "snapshot con1", "removed con1", "renamed con1".
func (e *embedded) history(t testing.TB) []string {
	t.Helper()
	c, err := e.server.Client(t.Context())
	require.NoError(t, err)
	list, err := event.NewManager(c.Client).QueryEvents(t.Context(), types.EventFilterSpec{MaxCount: 1000})
	require.NoError(t, err)
	event.Sort(list)
	var all []string
	for _, ev := range list {
		what, base := "", ev.GetEvent()
		switch ev := ev.(type) {
		case *types.VmClonedEvent:
			what = "cloned"
		case *types.VmPoweredOnEvent:
			what = "on"
		case *types.VmPoweredOffEvent:
			what = "off"
		case *types.VmRemovedEvent:
			what = "removed"
		case *types.VmRenamedEvent:
			what = "renamed"
		case *types.TaskEvent:
			if ev.Info.DescriptionId == "VirtualMachine.createSnapshot" || strings.HasPrefix(ev.Info.Name, "CreateSnapshot") {
				what = "snapshot"
			}
		}
		if what != "" && base.Vm != nil {
			all = append(all, what+" "+base.Vm.Name)
		}
	}
	return all
}

// during returns what vCenter saw while f ran.
func (e *embedded) during(t testing.TB, f func()) []string {
	t.Helper()
	before := len(e.history(t))
	f()
	return e.history(t)[before:]
}

func (e *embedded) open(t testing.TB, spec pool.Spec) *pool.Set {
	t.Helper()
	set, err := pool.Open(t.Context(), spec)
	require.NoError(t, err)
	t.Cleanup(func() { set.Close() })
	return set
}

// vm is a VM by name, for what people do to it by hand.
func (e *embedded) vm(t testing.TB, name string) *object.VirtualMachine {
	t.Helper()
	c, err := e.server.Client(t.Context())
	require.NoError(t, err)
	vm, err := e.find(t.Context(), c.Client, name)
	require.NoError(t, err)
	return vm
}

func whys(set *pool.Set) map[string]string {
	m := map[string]string{}
	for _, s := range set.Status() {
		m[s.Host] = s.String()
	}
	return m
}

// last and first find where something is said in a history; -1 is nowhere.
func last(history []string, prefix string) int {
	for i := len(history) - 1; i >= 0; i-- {
		if strings.HasPrefix(history[i], prefix) {
			return i
		}
	}
	return -1
}

func first(history []string, prefix string) int {
	return slices.IndexFunc(history, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

func TestFourAreBuiltFromNothingInBatchesByRole(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 4
	topology.Override = map[int]Override{4: {Folder: "other", Con: HostOverride{Name: "con-four", Lab: netip.MustParseAddr("10.0.3.40")}}}
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)

	// Every host, while it is being checked, has no snapshot yet: vCenter is asked.
	var mu sync.Mutex
	looked := map[string]int{}
	unready := pool.Check{Name: "no snapshot yet", Version: "1", Want: "0", Do: func(ctx context.Context, h *pool.Host) (string, error) {
		n, err := e.snapshots(ctx, h.Name)
		mu.Lock()
		defer mu.Unlock()
		looked[h.Name]++
		return fmt.Sprint(n), err
	}}
	spec.Golden.Checks = append(spec.Golden.Checks, unready)
	for i := range spec.Roles {
		spec.Roles[i].Checks = append(spec.Roles[i].Checks, unready)
	}
	e.open(t, spec)

	h := e.history(t)
	story := strings.Join(h, "\n")
	for _, host := range topology.Hosts() {
		assert.Equal(t, 1, looked[host.Name], host.Name)
		for _, what := range []string{"cloned ", "snapshot "} {
			n := 0
			for _, line := range h {
				if line == what+host.Name {
					n++
				}
			}
			assert.Equal(t, 1, n, "%s%s\n%s", what, host.Name, story)
		}
		assert.Less(t, first(h, "off "+host.Name), first(h, "snapshot "+host.Name), "%s is off when its snapshot is taken\n%s", host.Name, story)
	}
	assert.Less(t, first(h, "snapshot e2e-golden"), first(h, "cloned con"), story)
	assert.Less(t, last(h, "cloned con"), first(h, "cloned dis"), story)
	assert.Less(t, last(h, "cloned dis"), first(h, "on con"), story)
	assert.Less(t, last(h, "snapshot con"), first(h, "on dis"), "no dis is configured before the last con is ready\n%s", story)
	assert.Less(t, first(h, "snapshot con1"), last(h, "on con1"), "con is on again\n%s", story)

	t.Run("pool 3 is disabled", func(t *testing.T) {
		for _, name := range []string{"con3", "dis3"} {
			vm := e.vm(t, name)
			for _, do := range []func(context.Context) (*object.Task, error){vm.PowerOff, vm.Destroy} {
				task, err := do(t.Context())
				require.NoError(t, err)
				require.NoError(t, task.Wait(t.Context()))
			}
		}
		spec.Only = []int{1, 2, 4}
		var set *pool.Set
		assert.Empty(t, e.during(t, func() { set = e.open(t, spec) }), "nobody misses it")
		var names []string
		for _, s := range set.Status() {
			names = append(names, fmt.Sprintf("%d %s", s.Pool, s.Host))
		}
		assert.ElementsMatch(t, []string{"1 con1", "1 dis1", "2 con2", "2 dis2", "4 con-four", "4 dis4"}, names)
		four := set.Pools()[2]
		assert.Equal(t, "con-four", four.Host(Con).MustRun(t, "hostnamectl", "--static"))
		assert.Equal(t, "10.0.3.40", four.Host(Dis).MustRun(t, "dig", "+short", "registry.p4.example.com"))
	})
}

func TestChangesRebuildWhatTheyTouch(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 1
	e := newEmbedded(t, topology, fast)
	e.open(t, e.spec(t))

	t.Run("nothing", func(t *testing.T) {
		h := e.during(t, func() { e.open(t, e.spec(t)) })
		assert.Empty(t, h)
	})
	spec := e.spec(t)
	dis := &spec.Roles[1]
	dis.Steps = append(slices.Clone(dis.Steps), pool.Script("harden", "#!/bin/sh\ntrue\n"))
	t.Run("a step of dis", func(t *testing.T) {
		var set *pool.Set
		h := e.during(t, func() { set = e.open(t, spec) })
		for _, line := range h {
			assert.NotContains(t, line, "con")
			assert.NotContains(t, line, "golden")
		}
		why := whys(set)
		assert.Contains(t, why["dis1"], "harden")
		assert.Contains(t, why["con1"], "ready: reuse")
	})
	t.Run("a step of golden", func(t *testing.T) {
		spec.Golden.Steps = append(slices.Clone(spec.Golden.Steps), pool.Script("more", "#!/bin/sh\ntrue\n"))
		h := e.during(t, func() { e.open(t, spec) })
		story := strings.Join(h, "\n")
		gone := slices.Index(h, "removed "+topology.GoldenName)
		require.GreaterOrEqual(t, gone, 0, story)
		assert.GreaterOrEqual(t, first(h, "cloned "+topology.GoldenName+"-g2"), 0, story)
		for _, name := range []string{"con1", "dis1"} {
			assert.Contains(t, h, "cloned "+name)
		}
		for i, line := range h {
			if strings.HasPrefix(line, "removed ") && line != "removed "+topology.GoldenName {
				assert.Less(t, i, gone, "the old golden goes after its last clone\n%s", story)
			}
		}
	})
}

func TestWhatPeopleDoByHandIsCured(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 2
	e := newEmbedded(t, topology, fast)
	e.open(t, e.spec(t))
	wait := func(t *testing.T, task *object.Task, err error) {
		t.Helper()
		require.NoError(t, err)
		require.NoError(t, task.Wait(t.Context()))
	}
	for _, test := range []struct {
		name string
		hand func(t *testing.T, vm *object.VirtualMachine)
		want string // of con1's plan line
		gone bool
	}{
		{name: "powered off", want: "power on", hand: func(t *testing.T, vm *object.VirtualMachine) {
			task, err := vm.PowerOff(t.Context())
			wait(t, task, err)
		}},
		{name: "deleted", want: "clone: does not exist", gone: true, hand: func(t *testing.T, vm *object.VirtualMachine) {
			task, err := vm.PowerOff(t.Context())
			wait(t, task, err)
			task, err = vm.Destroy(t.Context())
			wait(t, task, err)
		}},
		{name: "snapshot missing", want: "rebuild", hand: func(t *testing.T, vm *object.VirtualMachine) {
			task, err := vm.RemoveAllSnapshot(t.Context(), nil)
			wait(t, task, err)
		}},
		{name: "snapshot of another name", want: "rebuild", hand: func(t *testing.T, vm *object.VirtualMachine) {
			task, err := vm.RemoveAllSnapshot(t.Context(), nil)
			wait(t, task, err)
			task, err = vm.CreateSnapshot(t.Context(), "pool-ready-old", "", false, false)
			wait(t, task, err)
		}},
		{name: "two snapshots", want: "rebuild", hand: func(t *testing.T, vm *object.VirtualMachine) {
			task, err := vm.CreateSnapshot(t.Context(), "pool-ready", "", false, false)
			wait(t, task, err)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.hand(t, e.vm(t, "con1"))
			work, err := pool.MakePlan(t.Context(), e.spec(t))
			require.NoError(t, err)
			line := ""
			for _, i := range work.Items {
				if i.VM == "con1" {
					line = string(i.Action) + ": " + i.Reason
				}
				if i.Pool == 2 {
					assert.Equal(t, pool.Action("reuse"), i.Action, i.VM)
				}
			}
			assert.True(t, strings.HasPrefix(line, test.want), line)
			set := e.open(t, e.spec(t))
			for host, why := range whys(set) {
				assert.True(t, strings.HasPrefix(why, "ready"), "%s: %s", host, why)
			}
		})
	}
}

// find returns the VM of that name, wherever it is.
func (e *embedded) find(ctx context.Context, c *vim25.Client, name string) (*object.VirtualMachine, error) {
	v, err := view.NewManager(c).CreateContainerView(ctx, c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = v.Destroy(ctx) }()
	refs, err := v.Find(ctx, []string{"VirtualMachine"}, property.Match{"name": name})
	if err != nil || len(refs) != 1 {
		return nil, fmt.Errorf("VM %s: %d of that name: %w", name, len(refs), err)
	}
	return object.NewVirtualMachine(c, refs[0]), nil
}

// snapshots returns how many the VM has.
func (e *embedded) snapshots(ctx context.Context, name string) (int, error) {
	c, err := e.server.Client(ctx)
	if err != nil {
		return 0, err
	}
	vm, err := e.find(ctx, c.Client, name)
	if err != nil {
		return 0, err
	}
	var o mo.VirtualMachine
	if err := vm.Properties(ctx, vm.Reference(), []string{"snapshot"}, &o); err != nil {
		return 0, err
	}
	if o.Snapshot == nil {
		return 0, nil
	}
	return len(o.Snapshot.RootSnapshotList), nil
}

// findAll returns every VM.
func findAll(ctx context.Context, c *vim25.Client) ([]types.ManagedObjectReference, error) {
	v, err := view.NewManager(c).CreateContainerView(ctx, c.ServiceContent.RootFolder, []string{"VirtualMachine"}, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = v.Destroy(ctx) }()
	return v.Find(ctx, []string{"VirtualMachine"}, nil)
}
