package pooltest

import (
	"context"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

var promises = []Case{
	{Name: "a VM on whose disks others hang is not destroyed, nor its power cut", test: func(f *fixture) {
		id, _ := f.up("parent")
		_, err := f.base.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		snapshot, err := f.base.Snapshot(f.ctx, id, "s", "r")
		require.NoError(f, err)
		child := f.spec(f.name("child"))
		child.Source, child.Snapshot = id, snapshot
		of, err := f.base.Clone(f.ctx, child)
		require.NoError(f, err)
		f.removeLater(of)
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		err = f.p.Destroy(f.ctx, id)
		require.ErrorIs(f, err, pool.ErrHasClones)
		assert.ErrorContains(f, err, child.VM.Name)
		assert.True(f, f.look(id).On)
	}},
	{Name: "a VM is where Place said", test: func(f *fixture) {
		spec := f.spec(f.name("placed"))
		want, err := f.p.Place(f.ctx, spec.VM)
		require.NoError(f, err)
		require.Len(f, want, 1)
		id, err := f.base.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		at := f.look(id).Placement
		at.Hosts = want[0].Hosts // which only a VM that is to be made has
		assert.Equal(f, want[0], at)
		assert.Len(f, want[0].Datastores, 1)
		assert.Len(f, want[0].Networks, len(spec.VM.NICs))
	}},
	{Name: "places that do not exist are named, all at once", test: func(f *fixture) {
		_, err := f.p.Place(f.ctx, pool.VM{Name: "a", Datastore: "no-such-datastore"}, pool.VM{Name: "b", ResourcePool: "no-such-pool"})
		require.Error(f, err)
		assert.ErrorContains(f, err, "no-such-datastore")
		assert.ErrorContains(f, err, "no-such-pool")
	}},
	{Name: "a diagnosis reports whether a VM runs, and that it is gone", test: func(f *fixture) {
		id, _ := f.vm("diagnosed")
		d, err := f.p.Diagnose(f.ctx, id)
		require.NoError(f, err)
		assert.Equal(f, pool.Diagnosis{}, d, "it is off")
		require.NoError(f, f.base.PowerOn(f.ctx, id))
		d, err = f.p.Diagnose(f.ctx, id)
		require.NoError(f, err)
		assert.True(f, d.On)
		require.NoError(f, f.base.Destroy(f.ctx, id))
		d, err = f.p.Diagnose(f.ctx, id)
		require.NoError(f, err)
		assert.Equal(f, pool.Diagnosis{Gone: true}, d)
	}},
	{
		Name: "a copy made by hand is listed as one, and not as ours", needs: func(e Env) bool { return e.Copy != nil },
		test: func(f *fixture) {
			id, spec := f.vm("original")
			name := f.name("copy")
			f.removeLater(f.env.Copy(f, id, name))
			inv, err := f.p.Inventory(f.ctx, f.env.Set)
			require.NoError(f, err)
			found := false
			for _, vm := range inv.VMs {
				if vm.Name == name {
					found = true
					assert.Empty(f, vm.Owner)
					assert.Equal(f, spec.Owner, vm.CopyOf)
				}
			}
			assert.True(f, found, "the copy is listed")
			assert.Equal(f, spec.Owner, byID(inv)[id].Owner)
			assert.Empty(f, byID(inv)[id].CopyOf)
		},
	},
	{
		Name: "a record that is not stored as a whole is ErrRecord", needs: func(e Env) bool { return e.RecordLimit > 0 },
		test: func(f *fixture) {
			id, _ := f.vm("recorded")
			_, err := f.p.Snapshot(f.ctx, id, "pool-ready", strings.Repeat("r", f.env.RecordLimit+1))
			require.ErrorIs(f, err, pool.ErrRecord)
			_, err = f.p.Snapshot(f.ctx, id, "shorter", strings.Repeat("r", f.env.RecordLimit))
			require.NoError(f, err)
		},
	},
	{
		Name: "an operation that waits for an answer to a question ends with the question", needs: func(e Env) bool { return e.Ask != nil },
		test: func(f *fixture) {
			id, spec := f.vm("asked")
			f.env.Ask(f, id, spec.VM.Name, "moved or copied?")
			err := f.p.PowerOn(f.ctx, id)
			require.Error(f, err)
			assert.NotErrorIs(f, err, context.DeadlineExceeded)
			assert.ErrorContains(f, err, "moved or copied?")
			assert.ErrorContains(f, err, spec.VM.Name)
			d, err := f.p.Diagnose(f.ctx, id)
			require.NoError(f, err)
			assert.Contains(f, d.Question, "moved or copied?")
		},
	},
}
