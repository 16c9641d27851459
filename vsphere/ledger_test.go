package vsphere

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	govc "github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// shard reads one shard, which must be there.
func (l *lab) shard(t *testing.T, name string) pool.Shard {
	t.Helper()
	read, err := l.p.Ledger(t.Context(), "set")
	require.NoError(t, err)
	s, ok := read.Shards[name]
	require.True(t, ok, "shard %q in %v", name, read.Shards)
	return s
}

// byHand finds a VM in the set's folder as an administrator does.
func (l *lab) byHand(t *testing.T, name string) *govc.VirtualMachine {
	t.Helper()
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	vm, err := find.NewFinder(c.Client).VirtualMachine(t.Context(), "/Datacenter/vm/set/ledger/"+name)
	require.NoError(t, err)
	return vm
}

func done(t *testing.T, task *govc.Task, err error) {
	t.Helper()
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
}

func TestLedgerKeepsWhatIsWritten(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	empty, err := l.p.Ledger(ctx, "set")
	require.NoError(t, err)
	assert.Empty(t, empty.Shards)
	assert.WithinDuration(t, time.Now(), empty.Now, 5*time.Second)

	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": `{"a":1}`, "gone": "soon"}))
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-2", "", map[string]string{"entry": "two"}))
	first := l.shard(t, "pool-1")
	assert.Equal(t, map[string]string{"entry": `{"a":1}`, "gone": "soon"}, first.Values)
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", first.Revision, map[string]string{"entry": "b", "gone": "", "new": "c"}))
	assert.Equal(t, map[string]string{"entry": "b", "new": "c"}, l.shard(t, "pool-1").Values)
	assert.Equal(t, map[string]string{"entry": "two"}, l.shard(t, "pool-2").Values)

	require.ErrorIs(t, l.p.SetLedger(ctx, "set", "pool-1", first.Revision, map[string]string{"entry": "stale"}), pool.ErrChanged)
	require.ErrorIs(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "second"}), pool.ErrChanged)
	assert.Equal(t, "b", l.shard(t, "pool-1").Values["entry"])

	inv, err := l.p.Inventory(ctx, "set")
	require.NoError(t, err)
	assert.Empty(t, inv.VMs, "the ledger is no VM of the set")
}

func TestLedgerWritesRaceToOneWinner(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	revision := ""
	for round := range 3 {
		var mu sync.Mutex
		var won []string
		var wg sync.WaitGroup
		for n := range 8 {
			p := l.provider(t)
			wg.Go(func() {
				me := fmt.Sprint("writer ", n)
				err := p.SetLedger(ctx, "set", "pool-1", revision, map[string]string{"entry": me})
				if err == nil {
					mu.Lock()
					defer mu.Unlock()
					won = append(won, me)
					return
				}
				assert.ErrorIs(t, err, pool.ErrChanged)
			})
		}
		wg.Wait()
		s := l.shard(t, "pool-1")
		require.Equal(t, []string{s.Values["entry"]}, won, "round %d", round)
		revision = s.Revision
	}
}

func TestLedgerWriteWhoseAnswerIsLostIsDoneOnce(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		method string
		effect vspheretest.Effect
	}{
		{"the reply of a write", "ReconfigVM_Task", vspheretest.LoseReply},
		{"a request to write", "ReconfigVM_Task", vspheretest.Drop},
		{"a restart while it is written", "ReconfigVM_Task", vspheretest.RestartVpxd},
		{"the reply of making it", "CreateVM_Task", vspheretest.LoseReply},
		{"a request to make it", "CreateVM_Task", vspheretest.Drop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, vspheretest.Fast())
			ctx := within(t, time.Minute)
			if tt.method == "ReconfigVM_Task" {
				require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "first"}))
			} else {
				_, err := l.p.Ledger(ctx, "set") // so that the vCenter was reached
				require.NoError(t, err)
			}
			revision := ""
			if tt.method == "ReconfigVM_Task" {
				revision = l.shard(t, "pool-1").Revision
			}
			fault := l.Inject(vspheretest.Fault{Method: tt.method, Effect: tt.effect})
			require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", revision, map[string]string{"entry": "second"}))
			assert.Equal(t, 1, fault.Hits())
			assert.Equal(t, "second", l.shard(t, "pool-1").Values["entry"])
		})
	}
}

