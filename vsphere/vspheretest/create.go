package vspheretest

import (
	"fmt"
	"path"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// CreateVMTask makes a VM from nothing.
func (v *verbs) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) soap.HasFault {
	spec := deepCopy(*req)
	ref, fault := v.s.submit(ctx, job{
		method: "CreateVM_Task", id: "Folder.createVm", entity: req.This,
		work: func(o *op) (types.AnyType, types.BaseMethodFault) { return v.s.create(o, &spec) },
	})
	if fault != nil {
		return &methods.CreateVM_TaskBody{Fault_: fault}
	}
	return &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: ref}}
}

func (s *Server) create(o *op, req *types.CreateVM_Task) (types.AnyType, types.BaseMethodFault) {
	name, fault := checkName(req.Config.Name)
	if fault != nil {
		return nil, fault
	}
	b := &builder{s: s, ctx: o.ctx, name: name, pool: req.Pool}
	if b.folder, fault = vmFolder(o.ctx, req.This); fault != nil {
		return nil, fault
	}
	if req.Config.Files == nil {
		return nil, &types.InvalidVmConfig{Property: "configSpec.files.vmPathName"}
	}
	var p object.DatastorePath
	if !p.FromString(req.Config.Files.VmPathName) {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Config.Files.VmPathName}
	}
	if b.ds = datastoreIn(o.ctx, datacenterOf(o.ctx, req.This), p.Datastore); b.ds == nil {
		return nil, &types.InvalidDatastorePath{DatastorePath: req.Config.Files.VmPathName}
	}
	if f := spread(o.ctx, b.ds, p.Path); f != nil {
		return nil, f
	}
	if _, ok := asPool(o.ctx.Map.Get(req.Pool)); !ok {
		return nil, &types.ManagedObjectNotFound{Obj: req.Pool}
	}
	b.host = s.nextHost(o.ctx, &req.Pool)
	if req.Host != nil {
		ok := false
		if b.host, ok = o.ctx.Map.Get(*req.Host).(*simulator.HostSystem); !ok {
			return nil, &types.ManagedObjectNotFound{Obj: *req.Host}
		}
	}
	release, fault := s.claim(o.ctx, b.folder, b.name)
	if fault != nil {
		return nil, fault
	}
	defer release()
	cfg, fault := b.blankAt(p, req.Config.Files)
	if fault != nil {
		return nil, fault
	}
	if f := b.apply(&cfg, &req.Config); f != nil {
		s.leaveDir(b.dir)
		return nil, f
	}
	if b.host, fault = chooseHost(o.ctx, req.Pool, req.Host, b.host, "host", b.ds, &cfg); fault != nil {
		s.leaveDir(b.dir)
		return nil, fault
	}
	m := b.reserve(&o.task.Self)
	defer s.vacate(o.task.Self, job{own: []*vm{m}})
	if f := o.take(s.lat.Create); f != nil {
		s.discard(o.ctx, m, b)
		return nil, f
	}
	b.complete(m, cfg)
	e := s.vmEvent(o.ctx, m)
	s.post(o.ctx, &types.VmBeingCreatedEvent{VmEvent: e, ConfigSpec: deepCopy(&req.Config)}, &types.VmCreatedEvent{VmEvent: e})
	s.warnMACs(o.ctx, m)
	return m.ref, nil
}

// spread refuses to put a file on a vSAN datastore of fewer hosts than its default policy asks for.
func spread(ctx *simulator.Context, ds *simulator.Datastore, file string) types.BaseMethodFault {
	hosts, vsan := 0, false
	ctx.WithLock(ds.Self, func() {
		hosts, vsan = len(ds.Host), ds.Summary.Type == string(types.HostFileSystemVolumeFileSystemTypeVsan)
	})
	if !vsan || hosts >= 3 {
		return nil
	}
	f := &types.CannotCreateFile{FileFault: types.FileFault{File: file}}
	f.FaultMessage = []types.LocalizableMessage{
		{Key: "vob.vsanprovider.object.creation.failed", Message: "Failed to create object."},
		{
			Key: "vob.vsan.clomd.needMoreFaultDomains2",
			Message: fmt.Sprintf("There are currently %d usable fault domains. The operation requires %d more usable fault domains.",
				hosts, 3-hosts),
		},
	}
	return f
}

// blankAt is blank in the directory, and with the .vmx, that a request names, if it does.
func (b *builder) blankAt(p object.DatastorePath, files *types.VirtualMachineFileInfo) (types.VirtualMachineConfigInfo, types.BaseMethodFault) {
	switch {
	case p.Path == "":
		return b.blank(), nil
	case path.Ext(p.Path) != ".vmx":
		return b.blankIn(b.s.takeDir(b.ds.Name, path.Clean(p.Path))), nil
	}
	dc := datacenterOf(b.ctx, b.folder.Self)
	if b.s.hasFile(b.ctx, dc, p.String()) {
		return types.VirtualMachineConfigInfo{}, &types.FileAlreadyExists{FileFault: types.FileFault{File: p.String()}}
	}
	dir := object.DatastorePath{Datastore: p.Datastore, Path: path.Dir(p.Path)}
	cfg := b.blankIn(dir.String())
	cfg.Files.VmPathName = files.VmPathName
	return cfg, nil
}
