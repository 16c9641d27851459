package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// place is something that has a name in the inventory and is not a VM.
type place struct {
	ref    types.ManagedObjectReference
	name   string // as in inventory paths
	parent types.ManagedObjectReference
	props  map[string]any
}

// places is the inventory of one datacenter without its VMs, read in two calls when first
// needed and again when a name is not in it.
type places struct {
	reading gate          // one reading at a time
	turn    atomic.Uint32 // spreads VMs over the hosts of a cluster that does not do it

	mu      sync.Mutex
	tree    *tree
	folders map[string]types.ManagedObjectReference // "set/folder" paths known to exist
	making  map[string]gate                         // one maker of each folder at a time
}

// tree is one reading. It does not change.
type tree struct {
	read   time.Time
	dc     place
	dcPath string // "/DC0"
	all    map[types.ManagedObjectReference]place
}

func newPlaces() *places {
	return &places{
		reading: make(gate, 1), making: map[string]gate{},
		folders: map[string]types.ManagedObjectReference{},
	}
}

// maker is entered by the one caller that makes the folder of that path.
func (p *places) maker(path string) gate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.making[path] == nil {
		p.making[path] = make(gate, 1)
	}
	return p.making[path]
}

// known returns the name of a place already read, or "".
func (p *places) known(ref types.ManagedObjectReference) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tree == nil {
		return ""
	}
	if ref == p.tree.dc.ref {
		return p.tree.dc.name
	}
	return p.tree.all[ref].name
}

// kind is a sort of place that users name.
type kind struct {
	word    string   // for errors
	types   []string // of managed objects
	folder  string   // the property of the datacenter that leads there
	segment string   // and its name in inventory paths
	setting string   // how to set a default
}

var (
	datastoreKind = kind{"datastore", []string{"Datastore"}, "datastoreFolder", "datastore", "GOVC_DATASTORE"}
	networkKind   = kind{"network", []string{"Network", "DistributedVirtualPortgroup", "OpaqueNetwork"}, "networkFolder", "network", "GOVC_NETWORK"}
	poolKind      = kind{"resource pool", []string{"ResourcePool", "VirtualApp"}, "hostFolder", "host", "GOVC_RESOURCE_POOL"}
	folderKind    = kind{"folder", []string{"Folder"}, "vmFolder", "vm", "GOVC_FOLDER"}
)

// inventory returns the datacenter's places, read after since.
func (p *Provider) inventory(ctx context.Context, since time.Time) (*tree, error) {
	if err := p.places.reading.enter(ctx); err != nil {
		return nil, err
	}
	defer p.places.reading.leave()
	p.places.mu.Lock()
	t := p.places.tree
	p.places.mu.Unlock()
	if t != nil && t.read.After(since) {
		return t, nil
	}
	t, err := p.readTree(ctx)
	if err != nil {
		return nil, err
	}
	p.places.mu.Lock()
	p.places.tree = t
	p.places.mu.Unlock()
	return t, nil
}

func (p *Provider) readTree(ctx context.Context) (*tree, error) {
	t := &tree{read: time.Now(), all: map[types.ManagedObjectReference]place{}}
	dcs, err := p.datacenters(ctx)
	if err != nil {
		return nil, err
	}
	if t.dc, t.dcPath, err = chooseDatacenter(dcs, p.cfg.Datacenter); err != nil {
		return nil, err
	}

	named := []string{"name", "parent"}
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "Datacenter", PathSet: []string{"vmFolder", "hostFolder", "datastoreFolder", "networkFolder"}},
			{Type: "Folder", PathSet: named},
			{Type: "ComputeResource", PathSet: append([]string{"resourcePool", "host"}, named...)},
			{Type: "ClusterComputeResource", PathSet: append([]string{"resourcePool", "host", "configurationEx"}, named...)},
			{Type: "HostSystem", PathSet: append([]string{
				"runtime.connectionState", "runtime.inMaintenanceMode", "datastore", "network",
			}, named...)},
			{Type: "ResourcePool", PathSet: append([]string{"owner"}, named...)},
			{Type: "Datastore", PathSet: append([]string{"summary.accessible", "summary.maintenanceMode"}, named...)},
			{Type: "Network", PathSet: named},
			{Type: "OpaqueNetwork", PathSet: append([]string{"summary"}, named...)},
			{Type: "DistributedVirtualPortgroup", PathSet: append([]string{"key", "config.distributedVirtualSwitch", "config.uplink"}, named...)},
			{Type: "DistributedVirtualSwitch", PathSet: append([]string{"uuid"}, named...)},
		},
		ObjectSet: []types.ObjectSpec{{
			Obj: t.dc.ref,
			SelectSet: []types.BaseSelectionSpec{
				step("", "Datacenter", "vmFolder", "children"),
				step("", "Datacenter", "hostFolder", "children"),
				step("", "Datacenter", "datastoreFolder", "children"),
				step("", "Datacenter", "networkFolder", "children"),
				step("children", "Folder", "childEntity", "children", "root", "hosts", "pools"),
				step("root", "ComputeResource", "resourcePool", "pools"),
				step("hosts", "ComputeResource", "host"),
				step("pools", "ResourcePool", "resourcePool", "pools"),
			},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("read the inventory of datacenter %q: %w", t.dc.name, err)
	}
	for _, o := range objects {
		pl := newPlace(o)
		if o.Obj == t.dc.ref {
			t.dc.props = pl.props
			continue
		}
		t.all[o.Obj] = pl
	}
	return t, nil
}

