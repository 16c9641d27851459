package vsphere

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// work is all that building and using a pool does, up to the first error.
func work(ctx context.Context, p *Provider, golden pool.CloneSpec) error {
	id, err := p.Clone(ctx, golden)
	if err != nil {
		return err
	}
	snap, err := p.Snapshot(ctx, id, "golden-ready", "record")
	if err != nil {
		return err
	}
	mac := "00:50:56:00:00:21"
	linked := linkedSpec(id, snap, "con1", mac)
	linked.Set = golden.Set
	con, err := p.Clone(ctx, linked)
	if err != nil {
		return err
	}
	ready, err := p.Snapshot(ctx, con, "pool-ready", "record")
	for _, f := range []func() error{
		func() error { return err },
		func() error { return p.PowerOn(ctx, con) },
		func() error { return p.SetLink(ctx, con, mac, false) },
		func() error { _, err := p.ShutDown(ctx, con, 0); return err },
		func() error { return p.Revert(ctx, con, ready) },
		func() error { return p.Annotate(ctx, con, "note") },
		func() error { return p.Rename(ctx, con, "con2") },
		func() error { return p.SetLedger(ctx, golden.Set, "pool-1", "", map[string]string{"k": "v"}) },
		func() error {
			l, err := p.Ledger(ctx, golden.Set)
			if err == nil {
				err = p.SetLedger(ctx, golden.Set, "pool-1", l.Shards["pool-1"].Revision, map[string]string{"k": "w"})
			}
			return err
		},
		func() error { return p.Destroy(ctx, con) },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// Of all privileges that somebody lacks, those that the work takes, one after the other, are the
// ones that a preflight asks for.
func TestPreflightAsksForThePrivilegesThatTheWorkTakes(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	lacking := slices.Concat(folderPrivileges, templatePrivileges, growPrivileges, newFolderPrivileges, poolPrivileges,
		datastorePrivileges, networkPrivileges)
	golden := goldenSpec("golden")
	golden.VM.DiskGiB = 40
	l.Deny(lacking...)
	asked := l.p.Preflight(ctx, []pool.CloneSpec{golden})
	for n := 0; ; n++ {
		golden.Set = fmt.Sprint("set-", n) // a set of its own, as what was made stays
		err := work(ctx, l.p, golden)
		if err == nil {
			break
		}
		no, ok := fault[*types.NoPermission](err)
		require.True(t, ok, "%v", err)
		require.ErrorContains(t, asked, no.PrivilegeId)
		l.Allow(no.PrivilegeId)
		lacking = slices.DeleteFunc(lacking, func(p string) bool { return p == no.PrivilegeId })
	}
	assert.ElementsMatch(t, []string{
		"VirtualMachine.Config.CPUCount", "VirtualMachine.Config.Memory", "VirtualMachine.Config.Settings", // not by this work
	}, lacking)
}

func TestPreflightAsksForNoPrivilegeThatTheWorkDoesNotTake(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	plain := goldenSpec("plain")
	plain.Set = "other"
	_, err := l.p.Clone(ctx, plain)
	require.NoError(t, err)

	golden := goldenSpec("golden")
	l.Deny("Folder.Delete", "VirtualMachine.State.RemoveSnapshot", "VirtualMachine.Config.DiskExtend")
	require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{golden}))
	require.NoError(t, work(ctx, l.p, golden))
	golden.Source, golden.Set = "other/plain", "another"
	l.Deny("VirtualMachine.Provisioning.DeployTemplate")
	require.NoError(t, l.p.Preflight(ctx, []pool.CloneSpec{golden}), "the source is no template")
	require.NoError(t, work(ctx, l.p, golden))
	l.Deny("VirtualMachine.Provisioning.Clone")
	assert.ErrorContains(t, l.p.Preflight(ctx, []pool.CloneSpec{golden}), `Provisioning.Clone on VM "plain"`)
}
