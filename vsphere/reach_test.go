package vsphere

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	vc "github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// An estate is what an administrator does to hosts and clusters.
type estate struct {
	*testing.T
	l      *lab
	ctx    context.Context
	finder *find.Finder
	hosts  []*vc.HostSystem
}

func (l *lab) estate(t *testing.T) *estate {
	t.Helper()
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	e := &estate{T: t, l: l, ctx: t.Context(), finder: find.NewFinder(c.Client)}
	dc, err := e.finder.DefaultDatacenter(e.ctx)
	require.NoError(t, err)
	e.finder.SetDatacenter(dc)
	e.hosts, err = e.finder.HostSystemList(e.ctx, "*/*")
	require.NoError(t, err)
	slices.SortFunc(e.hosts, func(a, b *vc.HostSystem) int { return strings.Compare(a.InventoryPath, b.InventoryPath) })
	return e
}

func (e *estate) must(task *vc.Task, err error) {
	e.Helper()
	require.NoError(e, err)
	require.NoError(e, task.Wait(e.ctx))
}

func (e *estate) noDRS() {
	e.Helper()
	c, err := e.finder.ClusterComputeResource(e.ctx, e.l.Cluster)
	require.NoError(e, err)
	e.must(c.Reconfigure(e.ctx, &types.ClusterConfigSpecEx{DrsConfig: &types.ClusterDrsConfigInfo{Enabled: types.NewBool(false)}}, true))
}

func (e *estate) maintain(i int) {
	e.Helper()
	e.must(e.hosts[i].EnterMaintenanceMode(e.ctx, 0, false, nil))
}

func (e *estate) unmount(i int, datastore string) {
	e.Helper()
	ds, err := e.finder.Datastore(e.ctx, datastore)
	require.NoError(e, err)
	dss, err := e.hosts[i].ConfigManager().DatastoreSystem(e.ctx)
	require.NoError(e, err)
	_, err = methods.RemoveDatastore(e.ctx, ds.Client(), &types.RemoveDatastore{This: dss.Reference(), Datastore: ds.Reference()})
	require.NoError(e, err)
}

func (e *estate) unplug(i int, network string) {
	e.Helper()
	hns, err := e.hosts[i].ConfigManager().NetworkSystem(e.ctx)
	require.NoError(e, err)
	require.NoError(e, hns.RemovePortGroup(e.ctx, network))
}

// In a cluster without DRS, clones and the ledger's VMs name their host, which is one that takes them.
func TestWithoutDRSAUsableHostIsNamed(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Hosts = 4 })
	e := l.estate(t)
	e.noDRS()
	e.maintain(0)
	e.must(e.hosts[1].Disconnect(e.ctx))
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	for _, name := range []string{"con1", "con2", "con3"} {
		_, err := l.p.Clone(ctx, linkedSpec(golden, snap, name, ""))
		require.NoError(t, err)
	}
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"k": "v"}))
	used := map[types.ManagedObjectReference]bool{}
	for _, r := range l.Requests() {
		var host *types.ManagedObjectReference
		switch b := r.Body.(type) {
		case *types.CloneVM_Task:
			host = b.Spec.Location.Host
		case *types.CreateVM_Task:
			host = b.Host
		default:
			continue
		}
		require.NotNil(t, host, r.Method)
		used[*host] = true
	}
	assert.Equal(t, map[types.ManagedObjectReference]bool{e.hosts[2].Reference(): true, e.hosts[3].Reference(): true}, used)

	// One that stops taking VMs after it was last looked at is replaced by another.
	e.maintain(2)
	for _, name := range []string{"con4", "con5"} {
		_, err := l.p.Clone(ctx, linkedSpec(golden, snap, name, ""))
		require.NoError(t, err)
	}
	for _, shard := range []string{"pool-2", "pool-3"} {
		require.NoError(t, l.p.SetLedger(ctx, "set", shard, "", map[string]string{"k": "v"}))
	}
	e.maintain(3)
	_, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con6", ""))
	require.ErrorContains(t, err, "maintenance mode")
	assert.Equal(t, permanent, classify(err))
}

