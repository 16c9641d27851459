package vsphere

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// life is everything that is done to a VM, from clone to removal.
func (l *lab) life(ctx context.Context, golden, snap, name, mac string) error {
	id, err := l.p.Clone(ctx, linkedSpec(golden, snap, name, mac))
	if err != nil {
		return err
	}
	ready, err := makeReady(ctx, l.p, id, mac, "pool-ready", true)
	if err != nil {
		return err
	}
	if err := l.p.Revert(ctx, id, ready); err != nil {
		return err
	}
	inv, err := l.p.Inventory(ctx, "set")
	if err != nil {
		return err
	}
	for _, vm := range inv.VMs {
		if vm.ID == id && (vm.On || len(vm.Snapshots) != 1) {
			return fmt.Errorf("after all that the VM is %+v", vm)
		}
	}
	return l.p.Destroy(ctx, id)
}

// The first call of each method meets the fault, and nobody notices.
func TestLifeOfAVMSurvives(t *testing.T) {
	t.Parallel()
	methods := []string{
		"CloneVM_Task", "PowerOnVM_Task", "ReconfigVM_Task", "ShutdownGuest", "CreateSnapshot_Task",
		"RevertToSnapshot_Task", "Destroy_Task", "ModifyListView", "WaitForUpdatesEx", "RetrievePropertiesEx",
	}
	busy := &types.TaskInProgress{Task: types.ManagedObjectReference{Type: "Task", Value: "task-of-somebody"}}
	faults := []struct {
		name   string
		effect vspheretest.Effect
		tasks  bool // only for methods that start one
	}{
		{name: "a lost answer", effect: vspheretest.LoseReply},
		{name: "a connection that breaks", effect: vspheretest.Drop},
		{name: "HTTP status 503", effect: vspheretest.Status(503)},
		{name: "an expired session", effect: vspheretest.ExpireSession},
		{name: "a restart of vpxd", effect: vspheretest.RestartVpxd},
		{name: "TaskInProgress at submission", effect: vspheretest.Refuse(busy), tasks: true},
		{name: "TaskInProgress in the task", effect: vspheretest.FailTask(busy), tasks: true},
		{name: "a host that does not answer", effect: vspheretest.FailTask(&types.HostNotReachable{}), tasks: true},
		{name: "a host that does not answer any more", effect: vspheretest.FailTaskAfter(&types.HostCommunication{}), tasks: true},
		{name: "a time-out after the effect", effect: vspheretest.FailTaskAfter(&types.Timedout{}), tasks: true},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, vspheretest.Fast())
			ctx := within(t, 2*time.Minute)
			golden, snap := l.golden(t, ctx)
			met := map[string]*vspheretest.Injection{}
			for _, m := range methods {
				if !f.tasks || strings.HasSuffix(m, "_Task") {
					met[m] = l.Inject(vspheretest.Fault{Method: m, Effect: f.effect})
				}
			}
			require.NoError(t, l.life(ctx, golden, snap, "con1", "00:50:56:03:00:01"))
			for m, i := range met {
				assert.Equal(t, 1, i.Hits(), "calls of %s that met the fault", m)
			}
			inv, err := l.p.Inventory(ctx, "set")
			require.NoError(t, err)
			assert.Len(t, inv.VMs, 1, "golden only")
		})
	}
}

func TestVpxdMayBeAwayForAWhile(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			errs[i] = l.life(ctx, golden, snap, fmt.Sprint("vm", i), fmt.Sprintf("00:50:56:03:01:%02x", i))
		})
	}
	require.Eventually(t, func() bool { c, _ := l.counts(); return c["PowerOnVM_Task"] > 0 }, 20*time.Second, time.Millisecond)
	l.Restart(300 * time.Millisecond)
	wg.Wait()
	for _, err := range errs {
		assert.NoError(t, err)
	}
	inv, err := l.p.Inventory(ctx, "set")
	require.NoError(t, err)
	assert.Len(t, inv.VMs, 1, "golden only")
}

func TestTasksThatVanishAreReadBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	// The task is finished and forgotten before anybody was told to watch it.
	i := l.Inject(vspheretest.Fault{Method: "ModifyListView", Effect: vspheretest.Stall(300 * time.Millisecond)})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				l.ForgetTasks()
				sleep(ctx, time.Millisecond)
			}
		}
	})
	id, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:03:02:01"))
	require.NoError(t, err)
	_, err = l.p.Snapshot(ctx, id, "pool-ready", "record")
	require.NoError(t, err)
	close(stop)
	wg.Wait()
	assert.Equal(t, 1, i.Hits())
	calls, _ := l.counts()
	assert.Equal(t, 2, calls["CloneVM_Task"], "golden and con1")
	assert.Equal(t, 2, calls["CreateSnapshot_Task"])
}

func TestVMThatVanishesEndsItsWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	id, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:03:03:01"))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := l.p.Address(ctx, id, "", netip.Addr{})
		done <- err
	}()
	require.Eventually(t, func() bool { c, _ := l.counts(); return c["WaitForUpdatesEx"] > 0 }, 20*time.Second, time.Millisecond)
	l.Vanish("con1")
	require.ErrorContains(t, <-done, "does not exist")
}

