package vspheretest

import (
	"maps"
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// pageSize is how many objects a RetrievePropertiesEx without MaxObjects gets at once. A real
// server's policy may page as well; stock vcsim never does.
const pageSize = 100

// stock reads those properties of given objects that fields does not, with locks; it does not
// traverse.
var stock simulator.PropertyCollector

// retrieve returns the properties that specs select.
func retrieve(ctx *simulator.Context, specs []types.PropertyFilterSpec) ([]types.ObjectContent, types.BaseMethodFault) {
	var out []types.ObjectContent
	for _, spec := range specs {
		refs, fault := selectObjects(ctx, spec)
		if fault != nil {
			return nil, fault
		}
		req := &types.RetrievePropertiesEx{SpecSet: []types.PropertyFilterSpec{{PropSet: spec.PropSet}}}
		for _, ref := range refs {
			switch c, ok := fields(ctx, ref, spec.PropSet); {
			case !ok:
				req.SpecSet[0].ObjectSet = append(req.SpecSet[0].ObjectSet, types.ObjectSpec{Obj: ref})
			case c != nil:
				out = append(out, *c)
			}
		}
		if len(req.SpecSet[0].ObjectSet) == 0 {
			continue
		}
		req.SpecSet[0].ReportMissingObjectsInResults = types.NewBool(true) // some may go meanwhile
		body := stock.RetrievePropertiesEx(ctx, req).(*methods.RetrievePropertiesExBody)
		if f := body.Fault(); f != nil {
			fault, _ := f.VimFault().(types.BaseMethodFault)
			return nil, fault
		}
		out = append(out, body.Res.Returnval.Objects...)
	}
	return out, nil
}

// get returns the object that ref names in the session of ctx, or nil.
func get(ctx *simulator.Context, ref types.ManagedObjectReference) mo.Reference {
	if ctx.Session == nil {
		return ctx.Map.Get(ref)
	}
	return ctx.Session.Get(ref)
}

// selectObjects returns the objects that spec selects, each once. Every object is locked while
// it is looked at, and only then.
func selectObjects(ctx *simulator.Context, spec types.PropertyFilterSpec) ([]types.ManagedObjectReference, types.BaseMethodFault) {
	w := &walker{ctx: ctx, specs: make(map[string]*types.TraversalSpec), seen: make(map[types.ManagedObjectReference]bool)}
	for _, o := range spec.ObjectSet {
		if get(ctx, o.Obj) == nil {
			if isTrue(spec.ReportMissingObjectsInResults) {
				continue
			}
			return nil, &types.ManagedObjectNotFound{Obj: o.Obj}
		}
		w.collect(o.SelectSet)
		if !isTrue(o.Skip) {
			w.add(o.Obj)
		}
		if fault := w.walk(o.Obj, o.SelectSet, 0); fault != nil {
			return nil, fault
		}
	}
	return w.refs, nil
}

// A walker follows traversal specs.
type walker struct {
	ctx   *simulator.Context
	specs map[string]*types.TraversalSpec // by name
	seen  map[types.ManagedObjectReference]bool
	refs  []types.ManagedObjectReference
}

func (w *walker) add(ref types.ManagedObjectReference) {
	if !w.seen[ref] {
		w.seen[ref] = true
		w.refs = append(w.refs, ref)
	}
}

// collect notes the named specs, which others refer to.
func (w *walker) collect(set []types.BaseSelectionSpec) {
	for _, ss := range set {
		if ts, ok := ss.(*types.TraversalSpec); ok {
			if ts.Name != "" {
				w.specs[ts.Name] = ts
			}
			w.collect(ts.SelectSet)
		}
	}
}

// maxDepth bounds a traversal that goes in circles.
const maxDepth = 64

func (w *walker) walk(from types.ManagedObjectReference, set []types.BaseSelectionSpec, depth int) types.BaseMethodFault {
	if depth > maxDepth {
		return nil
	}
	for _, ss := range set {
		ts, ok := ss.(*types.TraversalSpec)
		if !ok {
			if ts = w.specs[ss.GetSelectionSpec().Name]; ts == nil {
				return &types.InvalidArgument{InvalidProperty: "undefined TraversalSpec name"}
			}
		}
		if !derives(from.Type, ts.Type) {
			continue
		}
		for _, ref := range w.follow(from, ts.Path) {
			if !isTrue(ts.Skip) {
				w.add(ref)
			}
			if fault := w.walk(ref, ts.SelectSet, depth+1); fault != nil {
				return fault
			}
		}
	}
	return nil
}

// follow returns what the property path of from refers to; nothing if it has no such property.
func (w *walker) follow(from types.ManagedObjectReference, path string) []types.ManagedObjectReference {
	if v, ok := get(w.ctx, from).(*containerView); ok && path == "view" {
		return v.members(w.ctx)
	}
	if path == "vm" && derives(from.Type, "Network") {
		return serverOf(w.ctx).onNetwork(w.ctx, from)
	}
	body := stock.RetrievePropertiesEx(w.ctx, &types.RetrievePropertiesEx{SpecSet: []types.PropertyFilterSpec{{
		PropSet:                       []types.PropertySpec{{Type: from.Type, PathSet: []string{path}}},
		ObjectSet:                     []types.ObjectSpec{{Obj: from}},
		ReportMissingObjectsInResults: types.NewBool(true),
	}}}).(*methods.RetrievePropertiesExBody)
	if body.Fault() != nil {
		return nil
	}
	for _, o := range body.Res.Returnval.Objects {
		for _, p := range o.PropSet {
			switch v := p.Val.(type) {
			case types.ManagedObjectReference:
				return []types.ManagedObjectReference{v}
			case *types.ManagedObjectReference:
				return []types.ManagedObjectReference{*v}
			case types.ArrayOfManagedObjectReference:
				return v.ManagedObjectReference
			case *types.ArrayOfManagedObjectReference:
				return v.ManagedObjectReference
			}
		}
	}
	return nil
}

// unknown says whether a reading without a session is refused as a whole. A program meets both
// forms of NotAuthenticated, the fault of the call and the fault of each property, so the Server
// takes turns. What a client reads before its login is let through, as vcsim does.
func (c *collector) unknown(ctx *simulator.Context, specs []types.PropertyFilterSpec) types.BaseMethodFault {
	if ctx.Session != nil {
		return nil
	}
	s := serverOf(ctx)
	for _, spec := range specs {
		for _, o := range spec.ObjectSet {
			switch o.Obj.Type {
			case "ServiceInstance", "SessionManager":
				continue
			}
			s.mu.Lock()
			s.nstray++
			whole := s.nstray%2 == 1
			s.mu.Unlock()
			if whole || ctx.Map.Get(o.Obj) == nil {
				return notAuthenticated(o.Obj)
			}
			return nil
		}
	}
	return nil
}

func (c *collector) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	if f := c.unknown(ctx, req.SpecSet); f != nil {
		return &methods.RetrievePropertiesExBody{Fault_: soapFault(f)}
	}
	objs, fault := retrieve(ctx, req.SpecSet)
	if fault != nil {
		return &methods.RetrievePropertiesExBody{Fault_: soapFault(fault)}
	}
	most := int(req.Options.MaxObjects)
	if most <= 0 || most > pageSize {
		most = pageSize
	}
	res, token := c.page(objs, most)
	return &methods.RetrievePropertiesExBody{Res: &types.RetrievePropertiesExResponse{
		Returnval: &types.RetrieveResult{Token: token, Objects: res},
	}}
}

