package vspheretest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// What is copied by fields is as vcsim's own collector has it, of every object, and of a VM that is
// being made. vcsim is made to do it by a path that fields leaves to it.
func TestPropertiesAreThoseOfVcsim(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	tpl := s.full("golden")
	s.snapshot(tpl, "one")
	s.srv.Inject(vspheretest.Fault{Method: "CloneVM_Task", Effect: vspheretest.SlowTask(1000)})
	making, err := tpl.Clone(s.ctx, s.folder, "making", types.VirtualMachineCloneSpec{Location: s.here()})
	require.NoError(t, err)

	all, err := view.NewManager(s.c.Client).CreateContainerView(s.ctx, s.c.ServiceContent.RootFolder, nil, true)
	require.NoError(t, err)
	var objects []types.ObjectSpec
	refs, err := all.Find(s.ctx, nil, property.Match{"name": "*"})
	require.NoError(t, err)
	for _, ref := range refs {
		objects = append(objects, types.ObjectSpec{Obj: ref})
	}
	objects = append(objects, types.ObjectSpec{Obj: making.Reference()})
	paths := map[string][]string{
		"VirtualMachine": {
			"config.hardware.device", "config.extraConfig", "config.files.vmPathName", "config.changeVersion", "config.template",
			"guest.net", "guest.ipStack", "runtime.powerState", "runtime.bootTime", "runtime.host", "snapshot.rootSnapshotList", "snapshot.currentSnapshot",
			"summary.config.memorySizeMB", "layoutEx.file", "no.such", "config.noSuch", "config.hardware.device.key",
		},
		"Task":       {"info.state", "info.result", "info.error", "info.queueTime", "info.entityName"},
		"HostSystem": {"summary.hardware.memorySize", "config.network.portgroup", "hardware.biosInfo"},
	}
	read := func(o types.ObjectSpec, set ...types.PropertySpec) types.ObjectContent {
		for i := range set {
			set[i].Type = o.Obj.Type
		}
		res, err := property.DefaultCollector(s.c.Client).RetrieveProperties(s.ctx, types.RetrieveProperties{SpecSet: []types.PropertyFilterSpec{{
			ObjectSet: []types.ObjectSpec{o}, PropSet: set,
		}}})
		require.NoError(t, err)
		require.Len(t, res.Returnval, 1)
		return res.Returnval[0]
	}
	seen := map[string]bool{}
	for _, o := range objects {
		everything := types.PropertySpec{All: types.NewBool(true)}
		want := read(o, everything, types.PropertySpec{PathSet: []string{"name[x]"}})
		if last := len(want.PropSet) - 1; o.Obj.Type == "Network" && want.PropSet[last].Name == "name" {
			want.PropSet = want.PropSet[:last] // vcsim has it twice
		}
		assert.Equal(t, want.PropSet, read(o, everything).PropSet, "all of %s", o.Obj)
		seen[o.Obj.Type] = true
		names := paths[o.Obj.Type]
		for _, p := range want.PropSet {
			names = append(names, p.Name)
		}
		for _, name := range names {
			stock := read(o, types.PropertySpec{PathSet: []string{name, "name[x]"}})
			ours := read(o, types.PropertySpec{PathSet: []string{name}})
			assert.Equal(t, stock.PropSet, ours.PropSet, "%s of %s", name, o.Obj)
		}
	}
	for _, kind := range []string{"Task", "VirtualMachine", "HostSystem", "Folder", "Datastore", "Network"} {
		assert.True(t, seen[kind], kind)
	}
}
