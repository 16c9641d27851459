package vspheretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// MarkAsTemplate makes a powered-off VM a template, at once.
func (v *verbs) MarkAsTemplate(ctx *simulator.Context, req *types.MarkAsTemplate) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.MarkAsTemplateBody{Fault_: fault}
	}
	if f := v.s.markable(ctx, m, false); f != nil {
		return &methods.MarkAsTemplateBody{Fault_: soapFault(f)}
	}
	v.s.markTemplate(ctx, m)
	return &methods.MarkAsTemplateBody{Res: &types.MarkAsTemplateResponse{}}
}

func (s *Server) markable(ctx *simulator.Context, m *vm, template bool) (f types.BaseMethodFault) {
	s.mu.Lock()
	owner := m.owner
	s.mu.Unlock()
	if owner != nil {
		return &types.TaskInProgress{Task: *owner}
	}
	m.look(ctx, func(o *mo.VirtualMachine) {
		switch {
		case o.Config == nil:
			f = &types.InvalidState{}
		case o.Config.Template != template:
			f = &types.NotSupported{}
		case o.Runtime.PowerState != poweredOff:
			f = &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: o.Runtime.PowerState}
		}
	})
	return f
}

func (s *Server) markTemplate(ctx *simulator.Context, m *vm) {
	version, modified := s.changeVersion()
	var pool *types.ManagedObjectReference
	change(ctx, m.obj, func() {
		pool, m.obj.ResourcePool = m.obj.ResourcePool, nil
		cfg := deepCopy(m.obj.Config)
		cfg.Template, cfg.ChangeVersion, cfg.Modified = true, version, modified
		s.setConfig(m, cfg)
	})
	if pool != nil {
		s.leavePool(ctx, m, *pool)
	}
}

// MarkAsVirtualMachine makes a template a VM again, at once.
func (v *verbs) MarkAsVirtualMachine(ctx *simulator.Context, req *types.MarkAsVirtualMachine) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.MarkAsVirtualMachineBody{Fault_: fault}
	}
	rp, ok := asPool(ctx.Map.Get(req.Pool))
	if !ok {
		return &methods.MarkAsVirtualMachineBody{Fault_: soapFault(&types.ManagedObjectNotFound{Obj: req.Pool})}
	}
	if f := v.s.markable(ctx, m, true); f != nil {
		return &methods.MarkAsVirtualMachineBody{Fault_: soapFault(f)}
	}
	version, modified := v.s.changeVersion()
	change(ctx, m.obj, func() {
		m.obj.ResourcePool = &rp.Self
		cfg := deepCopy(m.obj.Config)
		cfg.Template, cfg.ChangeVersion, cfg.Modified = false, version, modified
		v.s.setConfig(m, cfg)
	})
	change(ctx, rp, func() { rp.Vm = append(slices.Clip(rp.Vm), m.ref) })
	return &methods.MarkAsVirtualMachineBody{Res: &types.MarkAsVirtualMachineResponse{}}
}
