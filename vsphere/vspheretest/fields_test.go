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
	read := func(o types.ObjectSpec, paths ...string) types.ObjectContent {
		res, err := property.DefaultCollector(s.c.Client).RetrieveProperties(s.ctx, types.RetrieveProperties{SpecSet: []types.PropertyFilterSpec{{
			ObjectSet: []types.ObjectSpec{o}, PropSet: []types.PropertySpec{{Type: o.Obj.Type, PathSet: paths, All: types.NewBool(len(paths) == 0)}},
		}}})
		require.NoError(t, err)
		require.Len(t, res.Returnval, 1)
		return res.Returnval[0]
	}
	seen := map[string]bool{}
	for _, o := range objects {
		want := read(o)
		seen[o.Obj.Type] = true
		names := paths[o.Obj.Type]
		for _, p := range want.PropSet {
			names = append(names, p.Name)
		}
		for _, name := range names {
			stock, ours := read(o, name, "name[x]"), read(o, name)
			assert.Equal(t, stock.PropSet, ours.PropSet, "%s of %s", name, o.Obj)
		}
	}
	for _, kind := range []string{"Task", "VirtualMachine", "HostSystem", "Folder", "Datastore", "Network"} {
		assert.True(t, seen[kind], kind)
	}
}
