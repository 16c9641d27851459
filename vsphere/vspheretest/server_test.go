package vspheretest_test

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestOnlyWhoTrustsAndIsTrustedGetsIn(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	_, err := vim25.NewClient(s.ctx, soap.NewClient(s.srv.URL, false))
	assert.ErrorContains(t, err, "certificate")

	pinned := soap.NewClient(s.srv.URL, false)
	pinned.SetThumbprint(s.srv.URL.Host, s.srv.Thumbprint)
	_, err = vim25.NewClient(s.ctx, pinned)
	assert.NoError(t, err)
	pinned.CloseIdleConnections()

	c := s.login()
	m := session.NewManager(c.Client)
	require.NoError(t, m.Logout(s.ctx))
	u := *s.srv.URL.User
	for name, login := range map[string][2]string{"wrong password": {u.Username(), "x"}, "wrong user": {"root", "pass"}, "none": {"", ""}} {
		req := types.Login{This: *c.ServiceContent.SessionManager, UserName: login[0], Password: login[1]}
		_, err := loginWith(s.ctx, c.Client, &req)
		assert.True(t, fault.Is(err, &types.InvalidLogin{}), "%s: %v", name, err)
	}
	pem, err := os.ReadFile(s.srv.CAFile)
	require.NoError(t, err)
	assert.Equal(t, s.srv.CA, pem)
}

func TestRequestsAreRecorded(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	vm := s.mine(s.full("a")) // by the administrator
	before := len(s.srv.Requests())
	s.must(vm.Rename(s.ctx, "b"))
	var methods []string
	for _, r := range s.srv.Requests()[before:] {
		methods = append(methods, r.Method)
	}
	require.NotEmpty(t, methods)
	first := s.srv.Requests()[before]
	assert.Equal(t, "Rename_Task", first.Method)
	assert.Equal(t, vm.Reference(), first.Object)
	assert.Equal(t, "a", first.Name)
	assert.Equal(t, "b", first.Body.(*types.Rename_Task).NewName)
	assert.NotEmpty(t, first.Session)
	assert.NotContains(t, methods, "CloneVM_Task")
}

func TestWaitsSeeEveryProperty(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for i, path := range []string{
		"guest.net", "guest", "guest.ipAddress", "summary.guest.ipAddress", "guest.hostName", "runtime.bootTime",
		"config.changeVersion", "config", "runtime", "config.hardware.device", `config.extraConfig["poolready.x"]`,
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			vm := s.full(fmt.Sprint("vm", i))
			ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
			defer cancel()
			c := s.session()
			waiting, done := make(chan struct{}), make(chan error, 1)
			go func() {
				var first any
				n := 0
				filter := new(property.WaitFilter).Add(vm.Reference(), "VirtualMachine", []string{path})
				done <- property.WaitForUpdates(ctx, property.DefaultCollector(c.Client), filter, func(us []types.ObjectUpdate) bool {
					var now any
					for _, u := range us {
						for _, ch := range u.ChangeSet {
							now = ch.Val
						}
					}
					if n++; n == 1 {
						first = now
						close(waiting)
						return false
					}
					return now != nil && !reflect.DeepEqual(first, now)
				})
			}()
			<-waiting
			require.NoError(t, reconfigure(s, vm, types.VirtualMachineConfigSpec{ExtraConfig: extra("poolready.x", path)}))
			s.must(vm.PowerOn(s.ctx))
			assert.NoError(t, <-done)
		})
	}
}

func TestConcurrentWaitsOnCollectorsOfTheirOwnAllEnd(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var wg sync.WaitGroup
	for i := range 4 {
		vm := s.full(fmt.Sprint("vm", i))
		wg.Go(func() {
			task, err := vm.PowerOn(s.ctx)
			if assert.NoError(t, err) {
				assert.NoError(t, task.Wait(s.ctx))
			}
		})
	}
	wg.Wait()
}

func TestOneListOfTasksIsWaitedForWithOneFilter(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	pc, err := property.DefaultCollector(s.c.Client).Create(s.ctx)
	require.NoError(t, err)
	lv, err := view.NewManager(s.c.Client).CreateListView(s.ctx, nil)
	require.NoError(t, err)
	spec := new(property.WaitFilter).Add(lv.Reference(), "Task", []string{"info.state", "info.result"}, lv.TraversalSpec())
	_, err = pc.CreateFilter(s.ctx, spec.CreateFilter)
	require.NoError(t, err)
	done := make(map[types.ManagedObjectReference]bool)
	version := ""
	for i := 0; len(done) < 3; {
		if i < 3 { // while the watcher runs
			task, err := s.vm("template").Clone(s.ctx, s.folder, fmt.Sprint("vm", i), types.VirtualMachineCloneSpec{Location: s.here()})
			require.NoError(t, err)
			_, err = lv.Add(s.ctx, []types.ManagedObjectReference{task.Reference()})
			require.NoError(t, err)
			i++
		}
		us, err := pc.WaitForUpdates(s.ctx, version, &types.WaitOptions{MaxWaitSeconds: types.NewInt32(20)}) //nolint:staticcheck // its successor waits in a loop of its own
		require.NoError(t, err)
		require.NotNil(t, us)
		version = us.Version
		for _, fs := range us.FilterSet {
			for _, o := range fs.ObjectSet {
				for _, c := range o.ChangeSet {
					if c.Name == "info.state" && c.Val == types.TaskInfoStateSuccess {
						done[o.Obj] = true
					}
				}
			}
		}
	}
	_, err = pc.WaitForUpdates(s.ctx, "12345", nil) //nolint:staticcheck // as above
	assert.True(t, fault.Is(err, &types.InvalidCollectorVersion{}), "%v", err)
}