func TestDeafGuestLosesItsPower(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	require.NoError(t, l.p.PowerOn(ctx, id))
	_, err := l.p.Address(ctx, id, "", netip.Addr{})
	require.NoError(t, err)
	l.Inject(vspheretest.Fault{Method: "ShutdownGuest", Effect: vspheretest.Deaf})
	forced, err := l.p.ShutDown(ctx, id, 100*time.Millisecond)
	require.NoError(t, err)
	assert.True(t, forced)
}

func TestMissingPrivilegeIsNamedAndNotTriedAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, snap := l.golden(t, ctx)
	l.Deny("VirtualMachine.State.CreateSnapshot", "Resource.AssignVMToPool", "VirtualMachine.Interact.PowerOn")

	_, err := l.p.Snapshot(ctx, id, "s", "")
	require.ErrorContains(t, err, "VirtualMachine.State.CreateSnapshot")
	require.ErrorContains(t, err, `"golden"`)
	calls, _ := l.counts()
	assert.Equal(t, 2, calls["CreateSnapshot_Task"], "golden's and the refused one")

	err = l.p.Preflight(ctx, []pool.CloneSpec{linkedSpec(id, snap, "con1", "00:50:56:03:04:01")})
	for _, privilege := range []string{"VirtualMachine.State.CreateSnapshot", "Resource.AssignVMToPool", "VirtualMachine.Interact.PowerOn"} {
		assert.ErrorContains(t, err, privilege)
	}
}

func TestRefusedLoginIsNotRepeated(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	l.cfg.Password = "wrong-secret"
	p := l.provider(t)
	ctx := within(t, time.Minute)
	for range 3 {
		_, err := p.Inventory(ctx, "set")
		require.ErrorContains(t, err, "GOVC_PASSWORD")
		assert.NotContains(t, err.Error(), "wrong-secret")
	}
	calls, _ := l.counts()
	assert.Equal(t, 1, calls["Login"], "a locked account helps nobody")
}

func TestPermanentFaultsAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	for i, f := range []struct {
		fault types.BaseMethodFault
		says  string
	}{
		{&types.NoDiskSpace{Datastore: "Datastore1"}, `datastore "Datastore1" is full`},
		{&types.InsufficientMemoryResourcesFault{}, "resource pool"},
		{&types.InvalidArgument{InvalidProperty: "spec"}, "InvalidArgument"},
	} {
		in := l.Inject(vspheretest.Fault{Method: "CloneVM_Task", Effect: vspheretest.FailTask(f.fault), Times: -1})
		_, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", fmt.Sprintf("00:50:56:03:05:%02x", i)))
		in.Remove()
		require.ErrorContains(t, err, f.says)
		require.ErrorContains(t, err, `clone VM "golden"`)
		require.ErrorContains(t, err, `to "con1"`)
		assert.Equal(t, 1, in.Hits())
	}
}

// The answer is lost at once, and what was asked for takes its time.
func TestLostAnswersOfWhatStillGoesOn(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	for _, m := range []string{"CloneVM_Task", "CreateSnapshot_Task"} {
		l.Inject(vspheretest.Fault{Method: m, Effect: vspheretest.LoseReply})
		l.Inject(vspheretest.Fault{Method: m, Effect: vspheretest.SlowTask(300)})
	}
	id, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:03:06:01"))
	require.NoError(t, err)
	snap, err = l.p.Snapshot(ctx, id, "pool-ready", "record")
	require.NoError(t, err)
	calls, _ := l.counts()
	assert.Equal(t, 2, calls["CloneVM_Task"], "golden and con1")
	assert.Equal(t, 2, calls["CreateSnapshot_Task"], "golden's and con1's")
	inv, err := l.p.Inventory(ctx, "set")
	require.NoError(t, err)
	for _, vm := range inv.VMs {
		if vm.ID == id {
			require.Len(t, vm.Snapshots, 1)
			assert.Equal(t, snap, vm.Snapshots[0].ID)
		}
	}
}

// vCenter reports as system errors what nobody foresaw, of which much is there to stay.
func TestSystemErrorsAreLookedIntoAndSoonBelieved(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	odd := &types.SystemError{Reason: "odd"}
	done := l.Inject(vspheretest.Fault{Method: "CloneVM_Task", Effect: vspheretest.FailTaskAfter(odd)})
	_, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:03:05:01"))
	require.NoError(t, err, "it was done all the same")
	assert.Equal(t, 1, done.Hits())

	for method, f := range map[string]func(context.Context) error{
		"CloneVM_Task": func(ctx context.Context) error {
			_, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con2", "00:50:56:03:05:02"))
			return err
		},
		"PowerOnVM_Task": func(ctx context.Context) error { return l.p.PowerOn(ctx, golden) },
	} {
		in := l.Inject(vspheretest.Fault{Method: method, Effect: vspheretest.FailTask(odd), Times: -1})
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(short)
		cancel()
		assert.ErrorContains(t, err, "SystemError", method)
		assert.Equal(t, maxOddities, in.Hits(), method)
		in.Remove()
	}
}
