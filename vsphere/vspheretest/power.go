package vspheretest

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	poweredOn  = types.VirtualMachinePowerStatePoweredOn
	poweredOff = types.VirtualMachinePowerStatePoweredOff
)

func (v *verbs) PowerOnVMTask(ctx *simulator.Context, req *types.PowerOnVM_Task) soap.HasFault {
	ref, fault := v.powerOn(ctx, req.This)
	if fault != nil {
		return &methods.PowerOnVM_TaskBody{Fault_: fault}
	}
	return &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: ref}}
}

func (v *verbs) powerOn(ctx *simulator.Context, ref types.ManagedObjectReference) (types.ManagedObjectReference, *soap.Fault) {
	m, fault := v.target(ref)
	if fault != nil {
		return ref, fault
	}
	return v.s.submit(ctx, job{
		method: "PowerOnVM_Task", id: "VirtualMachine.powerOn", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.switchOn(o, m) },
	})
}

// switchOn turns the power on.
func (s *Server) switchOn(o *op, m *vm) types.BaseMethodFault {
	var fault types.BaseMethodFault
	m.look(o.ctx, func(p *mo.VirtualMachine) {
		switch {
		case p.Config.Template:
			fault = &types.InvalidState{}
		case p.Runtime.PowerState == poweredOn:
			fault = &types.InvalidPowerState{RequestedState: poweredOn, ExistingState: poweredOn}
		}
	})
	if fault != nil {
		return fault
	}
	host, fault := s.startable(o.ctx, m)
	if fault != nil {
		return fault
	}
	if host != m.home.host {
		s.rehost(o.ctx, m, host)
	}
	s.post(o.ctx, &types.VmStartingEvent{VmEvent: s.vmEvent(o.ctx, m)})
	if f := o.take(s.lat.PowerOn); f != nil {
		return f
	}
	missing, fault := o.askForISOs(m)
	if fault != nil {
		return fault
	}
	for _, n := range nics(m.config(o.ctx)) {
		if len(n.MacAddress) > 1 && strings.ContainsAny(n.MacAddress[1:2], "13579bdfBDF") { // a group's
			return &types.GenericVmConfigFault{Reason: n.MacAddress + " is not a valid static Ethernet address."}
		}
		if n.AddressType == string(types.VirtualEthernetCardMacTypeManual) && keptMAC(n.MacAddress) {
			f := &types.GenericVmConfigFault{Reason: n.MacAddress + " is not an allowed static Ethernet address. It conflicts with VMware reserved MACs for other usage."}
			f.MethodFault = because(f.Reason).MethodFault
			return f
		}
	}
	if m.power(o.ctx) == poweredOff {
		s.customizeNow(o.ctx, m)
	}
	s.setPower(o.ctx, m, poweredOn)
	o.disconnect(m, missing)
	s.post(o.ctx, &types.VmPoweredOnEvent{VmEvent: s.vmEvent(o.ctx, m)})
	return s.wake(o.ctx, m)
}

// setPower changes the power state and what follows from it: links, boot time, volatile settings.
func (s *Server) setPower(ctx *simulator.Context, m *vm, state types.VirtualMachinePowerState) {
	version, modified := s.changeVersion()
	var persist []types.BaseOptionValue
	change(ctx, m.obj, func() {
		o := m.obj
		was := o.Runtime.PowerState
		o.Runtime.PowerState = state
		if o.Config == nil {
			return
		}
		cfg := deepCopy(o.Config)
		cfg.ChangeVersion, cfg.Modified = version, modified
		switch {
		case state == poweredOn:
			if was == suspended {
				break
			}
			o.Runtime.BootTime = now()
			if was == poweredOff {
				persist = cfg.ExtraConfig
			}
		case state == poweredOff && was != poweredOff:
			o.Runtime.BootTime = nil
			cfg.ExtraConfig = withGuestinfo(cfg.ExtraConfig, s.persisted(m))
		}
		for _, d := range cfg.Hardware.Device {
			if c := d.GetVirtualDevice().Connectable; c != nil {
				c.Connected = state == poweredOn && c.StartConnected
			}
		}
		s.setConfig(m, cfg)
	})
	if persist != nil {
		s.mu.Lock()
		m.persist = persist
		s.mu.Unlock()
	}
}

func (s *Server) persisted(m *vm) []types.BaseOptionValue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return deepCopy(m.persist)
}

func (v *verbs) PowerOnMultiVMTask(ctx *simulator.Context, req *types.PowerOnMultiVM_Task) soap.HasFault {
	ref, fault := v.s.submit(ctx, job{
		method: "PowerOnMultiVM_Task", id: "Datacenter.powerOnVm", entity: req.This,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			var res types.ClusterPowerOnVmResult
			for _, ref := range req.Vm {
				task, fault := v.powerOn(o.ctx, ref)
				if fault != nil {
					f, _ := fault.VimFault().(types.BaseMethodFault)
					res.NotAttempted = append(res.NotAttempted, types.ClusterNotAttemptedVmInfo{
						Vm: ref, Fault: types.LocalizedMethodFault{Fault: f, LocalizedMessage: fault.String},
					})
					continue
				}
				res.Attempted = append(res.Attempted, types.ClusterAttemptedVmInfo{Vm: ref, Task: &task})
			}
			return res, nil
		},
	})
	if fault != nil {
		return &methods.PowerOnMultiVM_TaskBody{Fault_: fault}
	}
	return &methods.PowerOnMultiVM_TaskBody{Res: &types.PowerOnMultiVM_TaskResponse{Returnval: ref}}
}

