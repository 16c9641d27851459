package pooltest

import (
	"errors"
	"net/netip"
	"path"
	"strings"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

var cloning = []Case{
	{Name: "a clone is off and as its specification says", test: func(f *fixture) {
		spec := f.spec(f.name("clone"))
		spec.VM.Folder, spec.VM.CPUs, spec.VM.MemoryMiB = "made", 1, 512
		spec.VM.NICs = append(spec.VM.NICs, pool.NIC{MAC: f.mac()})
		id, err := f.p.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		vm := f.look(id)
		assert.Equal(f, spec.VM.Name, vm.Name)
		assert.Equal(f, "made", vm.Folder)
		assert.Equal(f, spec.Owner, vm.Owner, "and not its source's")
		assert.False(f, vm.On)
		assert.Empty(f, vm.Snapshots, "those of its source are not its own")
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		_, err = f.base.Address(f.ctx, id, spec.VM.NICs[1].MAC, netip.Addr{})
		assert.NoError(f, err, "both NICs are there, with their MACs")
	}},
	{Name: "a clone of a snapshot hangs on it", test: func(f *fixture) {
		spec := f.spec(f.name("linked"))
		id, err := f.p.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		assert.True(f, f.look(id).Linked)
	}},
	{Name: "a clone of a template hangs on nothing", test: func(f *fixture) {
		name := f.name("full")
		id, err := f.p.Clone(f.ctx, pool.CloneSpec{
			Set: f.env.Set, Source: f.env.Template, Template: true, Owner: f.env.Set + "/" + name, VM: pool.VM{Name: name},
		})
		require.NoError(f, err)
		f.removeLater(id)
		vm := f.look(id)
		assert.False(f, vm.Linked)
		assert.Equal(f, f.env.Set+"/"+name, vm.Owner)
	}},
	{Name: "of racing clones of one name one wins and the others get ErrExists", test: func(f *fixture) {
		spec := f.spec(f.name("race"))
		const racers = 5
		ids, errs := make([]string, racers), make([]error, racers)
		var wg sync.WaitGroup
		for i := range racers {
			spec := spec
			spec.VM.NICs = []pool.NIC{{MAC: f.mac()}}
			wg.Go(func() { ids[i], errs[i] = f.p.Clone(f.ctx, spec) })
		}
		wg.Wait()
		won := 0
		for i := range racers {
			if errs[i] == nil {
				won++
				f.removeLater(ids[i])
				continue
			}
			assert.ErrorIs(f, errs[i], pool.ErrExists)
		}
		assert.Equal(f, 1, won, "clones that won")
		assert.Len(f, f.named(f.env.Set, spec.VM.Name), 1)
	}},
	{Name: "a name that is taken is ErrExists and its VM stays as it is", test: func(f *fixture) {
		id, spec := f.vm("taken")
		before := f.look(id)
		spec.Owner, spec.VM.NICs = "somebody else", []pool.NIC{{MAC: f.mac()}}
		_, err := f.p.Clone(f.ctx, spec)
		require.ErrorIs(f, err, pool.ErrExists)
		assert.Equal(f, before, f.look(id))
	}},
	{Name: "a name that another set has is free", test: func(f *fixture) {
		_, spec := f.vm("twin")
		spec.Set, spec.VM.NICs = f.other(), []pool.NIC{{MAC: f.mac()}}
		id, err := f.p.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		assert.Len(f, f.named(f.env.Set, spec.VM.Name), 1)
		assert.Len(f, f.named(f.other(), spec.VM.Name), 1)
	}},
	{Name: "a clone of a template that does not exist names it and makes nothing", test: func(f *fixture) {
		spec := f.spec(f.name("orphan"))
		spec.Source, spec.Snapshot, spec.Template = f.env.Template+"-nowhere", "", true
		_, err := f.p.Clone(f.ctx, spec)
		require.Error(f, err)
		assert.NotErrorIs(f, err, pool.ErrExists)
		assert.ErrorContains(f, err, f.env.Template+"-nowhere")
		assert.Empty(f, f.named(f.env.Set, spec.VM.Name))
	}},
	{Name: "a clone on a datastore that does not exist names it and makes nothing", test: func(f *fixture) {
		spec := f.spec(f.name("nowhere"))
		spec.VM.Datastore = "no-such-datastore"
		_, err := f.p.Clone(f.ctx, spec)
		require.Error(f, err)
		assert.ErrorContains(f, err, "no-such-datastore")
		assert.Empty(f, f.named(f.env.Set, spec.VM.Name))
	}},
	{Name: "the disk of a linked clone cannot grow", test: func(f *fixture) {
		spec := f.spec(f.name("big"))
		spec.VM.DiskGiB = 4000
		_, err := f.p.Clone(f.ctx, spec)
		require.Error(f, err)
		assert.Empty(f, f.named(f.env.Set, spec.VM.Name))
	}},
	{Name: "the clones of a VM are found wherever they are", test: func(f *fixture) {
		_, near := f.vm("near")
		far := f.spec(f.name("far"))
		far.Set, far.VM.Folder = f.other(), "deep/down"
		id, err := f.base.Clone(f.ctx, far)
		require.NoError(f, err)
		f.removeLater(id)
		golden, _ := f.source()
		paths, err := f.p.Clones(f.ctx, golden)
		require.NoError(f, err)
		for _, end := range []string{path.Join(near.Set, near.VM.Name), path.Join(far.Set, far.VM.Folder, far.VM.Name)} {
			found := false
			for _, p := range paths {
				found = found || strings.HasSuffix(p, "/"+end)
			}
			assert.True(f, found, "%s is among the clones %v", end, paths)
		}
		for _, p := range paths {
			assert.NotEqual(f, "golden", path.Base(p), "a VM is no clone of itself")
		}
	}},
	{Name: "a VM that nothing hangs on has no clones", test: func(f *fixture) {
		id, _ := f.vm("childless")
		_, err := f.base.Snapshot(f.ctx, id, "s", "")
		require.NoError(f, err)
		paths, err := f.p.Clones(f.ctx, id)
		require.NoError(f, err)
		assert.Empty(f, paths)
	}},
}

var preflight = []Case{
	{Name: "a preflight of what can be built reports nothing and makes nothing", test: func(f *fixture) {
		ok := f.spec(f.name("planned"))
		later := ok
		later.VM.Name, later.Source, later.Snapshot = f.name("planned"), "", ""
		require.NoError(f, f.p.Preflight(f.ctx, []pool.CloneSpec{ok, later}))
		assert.Empty(f, f.named(f.env.Set, ok.VM.Name))
	}},
	{Name: "a preflight reports every place that does not exist, at once", test: func(f *fixture) {
		bad := f.spec(f.name("bad"))
		bad.VM.Datastore, bad.VM.ResourcePool = "no-such-datastore", "no-such-pool"
		worse := f.spec(f.name("worse"))
		worse.VM.NICs[0].Network = "no-such-network"
		err := f.p.Preflight(f.ctx, []pool.CloneSpec{bad, worse})
		require.Error(f, err)
		for _, name := range []string{"no-such-datastore", "no-such-pool", "no-such-network"} {
			assert.ErrorContains(f, err, name)
		}
	}},
	{Name: "a preflight reports names that others have taken", test: func(f *fixture) {
		_, spec := f.vm("theirs")
		spec.Owner = "somebody else"
		err := f.p.Preflight(f.ctx, []pool.CloneSpec{spec})
		require.Error(f, err)
		assert.ErrorContains(f, err, spec.VM.Name)
	}},
	{Name: "a preflight names the VM that has a static MAC", test: func(f *fixture) {
		theirs := f.spec(f.name("neighbour"))
		theirs.Set = f.other()
		id, err := f.base.Clone(f.ctx, theirs)
		require.NoError(f, err)
		f.removeLater(id)
		spec := f.spec(f.name("planned"))
		spec.VM.NICs = theirs.VM.NICs
		err = f.p.Preflight(f.ctx, []pool.CloneSpec{spec})
		require.Error(f, err)
		assert.ErrorContains(f, err, theirs.VM.Name)
		assert.ErrorContains(f, err, theirs.VM.NICs[0].MAC)
	}},
	{Name: "a preflight says nothing of names that are ours", test: func(f *fixture) {
		_, spec := f.vm("ours")
		assert.NoError(f, f.p.Preflight(f.ctx, []pool.CloneSpec{spec}))
	}},
	{
		Name: "a preflight reports missing privileges", needs: func(e Env) bool { return e.ReadOnly != nil },
		test: func(f *fixture) {
			spec := f.spec(f.name("denied"))
			weak := f.env.ReadOnly(f)
			if f.p != f.base {
				weak = f.p
			}
			require.Error(f, weak.Preflight(f.ctx, []pool.CloneSpec{spec}))
			_, err := weak.Clone(f.ctx, spec)
			require.Error(f, err)
			assert.Empty(f, f.named(f.env.Set, spec.VM.Name))
		},
	},
	{
		Name: "a wrong password is one clear error that shows neither name nor password", needs: func(e Env) bool { return e.WrongPassword != nil },
		test: func(f *fixture) {
			p, user, password := f.env.WrongPassword(f)
			if f.p != f.base {
				p = f.p
			}
			_, err := p.Inventory(f.ctx, f.env.Set)
			require.Error(f, err)
			assert.NotContains(f, err.Error(), user)
			assert.NotContains(f, err.Error(), password)
			assert.Contains(f, err.Error(), "password", "what is wrong")
			var many interface{ Unwrap() []error }
			assert.False(f, errors.As(err, &many), "one error")
		},
	},
}