// step is a step of a walk through the inventory, which goes on with the steps named.
func step(name, from, path string, on ...string) *types.TraversalSpec {
	s := &types.TraversalSpec{SelectionSpec: types.SelectionSpec{Name: name}, Type: from, Path: path}
	for _, n := range on {
		s.SelectSet = append(s.SelectSet, &types.SelectionSpec{Name: n})
	}
	return s
}

func newPlace(o types.ObjectContent) place {
	pl := place{ref: o.Obj, props: map[string]any{}}
	for _, prop := range o.PropSet {
		pl.props[prop.Name] = prop.Val
	}
	pl.name, _ = pl.props["name"].(string)
	pl.parent, _ = pl.props["parent"].(types.ManagedObjectReference)
	return pl
}

// datacenters reads all datacenters and the folders that they are in.
func (p *Provider) datacenters(ctx context.Context) (map[types.ManagedObjectReference]place, error) {
	var root types.ManagedObjectReference
	err := p.s.read(ctx, func(c *conn) error {
		root = c.ServiceContent.RootFolder
		return nil
	})
	if err != nil {
		return nil, err
	}
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "Datacenter", PathSet: []string{"name", "parent"}},
			{Type: "Folder", PathSet: []string{"name", "parent"}},
		},
		ObjectSet: []types.ObjectSpec{{
			Obj: root, Skip: types.NewBool(true),
			SelectSet: []types.BaseSelectionSpec{step("children", "Folder", "childEntity", "children")},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("read the datacenters: %w", err)
	}
	all := map[types.ManagedObjectReference]place{}
	for _, o := range objects {
		all[o.Obj] = newPlace(o)
	}
	return all, nil
}

// chooseDatacenter finds the datacenter that want names, by name or path; "" is the only one.
func chooseDatacenter(all map[types.ManagedObjectReference]place, want string) (place, string, error) {
	var found, paths []string
	var dc place
	for ref, pl := range all {
		if ref.Type != "Datacenter" {
			continue
		}
		path := pathIn(all, ref)
		paths = append(paths, path)
		if want == "" || pl.called(want) || path == "/"+strings.Trim(want, "/") {
			found = append(found, path)
			dc = pl
		}
	}
	switch {
	case len(found) == 1:
		return dc, found[0], nil
	case len(found) > 1 && want == "":
		return place{}, "", refuse("there is more than one datacenter, %s; set GOVC_DATACENTER", list(found))
	case len(found) > 1:
		return place{}, "", refuse("datacenter %q is ambiguous: it may be %s; give the path", want, list(found))
	case len(paths) == 0:
		return place{}, "", refuse("the user can see no datacenter; give them at least the read-only role on it")
	}
	return place{}, "", refuse("there is no datacenter %q; there is %s", want, list(paths))
}

// pathIn is the inventory path of ref, as far as its parents are in all.
func pathIn(all map[types.ManagedObjectReference]place, ref types.ManagedObjectReference) string {
	path := ""
	for {
		pl, ok := all[ref]
		if !ok {
			return path
		}
		path = "/" + pl.name + path
		ref = pl.parent
	}
}

// called reports whether want is the place's name, in the form that inventory paths have or in plain.
func (p place) called(want string) bool { return p.name == want || p.plain() == want }

// plain is the name as people wrote it: vCenter escapes what has a meaning in inventory paths.
func (p place) plain() string { return unescape.Replace(p.name) }

