package pooltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx/sshtest"
)

type snapshot struct {
	pool.Snapshot
	disk     *sshtest.Disk
	nics     []nic
	note     string
	memory   []byte
	reverts  int // of the VM when the guest that memory is of got its addresses
	bootedAt time.Time
}

// maxSnapshots is how deep a chain of snapshots may be, as in vSphere.
const maxSnapshots = 32

func (v *vm) snapshot(id string) int {
	return slices.IndexFunc(v.snapshots, func(s snapshot) bool { return s.ID == id })
}

// Snapshot implements [pool.Provider].
func (p *Provider) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	return p.take(ctx, "Snapshot", id, pool.Snapshot{Name: name, Record: record})
}

// SnapshotRunning implements [pool.Provider].
func (p *Provider) SnapshotRunning(ctx context.Context, id, name, record string) (string, error) {
	return p.take(ctx, "SnapshotRunning", id, pool.Snapshot{Name: name, Record: record, Running: true})
}

func (p *Provider) take(ctx context.Context, method, id string, s pool.Snapshot) (string, error) {
	err := p.onVM(ctx, method, id, func(v *vm) error {
		if len(v.snapshots) == maxSnapshots {
			return fmt.Errorf("the VM has %d snapshots, and more are not possible", maxSnapshots)
		}
		shot := snapshot{nics: slices.Clone(v.nics), note: v.note, bootedAt: v.bootedAt}
		if s.Running {
			if v.guest == nil || !v.guest.up {
				return errors.New("the VM does not run, so it has no memory")
			}
			g := v.guest
			p.mu.Unlock() // it may wait for programs that are ending
			disk, memory, err := g.host.SaveMemory()
			p.mu.Lock()
			if err != nil {
				return err
			}
			shot.disk, shot.memory, shot.reverts = disk, memory, g.reverts
		} else {
			shot.disk = v.disk.Clone()
		}
		s.ID, s.Created = fmt.Sprint("snapshot-", p.next()), time.Now()
		shot.Snapshot = s
		v.snapshots = append(v.snapshots, shot)
		return nil
	})
	if err != nil {
		return "", err
	}
	return s.ID, nil
}

// Revert implements [pool.Provider].
func (p *Provider) Revert(ctx context.Context, id, snapshot string) error {
	return p.onVM(ctx, "Revert", id, func(v *vm) error {
		i := v.snapshot(snapshot)
		if i < 0 {
			return fmt.Errorf("the VM has no snapshot %s", snapshot)
		}
		s := v.snapshots[i]
		p.mu.Unlock()
		p.cutPower(v)
		p.mu.Lock()
		v.disk, v.nics, v.note = s.disk.Clone(), slices.Clone(s.nics), s.note
		v.reverts++
		if !s.Running {
			return nil
		}
		v.on, v.fresh, v.bootedAt = true, true, s.bootedAt
		return p.resume(v, s)
	})
}
