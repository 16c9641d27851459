package vsphere

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// work is all that building and using a pool does, step by step; try calls each.
func work(ctx context.Context, p *Provider, golden pool.CloneSpec, try func(func() error)) {
	const mac = "00:50:56:00:00:21"
	var id, snap, con, ready string
	for _, step := range []func() error{
		func() (err error) { id, err = p.Clone(ctx, golden); return err },
		func() (err error) { snap, err = p.Snapshot(ctx, id, "golden-ready", "record"); return err },
		func() (err error) {
			linked := linkedSpec(id, snap, "con1", mac)
			linked.Set = golden.Set
			con, err = p.Clone(ctx, linked)
			return err
		},
		func() (err error) { ready, err = p.Snapshot(ctx, con, "pool-ready", "record"); return err },
		func() error { return p.PowerOn(ctx, con) },
		func() error { return p.ConnectNIC(ctx, con, mac, false) },
		func() error { _, err := p.ShutDown(ctx, con, 0); return err },
		func() error { return p.Revert(ctx, con, ready) },
		func() error { return p.Annotate(ctx, con, "note") },
		func() error { return p.Rename(ctx, con, "con2") },
		func() error { return p.SetLedger(ctx, golden.Set, "pool-1", "", map[string]string{"k": "v"}) },
		func() error { return p.Destroy(ctx, con) },
	} {
		try(step)
	}
}

// Of all privileges that somebody lacks, those that the work takes, one after the other, are the
// ones that a preflight asks for.
func TestPreflightAsksForThePrivilegesThatTheWorkTakes(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 3*time.Minute)
	lacking := slices.Concat(folderPrivileges, templatePrivileges, growPrivileges, newFolderPrivileges, poolPrivileges,
		datastorePrivileges, networkPrivileges)
	golden := goldenSpec("golden")
	golden.VM.DiskGiB = 40
	l.Deny(lacking...)
	asked := l.p.Preflight(ctx, []pool.CloneSpec{golden})
	work(ctx, l.p, golden, func(step func() error) {
		for err := step(); err != nil; err = step() {
			no, ok := fault[*types.NoPermission](err)
			require.True(t, ok, "%v", err)
			require.ErrorContains(t, asked, no.PrivilegeId)
			l.Allow(no.PrivilegeId)
			lacking = slices.DeleteFunc(lacking, func(p string) bool { return p == no.PrivilegeId })
		}
	})
	assert.ElementsMatch(t, []string{
		"VirtualMachine.Config.CPUCount", "VirtualMachine.Config.Memory", "VirtualMachine.Config.Settings", // not by this work
	}, lacking)
}

func TestPreflightAsksForNoPrivilegeThatTheWorkDoesNotTake(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, 3*time.Minute)
	plain := goldenSpec("plain")
	plain.Set, plain.VM.NICs = "other", nil
	_, err := l.p.Clone(ctx, plain)
	require.NoError(t, err)

	golden := goldenSpec("golden")
	freely := func(step func() error) { require.NoError(t, step()) }
	l.Deny("Folder.Delete", "VirtualMachine.State.RemoveSnapshot", "VirtualMachine.Config.DiskExtend")
	require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{golden}))
	work(ctx, l.p, golden, freely)
	golden.Source, golden.Set, golden.VM.NICs = "other/plain", "another", []pool.NIC{{MAC: "00:50:56:00:00:02"}}
	l.Deny("VirtualMachine.Provisioning.DeployTemplate")
	require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{golden}), "the source is no template")
	work(ctx, l.p, golden, freely)
	l.Deny("VirtualMachine.Provisioning.Clone")
	assert.ErrorContains(t, l.p.Preflight(ctx, []pool.CloneSpec{golden}), `Provisioning.Clone on VM "plain"`)
}
