package vsphere

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
	con, err := p.Clone(ctx, linkedSpec(id, snap, "con1", mac))
	if err != nil {
		return err
	}
	ready, err := p.Snapshot(ctx, con, "pool-ready", "record")
	for _, f := range []func() error{
		func() error { return err },
		func() error { return p.PowerOn(ctx, con) },
		func() error { _, err := p.Address(ctx, con, mac); return err },
		func() error { return p.SetLink(ctx, con, mac, false) },
		func() error { _, err := p.ShutDown(ctx, con, time.Second); return err },
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

func TestPreflightAsksForThePrivilegesThatTheWorkTakes(t *testing.T) {
	t.Parallel()
	const plainVM, growing = "a plain VM", "a growing disk"
	for _, c := range []struct {
		privilege string
		of        string // "" is a template whose disk stays as it is
		needed    bool
	}{
		{"Folder.Create", "", true},
		{"Folder.Delete", "", false},
		{"VirtualMachine.Inventory.Create", "", true},
		{"VirtualMachine.Inventory.CreateFromExisting", "", true},
		{"VirtualMachine.Inventory.Delete", "", true},
		{"VirtualMachine.Provisioning.Clone", "", true},
		{"VirtualMachine.Provisioning.DeployTemplate", "", true},
		{"VirtualMachine.Provisioning.DeployTemplate", plainVM, false},
		{"VirtualMachine.Provisioning.Clone", plainVM, true},
		{"VirtualMachine.Config.AdvancedConfig", "", true},
		{"VirtualMachine.Config.Annotation", "", true},
		{"VirtualMachine.Config.AddRemoveDevice", "", true},
		{"VirtualMachine.Config.EditDevice", "", true},
		{"VirtualMachine.Config.Rename", "", true},
		{"VirtualMachine.Config.DiskExtend", "", false},
		{"VirtualMachine.Config.DiskExtend", growing, true},
		{"VirtualMachine.Interact.PowerOn", "", true},
		{"VirtualMachine.Interact.PowerOff", "", true},
		{"VirtualMachine.Interact.DeviceConnection", "", true},
		{"VirtualMachine.State.CreateSnapshot", "", true},
		{"VirtualMachine.State.RevertToSnapshot", "", true},
		{"VirtualMachine.State.RemoveSnapshot", "", false},
		{"Resource.AssignVMToPool", "", true},
		{"Datastore.AllocateSpace", "", true},
		{"Network.Assign", "", true},
	} {
		t.Run(c.privilege+" "+c.of, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, vspheretest.Fast())
			ctx := within(t, time.Minute)
			golden := goldenSpec("golden")
			switch c.of {
			case plainVM:
				other := goldenSpec("plain")
				other.Set = "other"
				_, err := l.p.Clone(ctx, other)
				require.NoError(t, err)
				golden.Source = "other/plain"
			case growing:
				golden.VM.DiskGiB = 40
			}
			l.Deny(c.privilege)
			preflight := l.p.Preflight(ctx, []pool.CloneSpec{golden})
			err := work(ctx, l.p, golden)
			if c.needed {
				assert.ErrorContains(t, err, c.privilege)
				assert.ErrorContains(t, preflight, c.privilege)
			} else {
				assert.NoError(t, err)
				assert.NoError(t, preflight)
			}
		})
	}
}
