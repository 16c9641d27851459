package vsphere

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/poolready/poolready/pool"
)

// broken is a Provider some of whose methods do something else.
type broken struct {
	pool.Provider
	inventory func(ctx context.Context, set string, templates []string) (*pool.Inventory, error)
	preflight func(ctx context.Context, clones []pool.CloneSpec) error
	clone     func(ctx context.Context, spec pool.CloneSpec) (string, error)
	powerOn   func(ctx context.Context, id string) error
	shutDown  func(ctx context.Context, id string, grace time.Duration) (bool, error)
	snapshot  func(ctx context.Context, id, name, record string) (string, error)
	running   func(ctx context.Context, id, name, record string) (string, error)
	revert    func(ctx context.Context, id, snapshot string) error
	rename    func(ctx context.Context, id, name string) error
	destroy   func(ctx context.Context, id string) error
	clones    func(ctx context.Context, id string) ([]string, error)
	annotate  func(ctx context.Context, id, note string) error
	address   func(ctx context.Context, id, mac string) (netip.Addr, error)
	place     func(ctx context.Context, vms []pool.VM) ([]pool.Placement, error)
	diagnose  func(ctx context.Context, id string) (pool.Diagnosis, error)
}

func (b broken) Place(ctx context.Context, vms ...pool.VM) ([]pool.Placement, error) {
	if b.place != nil {
		return b.place(ctx, vms)
	}
	return b.Provider.Place(ctx, vms...)
}

func (b broken) Diagnose(ctx context.Context, id string) (pool.Diagnosis, error) {
	if b.diagnose != nil {
		return b.diagnose(ctx, id)
	}
	return b.Provider.Diagnose(ctx, id)
}

func (b broken) Inventory(ctx context.Context, set string, templates ...string) (*pool.Inventory, error) {
	if b.inventory != nil {
		return b.inventory(ctx, set, templates)
	}
	return b.Provider.Inventory(ctx, set, templates...)
}

func (b broken) Preflight(ctx context.Context, clones []pool.CloneSpec) error {
	if b.preflight != nil {
		return b.preflight(ctx, clones)
	}
	return b.Provider.Preflight(ctx, clones)
}

func (b broken) Clone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	if b.clone != nil {
		return b.clone(ctx, spec)
	}
	return b.Provider.Clone(ctx, spec)
}

func (b broken) PowerOn(ctx context.Context, id string) error {
	if b.powerOn != nil {
		return b.powerOn(ctx, id)
	}
	return b.Provider.PowerOn(ctx, id)
}

func (b broken) ShutDown(ctx context.Context, id string, grace time.Duration) (bool, error) {
	if b.shutDown != nil {
		return b.shutDown(ctx, id, grace)
	}
	return b.Provider.ShutDown(ctx, id, grace)
}

func (b broken) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	if b.snapshot != nil {
		return b.snapshot(ctx, id, name, record)
	}
	return b.Provider.Snapshot(ctx, id, name, record)
}

func (b broken) SnapshotRunning(ctx context.Context, id, name, record string) (string, error) {
	if b.running != nil {
		return b.running(ctx, id, name, record)
	}
	return b.Provider.SnapshotRunning(ctx, id, name, record)
}

func (b broken) Revert(ctx context.Context, id, snapshot string) error {
	if b.revert != nil {
		return b.revert(ctx, id, snapshot)
	}
	return b.Provider.Revert(ctx, id, snapshot)
}

func (b broken) Rename(ctx context.Context, id, name string) error {
	if b.rename != nil {
		return b.rename(ctx, id, name)
	}
	return b.Provider.Rename(ctx, id, name)
}

func (b broken) Destroy(ctx context.Context, id string) error {
	if b.destroy != nil {
		return b.destroy(ctx, id)
	}
	return b.Provider.Destroy(ctx, id)
}

func (b broken) Clones(ctx context.Context, id string) ([]string, error) {
	if b.clones != nil {
		return b.clones(ctx, id)
	}
	return b.Provider.Clones(ctx, id)
}

func (b broken) Annotate(ctx context.Context, id, note string) error {
	if b.annotate != nil {
		return b.annotate(ctx, id, note)
	}
	return b.Provider.Annotate(ctx, id, note)
}

func (b broken) Address(ctx context.Context, id, mac string, except netip.Addr, subnets ...netip.Prefix) (netip.Addr, error) {
	if b.address != nil {
		return b.address(ctx, id, mac)
	}
	return b.Provider.Address(ctx, id, mac, except, subnets...)
}

// recorder is a T of a test that is expected to fail.
type recorder struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()                         {}
func (r *recorder) Name() string                    { return r.t.Name() }
func (r *recorder) Context() context.Context        { return r.ctx }
func (r *recorder) Logf(format string, args ...any) {}
func (r *recorder) FailNow()                        { r.Errorf("failed"); runtime.Goexit() }
func (r *recorder) Skip(args ...any)                { r.FailNow() }
func (r *recorder) Skipf(string, ...any)            { r.FailNow() }
func (r *recorder) SkipNow()                        { r.FailNow() }

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// run calls f as a test of its own, and then the cleanups, whose failures do not count.
func (r *recorder) run(f func()) (failures []string) {
	do := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
	do(f)
	failures = slices.Clone(r.failures)
	for _, f := range slices.Backward(r.cleanups) {
		do(f)
	}
	return failures
}
