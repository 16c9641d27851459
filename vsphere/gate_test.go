package vsphere

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/task"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// atOnce is how many tasks of the given kinds vCenter had in its hands at the same time at most.
func (l *lab) atOnce(t *testing.T, ctx context.Context, kinds ...string) (most int) {
	t.Helper()
	c, err := l.Client(ctx)
	require.NoError(t, err)
	history, err := task.NewManager(c.Client).CreateCollectorForTasks(ctx, types.TaskFilterSpec{})
	require.NoError(t, err)
	defer func() { require.NoError(t, history.Destroy(ctx)) }()
	type event struct {
		at   time.Time
		more int
	}
	var events []event
	require.NoError(t, history.Rewind(ctx))
	for {
		page, err := history.ReadNextTasks(ctx, 1000)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		for _, info := range page {
			if slices.Contains(kinds, info.DescriptionId) {
				require.NotNil(t, info.CompleteTime)
				events = append(events, event{info.QueueTime, 1}, event{*info.CompleteTime, -1})
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	now := 0
	for _, e := range events {
		now += e.more
		most = max(most, now)
	}
	return most
}

// Many VMs that are cloned, snapshotted or reverted at a time bring a datastore to its knees.
func TestStormsAreHeldBack(t *testing.T) {
	t.Parallel()
	latency := vspheretest.Fast()
	latency.FullClone, latency.PowerOn = 60*time.Millisecond, 60*time.Millisecond
	latency.Snapshot, latency.Revert = 60*time.Millisecond, 60*time.Millisecond
	l := newLab(t, latency)
	ctx := within(t, 3*time.Minute)
	const vms = maxPowers + 4
	var ids, snapshots [vms]string
	all := func(f func(i int) error) {
		var wg sync.WaitGroup
		for i := range vms {
			wg.Go(func() { assert.NoError(t, f(i)) })
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	all(func(i int) (err error) {
		spec := goldenSpec(fmt.Sprint("vm", i))
		spec.VM.NICs = []pool.NIC{{}}
		ids[i], err = l.p.Clone(ctx, spec)
		return err
	})
	all(func(i int) (err error) {
		snapshots[i], err = l.p.Snapshot(ctx, ids[i], "pool-ready", "record")
		return err
	})
	all(func(i int) error { return l.p.PowerOn(ctx, ids[i]) })
	all(func(i int) error {
		if i%2 == 0 { // what changes disks shares one gate
			return l.p.Revert(ctx, ids[i], snapshots[i])
		}
		_, err := l.p.Snapshot(ctx, ids[i], "another", "record")
		return err
	})
	for _, c := range []struct {
		name  string
		kinds []string
		most  int
	}{
		{"clones", []string{"VirtualMachine.clone"}, maxClones},
		{"powers", []string{"VirtualMachine.powerOn"}, maxPowers},
		{"snapshots", []string{"VirtualMachine.createSnapshot", "vm.Snapshot.revert"}, maxSnapshots},
	} {
		most := l.atOnce(t, ctx, c.kinds...)
		assert.LessOrEqual(t, most, c.most, c.name)
		assert.Greater(t, most, 1, "%s: none ran beside another, so this has shown nothing", c.name)
		t.Logf("%s: at most %d at once", c.name, most)
	}
}
