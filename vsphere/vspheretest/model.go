package vspheretest

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/simulator/vpx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// modeled reports whether the inventory is one of vcsim's.
func (s *Server) modeled() bool { return s.Model != nil || s.Load != "" }

// onlyModel returns what is wrong with a Server that has a Model.
func (s *Server) onlyModel() error {
	var set []string
	for name, is := range map[string]bool{
		"Datacenter": s.Datacenter != "", "Cluster": s.Cluster != "", "Hosts": s.Hosts != 0,
		"Datastores": len(s.Datastores) > 0, "Networks": len(s.Networks) > 0,
		"ResourcePools": len(s.ResourcePools) > 0, "Folders": len(s.Folders) > 0, "Standalone": s.Standalone,
	} {
		if is {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	var errs []error
	if len(set) > 0 {
		errs = append(errs, fmt.Errorf("Model or Load is set, and so is %s; set the one or the other", strings.Join(set, ", ")))
	}
	if s.Model != nil && s.Model.Service != nil {
		errs = append(errs, errors.New("Model has been created already; set a new one"))
	}
	return errors.Join(errs...)
}

// current is what a vCenter or a host of a version in use says of itself, if about is what vcsim
// says by itself, which is of 2017.
func current(about types.AboutInfo) types.AboutInfo {
	const version = "8.0.3"
	set := func(name, build string) {
		about.FullName = fmt.Sprintf("%s %s build-%s", name, version, build)
		about.Version, about.Build, about.ApiVersion, about.LicenseProductVersion = version, build, version+".0", "8.0"
	}
	switch about {
	case vpx.ServiceContent.About:
		set("VMware vCenter Server", "24022515")
	case esx.ServiceContent.About:
		set("VMware ESXi", "24022510")
	}
	return about
}

// newService makes vcsim's service: with what Load says, or without any content.
func (s *Server) newService() error {
	s.model = &simulator.Model{ServiceContent: vpx.ServiceContent, RootFolder: vpx.RootFolder}
	if m := s.Model; m != nil {
		s.model.ServiceContent, s.model.RootFolder = m.ServiceContent, m.RootFolder
	}
	s.model.ServiceContent = deepCopy(s.model.ServiceContent)
	s.model.ServiceContent.About = current(s.model.ServiceContent.About)
	if s.Load != "" {
		if err := s.model.Load(s.Load); err != nil {
			return fmt.Errorf("load %s: %w", s.Load, err)
		}
		return nil
	}
	if err := s.model.Create(); err != nil {
		return fmt.Errorf("create service: %w", err)
	}
	return nil
}

// buildModel makes what the Model describes and, if requested, its VMs. It returns those
// that are to be powered on.
func (s *Server) buildModel(ctx *simulator.Context, vms bool) (on []*vm, err error) {
	if s.Load == "" {
		// Its VMs are made by the Server's own verbs, and take no time.
		to, from := s.model, s.Model
		to.Datacenter, to.Folder, to.Cluster, to.ClusterHost, to.Host = from.Datacenter, from.Folder, from.Cluster, from.ClusterHost, from.Host
		to.Pool, to.App, to.Pod, to.Datastore = from.Pool, from.App, from.Pod, from.Datastore
		to.Portgroup, to.PortgroupNSX, to.OpaqueNetwork = from.Portgroup, from.PortgroupNSX, from.OpaqueNetwork
		if vms {
			to.Machine = from.Machine
		}
		lat := s.lat
		s.lat = Latency{}
		err := to.CreateInfrastructure(ctx)
		s.lat = lat
		if err != nil {
			return nil, fmt.Errorf("create model: %w", err)
		}
		to.DelayConfig = from.DelayConfig
	}
	for _, kind := range []string{"Datacenter", "ClusterComputeResource", "ComputeResource"} {
		for _, ref := range sortedRefs(ctx.Map.AllReference(kind)) {
			obj := ctx.Map.Get(ref)
			if dc, ok := obj.(*simulator.Datacenter); ok && s.at.dc == nil {
				s.at.dc = dc
			}
			if c, ok := asCompute(obj); ok && s.at.pool.Value == "" && c.ResourcePool != nil && datacenterOf(ctx, ref) == s.at.dc {
				s.at.pool = *c.ResourcePool
			}
		}
	}
	if s.Load != "" {
		return s.adopt(ctx), nil
	}
	return nil, nil
}

// autostart powers on the VMs of a new Model, and waits for that.
func (s *Server) autostart() error {
	if s.Model == nil || !s.Model.Autostart || s.Load != "" || s.restored {
		return nil
	}
	ctx := s.context(nil)
	var tasks []types.ManagedObjectReference
	for _, m := range s.allVMs() {
		template := false
		m.look(ctx, func(o *mo.VirtualMachine) { template = o.Config.Template })
		if template {
			continue
		}
		ref, fault := s.verbs.powerOn(ctx, m.ref)
		if fault != nil {
			return faultError("power on "+s.nameOf(m.ref), fault)
		}
		tasks = append(tasks, ref)
	}
	for _, ref := range tasks {
		for done := false; !done; {
			changed := s.hub.next(ref)
			task, ok := ctx.Map.Get(ref).(*simulator.Task)
			if !ok {
				break
			}
			ctx.WithLock(ref, func() { done = task.Info.CompleteTime != nil })
			if !done {
				<-changed
			}
		}
	}
	return nil
}

// adopt makes the VMs of a saved inventory the Server's own, off, and returns those that were on.
func (s *Server) adopt(ctx *simulator.Context) (on []*vm) {
	for _, ref := range sortedRefs(ctx.Map.AllReference("VirtualMachine")) {
		obj, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine)
		if !ok || obj.Config == nil || obj.Runtime.Host == nil || len(obj.Datastore) == 0 {
			continue
		}
		host, ok1 := ctx.Map.Get(*obj.Runtime.Host).(*simulator.HostSystem)
		ds, ok2 := ctx.Map.Get(obj.Datastore[0]).(*simulator.Datastore)
		if !ok1 || !ok2 {
			s.logf("vspheretest: load %s: VM %s has no host or datastore, and cannot be used", s.Load, obj.Name)
			continue
		}
		if obj.DataSets == nil {
			obj.DataSets = make(map[string]*simulator.DataSet)
		}
		v := &vm{
			ref: ref, obj: obj, home: home{host: host, ds: ds, dir: path.Dir(obj.Config.Files.VmPathName)},
			sharers: make(map[types.ManagedObjectReference]bool), snaps: make(map[types.ManagedObjectReference]kept),
		}
		s.vms[ref] = v
		s.dirs[v.home.dir] = true
		if obj.Runtime.PowerState == poweredOn {
			on = append(on, v)
		}
		obj.Runtime.PowerState, obj.Snapshot, obj.RootSnapshot = poweredOff, nil, nil
		if obj.Guest == nil {
			obj.Guest = &types.GuestInfo{}
		}
		cfg := deepCopy(obj.Config)
		change(ctx, obj, func() { s.setConfig(v, cfg) })
		s.toolsGone(ctx, v)
		s.layFiles(ctx, v)
	}
	return on
}

// sortedRefs returns the references of objects in the order in which they were made.
func sortedRefs(objs []mo.Reference) (refs []types.ManagedObjectReference) {
	for _, o := range objs {
		refs = append(refs, o.Reference())
	}
	slices.SortFunc(refs, byAge)
	return refs
}

// firstNetworks is the first network that VMs of the first datacenter can be on.
func (s *Server) firstNetworks() []string {
	if len(s.Networks) > 0 {
		return s.Networks[:1]
	}
	for _, ref := range s.at.dc.Network {
		if ref.Type == "Network" {
			return []string{s.nameOf(ref)}
		}
	}
	return nil
}