// unescape and escaped turn names that vCenter keeps in escaped form into what people wrote, and
// back.
var unescape = strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`, "%25", "%")

func escaped(name string) string {
	return strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c").Replace(name)
}

// path is the inventory path of ref.
func (t *tree) path(ref types.ManagedObjectReference) string {
	if ref == t.dc.ref {
		return t.dcPath
	}
	return t.dcPath + pathIn(t.all, ref)
}

// list quotes a few of the names, sorted.
func list(names []string) string {
	const most = 12
	slices.Sort(names)
	names = slices.Compact(names)
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = fmt.Sprintf("%q", n)
	}
	if len(quoted) == 0 {
		return "none"
	}
	return strings.Join(quoted, ", ") + more
}

// find returns the place that want names: a name, or an inventory path, absolute or below the
// datacenter's folder of that kind. "" is the only one there is.
func (t *tree) find(k kind, want string) (place, error) {
	var candidates, found []place
	root, _ := t.dc.props[k.folder].(types.ManagedObjectReference)
	for _, pl := range t.all {
		if slices.Contains(k.types, pl.ref.Type) && t.below(pl, root) && pl.props["config.uplink"] != true {
			candidates = append(candidates, pl)
		}
	}
	if want == "" {
		if k.word == folderKind.word {
			return t.all[root], nil
		}
		for _, pl := range candidates {
			// Of resource pools, those at the root are the default.
			if k.word != poolKind.word || !slices.Contains(k.types, pl.parent.Type) {
				found = append(found, pl)
			}
		}
		if len(found) == 1 {
			return found[0], nil
		}
		return place{}, refuse("no %s is named, and there is not just one to take: there is %s; set %s or name one", k.word, list(t.paths(found)), k.setting)
	}

	rel := strings.Trim(want, "/")
	for _, pl := range candidates {
		path := t.path(pl.ref)
		if pl.called(want) || path == "/"+rel || path == t.dcPath+"/"+rel || path == t.dcPath+"/"+k.segment+"/"+rel {
			found = append(found, pl)
		}
	}
	if len(found) == 0 && k.word == poolKind.word {
		found = t.rootPools(want)
	}
	// A whole path says it all, even if it is somebody else's name.
	if strings.HasPrefix(want, "/") {
		if whole := slices.DeleteFunc(slices.Clone(found), func(pl place) bool { return t.path(pl.ref) != "/"+rel }); len(whole) > 0 {
			found = whole
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		paths := slices.Compact(slices.Sorted(slices.Values(t.paths(found))))
		if len(paths) == 1 { // as of port groups for one segment on several switches
			return place{}, refuse("%s %q is ambiguous: there are %d of that path; rename all but one, or use another", k.word, want, len(found))
		}
		return place{}, refuse("%s %q is ambiguous: it may be %s; give the path", k.word, want, list(paths))
	}
	return place{}, refuse("there is no %s %q in datacenter %q; there is %s", k.word, want, t.dc.name, list(t.paths(candidates)))
}

// below reports whether the place is somewhere below ref: folders are of one type, whatever they
// hold.
func (t *tree) below(pl place, ref types.ManagedObjectReference) bool {
	for ok := true; ok; pl, ok = t.all[pl.parent] {
		if pl.parent == ref {
			return true
		}
	}
	return false
}

// rootPools returns the root resource pools of the clusters or hosts that want names.
func (t *tree) rootPools(want string) (found []place) {
	rel := strings.Trim(want, "/")
	for _, pl := range t.all {
		root, ok := pl.props["resourcePool"].(types.ManagedObjectReference)
		path := t.path(pl.ref)
		if ok && (pl.called(want) || path == "/"+rel || path == t.dcPath+"/"+poolKind.segment+"/"+rel) {
			if rp, ok := t.all[root]; ok {
				found = append(found, rp)
			}
		}
	}
	return found
}

func (t *tree) paths(all []place) []string {
	paths := make([]string, len(all))
	for i, pl := range all {
		paths[i] = t.path(pl.ref)
	}
	return paths
}

// lookUp finds all of what is wanted, reading the inventory again if something is missing from an
// old reading. It reports everything that does not exist or is ambiguous.
func (p *Provider) lookUp(ctx context.Context, want func(*tree) error) error {
	start := time.Now()
	t, err := p.inventory(ctx, time.Time{})
	if err != nil {
		return err
	}
	err = want(t)
	if err == nil || t.read.After(start) {
		return err
	}
	if t, err = p.inventory(ctx, start); err != nil {
		return err
	}
	return want(t)
}

// child returns the child of that name, or nil.
func (p *Provider) child(ctx context.Context, parent types.ManagedObjectReference, name string) (*types.ManagedObjectReference, error) {
	var ref *types.ManagedObjectReference
	err := p.s.read(ctx, func(c *conn) error {
		res, err := methods.FindChild(ctx, c, &types.FindChild{This: *c.ServiceContent.SearchIndex, Entity: parent, Name: name})
		if err == nil {
			ref = res.Returnval
		}
		return err
	})
	return ref, err
}
