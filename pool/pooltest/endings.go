package pooltest

import (
	"context"
	"net/netip"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// methods calls every method of a Provider that needs a VM, on the VM.
func methods(f *fixture, id, snapshot string) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"PowerOn":  func(ctx context.Context) error { return f.p.PowerOn(ctx, id) },
		"ShutDown": func(ctx context.Context) error { _, err := f.p.ShutDown(ctx, id, f.env.Timeout); return err },
		"cut":      func(ctx context.Context) error { _, err := f.p.ShutDown(ctx, id, 0); return err },
		"Snapshot": func(ctx context.Context) error { _, err := f.p.Snapshot(ctx, id, "s", "r"); return err },
		"SnapshotRunning": func(ctx context.Context) error {
			_, err := f.p.SnapshotRunning(ctx, id, "s", "r")
			return err
		},
		"Revert":   func(ctx context.Context) error { return f.p.Revert(ctx, id, snapshot) },
		"Rename":   func(ctx context.Context) error { return f.p.Rename(ctx, id, f.name("renamed")) },
		"Annotate": func(ctx context.Context) error { return f.p.Annotate(ctx, id, "note") },
		"Clones":   func(ctx context.Context) error { _, err := f.p.Clones(ctx, id); return err },
		"Address":  func(ctx context.Context) error { _, err := f.p.Address(ctx, id, f.mac(), netip.Addr{}); return err },
		"Clone": func(ctx context.Context) error {
			spec := f.spec(f.name("child"))
			spec.Source, spec.Snapshot = id, snapshot
			_, err := f.p.Clone(ctx, spec)
			return err
		},
	}
}

var endings = []Case{
	{Name: "every method fails on a VM that is gone, and says so", test: func(f *fixture) {
		id, _ := f.vm("gone")
		snapshot, err := f.base.Snapshot(f.ctx, id, "s", "r")
		require.NoError(f, err)
		require.NoError(f, f.base.Destroy(f.ctx, id))
		ctx, cancel := context.WithTimeout(f.ctx, f.env.Timeout/2)
		defer cancel()
		for name, call := range methods(f, id, snapshot) {
			err := call(ctx)
			if assert.Error(f, err, name) {
				assert.NotErrorIs(f, err, pool.ErrExists, name)
				assert.NotErrorIs(f, err, context.DeadlineExceeded, name)
			}
		}
	}},
	{Name: "every method ends when its context has ended, and does nothing", test: func(f *fixture) {
		id, _ := f.vm("untouched")
		snapshot, err := f.base.Snapshot(f.ctx, id, "s", "r")
		require.NoError(f, err)
		before := f.look(id)
		all := methods(f, id, snapshot)
		all["Inventory"] = func(ctx context.Context) error { _, err := f.p.Inventory(ctx, f.env.Set); return err }
		all["Preflight"] = func(ctx context.Context) error { return f.p.Preflight(ctx, []pool.CloneSpec{f.spec("planned")}) }
		all["Destroy"] = func(ctx context.Context) error { return f.p.Destroy(ctx, id) }
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		for name, call := range all {
			start := time.Now()
			assert.ErrorIs(f, call(ctx), context.Canceled, name)
			assert.Less(f, time.Since(start), f.env.Instant, name)
		}
		assert.Equal(f, before, f.look(id))
	}},
	{Name: "a wait ends when its context does, with its cause", test: func(f *fixture) {
		id, spec := f.vm("waited-for")
		cause := context.DeadlineExceeded
		ctx, cancel := context.WithCancelCause(f.ctx)
		done := make(chan error, 1)
		go func() {
			_, err := f.p.Address(ctx, id, spec.VM.NICs[0].MAC, netip.Addr{})
			done <- err
		}()
		select {
		case err := <-done:
			require.Fail(f, "Address returned of a VM that is off", "%v", err)
		case <-time.After(f.env.Instant / 2):
		}
		cancel(cause)
		select {
		case err := <-done:
			assert.ErrorIs(f, err, cause)
		case <-time.After(f.env.Instant):
			assert.Fail(f, "Address goes on waiting")
			<-done //nolint:errcheck // its end is what counts
		}
	}},
}

func loses(e Env) bool { return e.Lose != nil }

var lost = []Case{
	{Name: "a clone whose answer is lost is made once", needs: loses, test: func(f *fixture) {
		spec := f.spec(f.name("lost"))
		f.env.Lose(f, Clone, spec.VM.Name)
		id, err := f.p.Clone(f.ctx, spec)
		require.NoError(f, err)
		f.removeLater(id)
		found := f.named(f.env.Set, spec.VM.Name)
		require.Len(f, found, 1)
		assert.Equal(f, id, found[0].ID)
	}},
	{Name: "a snapshot whose answer is lost is taken once", needs: loses, test: func(f *fixture) {
		id, spec := f.vm("lost")
		f.env.Lose(f, Snapshot, spec.VM.Name)
		snapshot, err := f.p.Snapshot(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		all := f.look(id).Snapshots
		require.Len(f, all, 1)
		assert.Equal(f, snapshot, all[0].ID)
	}},
	{Name: "other answers may be lost too", needs: loses, test: func(f *fixture) {
		id, spec := f.vm("lost")
		snapshot, err := f.base.Snapshot(f.ctx, id, "pool-ready", "record")
		require.NoError(f, err)
		f.env.Lose(f, PowerOn, spec.VM.Name)
		require.NoError(f, f.p.PowerOn(f.ctx, id))
		require.True(f, f.look(id).On)
		f.env.Lose(f, PowerOff, spec.VM.Name)
		forced, err := f.p.ShutDown(f.ctx, id, 0)
		require.NoError(f, err)
		assert.True(f, forced)
		require.False(f, f.look(id).On)
		f.env.Lose(f, Revert, spec.VM.Name)
		require.NoError(f, f.p.Revert(f.ctx, id, snapshot))
		name := f.name("renamed")
		f.env.Lose(f, Rename, spec.VM.Name)
		require.NoError(f, f.p.Rename(f.ctx, id, name))
		assert.Equal(f, name, f.look(id).Name)
		f.env.Lose(f, Destroy, name)
		require.NoError(f, f.p.Destroy(f.ctx, id))
		assert.NotContains(f, f.list(f.env.Set), id)
	}},
}
