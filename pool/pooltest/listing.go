package pooltest

import (
	"net/netip"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

var listing = []Case{
	{Name: "a set without VMs has an empty inventory", test: func(f *fixture) {
		inv, err := f.p.Inventory(f.ctx, f.env.Set+"-nobody")
		require.NoError(f, err)
		require.NotNil(f, inv)
		assert.Empty(f, inv.VMs)
		assert.Empty(f, inv.Incomplete)
	}},
	{Name: "a template that does not exist is absent", test: func(f *fixture) {
		inv, err := f.p.Inventory(f.ctx, f.env.Set, f.env.Template, f.env.Template+"-nowhere")
		require.NoError(f, err)
		assert.Contains(f, inv.Templates, f.env.Template)
		assert.Len(f, inv.Templates, 1)
	}},
	{Name: "the identity of a template stays while it does not change", test: func(f *fixture) {
		one, err := f.p.Inventory(f.ctx, f.env.Set, f.env.Template)
		require.NoError(f, err)
		f.source() // a clone is no change
		two, err := f.p.Inventory(f.ctx, f.env.Set, f.env.Template)
		require.NoError(f, err)
		assert.NotEmpty(f, one.Templates[f.env.Template])
		assert.Equal(f, one.Templates, two.Templates)
	}},
	{Name: "every VM is listed with its folder and owner", test: func(f *fixture) {
		spec := f.spec(f.name("listed"))
		spec.VM.Folder = "a/b"
		id, err := f.base.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		vm, ok := byID(inv)[id]
		require.True(f, ok, "the VM is listed")
		assert.Equal(f, spec.VM.Name, vm.Name)
		assert.Equal(f, "a/b", vm.Folder)
		assert.Equal(f, spec.Owner, vm.Owner)
		assert.False(f, vm.On)
		assert.Empty(f, vm.Problem)
		assert.Empty(f, vm.Snapshots)
		assert.Empty(f, inv.Incomplete)
		assert.Empty(f, byID(inv)[f.golden].Folder, "of a VM in the set's own folder")
	}},
	{Name: "VMs of other sets are not listed", test: func(f *fixture) {
		spec := f.spec(f.name("elsewhere"))
		spec.Set = f.other()
		id, err := f.base.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		here, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		there, err := f.p.Inventory(f.ctx, f.other())
		require.NoError(f, err)
		assert.NotContains(f, byID(here), id)
		assert.Contains(f, byID(there), id)
	}},
	{Name: "addresses are listed by MAC in lower case", test: func(f *fixture) {
		id, spec := f.up("addresses")
		addr, err := f.base.Address(f.ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
		require.NoError(f, err)
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		assert.Contains(f, byID(inv)[id].Addrs[strings.ToLower(spec.VM.NICs[0].MAC)], addr)
		for mac, addrs := range byID(inv)[id].Addrs {
			assert.Equal(f, strings.ToLower(mac), mac)
			assert.NotContains(f, linkLocal(addrs), true, "link-local addresses do not count")
		}
	}},
	{Name: "a VM that runs is listed as on", test: func(f *fixture) {
		id, _ := f.vm("on")
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		inv, err := f.p.Inventory(f.ctx, f.env.Set)
		require.NoError(f, err)
		assert.True(f, byID(inv)[id].On)
		assert.False(f, byID(inv)[f.golden].On)
	}},
}

func linkLocal(addrs []netip.Addr) (all []bool) {
	for _, a := range addrs {
		all = append(all, a.IsLinkLocalUnicast())
	}
	return all
}

var changes = []Case{
	{Name: "a renamed VM is listed under its new name", test: func(f *fixture) {
		id, spec := f.vm("old")
		name := f.name("new")
		require.NoError(f, f.p.Rename(f.ctx, id, name))
		vm := f.look(id)
		assert.Equal(f, name, vm.Name)
		assert.Equal(f, spec.Owner, vm.Owner)
	}},
	{Name: "renaming to a taken name is ErrExists and changes nothing", test: func(f *fixture) {
		_, taken := f.vm("taken")
		id, spec := f.vm("renamed")
		err := f.p.Rename(f.ctx, id, taken.VM.Name)
		require.ErrorIs(f, err, pool.ErrExists)
		assert.Equal(f, spec.VM.Name, f.look(id).Name)
	}},
	{Name: "a note changes nothing that is listed", test: func(f *fixture) {
		id, _ := f.vm("noted")
		before := f.look(id)
		require.NoError(f, f.p.Annotate(f.ctx, id, "for people"))
		require.NoError(f, f.p.Annotate(f.ctx, id, ""))
		assert.Equal(f, before, f.look(id))
	}},
	{Name: "destroying a VM that runs removes it", test: func(f *fixture) {
		id, _ := f.up("doomed")
		require.NoError(f, f.p.Destroy(f.ctx, id))
		assert.NotContains(f, f.list(f.env.Set), id)
	}},
	{Name: "destroying a VM that is gone is no error", test: func(f *fixture) {
		id, _ := f.vm("gone")
		require.NoError(f, f.base.Destroy(f.ctx, id))
		assert.NoError(f, f.p.Destroy(f.ctx, id))
	}},
}