func (v *verbs) PowerOffVMTask(ctx *simulator.Context, req *types.PowerOffVM_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.PowerOffVM_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "PowerOffVM_Task", id: "VirtualMachine.powerOff", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.switchOff(o, m) },
	})
	if fault != nil {
		return &methods.PowerOffVM_TaskBody{Fault_: fault}
	}
	return &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: ref}}
}

func (s *Server) switchOff(o *op, m *vm) types.BaseMethodFault {
	if p := m.power(o.ctx); p == poweredOff {
		return &types.InvalidPowerState{RequestedState: poweredOff, ExistingState: p}
	}
	s.post(o.ctx, &types.VmStoppingEvent{VmEvent: s.vmEvent(o.ctx, m)})
	if f := o.take(s.lat.PowerOff); f != nil {
		return f
	}
	s.cutPower(o.ctx, m)
	return nil
}

// cutPower ends the guest, whatever it does, and records that the VM is off. The caller has the
// VM to itself.
func (s *Server) cutPower(ctx *simulator.Context, m *vm) {
	s.stopGuest(m)
	s.mu.Lock()
	m.asleep = nil
	s.mu.Unlock()
	s.setPower(ctx, m, poweredOff)
	s.toolsGone(ctx, m)
	s.post(ctx, &types.VmPoweredOffEvent{VmEvent: s.vmEvent(ctx, m)})
}

func (v *verbs) ResetVMTask(ctx *simulator.Context, req *types.ResetVM_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.ResetVM_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "ResetVM_Task", id: "VirtualMachine.reset", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) {
			if p := m.power(o.ctx); p != poweredOn {
				return nil, &types.InvalidPowerState{RequestedState: poweredOn, ExistingState: p}
			}
			if f := o.take(v.s.lat.PowerOff); f != nil {
				return nil, f
			}
			v.s.stopGuest(m)
			v.s.toolsGone(o.ctx, m)
			v.s.post(o.ctx, &types.VmResettingEvent{VmEvent: v.s.vmEvent(o.ctx, m)})
			v.s.setPower(o.ctx, m, poweredOn)
			v.s.startGuest(o.ctx, m)
			return nil, nil
		},
	})
	if fault != nil {
		return &methods.ResetVM_TaskBody{Fault_: fault}
	}
	return &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: ref}}
}

// tooled returns the running guest, if a request to its tools can be made.
func (v *verbs) tooled(ctx *simulator.Context, ref types.ManagedObjectReference) (*vm, *running, *soap.Fault) {
	m, fault := v.target(ref)
	if fault != nil {
		return nil, nil, fault
	}
	f := offline(ctx, m.home.host)
	m.look(ctx, func(o *mo.VirtualMachine) {
		switch {
		case f != nil:
		case o.Runtime.PowerState != poweredOn:
			f = &types.InvalidPowerState{RequestedState: poweredOn, ExistingState: o.Runtime.PowerState}
		case o.Guest.ToolsRunningStatus != toolsRunning:
			f = &types.ToolsUnavailable{}
		}
	})
	v.s.mu.Lock()
	r, owner := m.guest, m.owner
	v.s.mu.Unlock()
	switch {
	case f != nil:
	case owner != nil:
		f = &types.TaskInProgress{Task: *owner}
	case r == nil:
		f = &types.ToolsUnavailable{}
	}
	if f != nil {
		return nil, nil, soapFault(f)
	}
	return m, r, nil
}

// ShutdownGuest returns at once; the power goes off when the guest has come to an end, if ever.
func (v *verbs) ShutdownGuest(ctx *simulator.Context, req *types.ShutdownGuest) soap.HasFault {
	m, r, fault := v.tooled(ctx, req.This)
	if fault != nil {
		return &methods.ShutdownGuestBody{Fault_: fault}
	}
	v.s.post(ctx, &types.VmGuestShutdownEvent{VmEvent: v.s.vmEvent(ctx, m)})
	if c := v.s.call(ctx); c == nil || !slices.ContainsFunc(c.meets, func(e Effect) bool { return e.deaf }) {
		r.shutdown()
	}
	return &methods.ShutdownGuestBody{Res: &types.ShutdownGuestResponse{}}
}

// A Rebooter is a Guest whose tools can restart it. Other guests refuse RebootGuest.
type Rebooter interface {
	Guest
	// Reboot asks for an orderly restart; the guest calls Machine.Rebooted when it goes down.
	Reboot()
}

// RebootGuest returns at once, as ShutdownGuest does.
func (v *verbs) RebootGuest(ctx *simulator.Context, req *types.RebootGuest) soap.HasFault {
	m, r, fault := v.tooled(ctx, req.This)
	if fault != nil {
		return &methods.RebootGuestBody{Fault_: fault}
	}
	v.s.mu.Lock()
	g, ok := r.guest.(Rebooter)
	v.s.mu.Unlock()
	if !ok {
		return &methods.RebootGuestBody{Fault_: refuse("RebootGuest of this OS")}
	}
	v.s.post(ctx, &types.VmGuestRebootEvent{VmEvent: v.s.vmEvent(ctx, m)})
	v.s.goWork(func() {
		if sleep(r.life, v.s.paced(v.s.lat.GuestShutdown)) == nil {
			g.Reboot()
		}
	})
	return &methods.RebootGuestBody{Res: &types.RebootGuestResponse{}}
}
