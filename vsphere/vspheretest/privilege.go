package vspheretest

import (
	"slices"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Deny takes privileges from the user, on all objects: "VirtualMachine.State.CreateSnapshot".
// Calls that need one fail with NoPermission. Server.Client keeps them all.
func (s *Server) Deny(privileges ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = append(s.denied, privileges...)
}

// Allow gives denied privileges back.
func (s *Server) Allow(privileges ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = slices.DeleteFunc(s.denied, func(p string) bool { return slices.Contains(privileges, p) })
}

func (s *Server) denies(ctx *simulator.Context, privilege string) bool {
	if ctx.Session == nil || ctx.Session.UserName == adminUser {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.denied, privilege)
}

// forbid checks the privileges that a call needs.
func (s *Server) forbid(ctx *simulator.Context, m *simulator.Method) types.BaseMethodFault {
	for _, p := range s.needs(ctx, m) {
		if s.denies(ctx, p) {
			return &types.NoPermission{Object: &m.This, PrivilegeId: p}
		}
	}
	return nil
}

// privileges are those that a method always needs, by method.
var privileges = map[string][]string{
	"CreateFolder":                 {"Folder.Create"},
	"MoveIntoFolder_Task":          {"VirtualMachine.Inventory.Move"},
	"CreateVM_Task":                {"VirtualMachine.Inventory.Create", "Resource.AssignVMToPool", "Datastore.AllocateSpace"},
	"PowerOnVM_Task":               {"VirtualMachine.Interact.PowerOn"},
	"PowerOnMultiVM_Task":          {"VirtualMachine.Interact.PowerOn"},
	"PowerOffVM_Task":              {"VirtualMachine.Interact.PowerOff"},
	"ShutdownGuest":                {"VirtualMachine.Interact.PowerOff"},
	"RebootGuest":                  {"VirtualMachine.Interact.Reset"},
	"ResetVM_Task":                 {"VirtualMachine.Interact.Reset"},
	"CreateSnapshot_Task":          {"VirtualMachine.State.CreateSnapshot"},
	"CreateSnapshotEx_Task":        {"VirtualMachine.State.CreateSnapshot"},
	"RevertToSnapshot_Task":        {"VirtualMachine.State.RevertToSnapshot"},
	"RevertToCurrentSnapshot_Task": {"VirtualMachine.State.RevertToSnapshot"},
	"RemoveSnapshot_Task":          {"VirtualMachine.State.RemoveSnapshot"},
	"RemoveAllSnapshots_Task":      {"VirtualMachine.State.RemoveSnapshot"},
	"RenameSnapshot":               {"VirtualMachine.State.RenameSnapshot"},
	"MarkAsTemplate":               {"VirtualMachine.Provisioning.MarkAsTemplate"},
	"MarkAsVirtualMachine":         {"VirtualMachine.Provisioning.MarkAsVM"},
	"SetField":                     {"Global.SetCustomField"},
	"SetCustomValue":               {"Global.SetCustomField"},
	"AddCustomFieldDef":            {"Global.ManageCustomFields"},
	"CancelTask":                   {"Global.CancelTask"},
}

// needs lists the privileges that a call needs.
func (s *Server) needs(ctx *simulator.Context, m *simulator.Method) []string {
	need := slices.Clone(privileges[m.Name])
	switch b := m.Body.(type) {
	case *types.CloneVM_Task:
		from := "VirtualMachine.Provisioning.Clone"
		if v := s.vm(m.This); v != nil {
			if cfg := v.config(ctx); cfg != nil && cfg.Template {
				from = "VirtualMachine.Provisioning.DeployTemplate"
			}
		}
		need = append(need, from, "VirtualMachine.Inventory.CreateFromExisting", "Resource.AssignVMToPool", "Datastore.AllocateSpace")
		if b.Spec.PowerOn {
			need = append(need, "VirtualMachine.Interact.PowerOn")
		}
		if b.Spec.Config != nil {
			need = append(need, configNeeds(b.Spec.Config)...)
		}
	case *types.ReconfigVM_Task:
		need = append(need, configNeeds(&b.Spec)...)
	case *types.Rename_Task:
		need = append(need, map[string]string{"VirtualMachine": "VirtualMachine.Config.Rename", "Folder": "Folder.Rename"}[m.This.Type])
	case *types.Destroy_Task:
		need = append(need, map[string]string{"VirtualMachine": "VirtualMachine.Inventory.Delete", "Folder": "Folder.Delete"}[m.This.Type])
	}
	return need
}

// configNeeds lists the privileges that a change of configuration needs.
func configNeeds(c *types.VirtualMachineConfigSpec) (need []string) {
	add := func(on bool, privilege string) {
		if on {
			need = append(need, privilege)
		}
	}
	add(len(c.ExtraConfig) > 0, "VirtualMachine.Config.AdvancedConfig")
	add(c.Annotation != "", "VirtualMachine.Config.Annotation")
	add(c.NumCPUs != 0, "VirtualMachine.Config.CPUCount")
	add(c.MemoryMB != 0, "VirtualMachine.Config.Memory")
	add(c.Name != "", "VirtualMachine.Config.Rename")
	for _, ch := range c.DeviceChange {
		spec := ch.GetVirtualDeviceConfigSpec()
		disk, isDisk := spec.Device.(*types.VirtualDisk)
		nic, isNIC := spec.Device.(types.BaseVirtualEthernetCard)
		switch spec.Operation {
		case types.VirtualDeviceConfigSpecOperationAdd:
			add(isDisk, "VirtualMachine.Config.AddNewDisk")
			add(!isDisk, "VirtualMachine.Config.AddRemoveDevice")
		case types.VirtualDeviceConfigSpecOperationRemove:
			add(isDisk, "VirtualMachine.Config.RemoveDisk")
			add(!isDisk, "VirtualMachine.Config.AddRemoveDevice")
		case types.VirtualDeviceConfigSpecOperationEdit:
			add(isDisk && disk.CapacityInKB != 0, "VirtualMachine.Config.DiskExtend")
			add(!isDisk, "VirtualMachine.Config.EditDevice")
			add(isNIC && nic.GetVirtualEthernetCard().Connectable != nil, "VirtualMachine.Interact.DeviceConnection")
		}
		add(isNIC && nic.GetVirtualEthernetCard().Backing != nil, "Network.Assign")
	}
	return need
}

// HasPrivilegeOnEntities answers for the session that asks, whichever one it asks about.
func (v *verbs) HasPrivilegeOnEntities(ctx *simulator.Context, req *types.HasPrivilegeOnEntities) soap.HasFault {
	return &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{
		Returnval: v.s.availability(ctx, req.Entity, req.PrivId),
	}}
}

