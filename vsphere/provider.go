package vsphere

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// lateEffect is how long a call without answer may take to show that it is being carried out.
const lateEffect = time.Second

// maxOddities is how many system errors one operation may meet: they may pass, but are as a rule
// there to stay.
const maxOddities = 3

// Provider is a pool.Provider on one vCenter. Its methods may be called from any goroutine.
type Provider struct {
	cfg       Config
	s         *session
	watcher   *watcher
	intervals intervals

	near    *neighbourhood
	places  *places // of the inventory: folders, datastores, resource pools, networks
	sources sources // what snapshots hold
	newVMs  batches[map[types.ManagedObjectReference]mo.VirtualMachine]
	snaps   batches[map[types.ManagedObjectReference]mo.VirtualMachine] // readings of snapshots
	chains  batches[[]types.ObjectContent]                              // readings of the disks of all VMs on some VMs' datastores

	mu    sync.Mutex
	names map[types.ManagedObjectReference]string // of VMs, for errors

	clock   reading                                 // of vCenter's clock, the last
	shards  map[string]types.ManagedObjectReference // of ledgers, by set and shard, where they were last seen
	ledgers map[string]pool.VM                      // by set: on which datastore and in which resource pool its ledger goes
}

var (
	_ pool.Provider      = (*Provider)(nil)
	_ pool.LedgerWatcher = (*Provider)(nil)
	_ pool.CallCounter   = (*Provider)(nil)
)

// New returns a Provider for the vCenter that cfg describes, after checking cfg as a whole. It does
// not touch the network: the first call of a method connects and logs in. Close it when done.
func New(cfg Config) (*Provider, error) {
	end, err := cfg.parse(fieldNames)
	if err != nil {
		return nil, fmt.Errorf("vsphere: configuration: %w", err)
	}
	return newProvider(cfg, end, defaultIntervals), nil
}

func newProvider(cfg Config, end endpoint, intervals intervals) *Provider {
	s := newSession(end, intervals.outage)
	s.timeout = intervals.call
	cfg.URL, cfg.Username, cfg.Password = "", "", "" // are in end
	return &Provider{
		cfg: cfg, s: s, watcher: newWatcher(s, intervals), intervals: intervals,
		near: newNeighbourhood(), places: newPlaces(), sources: newSources(),
		names: map[types.ManagedObjectReference]string{}, ledgers: map[string]pool.VM{}, shards: map[string]types.ManagedObjectReference{},
	}
}

// Close ends every wait, logs out and closes all connections. Methods called later fail.
// Closing twice does nothing.
func (p *Provider) Close(ctx context.Context) error {
	p.watcher.close(ctx)
	if err := p.s.close(ctx); err != nil {
		return fmt.Errorf("vsphere: log out: %w", explain(err, refName))
	}
	return nil
}

// CallCounts returns how many SOAP calls of each method were made so far; see pool.CallCounter.
func (p *Provider) CallCounts() map[string]int { return p.s.calls.all() }

// gate bounds how many operations of a kind run at once.
type gate chan struct{}

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g gate) leave() { <-g }

// operation is a change that vCenter makes in a task.
type operation struct {
	name, object string // "clone", `"golden" to "con1"`
	// kind is of operations that take alike long; "" is name.
	kind string
	// entity is the VM whose tasks are waited for before reading back.
	entity types.ManagedObjectReference
	// submit starts the task.
	submit func(ctx context.Context, c *conn) (types.ManagedObjectReference, error)
	// look tells, when an answer was lost, whether the change took effect, and its result.
	look func(ctx context.Context) (done bool, result types.AnyType, err error)
	// accept reports whether an error means that all is as requested. lost tells that an earlier
	// answer was. It may be nil.
	accept func(ctx context.Context, err error, lost bool) (done bool, result types.AnyType, instead error)
	// once tells that nothing but looking keeps a repetition from doing it again.
	once bool
	// bound is how long all of it may take; 0 is Config.TaskTimeout.
	bound time.Duration
	// watch are VMs that will be waited for next: vCenter is told of them in the same call.
	watch []types.ManagedObjectReference
}

// perform carries out op: it submits, waits, tries again what was rejected, waits for what is
// busy, and looks before it repeats what may have happened. All of that ends after op's bound.
func (p *Provider) perform(ctx context.Context, op operation) (types.AnyType, error) {
	w := p.supervise(ctx, op)
	defer w.stop()
	result, err := p.carryOut(w.ctx, op) //nolint:contextcheck // it is derived from ctx
	if err == nil {
		return result, nil
	}
	return nil, p.fail(op, w.explain(ctx, err))
}