// When the answer is lost, and another writes before we can look, the loser is told so.
func TestLedgerWriteOvertakenAfterALostAnswer(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "first"}))
	old := l.shard(t, "pool-1").Revision
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", old, map[string]string{"entry": "other"}))
	l.Inject(vspheretest.Fault{Method: "ReconfigVM_Task", Effect: vspheretest.LoseReply})
	require.ErrorIs(t, l.p.SetLedger(ctx, "set", "pool-1", old, map[string]string{"entry": "mine"}), pool.ErrChanged)
	assert.Equal(t, "other", l.shard(t, "pool-1").Values["entry"])
}

func TestLedgerChangedByHand(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*lab, context.Context, pool.Shard) {
		l := newLab(t, vspheretest.Fast())
		ctx := within(t, time.Minute)
		require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "one"}))
		return l, ctx, l.shard(t, "pool-1")
	}
	t.Run("removed", func(t *testing.T) {
		t.Parallel()
		l, ctx, s := setup(t)
		task, err := l.byHand(t, "set-ledger-pool-1").Destroy(ctx)
		done(t, task, err)
		require.ErrorIs(t, l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"}), pool.ErrChanged)
		require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "two"}))
		assert.Equal(t, "two", l.shard(t, "pool-1").Values["entry"])
	})
	t.Run("removed with the folder", func(t *testing.T) {
		t.Parallel()
		l, ctx, s := setup(t)
		c, err := l.Client(ctx)
		require.NoError(t, err)
		folder, err := find.NewFinder(c.Client).Folder(ctx, "/Datacenter/vm/set")
		require.NoError(t, err)
		task, err := folder.Destroy(ctx)
		done(t, task, err)
		require.ErrorIs(t, l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"}), pool.ErrChanged)
		read, err := l.p.Ledger(ctx, "set")
		require.NoError(t, err)
		assert.Empty(t, read.Shards)
		require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "two"}))
	})
	t.Run("moved away", func(t *testing.T) {
		t.Parallel()
		l, ctx, _ := setup(t)
		c, err := l.Client(ctx)
		require.NoError(t, err)
		folder, err := find.NewFinder(c.Client).Folder(ctx, "/Datacenter/vm")
		require.NoError(t, err)
		task, err := folder.MoveInto(ctx, []types.ManagedObjectReference{l.byHand(t, "set-ledger-pool-1").Reference()})
		done(t, task, err)
		for _, p := range []*Provider{l.p, l.provider(t)} {
			read, err := p.Ledger(ctx, "set", "pool-1")
			require.NoError(t, err)
			assert.Empty(t, read.Shards, "who knew it and who did not agree that it is gone")
		}
	})
	t.Run("renamed", func(t *testing.T) {
		t.Parallel()
		l, ctx, s := setup(t)
		task, err := l.byHand(t, "set-ledger-pool-1").Rename(ctx, "what-is-this")
		done(t, task, err)
		require.ErrorIs(t, l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"}), pool.ErrChanged, "a rename is a change")
		s = l.shard(t, "pool-1")
		require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"}))
		inv, err := l.p.Inventory(ctx, "set")
		require.NoError(t, err)
		assert.Empty(t, inv.VMs)
	})
	t.Run("copied", func(t *testing.T) {
		t.Parallel()
		l, ctx, s := setup(t)
		vm := l.byHand(t, "set-ledger-pool-1")
		c, err := l.Client(ctx)
		require.NoError(t, err)
		folder, err := find.NewFinder(c.Client).Folder(ctx, "/Datacenter/vm/set/ledger")
		require.NoError(t, err)
		task, err := vm.Clone(ctx, folder, "a-copy", types.VirtualMachineCloneSpec{})
		done(t, task, err)
		require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"}))
		assert.Equal(t, "two", l.shard(t, "pool-1").Values["entry"], "the copy is not taken for it")

		task, err = vm.Rename(ctx, "another")
		done(t, task, err)
		_, err = l.p.Ledger(ctx, "set")
		require.ErrorContains(t, err, `remove the one that is a copy`, "now nobody can tell which is which")
	})
	t.Run("somebody's VM has the name", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, vspheretest.Fast())
		ctx := within(t, time.Minute)
		spec := goldenSpec("set-ledger-pool-1")
		spec.VM.Folder = "ledger"
		_, err := l.p.Clone(ctx, spec)
		require.NoError(t, err)
		_, err = l.p.Ledger(ctx, "set")
		require.ErrorContains(t, err, `VM "set-ledger-pool-1" has a name that is kept for the ledger`)
	})
	t.Run("reverted snapshots of the pool's VMs", func(t *testing.T) {
		t.Parallel()
		l, ctx, _ := setup(t)
		id, snap := l.golden(t, ctx)
		require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", l.shard(t, "pool-1").Revision, map[string]string{"entry": "leased"}))
		before := l.shard(t, "pool-1")
		require.NoError(t, l.p.Revert(ctx, id, snap))
		assert.Equal(t, before, l.shard(t, "pool-1"), "a revert neither frees nor brings back a lease")
	})
}

