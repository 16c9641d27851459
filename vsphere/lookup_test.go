package vsphere

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func moref(kind, value string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: kind, Value: value}
}

// sampleTree has two clusters, a datastore in a folder, and names that are there twice.
func sampleTree() *tree {
	t := &tree{dcPath: "/DC", all: map[types.ManagedObjectReference]place{}}
	t.dc = place{ref: moref("Datacenter", "dc"), name: "DC", props: map[string]any{}}
	add := func(kind, value, name string, parent types.ManagedObjectReference, props map[string]any) types.ManagedObjectReference {
		ref := moref(kind, value)
		t.all[ref] = place{ref: ref, name: name, parent: parent, props: props}
		return ref
	}
	vm := add("Folder", "v", "vm", t.dc.ref, nil)
	host := add("Folder", "h", "host", t.dc.ref, nil)
	ds := add("Folder", "d", "datastore", t.dc.ref, nil)
	net := add("Folder", "n", "network", t.dc.ref, nil)
	t.dc.props["vmFolder"], t.dc.props["hostFolder"], t.dc.props["datastoreFolder"], t.dc.props["networkFolder"] = vm, host, ds, net

	labs := add("Folder", "v1", "labs", vm, nil)
	add("Folder", "v2", "mine", labs, nil)
	add("Folder", "v3", "mine", vm, nil)
	for _, c := range []string{"a", "b"} {
		root := moref("ResourcePool", "rp-"+c)
		cluster := add("ClusterComputeResource", "c-"+c, "cluster-"+c, host, map[string]any{"resourcePool": root})
		add("ResourcePool", "rp-"+c, "Resources", cluster, nil)
		add("ResourcePool", "rp1-"+c, "dev", root, nil)
	}
	add("ResourcePool", "rp2", "prod", moref("ResourcePool", "rp-a"), nil)
	fast := add("Folder", "d1", "fast", ds, nil)
	add("Datastore", "ds1", "ssd1", fast, nil)
	add("Network", "n1", "VM Network", net, nil)
	add("DistributedVirtualPortgroup", "pg1", "lab", net, nil)
	add("DistributedVirtualPortgroup", "pg2", "uplinks", net, map[string]any{"config.uplink": true})
	add("Network", "n2", "10%25 A%2fB", net, nil)
	add("Folder", "v4", "fast", vm, nil) // as one for datastores
	add("DistributedVirtualPortgroup", "pg3", "segment", net, nil)
	add("DistributedVirtualPortgroup", "pg4", "segment", net, nil)
	add("Folder", "n3", "switches", net, nil)
	return t
}

func TestFindTakesNamesAndPaths(t *testing.T) {
	t.Parallel()
	tr := sampleTree()
	for _, c := range []struct {
		kind kind
		want string
		ref  string // "" is refused
		says string
	}{
		{datastoreKind, "", "ds1", ""},
		{datastoreKind, "ssd1", "ds1", ""},
		{datastoreKind, "fast/ssd1", "ds1", ""},
		{datastoreKind, "/DC/datastore/fast/ssd1", "ds1", ""},
		{datastoreKind, "ssd2", "", `no datastore "ssd2" in datacenter "DC"; there is "/DC/datastore/fast/ssd1"`},
		{datastoreKind, "slow/ssd1", "", "no datastore"},
		{networkKind, "VM Network", "n1", ""},
		{networkKind, "lab", "pg1", ""},
		{networkKind, "", "", "GOVC_NETWORK"},
		{networkKind, "uplinks", "", "no network"},
		{networkKind, "10% A/B", "n2", ""},
		{networkKind, "segment", "", "there are 2 of that path; rename"},
		{networkKind, "/DC/network/segment", "", "there are 2 of that path; rename"},
		{networkKind, "/DC/network/10%25 A%2fB", "n2", ""},
		{poolKind, "", "", "GOVC_RESOURCE_POOL"},
		{poolKind, "prod", "rp2", ""},
		{poolKind, "dev", "", "ambiguous: it may be \"/DC/host/cluster-a/Resources/dev\", \"/DC/host/cluster-b/Resources/dev\""},
		{poolKind, "cluster-b/Resources/dev", "rp1-b", ""},
		{poolKind, "cluster-b", "rp-b", ""},
		{poolKind, "/DC/host/cluster-a", "rp-a", ""},
		{folderKind, "", "v", ""},
		{folderKind, "labs", "v1", ""},
		{folderKind, "labs/mine", "v2", ""},
		{folderKind, "mine", "", "ambiguous"},
		{folderKind, "/DC/vm/mine", "v3", ""},
		{folderKind, "fast", "v4", ""},
		{folderKind, "switches", "", "no folder"},
		{folderKind, "datastore", "", "no folder"},
	} {
		got, err := tr.find(c.kind, c.want)
		if c.ref == "" {
			assert.ErrorContains(t, err, c.says, "%s %q", c.kind.word, c.want)
			continue
		}
		assert.NoError(t, err, "%s %q", c.kind.word, c.want)
		assert.Equal(t, c.ref, got.ref.Value, "%s %q", c.kind.word, c.want)
	}
}