// With DRS, vCenter chooses the host; no clone names one.
func TestWithDRSVCenterChoosesTheHost(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Hosts, s.Datastores = 3, []string{"ds1", "ds2"} })
	l.cfg.Datastore = "ds2"
	l.p = l.provider(t)
	e := l.estate(t)
	e.maintain(0)
	e.unmount(1, "ds2")
	ctx := within(t, time.Minute)
	spec := goldenSpec("golden")
	require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{spec}))
	l.golden(t, ctx)
	for _, c := range l.sent() {
		assert.Nil(t, c.Location.Host)
	}
	at, err := e.finder.VirtualMachine(e.ctx, "set/golden")
	require.NoError(t, err)
	h, err := at.HostSystem(e.ctx)
	require.NoError(t, err)
	assert.Equal(t, e.hosts[2].Reference(), h.Reference())
}

// Where no host can run a clone, Preflight says of each what it lacks, and nothing is made.
func TestPreflightRefusesWhatNoHostReaches(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) {
		s.Hosts, s.Datastores, s.Networks = 4, []string{"ds1", "ds2"}, []string{"VM Network", "lab"}
	})
	l.cfg.Datastore, l.cfg.Network = "ds2", "lab"
	l.p = l.provider(t)
	e := l.estate(t)
	e.maintain(0)
	e.unmount(1, "ds2")
	e.unplug(2, "lab")
	e.must(e.hosts[3].Disconnect(e.ctx))
	err := l.p.Preflight(within(t, time.Minute), []pool.CloneSpec{goldenSpec("golden")})
	require.Error(t, err)
	for i, fact := range []string{"maintenance mode", `datastore "ds2"`, `network "lab"`, "disconnected"} {
		name, nameErr := e.hosts[i].ObjectName(e.ctx)
		require.NoError(t, nameErr)
		assert.ErrorContains(t, err, name)
		assert.ErrorContains(t, err, fact)
	}
	calls, _ := l.counts()
	assert.Zero(t, calls["CloneVM_Task"])
	assert.Zero(t, calls["CreateFolder"])
}

// What keeps a VM from being powered on is told with what it is about, and soon.
func TestPowerOnSaysWhatKeepsIt(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Hosts = 1 })
	l.intervals.look = 20 * time.Millisecond
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	e := l.estate(t)
	golden, snap := l.golden(t, ctx)
	clone := func(name string) string {
		id, err := l.p.Clone(ctx, linkedSpec(golden, snap, name, ""))
		require.NoError(t, err)
		return id
	}
	iso := clone("iso")
	l.change(t, iso, func(ctx context.Context, vm *vc.VirtualMachine) (*vc.Task, error) {
		devs, err := vm.Device(ctx)
		require.NoError(t, err)
		ide, err := devs.FindIDEController("")
		require.NoError(t, err)
		cd, err := devs.CreateCdrom(ide)
		require.NoError(t, err)
		return vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: devs.InsertIso(cd, "[Datastore1] gone.iso")},
		}})
	})
	err := l.p.PowerOn(ctx, iso)
	require.ErrorIs(t, err, errQuestion)
	require.ErrorContains(t, err, "gone.iso")
	require.ErrorContains(t, err, "govc vm.question -vm iso")

	away := clone("away")
	e.must(e.hosts[0].Disconnect(e.ctx))
	err = l.p.PowerOn(within(t, 2*time.Second), away)
	require.ErrorIs(t, err, context.DeadlineExceeded, "it may be back soon")
	require.ErrorContains(t, err, "its host esx1.example.com is disconnected")
	require.ErrorContains(t, err, "govc host.reconnect esx1.example.com")
	e.must(e.hosts[0].Reconnect(e.ctx, nil, nil))
	require.NoError(t, l.p.PowerOn(ctx, away))
}
