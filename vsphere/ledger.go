package vsphere

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// A shard of a ledger is a VM without disks that is never powered on, "<set>-ledger-<shard>" in the
// folder "ledger" of the set's folder. Its values are in its ExtraConfig, with ledgerPrefix before
// their keys; nothing reverts it, and changeVersion, which vCenter compares and renews with every
// change, makes a write a compare-and-swap.
const (
	ledgerFolder   = "ledger"
	ledgerPrefix   = "poolready.value."
	ledgerKey      = "poolready.ledger"       // "<set>/<shard>": which one it is, whatever its name is now
	ledgerNonceKey = "poolready.ledger.nonce" // of the last write: tells one whose answer was lost
)

func ledgerName(set, shard string) string { return set + "-ledger-" + shard }

// Ledger implements pool.Provider. It costs one call for the shards, and one every three minutes for
// vCenter's clock. A shard whose VM was renamed by hand is found all the same, as long as it stays in its
// folder.
func (p *Provider) Ledger(ctx context.Context, set string, shards ...string) (*pool.Ledger, error) {
	fail := func(err error) (*pool.Ledger, error) {
		return nil, p.errorf(err, "read folder %q", path.Join(set, ledgerFolder))
	}
	l := &pool.Ledger{Shards: map[string]pool.Shard{}}
	vms, err := p.readShards(ctx, set, shards)
	if err == nil && vms == nil {
		vms, err = p.readLedger(ctx, set)
	}
	if err != nil {
		return fail(err)
	}
	found := map[string]mo.VirtualMachine{}
	for _, vm := range vms {
		shard, ours := ledgerShard(set, vm)
		if !ours {
			if strings.HasPrefix(vm.Name, ledgerName(set, "")) && vm.Config != nil {
				return fail(refuse("VM %q has a name that is kept for the ledger, and is none of it; rename or remove it", vm.Name))
			}
			continue
		}
		// Of two, the one with the right name is it, and the other a copy that somebody made.
		other, twice := found[shard]
		right := ledgerName(set, shard)
		switch {
		case !twice, vm.Name == right:
			found[shard] = vm
		case other.Name != right:
			return fail(refuse("both %q and %q say that they are %q; remove the one that is a copy, or rename the other back", other.Name, vm.Name, right))
		}
	}
	for shard, vm := range found {
		p.learn(vm.Self, vm.Name)
		p.learnShard(set, shard, vm.Self)
		if len(shards) > 0 && !slices.Contains(shards, shard) {
			continue
		}
		l.Shards[shard] = pool.Shard{ID: vm.Self.Value, Revision: vm.Self.Value + "@" + vm.Config.ChangeVersion, Values: ledgerValues(vm)}
	}
	if l.Now, l.Slack, err = p.now(ctx); err != nil {
		return fail(fmt.Errorf("vCenter's clock: %w", err))
	}
	return l, nil
}

// readShards reads the VMs of shards that were read before, or returns nil if one of them is no
// longer where it was.
func (p *Provider) readShards(ctx context.Context, set string, shards []string) ([]mo.VirtualMachine, error) {
	spec := types.PropertyFilterSpec{
		PropSet:                       []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name", "parent", "config"}}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}
	folder, ok := p.folder(path.Join(set, ledgerFolder))
	if !ok {
		return nil, nil
	}
	p.mu.Lock()
	for _, shard := range shards {
		if ref, ok := p.shards[path.Join(set, shard)]; ok {
			spec.ObjectSet = append(spec.ObjectSet, types.ObjectSpec{Obj: ref})
		}
	}
	p.mu.Unlock()
	if len(spec.ObjectSet) == 0 || len(spec.ObjectSet) < len(shards) {
		return nil, nil
	}
	objects, err := p.s.retrieve(ctx, spec)
	if classify(err) == gone {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var vms []mo.VirtualMachine
	for _, o := range objects {
		vm, err := asVM(o)
		if err != nil {
			return nil, err
		}
		// One that was moved away is not found by others, and so no longer the shard.
		shard, ours := ledgerShard(set, vm)
		if !ours || vm.Name != ledgerName(set, shard) || lacking(o) != "" || vm.Parent == nil || *vm.Parent != folder {
			return nil, nil
		}
		vms = append(vms, vm)
	}
	if len(vms) < len(shards) {
		return nil, nil
	}
	return vms, nil
}

func (p *Provider) learnShard(set, shard string, vm types.ManagedObjectReference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shards[path.Join(set, shard)] = vm
}

// readLedger reads the VMs in the ledger's folder. The configuration is read as one property, so
// that what is in it belongs together.
func (p *Provider) readLedger(ctx context.Context, set string) ([]mo.VirtualMachine, error) {
	for try := 1; ; try++ {
		folder, err := p.ledgerFolder(ctx, set)
		if err != nil || folder == nil {
			return nil, err
		}
		objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
			PropSet: []types.PropertySpec{{Type: "VirtualMachine", PathSet: []string{"name", "config"}}},
			ObjectSet: []types.ObjectSpec{{
				Obj: *folder, Skip: types.NewBool(true),
				SelectSet: []types.BaseSelectionSpec{step("children", "Folder", "childEntity")},
			}},
		})
		if isGone(err, *folder) && try == 1 {
			p.forgetFolders(set)
			continue
		}
		if err != nil {
			return nil, err
		}
		var vms []mo.VirtualMachine
		for _, o := range objects {
			if why := lacking(o); why != "" {
				return nil, refuse("%s", why)
			}
			vm, err := asVM(o)
			if err != nil {
				return nil, err
			}
			vms = append(vms, vm)
		}
		return vms, nil
	}
}

