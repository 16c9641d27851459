package pool_test

import (
	"context"
	"fmt"
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
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A rig is a vCenter, and what a user of it has.
type rig struct {
	*vspheretest.Server
	t *testing.T

	mu   sync.Mutex
	said []string
}

func newRig(t *testing.T, set func(*vspheretest.Server)) *rig {
	t.Helper()
	srv := vspheretest.NewUnstartedServer(t)
	srv.Templates = []vspheretest.Template{{Path: "templates/rhel9", DiskGiB: 10}}
	srv.Latency = vspheretest.Fast()
	if set != nil {
		set(srv)
	}
	srv.Start()
	return &rig{Server: srv, t: t}
}

// spec is a small con/dis system on plain machines: con serves a name, dis asks for it.
func (r *rig) spec(pools int) pool.Spec {
	r.t.Helper()
	provider, err := vsphere.New(vsphere.Config{URL: r.URL.String(), CACerts: r.CAFile})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { assert.NoError(r.t, provider.Close(context.WithoutCancel(r.t.Context()))) })
	vm := func(role string, first int) func(int) pool.VM {
		return func(n int) pool.VM {
			return pool.VM{
				Name: fmt.Sprint(role, n), Folder: fmt.Sprint("pool", n),
				NICs: []pool.NIC{{MAC: fmt.Sprintf("00:50:56:01:%02x:%02x", n, first)}},
				Env:  map[string]string{"NAME": fmt.Sprint(role, n)},
			}
		}
	}
	return pool.Spec{
		Name: "lab", Provider: provider, Pools: pools, Logf: r.logf,
		SSH: sshx.Config{Keys: []ssh.Signer{r.ClientKey}, Dialer: r.Server, HostKeys: sshx.HostKeys{Pinned: r.HostKeys}},
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
	w, err := pool.Plan(r.t.Context(), spec)
	require.NoError(r.t, err)
	all := map[string]string{}
	for _, i := range w.Items {
		reason, _, _ := strings.Cut(i.Reason, "ready since")
		all[i.VM] = strings.TrimSuffix(strings.TrimSpace(string(i.Action)+": "+reason), ":")
	}
	return all
}

// asked returns the methods that were called after the first n requests, without reads and waits.
func (r *rig) asked(n int) []string {
	var all []string
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
	c, err := event.NewManager(r.client().Client).CreateCollectorForEvents(r.t.Context(), types.EventFilterSpec{})
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, c.Destroy(r.t.Context())) }()
	require.NoError(r.t, c.Rewind(r.t.Context()))
	var events []types.BaseEvent
	for {
		page, err := c.ReadNextEvents(r.t.Context(), 100)
		require.NoError(r.t, err)
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

var seven = []string{"con1", "con2", "con3", "dis1", "dis2", "dis3", "golden"}

func TestOpenBuildsRoleByRole(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	set := r.open(r.spec(3))

	require.Len(t, set.Pools(), 3)
	for n, p := range set.Pools() {
		assert.Equal(t, n+1, p.Number)
		assert.Equal(t, fmt.Sprintf("served by con%d", n+1), p.Host("con").MustRun(t, "cat", "/etc/served"))
		assert.Equal(t, fmt.Sprintf("dis%d uses it", n+1), p.Host("dis").MustRun(t, "cat", "/etc/used"))
	}
	assert.Equal(t, seven, r.names())

	h := r.history()
	last := func(kind, role string) int {
		at := -1
		for i, e := range h {
			if strings.HasPrefix(e, kind+" "+role) {
				at = i
			}
		}
		require.GreaterOrEqual(t, at, 0, "no %q of %q in %q", kind, role, h)
		return at
	}
	first := func(kind, role string) int {
		at := slices.IndexFunc(h, func(e string) bool { return strings.HasPrefix(e, kind+" "+role) })
		require.GreaterOrEqual(t, at, 0, "no %q of %q in %q", kind, role, h)
		return at
	}
	assert.Less(t, first("VirtualMachine.createSnapshot", "golden"), first("VmCloned", "con"), "golden is ready before it is cloned")
	assert.Less(t, last("VmCloned", "con"), first("VmCloned", "dis"), "every con is cloned before the first dis")
	assert.Less(t, last("VmCloned", "dis"), first("VmStarting", "con"), "all clones are there before the first is configured")
	assert.Less(t, last("VirtualMachine.createSnapshot", "con"), first("VmStarting", "dis"), "no dis is configured before the last con is pool-ready")
	assert.Less(t, last("VmPoweredOn", "con"), first("VmStarting", "dis"), "nor before it runs again")
	for _, name := range seven {
		assert.Less(t, last("VmGuestShutdown", name), last("VirtualMachine.createSnapshot", name), "%s is shut down from inside before its snapshot", name)
	}
	for _, name := range seven {
		var clones int
		for _, e := range h {
			if e == "VmCloned "+name {
				clones++
			}
		}
		assert.Equal(t, 1, clones, "clones of %s", name)
	}
}

func TestOpenReusesWhatIsReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(3)).Close()

	before, n := len(r.history()), len(r.Requests())
	set := r.open(r.spec(3))
	assert.Empty(t, r.asked(n), "reuse changes nothing")
	assert.Len(t, r.history(), before)
	assert.LessOrEqual(t, len(r.Requests())-n, 15, "%v", methods(r.Requests()[n:]))
	for _, vm := range seven {
		assert.Equal(t, "reuse", r.plan(r.spec(3))[vm])
	}
	for _, h := range set.Status() {
		assert.Equal(t, "ready", h.State)
	}
}

