package pool_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// A rig is a vCenter, or a provider in memory, and what a user of it has.
type rig struct {
	*vspheretest.Server                    // nil in memory
	mem                 *pooltest.Provider // nil with a vCenter
	t                   *testing.T

	mu   sync.Mutex
	said []string
}

func newRig(t *testing.T, set func(*vspheretest.Server)) *rig {
	t.Helper()
	srv := sshguest.NewUnstartedServer(t)
	srv.Templates = []vspheretest.Template{{Path: "templates/rhel9", DiskGiB: 10}}
	srv.Latency, srv.Hosts = vspheretest.Fast(), 1
	srv.DescriptionLimit = 512 // no document promises more
	if set != nil {
		set(srv)
	}
	srv.Start()
	return &rig{Server: srv, t: t}
}

// spec is a small con/dis system on plain machines: con serves a name, dis asks for it.
func (r *rig) spec(pools int) pool.Spec {
	r.t.Helper()
	provider, login := r.access()
	vm := func(role string, first int) func(int) pool.VM {
		return func(n int) pool.VM {
			return pool.VM{
				Name: fmt.Sprint(role, n), Folder: fmt.Sprint("pool", n),
				NICs: []pool.NIC{{MAC: fmt.Sprintf("00:50:56:%02x:%02x:%02x", 1+n>>8, n&255, first)}},
				Env:  map[string]string{"NAME": fmt.Sprint(role, n)},
			}
		}
	}
	return pool.Spec{
		Name: "lab", Provider: provider, Pools: pools, Logf: r.logf, SSH: login,
		Golden: pool.Golden{
			Template: "templates/rhel9", VM: pool.VM{Name: "golden", Folder: "golden", DiskGiB: 20}, Expect: time.Minute,
			Steps:  []pool.Step{pool.Script("base", "echo base > /etc/base")},
			Checks: []pool.Check{pool.ScriptCheck("base", "base", "cat /etc/base")},
		},
		Roles: []pool.Role{
			{
				Name: "con", VM: vm("con", 1), Expect: time.Minute,
				Steps:  []pool.Step{pool.Script("serve", `echo "served by $NAME" > /etc/served`)},
				Checks: []pool.Check{pool.ScriptCheck("base", "base", "cat /etc/base"), pool.ScriptCheck("served", "served by ${NAME}", "cat /etc/served")},
			},
			{
				Name: "dis", VM: vm("dis", 2), Expect: time.Minute,
				Needs: []pool.Need{{Name: "service", Role: "con", Do: func(ctx context.Context, _, con *pool.Host) error {
					_, err := con.Run(ctx, "grep", "-q", "served", "/etc/served")
					return err
				}}},
				Steps:  []pool.Step{pool.Script("use", `echo "$NAME uses it" > /etc/used`)},
				Checks: []pool.Check{pool.ScriptCheck("used", "${NAME} uses it", "cat /etc/used")},
			},
		},
	}
}

// access returns a provider, and how to log in.
func (r *rig) access() (pool.Provider, sshx.Config) {
	r.t.Helper()
	if r.mem != nil {
		return r.mem, r.mem.SSH()
	}
	cfg, login := access.Config(r.Server)
	provider, err := vsphere.New(cfg)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { assert.NoError(r.t, provider.Close(context.WithoutCancel(r.t.Context()))) })
	return provider, login
}

// only is a Spec about some of its pools.
func only(spec pool.Spec, pools ...int) pool.Spec {
	spec.Only = pools
	return spec
}

func (r *rig) logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
	r.t.Logf(format, args...)
}

// open opens the set with a new provider, as another run of the program would.
func (r *rig) open(spec pool.Spec) *pool.Set {
	r.t.Helper()
	s, err := pool.Open(r.t.Context(), spec)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { s.Close() })
	return s
}

// plan returns what a run would do now, by VM.
func (r *rig) plan(spec pool.Spec) map[string]string {
	r.t.Helper()
	w, err := pool.MakePlan(r.t.Context(), spec)
	require.NoError(r.t, err)
	all := map[string]string{}
	for _, i := range w.Items {
		reason, _, _ := strings.Cut(i.Reason, "ready since")
		all[i.VM] = strings.TrimSuffix(strings.TrimSpace(string(i.Action)+": "+reason), ":")
	}
	return all
}

// asked returns the methods that were called after the first n requests, without reads and waits:
// vCenter's, or those of a Provider in memory.
func (r *rig) asked(n int) []string {
	var all []string
	if r.mem != nil {
		for _, c := range r.mem.Calls()[n:] {
			if c.Changes() {
				all = append(all, c.String())
			}
		}
		slices.Sort(all)
		return all
	}
	for _, q := range r.Requests()[n:] {
		if strings.HasSuffix(q.Method, "_Task") || q.Method == "ShutdownGuest" || q.Method == "CreateFolder" {
			all = append(all, strings.TrimSpace(q.Method+" "+q.Name))
		}
	}
	slices.Sort(all)
	return all
}

func (r *rig) client() *govmomi.Client {
	r.t.Helper()
	c, err := r.Client(r.t.Context())
	require.NoError(r.t, err)
	return c
}

// vm finds a VM as an administrator would.
func (r *rig) vm(name string) *object.VirtualMachine {
	r.t.Helper()
	f := find.NewFinder(r.client().Client)
	vm, err := f.VirtualMachine(r.t.Context(), "/Datacenter/vm/lab/.../"+name)
	if err != nil {
		vm, err = f.VirtualMachine(r.t.Context(), "/Datacenter/vm/lab/*/"+name)
	}
	require.NoError(r.t, err)
	return vm
}

func (r *rig) names() []string {
	r.t.Helper()
	if r.mem != nil {
		return slices.Sorted(maps.Keys(r.ids()))
	}
	vms, err := find.NewFinder(r.client().Client).VirtualMachineList(r.t.Context(), "/Datacenter/vm/lab/*/*")
	require.NoError(r.t, err)
	var all []string
	for _, vm := range vms {
		if !strings.HasPrefix(vm.Name(), "lab-ledger-") {
			all = append(all, vm.Name())
		}
	}
	slices.Sort(all)
	return all
}

// byHand does what an administrator does, and waits for it.
func (r *rig) byHand(do func(context.Context) (*object.Task, error)) {
	r.t.Helper()
	task, err := do(r.t.Context())
	require.NoError(r.t, err)
	require.NoError(r.t, task.Wait(r.t.Context()))
}

// history is vCenter's own account of what happened: "kind VM", in order.
func (r *rig) history() []string {
	r.t.Helper()
	return history(r.t, r.client())
}

func history(t *testing.T, vc *govmomi.Client) []string {
	t.Helper()
	c, err := event.NewManager(vc.Client).CreateCollectorForEvents(t.Context(), types.EventFilterSpec{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Destroy(t.Context())) }()
	require.NoError(t, c.Rewind(t.Context()))
	var events []types.BaseEvent
	for {
		page, err := c.ReadNextEvents(t.Context(), 100)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		events = append(events, page...)
	}
	slices.SortFunc(events, func(a, b types.BaseEvent) int { return int(a.GetEvent().Key - b.GetEvent().Key) })
	var all []string
	for _, e := range events {
		if vm := e.GetEvent().Vm; vm != nil {
			kind := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", e), "*types."), "Event")
			if task, ok := e.(*types.TaskEvent); ok {
				kind = task.Info.DescriptionId
			}
			all = append(all, kind+" "+vm.Name)
		}
	}
	return all
}