func (p *Provider) carryOut(ctx context.Context, op operation) (types.AnyType, error) {
	b := p.s.backoff()
	lost, oddities := false, 0
	var err error
	for {
		if lost {
			done, result, lookErr := p.readBack(ctx, op)
			if lookErr != nil {
				return nil, fmt.Errorf("read back after its answer was lost (%w): %w", err, lookErr)
			}
			if done {
				return result, nil
			}
		}
		if oddities == maxOddities {
			return nil, b.over(err)
		}
		var result types.AnyType
		if result, err = p.attempt(ctx, op); err == nil {
			return result, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c := classify(err)
		if c != unknown && op.accept != nil {
			if done, result, instead := op.accept(ctx, err, lost); done {
				return result, nil
			} else if instead != nil {
				return nil, instead
			}
		}
		switch c {
		case unknown:
			lost = true
			if odd(err) {
				oddities++
			}
		case busy:
			if why := p.hopeless(ctx, op, err); why != nil {
				return nil, why
			}
			p.waitFor(ctx, err)
		case again:
			if reached := p.s.reached(ctx); !reached {
				return nil, err
			}
		default:
			return nil, err
		}
		if !b.wait(ctx, err) {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, b.over(err)
		}
	}
}

// hopeless returns why an InvalidState, which says nothing itself, will not pass, or nil.
func (p *Provider) hopeless(ctx context.Context, op operation, err error) error {
	if !has[*types.InvalidState](err) || op.entity.Type != "VirtualMachine" {
		return nil
	}
	d, lookErr := p.diagnose(ctx, op.entity)
	switch {
	case lookErr != nil:
		return nil //nolint:nilerr // then err alone is what is known
	case d.Template && op.bound == 0: // a full clone's source may be one
		return refuse("the VM is a template now, made so by hand; make it a VM again, or remove it: %w", err)
	case d.Problem != "", d.Question != "":
		return &stuckError{err: err, now: d}
	}
	return nil
}

func (p *Provider) attempt(ctx context.Context, op operation) (types.AnyType, error) {
	var task types.ManagedObjectReference
	err := p.s.do(ctx, func(c *conn) (err error) {
		task, err = op.submit(ctx, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p.watcher.taskOf(ctx, cmp.Or(op.kind, op.name), task, op.watch...)
}

// readBack waits for what still goes on at op's entity and then looks.
func (p *Provider) readBack(ctx context.Context, op operation) (done bool, result types.AnyType, err error) {
	for look := 1; ; look++ {
		if err := p.settle(ctx, op.entity); err != nil && classify(err) != gone {
			return false, nil, err
		}
		done, result, err = op.look(ctx)
		if done || err != nil || !op.once || look == 2 {
			return done, result, err
		}
		sleep(ctx, lateEffect)
	}
}

// settle waits until no task runs on the entity.
func (p *Provider) settle(ctx context.Context, entity types.ManagedObjectReference) error {
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{{Type: "Task", PathSet: []string{"info.state"}}},
		ObjectSet: []types.ObjectSpec{{
			Obj: entity, Skip: types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{&types.TraversalSpec{Type: entity.Type, Path: "recentTask"}},
		}},
	})
	if err != nil {
		return err
	}
	for _, o := range objects {
		for _, prop := range o.PropSet {
			if s, ok := prop.Val.(types.TaskInfoState); ok && (s == types.TaskInfoStateQueued || s == types.TaskInfoStateRunning) {
				// How it ends is for its owner; here it matters that it ended.
				if err := p.watcher.task(ctx, o.Obj); ctx.Err() != nil {
					return err
				}
			}
		}
	}
	return nil
}

// waitFor waits for the task that err says is in the way, if it names one.
func (p *Provider) waitFor(ctx context.Context, err error) {
	f, ok := fault[types.BaseTaskInProgress](err)
	if !ok || f.GetTaskInProgress().Task.Value == "" {
		return
	}
	_ = p.watcher.task(ctx, f.GetTaskInProgress().Task)
}

// fail words the error of an operation.
func (p *Provider) fail(op operation, err error) error {
	return fmt.Errorf("vsphere: %s %s: %w", op.name, op.object, explain(err, p.nameOf))
}

// errorf words the error of something else than an operation.
func (p *Provider) errorf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("vsphere: "+format+": %w", append(args, explain(err, p.nameOf))...)
}

// vmRef is the reference behind a VM's ID.
func vmRef(id string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "VirtualMachine", Value: id}
}

func (p *Provider) learn(vm types.ManagedObjectReference, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names[vm] = name
}

// label is how errors call a VM.
func (p *Provider) label(id string) string { return p.nameOf(vmRef(id)) }

// nameOf is how errors call an object of vCenter's.
func (p *Provider) nameOf(ref types.ManagedObjectReference) string {
	p.mu.Lock()
	name := p.names[ref]
	p.mu.Unlock()
	if name == "" {
		name = p.places.known(ref)
	}
	switch {
	case name != "" && ref.Type == "VirtualMachine":
		return fmt.Sprintf("VM %q (%s)", name, ref.Value)
	case name != "":
		return fmt.Sprintf("%s %q", ref.Type, name)
	}
	return refName(ref)
}

// exists makes err one for which errors.Is(err, pool.ErrExists) holds.
func exists(err error) error { return &existsError{err} }

type existsError struct{ err error }

func (e *existsError) Error() string   { return pool.ErrExists.Error() }
func (e *existsError) Unwrap() []error { return []error{pool.ErrExists, e.err} }
