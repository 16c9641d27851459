package vspheretest

import (
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// ReconfigVMTask changes a VM's configuration: all of it or, with a fault, nothing.
func (v *verbs) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.ReconfigVM_TaskBody{Fault_: fault}
	}
	spec := deepCopy(req.Spec)
	ref, fault := v.s.submit(ctx, job{
		method: "ReconfigVM_Task", id: "VirtualMachine.reconfigure", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.reconfigure(o, m, &spec) },
	})
	if fault != nil {
		return &methods.ReconfigVM_TaskBody{Fault_: fault}
	}
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: ref}}
}

func (s *Server) reconfigure(o *op, m *vm, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	if f := o.take(s.lat.Reconfigure); f != nil {
		return f
	}
	var cfg *types.VirtualMachineConfigInfo
	var folder *types.ManagedObjectReference
	var name string
	var asleep types.BaseMethodFault
	r := &rig{s: s, ctx: o.ctx, dc: datacenterOf(o.ctx, m.home.host.Self), dir: m.home.dir}
	m.look(o.ctx, func(p *mo.VirtualMachine) {
		cfg, folder, name = deepCopy(p.Config), p.Parent, p.Name
		r.on, r.frozen = p.Runtime.PowerState == poweredOn, p.Snapshot != nil
		asleep = awake(p, spec)
	})
	// The VM is the task's own, so nothing changes between this look and the change below.
	if spec.ChangeVersion != "" && spec.ChangeVersion != cfg.ChangeVersion {
		return &types.ConcurrentAccess{}
	}
	if asleep != nil {
		return asleep
	}
	if cfg.Template {
		keep := &types.VirtualMachineConfigSpec{Name: spec.Name, Annotation: spec.Annotation, ChangeVersion: spec.ChangeVersion}
		if !reflect.DeepEqual(keep, spec) {
			return &types.NotSupported{} // a template takes a name and an annotation
		}
	}
	if spec.Name != "" && spec.Name != name {
		fresh, fault := checkName(spec.Name)
		if fault != nil {
			return fault
		}
		f, ok := o.ctx.Map.Get(*folder).(*simulator.Folder)
		if !ok {
			return &types.NotSupported{}
		}
		release, fault := s.claim(o.ctx, f, fresh)
		if fault != nil {
			return fault
		}
		defer release()
		name = fresh
	}
	r.config = cfg
	if f := r.apply(spec); f != nil {
		return f
	}
	s.index.identify(m, cfg)
	cfg.ChangeVersion, cfg.Modified = s.changeVersion()
	change(o.ctx, m.obj, func() {
		m.obj.Name = name
		s.setConfig(m, cfg)
	})
	s.post(o.ctx, &types.VmReconfiguredEvent{VmEvent: s.vmEvent(o.ctx, m), ConfigSpec: deepCopy(*spec)})
	if len(spec.DeviceChange) > 0 {
		s.layFiles(o.ctx, m)
		s.rewire(o.ctx, m, false)
		s.replug(o.ctx, m)
		s.warnMACs(o.ctx, m)
	}
	return nil
}
