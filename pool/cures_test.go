package pool_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestCures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		break_ func(r *rig)
		want   map[string]string // what is not in it is reused
		also   []string          // VMs that are there afterwards besides the seven
	}{
		{
			name: "con powered off, dis of another pool deleted",
			break_: func(r *rig) {
				r.byHand(r.vm("con1").PowerOff)
				r.byHand(r.vm("dis2").PowerOff)
				r.byHand(r.vm("dis2").Destroy)
			},
			want: map[string]string{"con1": "power on: is off;", "dis2": "clone: does not exist"},
		},
		{
			name: "con deleted, snapshot of another pool's dis removed",
			break_: func(r *rig) {
				r.byHand(r.vm("con2").PowerOff)
				r.byHand(r.vm("con2").Destroy)
				r.unsnapshot("dis1")
			},
			want: map[string]string{
				"con2": "clone: does not exist", "dis2": "rebuild: con2, which it needs, is rebuilt",
				"dis1": `rebuild: has no snapshot "pool-ready"`,
			},
		},
		{
			name: "snapshot replaced by a hand-made pool-ready-old, and two of the name",
			break_: func(r *rig) {
				r.unsnapshot("dis1")
				for vm, name := range map[string]string{"dis1": "pool-ready-old", "dis2": "pool-ready"} {
					r.byHand(func(ctx context.Context) (*object.Task, error) {
						return r.vm(vm).CreateSnapshot(ctx, name, "mine", false, false)
					})
				}
			},
			want: map[string]string{
				"dis1": `rebuild: has no snapshot "pool-ready" (but "pool-ready-old"); the existing VM is kept under another name, since it has snapshots that poolready did not take`,
				"dis2": `rebuild: has 2 snapshots "pool-ready"; the existing VM is kept under another name, since it has snapshots that poolready did not take`,
			},
			also: []string{"dis1-kept-", "dis2-kept-"},
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

// unsnapshot removes a VM's ready snapshot.
func (r *rig) unsnapshot(vm string) {
	r.t.Helper()
	r.byHand(func(ctx context.Context) (*object.Task, error) {
		return r.vm(vm).RemoveSnapshot(ctx, "pool-ready", false, nil)
	})
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
			want: []string{"con1: plan: a VM of this name exists that poolready did not make", "nothing was touched"},
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
