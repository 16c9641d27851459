package vsphere

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	vc "github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// change does to a VM what an administrator does.
func (l *lab) change(t *testing.T, id string, do func(context.Context, *vc.VirtualMachine) (*vc.Task, error)) {
	t.Helper()
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	task, err := do(t.Context(), vc.NewVirtualMachine(c.Client, vmRef(id)))
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
}

func TestHardwareThatAClonesSourceDoesNotAllowIsRefusedBefore(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	source := goldenSpec("source")
	source.VM.CPUs, source.VM.MemoryMiB = 4, 4096
	id, err := l.p.Clone(ctx, source)
	require.NoError(t, err)
	l.change(t, id, func(ctx context.Context, vm *vc.VirtualMachine) (*vc.Task, error) {
		return vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{
			NumCoresPerSocket: types.NewInt32(4), MemoryAllocation: &types.ResourceAllocationInfo{Reservation: types.NewInt64(2048)},
		})
	})
	spec := pool.CloneSpec{Set: "set", Source: id, Owner: "set/con1", VM: pool.VM{Name: "con1"}}
	try := func(cpus, memory int) error {
		spec.VM.CPUs, spec.VM.MemoryMiB = cpus, memory
		return l.p.Preflight(ctx, []pool.CloneSpec{spec})
	}
	require.NoError(t, try(0, 0))
	require.NoError(t, try(8, 2048))
	err = try(2, 1024)
	require.ErrorContains(t, err, "4 cores per socket")
	require.ErrorContains(t, err, "2048 MiB reserved")
	_, err = l.p.Clone(ctx, spec)
	require.ErrorContains(t, err, "4 cores per socket")
	calls, _ := l.counts()
	assert.Equal(t, 1, calls["CloneVM_Task"], "the source's")

	l.change(t, id, func(ctx context.Context, vm *vc.VirtualMachine) (*vc.Task, error) {
		return vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{MemoryReservationLockedToMax: types.NewBool(true)})
	})
	require.ErrorContains(t, try(0, 8192), "all of its memory reserved (4096 MiB)")
	require.NoError(t, try(0, 4096))
}

func TestSourcesThatCannotBecomePoolsAreRefused(t *testing.T) {
	t.Parallel()
	var s source
	require.NoError(t, s.usable("it"))
	s.take("config.keyId", types.CryptoKeyId{KeyId: "k"})
	require.ErrorContains(t, s.usable("it"), "encrypted")
	s = source{}
	s.take("config.hardware", types.VirtualHardware{Device: []types.BaseVirtualDevice{&types.VirtualTPM{}}})
	require.ErrorContains(t, s.usable("it"), "virtual TPM")
}

// A Storage vMotion of golden moves the disks of its snapshot, too: a provider that knew the snapshot
// before must not hang clones on where they were.
func TestASnapshotIsLookedForWhereItIsNow(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Datastores = []string{"ssd1", "ssd2"} })
	l.intervals.source = time.Millisecond
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	spec := goldenSpec("golden")
	spec.VM.Datastore = "ssd1"
	golden, err := l.p.Clone(ctx, spec)
	require.NoError(t, err)
	snap, err := l.p.Snapshot(ctx, golden, "golden-ready", "{}")
	require.NoError(t, err)
	con := linkedSpec(golden, snap, "con1", "00:50:56:05:00:01")
	con.VM.Datastore = "ssd1"
	_, err = l.p.Clone(ctx, con)
	require.NoError(t, err)

	c, err := l.Client(ctx)
	require.NoError(t, err)
	ds, err := find.NewFinder(c.Client).Datastore(ctx, "/*/datastore/ssd2")
	require.NoError(t, err)
	to := ds.Reference()
	l.change(t, golden, func(ctx context.Context, vm *vc.VirtualMachine) (*vc.Task, error) {
		return vm.Relocate(ctx, types.VirtualMachineRelocateSpec{Datastore: &to}, types.VirtualMachineMovePriorityDefaultPriority)
	})
	con.VM.Name, con.Owner, con.VM.NICs[0].MAC = "con2", "set/con2", "00:50:56:05:00:02"
	_, err = l.p.Clone(ctx, con)
	require.ErrorContains(t, err, "make a golden per datastore")
	con.VM.Datastore = "ssd2"
	_, err = l.p.Clone(ctx, con)
	require.NoError(t, err)
}

func TestNamesOfSnapshotsMayHaveWhatPathsEscape(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	for _, name := range []string{"100% ready", "a/b", `a\b`, "%2f", "a%25b"} {
		snap, err := l.p.Snapshot(ctx, id, name, "record of "+name)
		require.NoError(t, err)
		inv, err := l.p.Inventory(ctx, "set")
		require.NoError(t, err)
		require.Len(t, inv.VMs, 1)
		var names []string
		for _, s := range inv.VMs[0].Snapshots {
			if s.ID == snap {
				names = append(names, s.Name)
			}
		}
		assert.Equal(t, []string{name}, names)
	}
}

// Without NICs of its own a clone has its source's, on the source's networks.
func TestPreflightAsksForTheSourcesNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	plain := goldenSpec("plain")
	plain.VM.NICs = nil
	require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{plain}))
	l.Deny("Network.Assign")
	require.ErrorContains(t, l.p.Preflight(ctx, []pool.CloneSpec{plain}), "Network.Assign")
}
