package vspheretest_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// user is a site whose client is an ordinary user's, which meets the injected faults.
func user(t *testing.T, set func(*vspheretest.Server)) *site {
	t.Helper()
	s := start(t, set)
	s.c = s.login()
	return s
}

func (s *site) login() *govmomi.Client {
	s.Helper()
	c, err := dial(s.ctx, s.srv)
	require.NoError(s, err)
	s.Cleanup(c.CloseIdleConnections)
	return c
}

// dial logs in as an ordinary user.
func dial(ctx context.Context, srv *vspheretest.Server) (*govmomi.Client, error) {
	sc := soap.NewClient(srv.URL, false)
	if err := sc.SetRootCAs(srv.CAFile); err != nil {
		return nil, err
	}
	vc, err := vim25.NewClient(ctx, sc)
	if err != nil {
		return nil, err
	}
	c := &govmomi.Client{Client: vc, SessionManager: newSessionManager(vc)}
	return c, c.Login(ctx, srv.URL.User)
}

// mine is the VM as the user's client sees it.
func (s *site) mine(vm *object.VirtualMachine) *object.VirtualMachine {
	return object.NewVirtualMachine(s.c.Client, vm.Reference())
}

func TestLostReplyHasItsEffect(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	vm := s.mine(s.full("a"))
	i := s.srv.Inject(vspheretest.Fault{Method: "CreateSnapshot_Task", Name: "a", Nth: 2, Effect: vspheretest.LoseReply})
	s.must(vm.CreateSnapshot(s.ctx, "one", "", false, false))
	_, err := vm.CreateSnapshot(s.ctx, "two", "", false, false)
	require.Error(t, err)
	assert.False(t, soap.IsSoapFault(err), "%v", err)
	assert.Equal(t, 1, i.Hits())
	require.Eventually(t, func() bool {
		_, err := vm.FindSnapshot(s.ctx, "two")
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
}

func TestDroppedAndRefusedCallsHaveNoEffect(t *testing.T) {
	t.Parallel()
	for _, e := range []vspheretest.Effect{
		vspheretest.Drop, vspheretest.Status(http.StatusServiceUnavailable), vspheretest.Refuse(&types.TaskInProgress{}),
	} {
		t.Run(e.String(), func(t *testing.T) {
			t.Parallel()
			s := user(t, nil)
			vm := s.mine(s.full("a"))
			s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: e})
			_, err := vm.PowerOn(s.ctx)
			require.Error(t, err)
			assert.Equal(t, e.String() == "refuse *types.TaskInProgress", fault.Is(err, &types.TaskInProgress{}), "%v", err)
			assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(vm).Runtime.PowerState)
			s.must(vm.PowerOn(s.ctx))
		})
	}
}

func TestTasksFailBeforeOrAfterTheirEffect(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a, b := s.mine(s.full("a")), s.mine(s.full("b"))
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Name: "a", Effect: vspheretest.FailTask(&types.HostCommunication{})})
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Name: "b", Effect: vspheretest.FailTaskAfter(&types.HostCommunication{})})
	_, err := s.do(a.PowerOn(s.ctx))
	assert.True(t, fault.Is(err, &types.HostCommunication{}), "%v", err)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOff, s.props(a).Runtime.PowerState)
	_, err = s.do(b.PowerOn(s.ctx))
	assert.True(t, fault.Is(err, &types.HostCommunication{}), "%v", err)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(b).Runtime.PowerState)
}

func TestFaultsAddUp(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	stall := s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: vspheretest.Stall(time.Millisecond)})
	lose := s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: vspheretest.LoseReply})
	fail := s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: vspheretest.FailTask(&types.HostCommunication{})})
	_, err := a.PowerOn(s.ctx)
	require.Error(t, err)
	for _, i := range []*vspheretest.Injection{stall, lose, fail} {
		assert.Equal(t, 1, i.Hits())
	}
	s.must(s.retry(func() (*object.Task, error) { return a.PowerOn(s.ctx) }), nil)
}

// retry repeats a call while the VM is busy.
func (s *site) retry(f func() (*object.Task, error)) *object.Task {
	s.Helper()
	var task *object.Task
	require.Eventually(s, func() bool {
		var err error
		if task, err = f(); fault.Is(err, &types.TaskInProgress{}) {
			return false
		}
		require.NoError(s, err)
		_, err = task.WaitForResult(s.ctx)
		return !fault.Is(err, &types.TaskInProgress{})
	}, 10*time.Second, 2*time.Millisecond)
	return task
}

