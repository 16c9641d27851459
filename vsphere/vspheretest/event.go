package vspheretest

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"text/template"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A record is an event in vCenter's history. It is not changed after it is there.
type record struct {
	event types.BaseEvent
	about []types.ManagedObjectReference // its arguments
	under []types.ManagedObjectReference // what they lay in when it happened
}

// post adds events to vCenter's history, in order. Those of one task have one chain.
func (s *Server) post(ctx *simulator.Context, events ...types.BaseEvent) {
	for _, e := range events {
		r := record{event: e, about: arguments(e)}
		for _, ref := range r.about {
			r.under = append(r.under, ancestors(ctx, ref)...)
		}
		ev := e.GetEvent()
		ev.UserName = ctx.Session.UserName
		text := s.format(ctx, e)

		s.histMu.Lock()
		ev.Key = int32(len(s.events) + 1)
		ev.CreatedTime = time.Now()
		ev.ChainId = ev.Key
		if chain, ok := ctx.Value(chainKey{}).(int32); ok {
			ev.ChainId = chain
		}
		ev.FullFormattedMessage = text
		s.events = append(s.events, r)
		s.histMu.Unlock()
	}
	s.hub.changed(anything)
}

// chainKey is the context key of the chain that an operation's events belong to.
type chainKey struct{}

// postTask adds the event that tells of a new task and makes it the head of the chain of what
// ctx posts from now on.
func (s *Server) postTask(ctx *simulator.Context, info types.TaskInfo) (chain int32) {
	e := &types.TaskEvent{Event: s.eventFor(ctx, *info.Entity), Info: info}
	s.post(ctx, e)
	ctx.Context = context.WithValue(ctx.Context, chainKey{}, e.Key)
	return e.Key
}

// arguments lists the objects that an event tells of.
func arguments(event types.BaseEvent) (refs []types.ManagedObjectReference) {
	if x, ok := event.(*types.EventEx); ok && x.ObjectId != "" {
		refs = append(refs, types.ManagedObjectReference{Type: x.ObjectType, Value: x.ObjectId})
	}
	e := event.GetEvent()
	if a := e.Vm; a != nil {
		refs = append(refs, a.Vm)
	}
	if a := e.Host; a != nil {
		refs = append(refs, a.Host)
	}
	if a := e.ComputeResource; a != nil {
		refs = append(refs, a.ComputeResource)
	}
	if a := e.Ds; a != nil {
		refs = append(refs, a.Datastore)
	}
	if a := e.Net; a != nil {
		refs = append(refs, a.Network)
	}
	if a := e.Dvs; a != nil {
		refs = append(refs, a.Dvs)
	}
	if a := e.Datacenter; a != nil {
		refs = append(refs, a.Datacenter)
	}
	return refs
}

// ancestors lists what ref lies in, from the inside out.
func ancestors(ctx *simulator.Context, ref types.ManagedObjectReference) (refs []types.ManagedObjectReference) {
	for {
		e, ok := ctx.Map.Get(ref).(mo.Entity)
		if !ok {
			return refs
		}
		var parent *types.ManagedObjectReference
		ctx.WithLock(ref, func() { parent = e.Entity().Parent })
		if parent == nil {
			return refs
		}
		ref = *parent
		refs = append(refs, ref)
	}
}

// eventFormats are those of events that vcsim has no text for.
var eventFormats = map[string]string{
	"VmMacConflictEvent": "The MAC address ({{.Mac}}) of {{.Vm.Name}} on {{.Host.Name}} in {{.Datacenter.Name}} " +
		"conflicts with MAC assigned to {{.ConflictedVm.Name}}",
	"VmMessageEvent":      "Message on {{.Vm.Name}} on {{.Host.Name}} in {{.Datacenter.Name}}: {{.Message}}",
	"VmDisconnectedEvent": "{{.Vm.Name}} on host {{.Host.Name}} in {{.Datacenter.Name}} is disconnected",
}

// format makes the text that people read, from vCenter's own templates.
func (s *Server) format(ctx *simulator.Context, e types.BaseEvent) string {
	switch x := e.(type) {
	case *types.EventEx:
		if x.Message != "" {
			return x.Message
		}
	case *types.TaskEvent:
		return "Task: " + taskLabel(ctx, &x.Info)
	}
	id := reflect.TypeOf(e).Elem().Name()
	s.histMu.Lock()
	t, ok := s.formats[id]
	s.histMu.Unlock()
	if !ok {
		em := ctx.Map.EventManager()
		for _, info := range em.Description.EventInfo {
			if info.Key == id {
				t, _ = template.New(id).Parse(info.FullFormat)
			}
		}
		if text := eventFormats[id]; t == nil && text != "" {
			t = template.Must(template.New(id).Parse(text))
		}
		s.histMu.Lock()
		s.formats[id] = t
		s.histMu.Unlock()
	}
	if t == nil {
		return id
	}
	var b bytes.Buffer
	if err := t.Execute(&b, e); err != nil {
		return id
	}
	return b.String()
}