// ledgerFolder returns the ledger's folder, or nil if there is none.
func (p *Provider) ledgerFolder(ctx context.Context, set string) (*types.ManagedObjectReference, error) {
	known := path.Join(set, ledgerFolder)
	if ref, ok := p.folder(known); ok {
		return &ref, nil
	}
	parent, err := p.setFolder(ctx, set)
	if err != nil || parent == nil {
		return nil, err
	}
	ref, err := p.child(ctx, *parent, ledgerFolder)
	if isGone(err, *parent) {
		p.forgetFolders(set)
		return nil, nil
	}
	if err != nil || ref == nil {
		return nil, err
	}
	if err := p.isFolder(*ref, ledgerFolder); err != nil {
		return nil, err
	}
	p.keepFolder(known, *ref)
	return ref, nil
}

// ledgerShard tells of which shard of the set a VM is.
func ledgerShard(set string, vm mo.VirtualMachine) (string, bool) {
	shard, ok := strings.CutPrefix(extra(vm, ledgerKey), set+"/")
	return shard, ok && shard != ""
}

func ledgerValues(vm mo.VirtualMachine) map[string]string {
	all := map[string]string{}
	for _, o := range vm.Config.ExtraConfig {
		v := o.GetOptionValue()
		key, ok := strings.CutPrefix(v.Key, ledgerPrefix)
		if text, _ := v.Value.(string); ok && text != "" {
			all[key] = text
		}
	}
	return all
}

// AwaitLedger implements pool.LedgerWatcher. It costs what every wait does: vCenter tells of changes.
func (p *Provider) AwaitLedger(ctx context.Context, set string, revisions map[string]string) error {
	all, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(chan error, len(revisions))
	var waits sync.WaitGroup
	none := true
	for _, revision := range revisions {
		id, version, ok := strings.Cut(revision, "@")
		if !ok {
			continue
		}
		none = false
		waits.Go(func() {
			ends <- p.watcher.watch(all, vmRef(id), func(s *vmState) bool { return s.version != "" && s.version != version })
		})
	}
	if none {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	first := <-ends
	cancel()
	waits.Wait()
	if errors.Is(first, errVanished) {
		return nil
	}
	return p.errorf(first, "wait for a change of the ledger of set %q", set)
}

// SetLedger implements pool.Provider. A write is one task. Making a shard takes the privileges
// VirtualMachine.Inventory.Create on the set's folder and Resource.AssignVMToPool and
// Datastore.AllocateSpace where Config says that VMs go, writing it
// VirtualMachine.Config.AdvancedConfig.
func (p *Provider) SetLedger(ctx context.Context, set, shard, revision string, values map[string]string) error {
	nonce := rand.Text()
	config := types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{
		&types.OptionValue{Key: ledgerNonceKey, Value: nonce},
	}}
	for k, v := range values {
		config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: ledgerPrefix + k, Value: v})
	}
	op := operation{name: "write", object: fmt.Sprintf("ledger %q", ledgerName(set, shard))}
	if revision == "" {
		return p.makeShard(ctx, op, set, shard, config, nonce)
	}
	id, version, ok := strings.Cut(revision, "@")
	if !ok || version == "" { // without a version vCenter would not compare
		return p.fail(op, refuse("%q is no revision of a shard", revision))
	}
	vm := vmRef(id)
	config.ChangeVersion = version
	// mine reports whether the shard is as this call writes it. One that is neither so nor as it was
	// was changed by somebody else, and this write can no longer be done.
	mine := func(ctx context.Context) (bool, error) {
		read, err := p.readVM(ctx, vm, "config")
		switch {
		case isGone(err, vm):
			return false, changed(err)
		case err != nil:
			return false, err
		case extra(read, ledgerNonceKey) == nonce:
			return true, nil
		case read.Config != nil && read.Config.ChangeVersion != version:
			return false, changed(errOvertaken)
		}
		return false, nil
	}
	op.entity = vm
	op.submit = func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
		res, err := methods.ReconfigVM_Task(ctx, c, &types.ReconfigVM_Task{This: vm, Spec: config})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	}
	op.look = func(ctx context.Context) (bool, types.AnyType, error) {
		done, err := mine(ctx)
		return done, nil, err
	}
	op.accept = func(ctx context.Context, err error, lost bool) (bool, types.AnyType, error) {
		if isGone(err, vm) {
			return false, nil, changed(err)
		}
		if _, busy := fault[types.BaseTaskInProgress](err); busy {
			p.waitFor(ctx, err) // as a rule another's write, which leaves no room for ours
			done, lookErr := mine(ctx)
			return done, nil, lookErr
		}
		if !has[*types.ConcurrentAccess](err) {
			return false, nil, nil
		}
		if lost { // it may be our own write that came before
			if done, lookErr := mine(ctx); lookErr != nil || done {
				return done, nil, lookErr
			}
		}
		return false, nil, changed(err)
	}
	_, err := p.perform(ctx, op)
	return err
}