func TestStalledCallEndsWithItsClient(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Effect: vspheretest.Stall(-1)})
	ctx, cancel := context.WithTimeout(s.ctx, 50*time.Millisecond)
	defer cancel()
	_, err := a.PowerOn(ctx)
	require.Error(t, err)
	s.must(a.PowerOn(s.ctx))
}

func TestExpiredSessionHasTwoFaces(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	s.srv.ExpireSessions()
	_, err := a.PowerOn(s.ctx)
	assert.True(t, fault.Is(err, &types.NotAuthenticated{}) && soap.IsSoapFault(err), "%v", err)
	var asFault, asMissing int
	for range 4 {
		_, err := a.PowerState(s.ctx)
		require.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)
		if soap.IsSoapFault(err) {
			asFault++
		} else {
			asMissing++
		}
	}
	assert.Equal(t, 2, asFault)
	assert.Equal(t, 2, asMissing)
	us, err := s.c.SessionManager.UserSession(s.ctx)
	require.NoError(t, err)
	assert.Nil(t, us)
	require.NoError(t, s.c.SessionManager.Login(s.ctx, s.srv.URL.User))
	s.must(a.PowerOn(s.ctx))
}

func TestIdleSessionExpires(t *testing.T) {
	t.Parallel()
	s := user(t, func(srv *vspheretest.Server) { srv.SessionTimeout = time.Millisecond })
	require.Eventually(t, func() bool {
		_, err := methods.GetCurrentTime(s.ctx, s.c.Client)
		return fault.Is(err, &types.NotAuthenticated{})
	}, 10*time.Second, 10*time.Millisecond)
}

func TestWaitEndsWithItsSession(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	got := make(chan error, 1)
	seen := make(chan struct{})
	var once sync.Once
	go func() {
		got <- property.Wait(s.ctx, property.DefaultCollector(s.c.Client), a.Reference(), []string{"runtime.powerState"},
			func([]types.PropertyChange) bool { once.Do(func() { close(seen) }); return false })
	}()
	<-seen
	s.srv.ExpireSessions()
	assert.True(t, fault.Is(<-got, &types.NotAuthenticated{}))
}

func TestRestartForgetsSessionsAndFinishedTasks(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	done, err := a.PowerOn(s.ctx)
	s.must(done, err)
	s.srv.Restart(0)
	_, err = a.PowerState(s.ctx)
	assert.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)
	require.NoError(t, s.c.SessionManager.Login(s.ctx, s.srv.URL.User))
	var task mo.Task
	err = property.DefaultCollector(s.c.Client).RetrieveOne(s.ctx, done.Reference(), nil, &task)
	assert.True(t, fault.Is(err, &types.ManagedObjectNotFound{}), "%v", err)
	assert.Equal(t, types.VirtualMachinePowerStatePoweredOn, s.props(a).Runtime.PowerState)
}

func TestRestartAnswers503ForAWhile(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	s.srv.Restart(time.Hour)
	_, err := methods.GetCurrentTime(s.ctx, s.c.Client)
	assert.ErrorContains(t, err, "503")
	s.srv.Restart(0)
	require.NoError(t, s.c.SessionManager.Login(s.ctx, s.srv.URL.User))
}

func TestVanishedVMIsGone(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	s.must(a.PowerOn(s.ctx))
	s.srv.Inject(vspheretest.Fault{Method: "PowerOffVM_Task", Effect: vspheretest.VanishVM})
	_, err := s.do(a.PowerOff(s.ctx))
	assert.True(t, fault.Is(err, &types.ManagedObjectNotFound{}), "%v", err)
}

func TestDeniedPrivilegeIsNamed(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	const p = "VirtualMachine.State.CreateSnapshot"
	s.srv.Deny(p)
	_, err := a.CreateSnapshot(s.ctx, "s", "", false, false)
	require.True(t, soap.IsSoapFault(err), "%v", err)
	np, ok := soap.ToSoapFault(err).VimFault().(types.NoPermission)
	require.True(t, ok, "%v", err)
	assert.Equal(t, p, np.PrivilegeId)
	res, err := object.NewAuthorizationManager(s.c.Client).HasUserPrivilegeOnEntities(s.ctx, []types.ManagedObjectReference{a.Reference()}, "user", []string{p, "VirtualMachine.Interact.PowerOn"})
	require.NoError(t, err)
	assert.False(t, res[0].PrivAvailability[0].IsGranted)
	assert.True(t, res[0].PrivAvailability[1].IsGranted)
	s.srv.Allow(p)
	s.must(a.CreateSnapshot(s.ctx, "s", "", false, false))
}