func TestBulkReadsComeInPages(t *testing.T) {
	t.Parallel()
	s := user(t, nil)
	var wg sync.WaitGroup
	for i := range 110 {
		wg.Go(func() {
			_, err := s.folder.CreateFolder(s.ctx, fmt.Sprint("f", i))
			assert.NoError(t, err)
		})
	}
	wg.Wait()
	cv, err := view.NewManager(s.c.Client).CreateContainerView(s.ctx, s.folder.Reference(), []string{"Folder"}, true)
	require.NoError(t, err)
	before := len(s.srv.Requests())
	var folders []mo.Folder
	require.NoError(t, cv.Retrieve(s.ctx, []string{"Folder"}, []string{"name"}, &folders))
	assert.Len(t, folders, 110)
	var pages int
	for _, r := range s.srv.Requests()[before:] {
		if r.Method == "ContinueRetrievePropertiesEx" {
			pages++
		}
	}
	assert.Equal(t, 1, pages)
}

func TestVMBeingMadeHasNoConfig(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Latency.FullClone = time.Hour })
	task, err := s.vm("template").Clone(s.ctx, s.folder, "a", types.VirtualMachineCloneSpec{Location: s.here()})
	require.NoError(t, err)
	var vm *object.VirtualMachine
	require.Eventually(t, func() bool {
		vm, err = s.finder.VirtualMachine(s.ctx, "a")
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
	assert.Nil(t, s.props(vm).Config)
	_, err = s.do(vm.PowerOn(s.ctx))
	assert.Error(t, err)
	require.NoError(t, task.Cancel(s.ctx))
}

func TestManyServersAtOnce(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			srv := vspheretest.NewUnstartedServer(nil)
			srv.Hosts = 1
			srv.Start()
			defer srv.Close()
			c, err := srv.Client(context.Background())
			if assert.NoError(t, err) {
				assert.True(t, c.IsVC())
			}
		})
	}
	wg.Wait()
}

func TestCloseEndsWaitsTasksAndGuests(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.Latency.Revert = time.Hour })
	vm := s.full("a")
	snap := s.snapshot(vm, "s")
	s.must(vm.PowerOn(s.ctx))
	s.address(vm)
	_, err := vm.RevertToSnapshot(s.ctx, snap.Value, false)
	require.NoError(t, err)
	ended := make(chan error, 1)
	c := s.session()
	go func() {
		ended <- property.Wait(s.ctx, property.DefaultCollector(c.Client), vm.Reference(), []string{"name"},
			func([]types.PropertyChange) bool { return false })
	}()
	s.srv.Close()
	assert.Error(t, <-ended)
	s.srv.Close() // again
}

func TestEnvIsWhatGovcReads(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) { srv.ResourcePools = []string{"e2e"} })
	env := strings.Join(s.srv.Env(), "\n")
	for _, want := range []string{
		"GOVC_URL=https://127.0.0.1:", "GOVC_USERNAME=user", "GOVC_PASSWORD=pass", "GOVC_DATACENTER=Datacenter",
		"GOVC_DATASTORE=Datastore1", "GOVC_NETWORK=VM Network", "GOVC_RESOURCE_POOL=/Datacenter/host/Cluster/Resources/e2e", "GOVC_TLS_CA_CERTS=",
	} {
		assert.Contains(t, env, want)
	}
	_, err := s.finder.ResourcePool(s.ctx, "/Datacenter/host/Cluster/Resources/e2e")
	assert.NoError(t, err)
}

func TestTraversalsAreOfTheirType(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	found := func(kind string) int {
		res, err := property.DefaultCollector(s.c.Client).RetrieveProperties(s.ctx, types.RetrieveProperties{SpecSet: []types.PropertyFilterSpec{{
			PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}},
			ObjectSet: []types.ObjectSpec{{
				Obj: s.folder.Reference(), Skip: types.NewBool(true),
				SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: kind, Path: "childEntity"}},
			}},
		}}})
		require.NoError(t, err)
		return len(res.Returnval)
	}
	assert.Equal(t, 1, found("Folder"))
	assert.Zero(t, found("Datacenter"), "a real vCenter follows no step that is for another type")
}