// HasUserPrivilegeOnEntities answers as HasPrivilegeOnEntities does.
func (v *verbs) HasUserPrivilegeOnEntities(ctx *simulator.Context, req *types.HasUserPrivilegeOnEntities) soap.HasFault {
	return &methods.HasUserPrivilegeOnEntitiesBody{Res: &types.HasUserPrivilegeOnEntitiesResponse{
		Returnval: v.s.availability(ctx, req.Entities, req.PrivId),
	}}
}

func (s *Server) availability(ctx *simulator.Context, entities []types.ManagedObjectReference, ids []string) (out []types.EntityPrivilege) {
	for _, e := range entities {
		p := types.EntityPrivilege{Entity: e}
		for _, id := range ids {
			p.PrivAvailability = append(p.PrivAvailability, types.PrivilegeAvailability{PrivId: id, IsGranted: !s.denies(ctx, id)})
		}
		out = append(out, p)
	}
	return out
}

// HasPrivilegeOnEntity is HasPrivilegeOnEntities for one.
func (v *verbs) HasPrivilegeOnEntity(ctx *simulator.Context, req *types.HasPrivilegeOnEntity) soap.HasFault {
	res := &types.HasPrivilegeOnEntityResponse{}
	for _, id := range req.PrivId {
		res.Returnval = append(res.Returnval, !v.s.denies(ctx, id))
	}
	return &methods.HasPrivilegeOnEntityBody{Res: res}
}

// FetchUserPrivilegeOnEntities lists what the user may do.
func (v *verbs) FetchUserPrivilegeOnEntities(ctx *simulator.Context, req *types.FetchUserPrivilegeOnEntities) soap.HasFault {
	body := ctx.Map.Get(*contentOf(ctx.Map).AuthorizationManager).(*simulator.AuthorizationManager).
		FetchUserPrivilegeOnEntities(req).(*methods.FetchUserPrivilegeOnEntitiesBody)
	if body.Res != nil {
		for i := range body.Res.Returnval {
			body.Res.Returnval[i].Privileges = slices.DeleteFunc(slices.Clone(body.Res.Returnval[i].Privileges),
				func(p string) bool { return v.s.denies(ctx, p) })
		}
	}
	return body
}
