package vspheretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// verbs has the methods of vCenter's objects that the Server does itself. vcsim is made to call
// them by changing whom a request is for (see route); the request's body still names the object.
type verbs struct {
	mo.View // vcsim expects something of this package in every object
	s       *Server
}

var (
	// ownCollector is the PropertyCollector of vcsim's client within the process, whose session, and
	// the collector in it, all services of the process have in common.
	ownCollector    = types.ManagedObjectReference{Type: "PropertyCollector", Value: "own"}
	verbsRef        = types.ManagedObjectReference{Type: "Verbs", Value: "verbs"}
	serviceInstance = types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"}
)

// Lock and Unlock make verbs an object of vcsim's, without a lock of its own.
func (*verbs) Lock()   {}
func (*verbs) Unlock() {}

// ours lists, by the type of the object, the methods that verbs has.
var ours = map[string]map[string]bool{
	"VirtualMachine": set("CloneVM_Task", "ReconfigVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "ResetVM_Task",
		"SuspendVM_Task", "AnswerVM", "ShutdownGuest", "RebootGuest", "StandbyGuest", "CreateSnapshot_Task", "CreateSnapshotEx_Task",
		"RevertToCurrentSnapshot_Task", "RemoveAllSnapshots_Task", "Rename_Task", "Destroy_Task", "UnregisterVM",
		"MarkAsTemplate", "MarkAsVirtualMachine", "RelocateVM_Task", "MigrateVM_Task", "InstantClone_Task", "CustomizeVM_Task",
		"PromoteDisks_Task"),
	"VirtualMachineSnapshot": set("RevertToSnapshot_Task", "RemoveSnapshot_Task", "RenameSnapshot"),
	"Folder":                 set("CreateVM_Task", "RegisterVM_Task", "CreateFolder", "Rename_Task", "Destroy_Task", "MoveIntoFolder_Task"),
	"Datacenter":             set("PowerOnMultiVM_Task"),
	"HostDatastoreSystem":    set("RemoveDatastore"),
	"HostNetworkSystem":      set("AddPortGroup", "RemovePortGroup"),
	"HostSystem":             set("DisconnectHost_Task", "ReconnectHost_Task", "EnterMaintenanceMode_Task", "ExitMaintenanceMode_Task"),
	"SessionManager":         set("AcquireGenericServiceTicket"),
	"ViewManager":            set("CreateContainerView"),
	"EventManager":           set("CreateCollectorForEvents", "QueryEvents", "PostEvent"),
	"TaskManager":            set("CreateCollectorForTasks"),
	"Task":                   set("CancelTask", "SetTaskState"),
	"AuthorizationManager": set("HasPrivilegeOnEntities", "HasUserPrivilegeOnEntities", "HasPrivilegeOnEntity",
		"FetchUserPrivilegeOnEntities"),
}

// vCenterOnly lists what a host by itself does not do, whatever its licence.
var vCenterOnly = set("CloneVM_Task", "CreateFolder", "MoveIntoFolder_Task", "MarkAsTemplate", "PowerOnMultiVM_Task",
	"CreateCollectorForTasks", "QueryEvents", "AddCustomFieldDef", "SetField")

func set(names ...string) map[string]bool {
	m := make(map[string]bool)
	for _, n := range names {
		m[n] = true
	}
	return m
}

// route is what vcsim asks before every call: it may change whom the call is for, or refuse it.
func (s *Server) route(ctx *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session == nil {
		return nil, nil // vcsim lets the login through, and little else
	}
	if ctx.Session.UserName == "" && m.This == contentOf(ctx.Map).PropertyCollector {
		m.This = ownCollector
	}
	if (s.Standalone || ctx.Map.IsESX()) && vCenterOnly[m.Name] {
		return nil, &types.NotSupported{}
	}
	if f := s.forbid(ctx, m); f != nil {
		return nil, f
	}
	if f := unsound(ctx, m.Body); f != nil {
		return nil, f
	}
	if ours[m.This.Type][m.Name] {
		if ctx.Map.Get(m.This) == nil {
			return nil, &types.ManagedObjectNotFound{Obj: m.This}
		}
		m.This = s.verbs.Self
	}
	return nil, nil
}