// taskLabel is what people call a task.
func taskLabel(ctx *simulator.Context, info *types.TaskInfo) string {
	if tm := contentOf(ctx.Map).TaskManager; tm != nil {
		if m, ok := ctx.Map.Get(*tm).(*simulator.TaskManager); ok {
			for _, d := range m.Description.MethodInfo {
				if d := d.GetElementDescription(); d.Key == info.DescriptionId {
					return d.Label
				}
			}
		}
	}
	return info.Name
}

// matches reports whether a filter lets the record through.
func (r record) matches(f *types.EventFilterSpec, root types.ManagedObjectReference) bool {
	e := r.event.GetEvent()
	if f.EventChainId != 0 && e.ChainId != f.EventChainId {
		return false
	}
	if u := f.UserName; u != nil && !slices.Contains(u.UserList, e.UserName) && !(u.SystemUser && e.UserName == "") {
		return false
	}
	if t := f.Time; t != nil && (t.BeginTime != nil && e.CreatedTime.Before(*t.BeginTime) || t.EndTime != nil && e.CreatedTime.After(*t.EndTime)) {
		return false
	}
	if len(f.EventTypeId) > 0 && !isOneOf(r.event, f.EventTypeId) {
		return false
	}
	if en := f.Entity; en != nil && (en.Entity != root || en.Recursion == types.EventFilterSpecRecursionOptionSelf) {
		self, below := slices.Contains(r.about, en.Entity), slices.Contains(r.under, en.Entity)
		switch en.Recursion {
		case types.EventFilterSpecRecursionOptionSelf:
			return self
		case types.EventFilterSpecRecursionOptionChildren:
			return below
		default:
			return self || below
		}
	}
	return true
}

// isOneOf reports whether e is of one of the types, or of one that extends it.
func isOneOf(e types.BaseEvent, names []string) bool {
	if x, ok := e.(*types.EventEx); ok && slices.Contains(names, x.EventTypeId) {
		return true
	}
	t := reflect.TypeOf(e).Elem()
	for {
		if slices.Contains(names, t.Name()) || slices.Contains(names, "vim.event."+t.Name()) {
			return true
		}
		if t.NumField() == 0 || !t.Field(0).Anonymous {
			return false
		}
		t = t.Field(0).Type
	}
}

// eventFor returns an event with the arguments that tell of ref.
func (s *Server) eventFor(ctx *simulator.Context, ref types.ManagedObjectReference) types.Event {
	var e types.Event
	if dc := datacenterOf(ctx, ref); dc != nil {
		e.Datacenter = &types.DatacenterEventArgument{
			EntityEventArgument: types.EntityEventArgument{Name: s.nameOf(dc.Self)}, Datacenter: dc.Self,
		}
	}
	v := s.vm(ref)
	if v == nil {
		return e
	}
	name := ""
	v.look(ctx, func(o *mo.VirtualMachine) { name = o.Name })
	if c, ok := computeOf(ctx, v.home.host.Self); ok {
		e.ComputeResource = &types.ComputeResourceEventArgument{
			EntityEventArgument: types.EntityEventArgument{Name: s.nameOf(c.Self)}, ComputeResource: c.Self,
		}
	}
	e.Host = hostArgument(v.home.host)
	e.Ds = &types.DatastoreEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: v.home.ds.Name}, Datastore: v.home.ds.Self,
	}
	e.Vm = &types.VmEventArgument{EntityEventArgument: types.EntityEventArgument{Name: name}, Vm: ref}
	return e
}

func (s *Server) vmEvent(ctx *simulator.Context, v *vm) types.VmEvent {
	return types.VmEvent{Event: s.eventFor(ctx, v.ref)}
}

func hostArgument(h *simulator.HostSystem) *types.HostEventArgument {
	return &types.HostEventArgument{EntityEventArgument: types.EntityEventArgument{Name: h.Name}, Host: h.Self}
}

// serverOf returns the Server that ctx belongs to.
func serverOf(ctx *simulator.Context) *Server {
	return ctx.Map.Get(verbsRef).(*verbs).s
}

func contentOf(reg *simulator.Registry) types.ServiceContent {
	return reg.Get(serviceInstance).(*simulator.ServiceInstance).ServiceContent()
}

// faultError makes an error of a SOAP fault that the Server got itself.
func faultError(what string, f *soap.Fault) error {
	return fmt.Errorf("%s: %T %s", what, f.VimFault(), f.String)
}

func notAuthenticated(obj types.ManagedObjectReference) types.BaseMethodFault {
	return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &obj, PrivilegeId: "System.View"}}
}
