package vspheretest

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const suspended = types.VirtualMachinePowerStateSuspended

// SuspendVMTask writes a running VM's memory to its datastore, and powers it off.
func (v *verbs) SuspendVMTask(ctx *simulator.Context, req *types.SuspendVM_Task) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.SuspendVM_TaskBody{Fault_: fault}
	}
	ref, fault := v.s.submit(ctx, job{
		method: "SuspendVM_Task", id: "VirtualMachine.suspend", entity: m.ref, own: []*vm{m},
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return nil, v.s.suspend(o, m) },
	})
	if fault != nil {
		return &methods.SuspendVM_TaskBody{Fault_: fault}
	}
	return &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: ref}}
}

func (s *Server) suspend(o *op, m *vm) types.BaseMethodFault {
	if p := m.power(o.ctx); p != poweredOn {
		return &types.InvalidPowerState{RequestedState: poweredOn, ExistingState: p}
	}
	s.post(o.ctx, &types.VmSuspendingEvent{VmEvent: s.vmEvent(o.ctx, m)})
	if f := o.take(s.lat.PowerOff + perGiB(s.lat.Memory, m.config(o.ctx))); f != nil {
		return f
	}
	return s.putToSleep(o.ctx, m)
}

// putToSleep keeps the guest's memory and ends it. The caller has the VM to itself.
func (s *Server) putToSleep(ctx *simulator.Context, m *vm) types.BaseMethodFault {
	now, fault := s.freeze(ctx, m)
	if fault != nil {
		return fault
	}
	s.stopGuest(m)
	s.mu.Lock()
	if now.disk != nil {
		m.disk = now.disk
	}
	m.asleep = now.memory
	s.mu.Unlock()
	s.setPower(ctx, m, suspended)
	s.toolsGone(ctx, m)
	s.post(ctx, &types.VmSuspendedEvent{VmEvent: s.vmEvent(ctx, m)})
	return nil
}

// wake lets the guest of a VM whose power has just come on go on from the memory it was suspended
// with, if any, or boot.
func (s *Server) wake(ctx *simulator.Context, m *vm) types.BaseMethodFault {
	s.mu.Lock()
	memory := m.asleep
	m.asleep = nil
	s.mu.Unlock()
	if memory == nil {
		s.startGuest(ctx, m)
		return nil
	}
	if err := s.resumeGuest(ctx, m, memory); err != nil {
		s.cutPower(ctx, m)
		return &types.NotSupported{RuntimeFault: because(err.Error())}
	}
	return nil
}

// StandbyGuest returns at once; the guest suspends its machine a little later.
func (v *verbs) StandbyGuest(ctx *simulator.Context, req *types.StandbyGuest) soap.HasFault {
	m, r, fault := v.tooled(ctx, req.This)
	if fault != nil {
		return &methods.StandbyGuestBody{Fault_: fault}
	}
	s := v.s
	s.post(ctx, &types.VmGuestStandbyEvent{VmEvent: s.vmEvent(ctx, m)})
	s.goWork(func() {
		if sleep(r.life, s.paced(s.lat.GuestShutdown)) != nil {
			return
		}
		release, ok := s.hold(m)
		if !ok {
			return
		}
		defer release()
		s.mu.Lock()
		current := m.guest == r
		s.mu.Unlock()
		if current {
			if f := s.putToSleep(s.context(nil), m); f != nil {
				s.logf("vspheretest: standby of %s: %s", m.ref, faultMessage(f))
			}
		}
	})
	return &methods.StandbyGuestBody{Res: &types.StandbyGuestResponse{}}
}
