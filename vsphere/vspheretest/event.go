package vspheretest

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// post adds events to vCenter's history, in order.
func (s *Server) post(ctx *simulator.Context, events ...types.BaseEvent) {
	em := ctx.Map.EventManager()
	ctx.WithLock(em, func() {
		for _, e := range events {
			em.PostEvent(ctx, &types.PostEvent{EventToPost: e})
		}
	})
}

// eventFor returns an event with the arguments that tell of ref.
func (s *Server) eventFor(ctx *simulator.Context, ref types.ManagedObjectReference) types.Event {
	e := types.Event{Datacenter: &types.DatacenterEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: s.Datacenter}, Datacenter: s.at.dc.Self,
	}}
	v := s.vm(ref)
	if v == nil {
		return e
	}
	name := ""
	v.look(ctx, func(o *mo.VirtualMachine) { name = o.Name })
	e.ComputeResource = &types.ComputeResourceEventArgument{
		EntityEventArgument: types.EntityEventArgument{Name: s.Cluster}, ComputeResource: s.at.cluster.Self,
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
