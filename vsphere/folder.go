package vsphere

import (
	"context"
	"path"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// setFolder returns the set's folder, or nil if there is none.
func (p *Provider) setFolder(ctx context.Context, set string) (*types.ManagedObjectReference, error) {
	if ref, ok := p.folder(set); ok {
		return &ref, nil
	}
	base, err := p.baseFolder(ctx)
	if err != nil {
		return nil, err
	}
	ref, err := p.child(ctx, base, set)
	if err != nil || ref == nil {
		return nil, err
	}
	if ref.Type != "Folder" {
		return nil, refuse("the name %q of the set's folder is taken by %s; rename it or the set", set, p.nameOf(*ref))
	}
	p.keepFolder(set, *ref)
	return ref, nil
}

// baseFolder is the folder in which sets have theirs.
func (p *Provider) baseFolder(ctx context.Context) (types.ManagedObjectReference, error) {
	var base types.ManagedObjectReference
	err := p.lookUp(ctx, func(t *tree) error {
		pl, err := t.find(folderKind, p.cfg.Folder)
		base = pl.ref
		return err
	})
	return base, err
}

// makeFolder returns the folder below the set's, both made if they do not exist.
func (p *Provider) makeFolder(ctx context.Context, set, below string) (types.ManagedObjectReference, error) {
	if ref, ok := p.folder(path.Join(set, below)); ok {
		return ref, nil
	}
	at, err := p.baseFolder(ctx)
	if err != nil {
		return at, err
	}
	known := ""
	for _, name := range append([]string{set}, strings.FieldsFunc(below, func(r rune) bool { return r == '/' })...) {
		known = path.Join(known, name)
		if at, err = p.folderIn(ctx, at, known); err != nil {
			return at, err
		}
	}
	return at, nil
}

// folderIn returns the folder of that path in its parent, made if need be, by one at a time: the clones of
// a batch want the same folders.
func (p *Provider) folderIn(ctx context.Context, parent types.ManagedObjectReference, known string) (types.ManagedObjectReference, error) {
	making := p.places.maker(known)
	if err := making.enter(ctx); err != nil {
		return parent, err
	}
	defer making.leave()
	if ref, ok := p.folder(known); ok {
		return ref, nil
	}
	ref, err := p.ensureChild(ctx, parent, path.Base(known))
	if err == nil {
		p.keepFolder(known, ref)
	}
	return ref, err
}

// ensureChild returns the child folder of that name, made if need be. It makes it without
// looking first: vCenter answers with the one that is there, and so does a call that is
// repeated because its answer was lost.
func (p *Provider) ensureChild(ctx context.Context, parent types.ManagedObjectReference, name string) (types.ManagedObjectReference, error) {
	var ref types.ManagedObjectReference
	err := p.s.read(ctx, func(c *conn) error {
		res, err := methods.CreateFolder(ctx, c, &types.CreateFolder{This: parent, Name: name})
		if err == nil {
			ref = res.Returnval
		}
		return err
	})
	if dup, ok := fault[*types.DuplicateName](err); ok && dup.Object != parent {
		return dup.Object, p.isFolder(dup.Object, name)
	} else if ok {
		return p.takenBy(ctx, parent, name)
	}
	if has[*types.NoPermission](err) { // which is no matter if somebody else has made it
		if found, lookErr := p.child(ctx, parent, name); lookErr == nil && found != nil {
			return *found, p.isFolder(*found, name)
		}
	}
	if err != nil {
		return ref, refuse("make folder %q in %s: %w", name, p.nameOf(parent), explain(err, p.nameOf))
	}
	return ref, nil
}

// takenBy returns the folder that has a name which vCenter says is taken without saying by what:
// while somebody else is still making it, there is nothing yet to name.
func (p *Provider) takenBy(ctx context.Context, parent types.ManagedObjectReference, name string) (types.ManagedObjectReference, error) {
	b := p.s.backoff()
	for {
		ref, err := p.child(ctx, parent, name)
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		if ref != nil {
			return *ref, p.isFolder(*ref, name)
		}
		if !b.wait(ctx, errBeingMade) {
			return types.ManagedObjectReference{}, refuse("make folder %q in %s: vCenter says that the name is taken, but nothing there has it", name, p.nameOf(parent))
		}
	}
}

func (p *Provider) isFolder(ref types.ManagedObjectReference, name string) error {
	if ref.Type == "Folder" {
		return nil
	}
	return refuse("the folder name %q is taken by %s; rename one of them", name, p.nameOf(ref))
}

func (p *Provider) folder(path string) (types.ManagedObjectReference, bool) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	ref, ok := p.places.folders[path]
	return ref, ok
}

func (p *Provider) keepFolder(path string, ref types.ManagedObjectReference) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	p.places.folders[path] = ref
}

// forgetPlaces forgets where the set's VMs go, since something of it is
// gone.
func (p *Provider) forgetPlaces(set string) {
	p.forgetFolders(set)
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	p.places.tree = nil
}

// forgetFolders forgets the set's folders, since one of them is gone.
func (p *Provider) forgetFolders(set string) {
	p.places.mu.Lock()
	defer p.places.mu.Unlock()
	for known := range p.places.folders {
		if known == set || strings.HasPrefix(known, set+"/") {
			delete(p.places.folders, known)
		}
	}
}