func TestDeafGuestNeverShutsDown(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a := s.mine(s.full("a"))
	s.must(a.PowerOn(s.ctx))
	s.address(a)
	s.srv.Inject(vspheretest.Fault{Method: "ShutdownGuest", Effect: vspheretest.Deaf})
	require.NoError(t, a.ShutdownGuest(s.ctx))
	// A second request would be heard; so the guest runs until somebody cuts its power.
	s.must(a.PowerOff(s.ctx))
	var types []string
	for _, e := range s.events(a.Reference()) {
		types = append(types, eventName(e))
	}
	assert.Contains(t, types, "VmStoppingEvent")
}

func TestOperationsBeyondTheLimitAreSeenQueued(t *testing.T) {
	t.Parallel()
	s := user(t, func(srv *vspheretest.Server) {
		srv.Hosts = 1
		srv.Latency.FullClone = time.Hour
	})
	var tasks []*object.Task
	for _, n := range []string{"a", "b", "c", "d", "e", "f"} { // 4 units each, of 16
		task, err := object.NewVirtualMachine(s.c.Client, s.vm("template").Reference()).
			Clone(s.ctx, s.folder, n, types.VirtualMachineCloneSpec{Location: s.here()})
		require.NoError(t, err)
		tasks = append(tasks, task)
	}
	count := func() (queued, running int) {
		for _, task := range tasks {
			var o mo.Task
			require.NoError(t, property.DefaultCollector(s.c.Client).RetrieveOne(s.ctx, task.Reference(), []string{"info"}, &o))
			switch o.Info.State {
			case types.TaskInfoStateQueued:
				queued++
			case types.TaskInfoStateRunning:
				running++
			}
		}
		return queued, running
	}
	require.Eventually(t, func() bool { _, r := count(); return r == 4 }, 10*time.Second, 5*time.Millisecond)
	q, _ := count()
	assert.Equal(t, 2, q)
	require.NoError(t, tasks[0].Cancel(s.ctx))
	_, err := tasks[0].WaitForResult(s.ctx)
	assert.True(t, fault.Is(err, &types.RequestCanceled{}), "%v", err)
	require.Eventually(t, func() bool { q, r := count(); return q == 1 && r == 4 }, 10*time.Second, 5*time.Millisecond)
	_, err = s.finder.VirtualMachine(s.ctx, "a")
	assert.Error(t, err, "a cancelled clone leaves no VM")
}

// state is what a task says of itself now.
func (s *site) state(task *object.Task) types.TaskInfoState {
	s.Helper()
	var o mo.Task
	require.NoError(s, property.DefaultCollector(s.c.Client).RetrieveOne(s.ctx, task.Reference(), []string{"info.state"}, &o))
	return o.Info.State
}

func TestAllOfVCenterHasALimitToo(t *testing.T) {
	t.Parallel()
	s := user(t, func(srv *vspheretest.Server) { srv.Limits.Operations = 1 })
	a, b := s.mine(s.full("a")), s.mine(s.full("b"))
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Name: "a", Effect: vspheretest.SlowTask(1e9)})
	slow, err := a.PowerOn(s.ctx)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.state(slow) == types.TaskInfoStateRunning }, 10*time.Second, time.Millisecond)
	waiting, err := b.PowerOn(s.ctx)
	require.NoError(t, err)
	assert.Equal(t, types.TaskInfoStateQueued, s.state(waiting))
}

func TestOneTaskIsSlowTheOthersAreNot(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	a, b := s.mine(s.full("a")), s.mine(s.full("b"))
	s.srv.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Name: "a", Effect: vspheretest.SlowTask(1e9)})
	slow, err := a.PowerOn(s.ctx)
	require.NoError(t, err)
	s.must(b.PowerOn(s.ctx))
	assert.Equal(t, types.TaskInfoStateRunning, s.state(slow))
}