func (c *collector) ContinueRetrievePropertiesEx(_ *simulator.Context, req *types.ContinueRetrievePropertiesEx) soap.HasFault {
	c.mu.Lock()
	p, ok := c.pages[req.Token]
	delete(c.pages, req.Token)
	c.mu.Unlock()
	if !ok {
		return &methods.ContinueRetrievePropertiesExBody{Fault_: soapFault(&types.InvalidArgument{InvalidProperty: "token"})}
	}
	res, token := c.page(p.rest, p.most)
	return &methods.ContinueRetrievePropertiesExBody{Res: &types.ContinueRetrievePropertiesExResponse{
		Returnval: types.RetrieveResult{Token: token, Objects: res},
	}}
}

// RetrieveProperties is the method without pages, which is deprecated.
func (c *collector) RetrieveProperties(ctx *simulator.Context, req *types.RetrieveProperties) soap.HasFault {
	if f := c.unknown(ctx, req.SpecSet); f != nil {
		return &methods.RetrievePropertiesBody{Fault_: soapFault(f)}
	}
	objs, fault := retrieve(ctx, req.SpecSet)
	if fault != nil {
		return &methods.RetrievePropertiesBody{Fault_: soapFault(fault)}
	}
	return &methods.RetrievePropertiesBody{Res: &types.RetrievePropertiesResponse{Returnval: objs}}
}

// A page is what remains of a result, to be fetched with a token.
type page struct {
	rest []types.ObjectContent
	most int
}

func (c *collector) page(objs []types.ObjectContent, most int) (now []types.ObjectContent, token string) {
	if len(objs) <= most {
		return objs, ""
	}
	token = newUUID()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pages == nil {
		c.pages = make(map[string]page)
	}
	c.pages[token] = page{rest: objs[most:], most: most}
	return objs[:most], token
}

func isTrue(b *bool) bool { return b != nil && *b }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