func TestCures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		break_ func(r *rig)
		want   map[string]string // what is not in it is reused
		also   []string          // VMs that are there afterwards besides the seven
	}{
		{
			name:   "powered off",
			break_: func(r *rig) { r.byHand(r.vm("con1").PowerOff) },
			want:   map[string]string{"con1": "power on: is off;"},
		},
		{
			name: "deleted",
			break_: func(r *rig) {
				r.byHand(r.vm("dis2").PowerOff)
				r.byHand(r.vm("dis2").Destroy)
			},
			want: map[string]string{"dis2": "clone: is not there"},
		},
		{
			name: "con deleted",
			break_: func(r *rig) {
				r.byHand(r.vm("con2").PowerOff)
				r.byHand(r.vm("con2").Destroy)
			},
			want: map[string]string{"con2": "clone: is not there", "dis2": "rebuild: con2, which it needs, is built anew"},
		},
		{
			name: "snapshot removed",
			break_: func(r *rig) {
				r.byHand(func(ctx context.Context) (*object.Task, error) {
					return r.vm("dis1").RemoveSnapshot(ctx, "pool-ready", false, nil)
				})
			},
			want: map[string]string{"dis1": `rebuild: has no snapshot "pool-ready"`},
		},
		{
			name: "snapshot replaced by a hand-made pool-ready-old",
			break_: func(r *rig) {
				r.byHand(func(ctx context.Context) (*object.Task, error) {
					return r.vm("dis1").RemoveSnapshot(ctx, "pool-ready", false, nil)
				})
				r.byHand(func(ctx context.Context) (*object.Task, error) {
					return r.vm("dis1").CreateSnapshot(ctx, "pool-ready-old", "mine", false, false)
				})
			},
			want: map[string]string{"dis1": `rebuild: has no snapshot "pool-ready" (but "pool-ready-old"); the VM that is there is kept under another name, since it has snapshots that poolready did not take`},
			also: []string{"dis1-kept-"},
		},
		{
			name: "two snapshots of the name",
			break_: func(r *rig) {
				r.byHand(func(ctx context.Context) (*object.Task, error) {
					return r.vm("dis1").CreateSnapshot(ctx, "pool-ready", "mine", false, false)
				})
			},
			want: map[string]string{"dis1": `rebuild: has 2 snapshots "pool-ready"; the VM that is there is kept under another name, since it has snapshots that poolready did not take`},
			also: []string{"dis1-kept-"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.open(r.spec(2)).Close()
			tt.break_(r)
			for vm, got := range r.plan(r.spec(2)) {
				want, ok := tt.want[vm]
				if !ok {
					want = "reuse"
				}
				assert.Equal(t, want, got, vm)
			}
			set := r.open(r.spec(2))
			assert.Len(t, set.Pools(), 2)
			for _, p := range set.Pools() {
				assert.Equal(t, fmt.Sprintf("dis%d uses it", p.Number), p.Host("dis").MustRun(t, "cat", "/etc/used"))
			}
			for vm, got := range r.plan(r.spec(2)) {
				if slices.ContainsFunc(tt.also, func(prefix string) bool { return strings.HasPrefix(vm, prefix) }) {
					continue
				}
				assert.Equal(t, "reuse", got, "%s after the cure", vm)
			}
			names := r.names()
			for _, prefix := range tt.also {
				assert.True(t, slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) }), "%s in %v", prefix, names)
			}
			assert.Len(t, names, 5+len(tt.also))
		})
	}
}

func TestChangedStepOfDisRebuildsDisOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(2)).Close()
	n := len(r.Requests())
	spec := r.spec(2)
	spec.Roles[1].Steps = append(spec.Roles[1].Steps, pool.Script("more", "echo more > /etc/more"))
	assert.Equal(t, map[string]string{
		"golden": "reuse", "con1": "reuse", "con2": "reuse",
		"dis1": `rebuild: step "more" is new`, "dis2": `rebuild: step "more" is new`,
	}, r.plan(spec))
	set := r.open(spec)
	assert.Equal(t, "more", set.Pools()[1].Host("dis").MustRun(t, "cat", "/etc/more"))
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, " con", "con is left alone")
		if strings.Contains(asked, "golden") {
			assert.Equal(t, "CloneVM_Task golden", asked, "golden is only cloned from")
		}
	}
}

func TestChangedStepOfGoldenIsANewGeneration(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(2)).Close()
	spec := r.spec(2)
	spec.Golden.Steps[0] = pool.Script("base", "echo base > /etc/base # new")
	plan := r.plan(spec)
	assert.Equal(t, `rebuild: step "base" changed`, plan["golden-g2"])
	assert.Contains(t, plan["golden"], "remove")
	r.open(spec).Close()
	assert.Equal(t, []string{"con1", "con2", "dis1", "dis2", "golden-g2"}, r.names())
	h := r.history()
	gone := slices.Index(h, "VmRemoved golden")
	for _, vm := range []string{"con1", "con2", "dis1", "dis2"} {
		assert.Less(t, slices.Index(h, "VmRemoved "+vm), gone, "the old golden goes after its last clone")
	}
	for vm, got := range r.plan(spec) {
		assert.Equal(t, "reuse", got, vm)
	}
}

func TestOldGoldenStaysWhileSomebodysCloneHangsOnIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(1)).Close()
	// A colleague's linked clone, outside of the set.
	golden := r.vm("golden")
	snap, err := golden.FindSnapshot(t.Context(), "golden-ready")
	require.NoError(t, err)
	folders, err := find.NewFinder(r.client().Client).Folder(t.Context(), "/Datacenter/vm")
	require.NoError(t, err)
	r.byHand(func(ctx context.Context) (*object.Task, error) {
		return golden.Clone(ctx, folders, "colleagues", types.VirtualMachineCloneSpec{
			Snapshot: snap, Location: types.VirtualMachineRelocateSpec{DiskMoveType: string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)},
		})
	})
	spec := r.spec(1)
	spec.Golden.Steps[0] = pool.Script("base", "echo base > /etc/base # new")
	r.open(spec).Close()
	assert.Contains(t, r.names(), "golden")
	assert.Contains(t, strings.Join(r.said, "\n"), "colleagues hang on its disks")

	vm, err := find.NewFinder(r.client().Client).VirtualMachine(t.Context(), "/Datacenter/vm/colleagues")
	require.NoError(t, err)
	r.byHand(vm.Destroy)
	r.open(spec).Close()
	assert.NotContains(t, r.names(), "golden")
}