// What the ledger is there for: a lease that is kept on the VM itself is undone by the very reset
// that its holder makes.
func TestALeaseOnTheVMItselfIsUndoneByItsRevert(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, snap := l.golden(t, ctx)
	vm := govc.NewVirtualMachine(nil, vmRef(id))
	c, err := l.Client(ctx)
	require.NoError(t, err)
	vm = govc.NewVirtualMachine(c.Client, vm.Reference())
	lease := func() string {
		read, err := l.p.readVM(ctx, vmRef(id), "config.extraConfig", "config.changeVersion")
		require.NoError(t, err)
		return extra(read, "poolready.lease")
	}
	task, err := vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: "poolready.lease", Value: "alice"}}})
	done(t, task, err)
	require.Equal(t, "alice", lease())
	require.NoError(t, l.p.Revert(ctx, id, snap))
	assert.Empty(t, lease(), "alice still works with it, and bob would be let in")
}

func TestLedgerWaitsForWhoIsAtIt(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "one"}))
	s := l.shard(t, "pool-1")
	l.Inject(vspheretest.Fault{Method: "ReconfigVM_Task", Effect: vspheretest.Refuse(&types.TaskInProgress{})})
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"}), "busy is not changed")
	assert.Equal(t, "two", l.shard(t, "pool-1").Values["entry"])
}

func TestLedgerSaysWhichPrivilegeIsMissing(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	require.NoError(t, l.p.SetLedger(ctx, "set", "pool-1", "", map[string]string{"entry": "one"}))
	s := l.shard(t, "pool-1")
	l.Inject(vspheretest.Fault{Method: "ReconfigVM_Task", Times: -1, Effect: vspheretest.Refuse(&types.NoPermission{PrivilegeId: "VirtualMachine.Config.AdvancedConfig"})})
	err := l.p.SetLedger(ctx, "set", "pool-1", s.Revision, map[string]string{"entry": "two"})
	require.ErrorContains(t, err, "VirtualMachine.Config.AdvancedConfig")
	assert.False(t, errors.Is(err, pool.ErrChanged))
	assert.True(t, strings.HasPrefix(err.Error(), `vsphere: write ledger "set-ledger-pool-1": `), "%v", err)
}

func TestAwaitLedgerTellsOfEachChange(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	other := l.provider(t)
	defer func() { assert.NoError(t, other.Close(ctx)) }()
	for _, shard := range []string{"pool-1", "pool-2"} {
		require.NoError(t, other.SetLedger(ctx, "set", shard, "", map[string]string{"entry": "0"}))
	}
	revisions := func() map[string]string {
		return map[string]string{"pool-1": l.shard(t, "pool-1").Revision, "pool-2": l.shard(t, "pool-2").Revision}
	}
	for i := range 3 {
		read := revisions()
		ends := make(chan error, 1)
		go func() { ends <- l.p.AwaitLedger(ctx, "set", read) }()
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		require.ErrorIs(t, l.p.AwaitLedger(short, "set", read), context.DeadlineExceeded, "nothing has changed")
		cancel()
		require.NoError(t, other.SetLedger(ctx, "set", "pool-2", read["pool-2"], map[string]string{"entry": fmt.Sprint(i + 1)}))
		require.NoError(t, <-ends)
		require.NoError(t, l.p.AwaitLedger(ctx, "set", read), "it has changed already")
	}
	read := revisions()
	task, err := l.byHand(t, "set-ledger-pool-1").Destroy(ctx)
	done(t, task, err)
	require.NoError(t, l.p.AwaitLedger(ctx, "set", read), "a shard is gone")
}
