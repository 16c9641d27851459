package vspheretest

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// unreached is why a job that needs VMs of a host cannot be done, or nil: vCenter does not reach it.
func (s *Server) unreached(ctx *simulator.Context, j job) types.BaseMethodFault {
	for _, vms := range [][]*vm{j.own, j.read} {
		for _, m := range vms {
			if f := offline(ctx, m.home.host); f != nil {
				return f
			}
		}
	}
	return nil
}

// hostTask starts an operation on a host.
func (v *verbs) hostTask(
	ctx *simulator.Context, ref types.ManagedObjectReference, method, id string, work func(*op, *simulator.HostSystem) types.BaseMethodFault,
) (types.ManagedObjectReference, *soap.Fault) {
	h, ok := ctx.Map.Get(ref).(*simulator.HostSystem)
	if !ok {
		return ref, soapFault(&types.ManagedObjectNotFound{Obj: ref})
	}
	return v.s.submit(ctx, job{
		method: method, id: id, entity: ref, cancelable: true,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			if f := o.take(v.s.lat.Other); f != nil {
				return nil, f
			}
			return nil, work(o, h)
		},
	})
}

// vmsOn lists the VMs of a host.
func (s *Server) vmsOn(h *simulator.HostSystem) (vms []*vm) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.vms {
		if m.home.host == h {
			vms = append(vms, m)
		}
	}
	return vms
}

// connect makes a host, and with it its VMs, connected to vCenter or not. The VMs run on.
func (s *Server) connect(ctx *simulator.Context, h *simulator.HostSystem, connected bool) {
	host, state := types.HostSystemConnectionStateDisconnected, types.VirtualMachineConnectionStateDisconnected
	if connected {
		host, state = types.HostSystemConnectionStateConnected, types.VirtualMachineConnectionStateConnected
	}
	change(ctx, h, func() {
		h.Runtime.ConnectionState = host
		if h.Summary.Runtime != nil {
			h.Summary.Runtime.ConnectionState = host
		}
	})
	for _, m := range s.vmsOn(h) {
		change(ctx, m.obj, func() {
			m.obj.Runtime.ConnectionState = state
			m.obj.Summary.Runtime.ConnectionState = state
		})
		if !connected {
			s.post(ctx, &types.VmDisconnectedEvent{VmEvent: s.vmEvent(ctx, m)})
		}
	}
}

// DisconnectHostTask ends vCenter's connection to a host, whose VMs run on.
func (v *verbs) DisconnectHostTask(ctx *simulator.Context, req *types.DisconnectHost_Task) soap.HasFault {
	ref, fault := v.hostTask(ctx, req.This, "DisconnectHost_Task", "HostSystem.disconnect", func(o *op, h *simulator.HostSystem) types.BaseMethodFault {
		v.s.connect(o.ctx, h, false)
		return nil
	})
	if fault != nil {
		return &methods.DisconnectHost_TaskBody{Fault_: fault}
	}
	return &methods.DisconnectHost_TaskBody{Res: &types.DisconnectHost_TaskResponse{Returnval: ref}}
}

// ReconnectHostTask connects vCenter to a host again.
func (v *verbs) ReconnectHostTask(ctx *simulator.Context, req *types.ReconnectHost_Task) soap.HasFault {
	ref, fault := v.hostTask(ctx, req.This, "ReconnectHost_Task", "HostSystem.reconnect", func(o *op, h *simulator.HostSystem) types.BaseMethodFault {
		if offline(o.ctx, h) == nil {
			return &types.InvalidState{}
		}
		v.s.connect(o.ctx, h, true)
		return nil
	})
	if fault != nil {
		return &methods.ReconnectHost_TaskBody{Fault_: fault}
	}
	return &methods.ReconnectHost_TaskBody{Res: &types.ReconnectHost_TaskResponse{Returnval: ref}}
}

// EnterMaintenanceModeTask waits until no VM of the host runs, and then lets none start there. DRS
// moves those that run elsewhere; without it, somebody else has to move them or power them off.
func (v *verbs) EnterMaintenanceModeTask(ctx *simulator.Context, req *types.EnterMaintenanceMode_Task) soap.HasFault {
	ref, fault := v.hostTask(ctx, req.This, "EnterMaintenanceMode_Task", "HostSystem.enterMaintenanceMode", func(o *op, h *simulator.HostSystem) types.BaseMethodFault {
		return v.s.enterMaintenance(o, h, req.Timeout)
	})
	if fault != nil {
		return &methods.EnterMaintenanceMode_TaskBody{Fault_: fault}
	}
	return &methods.EnterMaintenanceMode_TaskBody{Res: &types.EnterMaintenanceMode_TaskResponse{Returnval: ref}}
}

func (s *Server) enterMaintenance(o *op, h *simulator.HostSystem, seconds int32) types.BaseMethodFault {
	set := func(in bool) {
		change(o.ctx, h, func() {
			h.Runtime.InMaintenanceMode = in
			if h.Summary.Runtime != nil {
				h.Summary.Runtime.InMaintenanceMode = in
			}
		})
	}
	if f := hostFault(o.ctx, h); f != nil {
		return f
	}
	set(true) // from here on nothing starts there
	var late <-chan time.Time
	if seconds > 0 {
		t := time.NewTimer(time.Duration(seconds) * time.Second)
		defer t.Stop()
		late = t.C
	}
	for {
		changed := s.hub.next(anything)
		if !s.evacuate(o, h) {
			return nil
		}
		select {
		case <-changed:
		case <-late:
			set(false)
			return &types.Timedout{}
		case <-o.life.Done():
			set(false)
			return &types.RequestCanceled{}
		}
	}
}

// evacuate has DRS move the running VMs of a host elsewhere, and reports whether any is left.
func (s *Server) evacuate(o *op, h *simulator.HostSystem) (left bool) {
	for _, m := range s.vmsOn(h) {
		release, ok := s.hold(m)
		if !ok {
			return true
		}
		if m.power(o.ctx) == poweredOn {
			var pool *types.ManagedObjectReference
			m.look(o.ctx, func(p *mo.VirtualMachine) { pool = p.ResourcePool })
			to := h
			if pool != nil && drs(o.ctx, *pool) {
				to, _ = chooseHost(o.ctx, *pool, nil, h, "host", m.home.ds, m.config(o.ctx))
			}
			if to != nil && to != h {
				s.rehost(o.ctx, m, to)
			} else {
				left = true
			}
		}
		release()
	}
	return left
}

// ExitMaintenanceModeTask lets VMs start on a host again.
func (v *verbs) ExitMaintenanceModeTask(ctx *simulator.Context, req *types.ExitMaintenanceMode_Task) soap.HasFault {
	ref, fault := v.hostTask(ctx, req.This, "ExitMaintenanceMode_Task", "HostSystem.exitMaintenanceMode", func(o *op, h *simulator.HostSystem) (f types.BaseMethodFault) {
		change(o.ctx, h, func() {
			if !h.Runtime.InMaintenanceMode {
				f = &types.InvalidState{}
			}
			h.Runtime.InMaintenanceMode = false
			if h.Summary.Runtime != nil {
				h.Summary.Runtime.InMaintenanceMode = false
			}
		})
		return f
	})
	if fault != nil {
		return &methods.ExitMaintenanceMode_TaskBody{Fault_: fault}
	}
	return &methods.ExitMaintenanceMode_TaskBody{Res: &types.ExitMaintenanceMode_TaskResponse{Returnval: ref}}
}