// makeShard makes the VM of a shard, with its first values. That there is one of a name only makes
// one of several who try the one who did it.
func (p *Provider) makeShard(ctx context.Context, op operation, set, shard string, config types.VirtualMachineConfigSpec, nonce string) error {
	op.name = "make"
	none := types.ManagedObjectReference{}
	name := ledgerName(set, shard)
	config.Name = name
	config.GuestId = string(types.VirtualMachineGuestOsIdentifierOtherGuest64)
	config.NumCPUs, config.MemoryMB = 1, 32
	config.Annotation = fmt.Sprintf("poolready: part of the ledger of set %s: who uses which pool. It has no disk and is never powered on. "+
		"Do not remove, rename, move or copy it while the set is in use.", set)
	config.ExtraConfig = append(config.ExtraConfig, &types.OptionValue{Key: ledgerKey, Value: set + "/" + shard})

	for try := 1; ; try++ {
		var at location
		var host *types.ManagedObjectReference
		if err := p.lookUp(ctx, func(t *tree) (err error) {
			if at, err = t.locate(p.cfg, p.ledgerPlace(set)); err == nil {
				host, err = p.host(t, at)
			}
			return err
		}); err != nil {
			return p.fail(op, err)
		}
		config.Files = &types.VirtualMachineFileInfo{VmPathName: "[" + at.datastore.plain() + "]"}
		folder, err := p.makeFolder(ctx, set, ledgerFolder)
		if err != nil {
			return p.fail(op, err)
		}
		mine := func(ctx context.Context) (bool, error) {
			ref, err := p.child(ctx, folder, name)
			if err != nil || ref == nil || ref.Type != "VirtualMachine" {
				return false, err
			}
			read, err := p.readVM(ctx, *ref, "config")
			if err == nil && read.Config != nil && extra(read, ledgerNonceKey) != nonce {
				err = changed(errOvertaken)
			}
			return err == nil && read.Config != nil, err
		}
		op.submit = func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.CreateVM_Task(ctx, c, &types.CreateVM_Task{This: folder, Config: config, Pool: at.pool.ref, Host: host})
			if err != nil {
				return none, err
			}
			return res.Returnval, nil
		}
		op.look = func(ctx context.Context) (bool, types.AnyType, error) {
			done, err := mine(ctx)
			return done, nil, err
		}
		op.accept = func(ctx context.Context, err error, lost bool) (bool, types.AnyType, error) {
			if !has[*types.DuplicateName](err) {
				return false, nil, nil
			}
			if lost {
				if done, lookErr := mine(ctx); lookErr != nil || done {
					return done, nil, lookErr
				}
			}
			return false, nil, changed(err)
		}
		_, err = p.perform(ctx, op)
		if (has[*types.ManagedObjectNotFound](err) || hostLeft(err)) && try == 1 {
			p.forgetPlaces(set)
			continue
		}
		return err
	}
}

// ledgerPlace says where the set's VMs go, as far as Preflight was told.
func (p *Provider) ledgerPlace(set string) pool.VM {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ledgers[set]
}

var errOvertaken = errors.New("it has another change version")

// changed makes err one for which errors.Is(err, pool.ErrChanged) holds.
func changed(err error) error { return &changedError{err} }

type changedError struct{ err error }

func (e *changedError) Error() string   { return pool.ErrChanged.Error() }
func (e *changedError) Unwrap() []error { return []error{pool.ErrChanged, e.err} }

var _ pool.LedgerStore = (*Provider)(nil)