// alive reports whether the session of ctx is still logged in.
func (s *Server) alive(ctx *simulator.Context) bool {
	if ctx.Session == nil {
		return false
	}
	if ctx.Session.UserName == "" {
		return true // vcsim itself
	}
	base := s.context(nil)
	sm := base.Session.Get(*contentOf(base.Map).SessionManager).(*simulator.SessionManager)
	return slices.ContainsFunc(sm.SessionList, func(u types.UserSession) bool { return u.Key == ctx.Session.Key })
}

// target returns the VM that a request is for.
func (v *verbs) target(ref types.ManagedObjectReference) (*vm, *soap.Fault) {
	if m := v.s.vm(ref); m != nil {
		return m, nil
	}
	return nil, soapFault(&types.ManagedObjectNotFound{Obj: ref})
}

// snapshot returns the snapshot that ref names, and its VM.
func (v *verbs) snapshot(ctx *simulator.Context, ref types.ManagedObjectReference) (*simulator.VirtualMachineSnapshot, *vm, *soap.Fault) {
	snap, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return nil, nil, soapFault(&types.ManagedObjectNotFound{Obj: ref})
	}
	m, f := v.target(snap.Vm)
	return snap, m, f
}

// refuse is for methods that exist on a real vCenter and would need more than vcsim and the
// Server do; a quiet success would be worse.
func refuse(what string) *soap.Fault {
	return simulator.Fault(what+" is not simulated", &types.NotSupported{})
}

func (v *verbs) InstantCloneTask(*simulator.Context, *types.InstantClone_Task) soap.HasFault {
	return &methods.InstantClone_TaskBody{Fault_: refuse("InstantClone_Task")}
}

// SetTaskState is for the tasks that programs keep themselves.
func (v *verbs) SetTaskState(ctx *simulator.Context, req *types.SetTaskState) soap.HasFault {
	task, ok := v.theirs(ctx, req.This)
	if !ok {
		return &methods.SetTaskStateBody{Fault_: refuse("SetTaskState of vCenter's own tasks")}
	}
	var res soap.HasFault
	ctx.WithLock(req.This, func() { res = task.SetTaskState(ctx, req) })
	return res
}

// theirs returns a task that a program made with CreateTask, or vcsim itself.
func (v *verbs) theirs(ctx *simulator.Context, ref types.ManagedObjectReference) (*simulator.Task, bool) {
	task, ok := ctx.Map.Get(ref).(*simulator.Task)
	v.s.histMu.Lock()
	defer v.s.histMu.Unlock()
	return task, ok && !v.s.owned[ref]
}

// CancelTask ends a task early, if it can be ended; only clones can.
func (v *verbs) CancelTask(ctx *simulator.Context, req *types.CancelTask) soap.HasFault {
	v.s.mu.Lock()
	cancel := v.s.cancels[req.This]
	v.s.mu.Unlock()
	if cancel == nil {
		task, theirs := v.theirs(ctx, req.This)
		if theirs {
			var res soap.HasFault
			ctx.WithLock(req.This, func() { res = task.CancelTask(ctx, req) })
			return res
		}
		var done bool
		ctx.WithLock(req.This, func() { done = task.Info.CompleteTime != nil })
		if done {
			return &methods.CancelTaskBody{Fault_: soapFault(&types.InvalidState{})}
		}
		return &methods.CancelTaskBody{Fault_: soapFault(&types.NotSupported{})}
	}
	if task, ok := ctx.Map.Get(req.This).(*simulator.Task); ok {
		change(ctx, task, func() { task.Info.Cancelled = true })
	}
	cancel()
	return &methods.CancelTaskBody{Res: &types.CancelTaskResponse{}}
}
