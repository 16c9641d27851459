package vsphere

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	vc "github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// TestConformance runs the suite on the embedded vCenter, or on the one that GOVC_URL names. There
// POOLREADY_TEMPLATE is the inventory path of a template whose guest has tools and gets an address
// by itself, and everything happens in a scratch folder below GOVC_FOLDER.
func TestConformance(t *testing.T) {
	t.Parallel()
	if os.Getenv("GOVC_URL") != "" {
		conformOnRealVCenter(t)
		return
	}
	l := newLab(t, vspheretest.Fast(), limited)
	pooltest.TestProvider(t, l.p, l.conformance())
}

func conformOnRealVCenter(t *testing.T) {
	template := os.Getenv("POOLREADY_TEMPLATE")
	require.NotEmpty(t, template, "GOVC_URL is set: set POOLREADY_TEMPLATE to the template to clone")
	cfg, err := FromEnv()
	require.NoError(t, err)
	scratch := "poolready-conformance-" + strings.ToLower(rand.Text()[:8])
	outer, err := New(cfg)
	require.NoError(t, err)
	ctx := context.WithoutCancel(t.Context())
	folder, err := outer.makeFolder(ctx, scratch, "")
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, removeFolder(ctx, outer, folder), "folder %q must be removed by hand", scratch)
		assert.NoError(t, outer.Close(ctx))
	})
	tree, err := outer.inventory(ctx, time.Now()) // one that has the folder
	require.NoError(t, err)
	cfg.Folder = tree.path(folder)
	p, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close(ctx)) })
	pooltest.TestProvider(t, p, pooltest.Env{
		Template: template, BootedAt: p.bootedAt,
		WrongPassword: func(t pool.T) (pool.Provider, string, string) {
			wrong := cfg
			wrong.Password = rand.Text()
			return closing(t, wrong), wrong.Username, wrong.Password
		},
	})
}

// removeFolder removes the folder if no VM is left in it.
func removeFolder(ctx context.Context, p *Provider, folder types.ManagedObjectReference) error {
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name"}}},
		ObjectSet: []types.ObjectSpec{{
			Obj: folder, Skip: types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{step("children", "Folder", "childEntity", "children")},
		}},
	})
	if err != nil {
		return err
	}
	if len(objects) > 0 {
		return errors.New("it still holds VMs")
	}
	return p.s.do(ctx, func(c *conn) error {
		task, err := methods.Destroy_Task(ctx, c, &types.Destroy_Task{This: folder})
		if err != nil {
			return err
		}
		return p.watcher.task(ctx, task.Returnval)
	})
}

// bootedAt is runtime.bootTime of a VM, which is read again.
func (p *Provider) bootedAt(t pool.T, id string) time.Time {
	t.Helper()
	ref := types.ManagedObjectReference{Type: "VirtualMachine", Value: id}
	objects, err := p.s.retrieve(t.Context(), types.PropertyFilterSpec{
		PropSet:   []types.PropertySpec{{Type: ref.Type, PathSet: []string{"runtime.bootTime"}}},
		ObjectSet: []types.ObjectSpec{{Obj: ref}},
	})
	require.NoError(t, err)
	require.Len(t, objects, 1)
	require.Len(t, objects[0].PropSet, 1, "VM %s has a boot time", id)
	return objects[0].PropSet[0].Val.(time.Time)
}

// closing returns a Provider that is closed when t ends.
func closing(t pool.T, cfg Config) *Provider {
	t.Helper()
	p, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close(context.WithoutCancel(t.Context()))) })
	return p
}

var apiMethods = map[pooltest.Operation]string{
	pooltest.Clone: "CloneVM_Task", pooltest.PowerOn: "PowerOnVM_Task", pooltest.PowerOff: "PowerOffVM_Task",
	pooltest.Snapshot: "CreateSnapshot_Task", pooltest.Revert: "RevertToSnapshot_Task",
	pooltest.Rename: "Rename_Task", pooltest.Destroy: "Destroy_Task",
}

// recordLimit is how much of a record the lab of the suite keeps.
const recordLimit = 1000

func limited(s *vspheretest.Server) { s.DescriptionLimit = recordLimit }

// copyVM copies a VM as an administrator does.
func (l *lab) copyVM(t pool.T, id, name string) string {
	t.Helper()
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	vm := vc.NewVirtualMachine(c.Client, vmRef(id))
	var props mo.VirtualMachine
	require.NoError(t, vm.Properties(t.Context(), vmRef(id), []string{"parent"}, &props))
	task, err := vm.Clone(t.Context(), vc.NewFolder(c.Client, *props.Parent), name, types.VirtualMachineCloneSpec{})
	require.NoError(t, err)
	info, err := task.WaitForResult(t.Context())
	require.NoError(t, err)
	return info.Result.(types.ManagedObjectReference).Value
}

// ask makes the next power on of a VM ask a question, which is answered when t ends.
func (l *lab) ask(t pool.T, id, name, text string) {
	l.Inject(vspheretest.Fault{Method: "PowerOnVM_Task", Name: name, Effect: vspheretest.Question(text, "Cancel", "I copied it")})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		c, err := l.Client(ctx)
		require.NoError(t, err)
		found := vc.NewVirtualMachine(c.Client, vmRef(id))
		var props mo.VirtualMachine
		require.NoError(t, found.Properties(ctx, found.Reference(), []string{"runtime.question"}, &props))
		if q := props.Runtime.Question; q != nil {
			require.NoError(t, found.Answer(ctx, q.Id, "0"))
		}
	})
}

// conformance is what the suite needs to know of the lab.
func (l *lab) conformance() pooltest.Env {
	return pooltest.Env{
		Template: "template", Timeout: 30 * time.Second, Instant: 500 * time.Millisecond, BootedAt: l.p.bootedAt,
		Copy: l.copyVM, Ask: l.ask, RecordLimit: l.DescriptionLimit, LeaseByMAC: true,
		Lose: func(t pool.T, op pooltest.Operation, vm string) {
			i := l.Inject(vspheretest.Fault{Method: apiMethods[op], Name: vm, Effect: vspheretest.LoseReply})
			t.Cleanup(func() { assert.Equal(t, 1, i.Hits(), "the answer to %s was lost", op) })
		},
		WrongPassword: func(t pool.T) (pool.Provider, string, string) {
			wrong := l.cfg
			wrong.Username, wrong.Password = "the-user", "the-secret"
			return closing(t, wrong), wrong.Username, wrong.Password
		},
	}
}

// ReadOnly takes rights from all of a vCenter's users at once, so that case has one of its own.
func TestConformanceWithoutPrivileges(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	env := l.conformance()
	env.ReadOnly = func(t pool.T) pool.Provider {
		l.Deny(folderPrivileges...)
		t.Cleanup(func() { l.Allow(folderPrivileges...) })
		return l.p
	}
	s := pooltest.NewSuite(t, l.p, env)
	for _, c := range pooltest.Cases() {
		if strings.Contains(c.Name, "privileges") {
			t.Run(c.Name, func(t *testing.T) { s.Check(t, c, l.p) })
		}
	}
}
