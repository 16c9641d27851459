package pool_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// copyVM clones a VM of the set as an administrator would, into a folder below the set's that is made
// for it. linked hangs the copy on the VM's snapshot pool-ready.
func (r *rig) copyVM(vm, folder, name string, linked bool) {
	r.t.Helper()
	ctx := r.t.Context()
	f := find.NewFinder(r.client().Client)
	lab, err := f.Folder(ctx, "/Datacenter/vm/lab")
	require.NoError(r.t, err)
	to, err := lab.CreateFolder(ctx, folder)
	require.NoError(r.t, err)
	var spec types.VirtualMachineCloneSpec
	if linked {
		snap, err := r.vm(vm).FindSnapshot(ctx, "pool-ready")
		require.NoError(r.t, err)
		spec.Snapshot = snap
		spec.Location.DiskMoveType = string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
	}
	r.byHand(func(ctx context.Context) (*object.Task, error) { return r.vm(vm).Clone(ctx, to, name, spec) })
}

// A copy inherits our mark. It is nobody's business to remove it, nor to say which of two VMs of one
// name is the pool's.
func TestACopyMadeByHandIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(2)).Close()
	r.copyVM("con1", "backup", "con1", false)
	r.copyVM("golden", "backup2", "golden", false)

	want := `refuse: 2 VMs in the set's folder have this name: `
	assert.Contains(t, r.plan(r.spec(2))["con1"], want)
	assert.Contains(t, r.plan(r.spec(2))["con1"], "backup/con1 (a copy)")
	assert.Contains(t, r.plan(r.spec(2))["con1"], "pool1/con1")
	assert.Equal(t, "reuse", r.plan(r.spec(2))["golden"], "which of the two it is is known")
	n := len(r.Requests())
	_, err := pool.Open(t.Context(), r.spec(2))
	require.ErrorContains(t, err, "backup/con1 (a copy)")
	assert.Empty(t, r.asked(n))

	spec := r.spec(1)
	left, err := pool.Sweep(t.Context(), spec, pool.SweepOptions{Remove: true})
	require.NoError(t, err)
	require.Len(t, left, 2, "those of pool 2")
	removed, err := pool.Destroy(t.Context(), spec)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{"con1", "dis1", "golden"}, removed)
	assert.Equal(t, []string{"con1", "golden"}, r.names(), "the copies")
}

// Somebody's linked clone depends on con's disks: con cannot be removed, and dis is not removed in vain.
func TestNothingIsTouchedOfAPoolOfWhichAVMHasClones(t *testing.T) {
	t.Parallel()
	for _, vm := range []string{"con1", "dis1"} {
		t.Run(vm, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.open(r.spec(1)).Close()
			r.copyVM(vm, "mine", "my-clone", true)
			n := len(r.Requests())
			err := pool.Rebuild(t.Context(), r.spec(1), pool.RebuildOptions{})
			require.ErrorIs(t, err, pool.ErrHasClones)
			require.ErrorContains(t, err, "/Datacenter/vm/lab/mine/my-clone")
			for _, call := range r.asked(n) {
				assert.NotContains(t, call, "Destroy")
				assert.NotContains(t, call, "Power")
			}
			assert.Equal(t, []string{"con1", "dis1", "golden", "my-clone"}, r.names())
		})
	}
}

// A con that somebody renamed and left running has the MAC, and so the address, of the next one.
func TestARenamedVMThatRunsIsNamedForItsMAC(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(1)).Close()
	r.byHand(func(ctx context.Context) (*object.Task, error) { return r.vm("con1").Rename(ctx, "con1-mine") })
	n := len(r.Requests())
	_, err := pool.Open(t.Context(), r.spec(1))
	require.ErrorContains(t, err, "00:50:56:01:01:01 is that of VM /Datacenter/vm/lab/pool1/con1-mine, which is powered on")
	require.ErrorContains(t, err, "nothing was touched")
	for _, call := range r.asked(n) {
		assert.NotContains(t, call, "con1")
		assert.NotContains(t, call, "dis1")
	}
}

// Two teams whose sets have the same static MACs: the second is told at once, and the first has its
// pools as before.
func TestASecondSetWithTheSameMACsIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(s *vspheretest.Server) { s.Hosts = 2 })
	r.open(r.spec(1)).Close()
	other := r.spec(1)
	other.Name = "other"
	n := len(r.Requests())
	_, err := pool.Open(t.Context(), other)
	require.ErrorContains(t, err, `VM "con1": its MAC 00:50:56:01:01:01 is that of VM /Datacenter/vm/lab/pool1/con1`)
	require.ErrorContains(t, err, `VM "dis1": its MAC 00:50:56:01:01:02 is that of VM /Datacenter/vm/lab/pool1/dis1`)
	for _, call := range r.asked(n) {
		assert.NotContains(t, call, "Clone")
		assert.NotContains(t, call, "Power")
	}
	for vm, what := range r.plan(r.spec(1)) {
		assert.Equal(t, "reuse", what, vm)
	}
}

// Somebody takes the machine away under a test: the error says what the hypervisor says of it, and
// nothing waits for a boot that does not come.
func TestAHostThatIsTakenAwayUnderALeaseIsToldAsSuch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		take func(r *rig)
		says string
	}{
		"powered off": {func(r *rig) { r.byHand(r.vm("con1").PowerOff) }, "the VM is powered off"},
		"destroyed": {func(r *rig) {
			r.byHand(r.vm("con1").PowerOff)
			r.byHand(r.vm("con1").Destroy)
		}, "the VM no longer exists"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			set := r.open(r.shared(1, time.Minute))
			t.Run("test", func(t *testing.T) {
				con := set.Acquire(t).Host("con")
				conn, err := con.SSH(t.Context())
				require.NoError(t, err)
				done := make(chan error, 1)
				go func() {
					_, err := con.Run(t.Context(), "sleep", "600")
					done <- err
				}()
				c.take(r)
				conn.Close() // what keepalives find out after half a minute
				require.ErrorContains(t, <-done, c.says)
				_, err = con.Run(t.Context(), "true")
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, "con1")
			})
		})
	}
}