func TestOneBadHostSpoilsItsOwnPoolOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	bad := func() pool.Spec {
		spec := r.spec(3)
		vm := spec.Roles[0].VM
		spec.Roles[0].VM = func(n int) pool.VM {
			v := vm(n)
			if v.Env["WANT"] = "fine"; n == 2 {
				v.Env["WANT"] = "better"
			}
			return v
		}
		spec.Roles[0].Checks = append(spec.Roles[0].Checks, pool.ScriptCheck("health", "${WANT}", "echo fine"), pool.ScriptCheck("loud", "", `test "$WANT" = fine || { echo this is broken >&2; exit 7; }`))
		return spec
	}
	_, err := pool.Open(t.Context(), bad())
	var notReady *pool.NotReadyError
	require.ErrorAs(t, err, &notReady)
	assert.Equal(t, 2, notReady.Ready)
	require.Len(t, notReady.Failed, 1)
	var host *pool.HostError
	require.ErrorAs(t, err, &host)
	assert.Equal(t, "con2", host.Host)
	assert.Equal(t, 2, host.Pool)
	assert.Equal(t, "ready con", host.Stage)
	var checks *pool.CheckError
	require.ErrorAs(t, err, &checks)
	assert.Len(t, checks.Failed, 2, "all checks are run and reported")
	for _, part := range []string{
		`pool: set "lab": 2 of the 3 pools wanted are ready`, "con2: ready con: 2 of 4 checks failed",
		`check "health": want "better", got "fine"`, `check "loud": `, "this is broken", "look: ssh root@10.",
	} {
		assert.Contains(t, err.Error(), part)
	}
	plan := r.plan(bad())
	assert.Equal(t, map[string]string{
		"golden": "reuse", "con1": "reuse", "con3": "reuse", "dis1": "reuse", "dis3": "reuse",
		"con2": `rebuild: has no snapshot "pool-ready"`, "dis2": `rebuild: has no snapshot "pool-ready"`,
	}, plan, "the other pools are ready")

	spec := bad()
	spec.MinPools = 2
	set := r.open(spec)
	assert.Len(t, set.Pools(), 2)
	assert.Contains(t, set.Table(), "FAILED")
}

func TestOpenCanBeInterruptedAndGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	spec := r.spec(2)
	spec.Roles[0].Steps = append([]pool.Step{{Name: "stop", Version: "1", Do: func(context.Context, *pool.Host) error {
		cancel(fmt.Errorf("interrupt"))
		return nil
	}}}, spec.Roles[0].Steps...)
	_, err := pool.Open(ctx, spec)
	require.ErrorContains(t, err, `set "lab": interrupted: interrupt`)
	set := r.open(r.spec(2))
	assert.Len(t, set.Pools(), 2)
	assert.Equal(t, []string{"con1", "con2", "dis1", "dis2", "golden"}, r.names(), "nothing is left over")
}

func TestNothingIsTouchedWhen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		set  func(*vspheretest.Server)
		spec func(t *testing.T, r *rig, s *pool.Spec)
		want []string
	}{
		{
			name: "the template does not exist",
			spec: func(_ *testing.T, _ *rig, s *pool.Spec) { s.Golden.Template = "templates/rhel99" },
			want: []string{`template "templates/rhel99" of Spec.Golden does not exist`},
		},
		{
			name: "datastore, network and resource pool do not exist, all named at once",
			spec: func(_ *testing.T, _ *rig, s *pool.Spec) {
				s.Golden.VM.Datastore = "ssd9"
				s.Golden.VM.ResourcePool = "pool9"
				s.Golden.VM.NICs = []pool.NIC{{Network: "net9"}}
			},
			want: []string{`"ssd9"`, `"pool9"`, `"net9"`},
		},
		{
			name: "the password is wrong",
			spec: func(t *testing.T, r *rig, s *pool.Spec) {
				u := *r.URL
				u.User = nil
				p, err := vsphere.New(vsphere.Config{URL: u.String(), Username: "user", Password: "wrong", CACerts: r.CAFile})
				require.NoError(t, err)
				t.Cleanup(func() { p.Close(context.WithoutCancel(t.Context())) })
				s.Provider = p
			},
			want: []string{"password"},
		},
		{
			name: "the vCenter cannot be trusted",
			spec: func(t *testing.T, r *rig, s *pool.Spec) {
				p, err := vsphere.New(vsphere.Config{URL: r.URL.String()})
				require.NoError(t, err)
				t.Cleanup(func() { p.Close(context.WithoutCancel(t.Context())) })
				s.Provider = p
			},
			want: []string{"certificate"},
		},
		{
			name: "a privilege is missing",
			set:  func(s *vspheretest.Server) { s.Deny("VirtualMachine.State.CreateSnapshot") },
			want: []string{"VirtualMachine.State.CreateSnapshot"},
		},
		{
			name: "somebody's VM has the name",
			spec: func(t *testing.T, r *rig, s *pool.Spec) {
				f := find.NewFinder(r.client().Client)
				root, err := f.Folder(t.Context(), "/Datacenter/vm")
				require.NoError(t, err)
				lab, err := root.CreateFolder(t.Context(), "lab")
				require.NoError(t, err)
				p1, err := lab.CreateFolder(t.Context(), "pool1")
				require.NoError(t, err)
				tpl, err := f.VirtualMachine(t.Context(), "/Datacenter/vm/templates/rhel9")
				require.NoError(t, err)
				rp, err := f.ResourcePool(t.Context(), "/Datacenter/host/Cluster/Resources")
				require.NoError(t, err)
				ref := rp.Reference()
				r.byHand(func(ctx context.Context) (*object.Task, error) {
					return tpl.Clone(ctx, p1, "con1", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &ref}})
				})
			},
			want: []string{"con1: plan: a VM of this name is there that poolready did not make", "nothing was touched"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.set)
			spec := r.spec(2)
			if tt.spec != nil {
				tt.spec(t, r, &spec)
			}
			n := len(r.Requests())
			_, err := pool.Open(t.Context(), spec)
			require.Error(t, err)
			for _, want := range tt.want {
				assert.ErrorContains(t, err, want)
			}
			assert.Empty(t, r.asked(n))
		})
	}
}

func TestSnapshotNameTakenIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.open(r.spec(1)).Close()
	r.byHand(func(ctx context.Context) (*object.Task, error) {
		return r.vm("dis1").RemoveSnapshot(ctx, "pool-ready", false, nil)
	})
	r.byHand(func(ctx context.Context) (*object.Task, error) {
		return r.vm("dis1").CreateSnapshot(ctx, "pool-ready", "mine", false, false)
	})
	n := len(r.Requests())
	_, err := pool.Open(t.Context(), r.spec(1))
	require.ErrorContains(t, err, `dis1: plan: snapshot "pool-ready" on it was not taken by poolready; rename or remove the snapshot`)
	assert.Empty(t, r.asked(n))
}

func TestAcquireLendsPoolsAsTheyWereWhenReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	set := r.open(r.spec(1))
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			p := set.Acquire(t)
			for _, h := range p.Hosts() {
				_, err := h.Run(t.Context(), "test", "-e", "/var/dirt")
				assert.Error(t, err, "%s is clean", h.Name)
				h.MustRun(t, "touch", "/var/dirt")
			}
		})
	}
	set.Close()

	again := r.open(r.spec(1))
	p := again.Acquire(t)
	_, err := p.Host("con").Run(t.Context(), "test", "-e", "/var/dirt")
	assert.Error(t, err, "what an earlier process used is reset before it is lent")
}

func TestReusedHostThatDoesNotAnswerIsReset(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	set := r.open(r.spec(2))
	// con2 loses its key: it is on, and lets nobody in.
	set.Pools()[1].Host("con").MustRun(t, "rm", "-rf", "/root/.ssh")
	set.Close()
	n := len(r.Requests())
	set = r.open(r.spec(2))
	assert.Len(t, set.Pools(), 2)
	var reverted int
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, "con1")
		assert.NotContains(t, asked, "dis1")
		if strings.HasPrefix(asked, "RevertToSnapshot_Task") {
			reverted++
		}
	}
	assert.Equal(t, 2, reverted, "con2, and with it dis2: a pool is reset as a whole")
}

func TestNeedsAreAwaitedBeforeTheFirstStep(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var mu sync.Mutex
	tries, early := map[int]int{}, 0
	spec := r.spec(2)
	spec.Roles[1].Needs[0].Timeout = 3 * time.Second
	spec.Roles[1].Needs[0].Do = func(_ context.Context, h, of *pool.Host) error {
		mu.Lock()
		defer mu.Unlock()
		tries[h.Pool]++
		if h.Pool == 2 || tries[h.Pool] < 3 {
			return fmt.Errorf("%s does not serve", of.Name)
		}
		return nil
	}
	spec.Roles[1].Steps = append([]pool.Step{{Name: "first", Version: "1", Do: func(_ context.Context, h *pool.Host) error {
		mu.Lock()
		defer mu.Unlock()
		if tries[h.Pool] < 3 {
			early++
		}
		return nil
	}}}, spec.Roles[1].Steps...)
	_, err := pool.Open(t.Context(), spec)
	require.ErrorContains(t, err, `dis2: ready dis: need "service" of con2: no answer within its timeout (3s): last answer: con2 does not serve`)
	assert.NotContains(t, err.Error(), "dis1")
	assert.Equal(t, 3, tries[1])
	assert.Zero(t, early)
}