func TestChooseDatacenter(t *testing.T) {
	t.Parallel()
	one := map[types.ManagedObjectReference]place{
		moref("Datacenter", "1"): {ref: moref("Datacenter", "1"), name: "east"},
	}
	two := map[types.ManagedObjectReference]place{
		moref("Folder", "f"):     {ref: moref("Folder", "f"), name: "eu"},
		moref("Datacenter", "1"): {ref: moref("Datacenter", "1"), name: "east"},
		moref("Datacenter", "2"): {ref: moref("Datacenter", "2"), name: "east", parent: moref("Folder", "f")},
	}
	_, path, err := chooseDatacenter(one, "")
	require.NoError(t, err)
	assert.Equal(t, "/east", path)
	_, path, err = chooseDatacenter(two, "/eu/east")
	require.NoError(t, err)
	assert.Equal(t, "/eu/east", path)
	for want, says := range map[string]string{"": "set GOVC_DATACENTER", "east": "ambiguous", "west": `no datacenter "west"`} {
		_, _, err := chooseDatacenter(two, want)
		assert.ErrorContains(t, err, says)
	}
	_, _, err = chooseDatacenter(nil, "")
	assert.ErrorContains(t, err, "read-only role")
}

func TestPlacesMadeLaterAreFound(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Folders = []string{"labs"} })
	ctx := within(t, 30*time.Second)
	_, err := l.p.Inventory(ctx, "set")
	require.NoError(t, err)
	l.cfg.Folder = "labs/mine"
	p := l.provider(t)
	_, err = p.Inventory(ctx, "set")
	require.ErrorContains(t, err, `no folder "labs/mine"`)

	q := l.provider(t)
	q.cfg.Folder = "labs"
	_, err = q.makeFolder(ctx, "mine", "")
	require.NoError(t, err)
	_, err = p.Inventory(ctx, "set")
	assert.NoError(t, err)
}

func TestSetFolderThatIsMadeAnewIsFound(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 30*time.Second)
	id, _ := l.golden(t, ctx)
	other := l.provider(t)
	inv, err := other.Inventory(ctx, "set")
	require.NoError(t, err)
	require.Len(t, inv.VMs, 1)

	require.NoError(t, l.p.Destroy(ctx, id))
	folder, err := l.p.setFolder(ctx, "set")
	require.NoError(t, err)
	require.NoError(t, removeFolder(ctx, l.p, *folder))
	inv, err = other.Inventory(ctx, "set")
	require.NoError(t, err)
	assert.Empty(t, inv.VMs)
	_, err = l.p.Clone(ctx, goldenSpec("golden")) // by the provider that still knows the old folder
	require.NoError(t, err)
	inv, err = other.Inventory(ctx, "set")
	require.NoError(t, err)
	assert.Len(t, inv.VMs, 1)
}

func TestTemplatesAreFoundByPathOrByName(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) {
		s.Templates = []vspheretest.Template{{Path: "a/rhel9"}, {Path: "a/twin"}, {Path: "b/twin"}}
	})
	ctx := within(t, 30*time.Second)
	inv, err := l.p.Inventory(ctx, "set", "a/rhel9", "/Datacenter/vm/a/rhel9", "rhel9", "b/twin", "none", "a/none")
	require.NoError(t, err)
	assert.Len(t, inv.Templates, 4)
	assert.Equal(t, inv.Templates["a/rhel9"], inv.Templates["rhel9"])
	assert.NotEqual(t, inv.Templates["a/rhel9"], inv.Templates["b/twin"])
	_, err = l.p.Inventory(ctx, "set", "twin")
	assert.ErrorContains(t, err, `template "twin" is ambiguous: it may be "/Datacenter/vm/a/twin", "/Datacenter/vm/b/twin"`)
}

func TestNamesThatPathsEscape(t *testing.T) {
	t.Parallel()
	const network = `lab/10% \a`
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) {
		s.Networks = []string{network, "other"}
		s.Templates = []vspheretest.Template{{Path: "template"}, {Path: "100%"}}
	})
	ctx := within(t, 30*time.Second)
	for name, want := range map[string]string{"plain": network, "path": "/Datacenter/network/lab%2f10%25 %5ca"} {
		spec := goldenSpec(name)
		spec.VM.NICs[0].Network = want
		require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{spec}), want)
		id, err := l.p.Clone(ctx, spec)
		require.NoError(t, err, want)
		card, _, err := l.p.card(ctx, id, spec.VM.NICs[0].MAC)
		require.NoError(t, err)
		backing := card.GetVirtualEthernetCard().Backing.(*types.VirtualEthernetCardNetworkBackingInfo)
		assert.Equal(t, network, backing.DeviceName, "hosts know a port group by its own name")
	}
	inv, err := l.p.Inventory(ctx, "set", "100%", "100%25")
	require.NoError(t, err)
	assert.Len(t, inv.Templates, 2)
}

func TestResourcePoolThatIsMadeAnewIsFound(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.ResourcePools = []string{"dev"} })
	l.cfg.ResourcePool = "dev"
	l.p = l.provider(t)
	ctx := within(t, 30*time.Second)
	_, err := l.p.Inventory(ctx, "set")
	require.NoError(t, err)
	c, err := l.Client(ctx)
	require.NoError(t, err)
	again := func() {
		old, err := find.NewFinder(c.Client).ResourcePool(ctx, "/Datacenter/host/Cluster/Resources/dev")
		require.NoError(t, err)
		root, err := find.NewFinder(c.Client).ResourcePool(ctx, "/Datacenter/host/Cluster/Resources")
		require.NoError(t, err)
		task, err := old.Destroy(ctx)
		require.NoError(t, err)
		require.NoError(t, task.WaitEx(ctx))
		_, err = root.Create(ctx, "dev", types.DefaultResourceConfigSpec())
		require.NoError(t, err)
	}
	again()
	_, err = l.p.Clone(ctx, goldenSpec("golden"))
	require.NoError(t, err)
	again()
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"k": "v"}))
}
