package vspheretest

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// A Template is a VM, marked as a template, that exists when the Server starts.
type Template struct {
	// Path is where it is, below the VM folder: "rhel9" or "templates/rhel9". Folders are made.
	Path string
	// DiskGiB is the size of its only disk; 0 means 20.
	DiskGiB int
	// CPUs and MemoryMiB; 0 means 2 and 2048.
	CPUs, MemoryMiB int
	// Networks gives it one NIC each; none means one NIC on the Server's first network.
	Networks []string
	// Datastore holds its disk; "" means the Server's first.
	Datastore string
	// GuestID is vCenter's name for the system; "" means "rhel9_64Guest".
	GuestID string
}

func (s *Server) defaults() error {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&s.Username, "user")
	set(&s.Password, "pass")
	set(&s.Addr, "127.0.0.1:0")
	if s.modeled() {
		if err := s.onlyModel(); err != nil {
			return err
		}
	} else {
		set(&s.Datacenter, "Datacenter")
		set(&s.Cluster, "Cluster")
		if s.Hosts == 0 {
			s.Hosts = 3
		}
		if len(s.Datastores) == 0 {
			s.Datastores = []string{"Datastore1"}
		}
		if len(s.Networks) == 0 {
			s.Networks = []string{"VM Network"}
		}
		if len(s.Templates) == 0 {
			s.Templates = []Template{{Path: "template"}}
		}
	}
	for i := range s.Templates {
		t := &s.Templates[i]
		set(&t.GuestID, "rhel9_64Guest")
		if t.DiskGiB == 0 {
			t.DiskGiB = 20
		}
		if t.CPUs == 0 {
			t.CPUs = 2
		}
		if t.MemoryMiB == 0 {
			t.MemoryMiB = 2048
		}
	}
	if s.SessionTimeout == 0 {
		s.SessionTimeout = 30 * time.Minute
	}
	s.Limits = s.Limits.withDefaults()
	if s.OS == nil {
		s.OS = &bareOS{s: s}
	}
	if o, ok := s.OS.(Starter); ok {
		if err := o.Start(s); err != nil {
			return fmt.Errorf("start OS %T: %w", s.OS, err)
		}
	}
	return nil
}

// An estate is where VMs go by default.
type estate struct {
	dc   *simulator.Datacenter
	pool types.ManagedObjectReference // the root pool of a host or cluster
}

// buildMu lets one Server at a time be built: vcsim writes to variables of its package then.
var buildMu sync.Mutex

// build makes the inventory: vcsim's service without content, and in it what the fields say.
// It returns the VMs of the StateDir that are to be powered on.
func (s *Server) build() (on []*vm, err error) {
	buildMu.Lock()
	defer buildMu.Unlock()
	if err := s.newService(); err != nil {
		return nil, err
	}
	reg := s.model.Map()
	s.model.Service.Context.Session.UserName = "" // events without a user
	s.dropIdleWatch()

	pc := &collector{}
	pc.Self = contentOf(reg).PropertyCollector
	reg.Put(pc)
	own := &collector{}
	own.Self = ownCollector
	reg.Put(own)
	s.verbs = &verbs{View: mo.View{Self: verbsRef}, s: s}
	reg.Put(s.verbs)
	reg.AddHandler(&s.hub)
	if err := s.followVcsim(); err != nil {
		return nil, err
	}
	reg.Handler = s.route

	st, err := s.loadState()
	if err != nil {
		return nil, err
	}
	ctx := s.context(nil)
	if s.modeled() {
		on, err = s.buildModel(ctx, st == nil)
	} else {
		err = s.buildFields(ctx)
	}
	if err != nil {
		return nil, err
	}
	if st != nil {
		if on, err = s.restore(ctx, st); err != nil {
			return nil, fmt.Errorf("restore %s: %w", s.StateDir, err)
		}
	} else {
		for _, t := range s.Templates {
			if err := s.buildTemplate(ctx, t); err != nil {
				return nil, fmt.Errorf("template %q: %w", t.Path, err)
			}
		}
	}
	if s.Standalone {
		c := &reg.Get(serviceInstance).(*simulator.ServiceInstance).Content
		c.About.ApiType, c.About.Name = "HostAgent", "VMware ESXi"
		c.About.FullName = strings.Replace(c.About.FullName, "vCenter Server", "ESXi", 1)
		c.CustomFieldsManager = nil
	}
	return on, nil
}

// buildFields makes the inventory that the fields from Datacenter to Folders describe.
func (s *Server) buildFields(ctx *simulator.Context) error {
	if err := s.buildCluster(ctx); err != nil {
		return err
	}
	for i, name := range s.Datastores {
		if err := s.buildDatastore(ctx, i, name); err != nil {
			return err
		}
	}
	if err := s.buildNetworks(ctx); err != nil {
		return err
	}
	for _, p := range s.Folders {
		if _, err := s.makeFolder(ctx, s.at.dc.VmFolder, p); err != nil {
			return err
		}
	}
	return nil
}

// dropIdleWatch removes the option that makes vcsim start, for each login, a goroutine that
// outlives the service. The Server counts idle time itself.
func (s *Server) dropIdleWatch() {
	om := s.model.Map().OptionManager()
	var keep []types.BaseOptionValue
	for _, o := range om.Setting {
		if o.GetOptionValue().Key != "config.vmacore.soap.sessionTimeout" {
			keep = append(keep, deepCopy(o))
		}
	}
	om.Setting = keep
}

func (s *Server) buildCluster(ctx *simulator.Context) error {
	content := contentOf(ctx.Map)
	root := ctx.Map.Get(content.RootFolder).(*simulator.Folder)

	dcRes := root.CreateDatacenter(ctx, &types.CreateDatacenter{This: root.Self, Name: s.Datacenter}).(*methods.CreateDatacenterBody)
	if dcRes.Fault() != nil {
		return faultError("datacenter "+s.Datacenter, dcRes.Fault())
	}
	s.at.dc = ctx.Map.Get(dcRes.Res.Returnval).(*simulator.Datacenter)
	hostFolder := ctx.Map.Get(s.at.dc.HostFolder).(*simulator.Folder)
	clRes := hostFolder.CreateClusterEx(ctx, &types.CreateClusterEx{This: hostFolder.Self, Name: s.Cluster}).(*methods.CreateClusterExBody)
	if clRes.Fault() != nil {
		return faultError("cluster "+s.Cluster, clRes.Fault())
	}
	cluster := ctx.Map.Get(clRes.Res.Returnval).(*simulator.ClusterComputeResource)
	s.at.pool = *cluster.ResourcePool
	for i := range s.Hosts {
		res := cluster.AddHostTask(ctx, &types.AddHost_Task{
			This: cluster.Self, AsConnected: true,
			Spec: types.HostConnectSpec{HostName: fmt.Sprintf("esx%d.%s", i+1, "example.com")},
		}).(*methods.AddHost_TaskBody)
		if res.Fault() != nil {
			return faultError("add host", res.Fault())
		}
		task := ctx.Map.Get(res.Res.Returnval).(*simulator.Task)
		task.Wait()
		if task.Info.Error != nil {
			return fmt.Errorf("add host: %T", task.Info.Error.Fault)
		}
	}
	top := ctx.Map.Get(s.at.pool).(*simulator.ResourcePool)
	for _, name := range s.ResourcePools {
		res := top.CreateResourcePool(ctx, &types.CreateResourcePool{
			This: top.Self, Name: name, Spec: types.DefaultResourceConfigSpec(),
		}).(*methods.CreateResourcePoolBody)
		if res.Fault() != nil {
			return faultError("resource pool "+name, res.Fault())
		}
	}
	return nil
}

func (s *Server) buildDatastore(ctx *simulator.Context, i int, name string) error {
	dir := filepath.Join(s.dir, "datastores", fmt.Sprint(i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, h := range hostsOf(ctx, s.at.pool) {
		dss := ctx.Map.Get(*h.ConfigManager.DatastoreSystem).(*simulator.HostDatastoreSystem)
		res := dss.CreateLocalDatastore(ctx, &types.CreateLocalDatastore{This: dss.Self, Name: name, Path: dir}).(*methods.CreateLocalDatastoreBody)
		if res.Fault() != nil {
			return faultError("datastore "+name, res.Fault())
		}
	}
	return nil
}

func (s *Server) buildNetworks(ctx *simulator.Context) error {
	folder := ctx.Map.Get(s.at.dc.NetworkFolder).(*simulator.Folder)
	hosts := hostsOf(ctx, s.at.pool)
	cluster, _ := computeOf(ctx, s.at.pool)
	for _, name := range s.Networks {
		if _, ok := networkIn(ctx, s.at.dc, name); ok {
			continue
		}
		hns := ctx.Map.Get(*hosts[0].ConfigManager.NetworkSystem).(*simulator.HostNetworkSystem)
		res := hns.AddPortGroup(ctx, &types.AddPortGroup{
			This: hns.Self, Portgrp: types.HostPortGroupSpec{Name: name, VswitchName: "vSwitch0"},
		}).(*methods.AddPortGroupBody)
		if res.Fault() != nil {
			return faultError("network "+name, res.Fault())
		}
		n := ctx.Map.FindByName(name, folder.ChildEntity)
		n.(*mo.Network).Name = escape(name) // NICs know it by the port group's own name
		for _, h := range hosts {
			net := n.(*mo.Network)
			net.Host = append(net.Host, h.Self)
			h.Network = append(h.Network[:len(h.Network):len(h.Network)], n.Reference())
		}
		cluster.Network = append(cluster.Network, n.Reference())
	}
	return nil
}

// makeFolder returns the folder at p below ref, and makes what is missing of it.
func (s *Server) makeFolder(ctx *simulator.Context, ref types.ManagedObjectReference, p string) (*simulator.Folder, error) {
	for _, name := range strings.Split(strings.Trim(p, "/"), "/") {
		if name == "" || name == "." {
			continue
		}
		name = escape(name)
		below := children(ctx, ref)
		if i := slices.IndexFunc(below, func(r types.ManagedObjectReference) bool { return s.nameOf(r) == name }); i >= 0 {
			ref = below[i]
			continue
		}
		f, ok := ctx.Map.Get(ref).(*simulator.Folder)
		if !ok {
			return nil, fmt.Errorf("folder %s: no %q in %s", p, name, ref)
		}
		ref = s.addFolder(ctx, f, name)
	}
	f, ok := ctx.Map.Get(ref).(*simulator.Folder)
	if !ok {
		return nil, fmt.Errorf("folder %s: %s is no folder", p, ref)
	}
	return f, nil
}

func (s *Server) buildTemplate(ctx *simulator.Context, t Template) error {
	folder, err := s.makeFolder(ctx, s.at.dc.VmFolder, path.Dir(t.Path))
	if err != nil {
		return err
	}
	host := hostsOf(ctx, s.at.pool)[0]
	if t.Datastore == "" {
		t.Datastore = s.nameOf(host.Datastore[0])
	}
	if len(t.Networks) == 0 {
		t.Networks = s.firstNetworks()
	}
	ds := datastoreIn(ctx, s.at.dc, t.Datastore)
	if ds == nil {
		return fmt.Errorf("no datastore %q", t.Datastore)
	}
	b := &builder{
		s: s, ctx: ctx, name: escape(path.Base(t.Path)), folder: folder, pool: s.at.pool, ds: ds, host: host,
	}
	cfg := b.blank()
	spec := &types.VirtualMachineConfigSpec{
		NumCPUs: int32(t.CPUs), MemoryMB: int64(t.MemoryMiB), GuestId: t.GuestID,
		DeviceChange: templateDevices(t),
	}
	if f := b.apply(&cfg, spec); f != nil {
		return fmt.Errorf("%T", f)
	}
	v := b.put(cfg)
	change(ctx, v.obj, func() {
		v.obj.Config.Template = true
		v.obj.Summary.Config.Template = true
		v.obj.ResourcePool = nil
	})
	b.leavePool(v)
	v.disk = s.OS.Install(s.hardware(v.obj.Config))
	return nil
}

func templateDevices(t Template) []types.BaseVirtualDeviceConfigSpec {
	scsi := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus:         types.VirtualSCSISharingNoSharing,
		VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 1000}},
	}}
	disk := &types.VirtualDisk{
		VirtualDevice: types.VirtualDevice{
			Key: 2000, ControllerKey: 1000, UnitNumber: types.NewInt32(0),
			Backing: &types.VirtualDiskFlatVer2BackingInfo{
				DiskMode: string(types.VirtualDiskModePersistent), ThinProvisioned: types.NewBool(true),
			},
		},
		CapacityInKB: int64(t.DiskGiB) << 20, CapacityInBytes: int64(t.DiskGiB) << 30,
	}
	devs := []types.BaseVirtualDeviceConfigSpec{
		&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: scsi},
		&types.VirtualDeviceConfigSpec{
			Operation:     types.VirtualDeviceConfigSpecOperationAdd,
			FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate, Device: disk,
		},
	}
	for i, n := range t.Networks {
		nic := &types.VirtualVmxnet3{}
		nic.Key = int32(-1 - i)
		nic.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
			VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: n},
		}
		devs = append(devs, &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: nic})
	}
	return devs
}

// changeVersion returns a new value for a VM's config.changeVersion: a time, as on a real
// vCenter, and never the same twice.
func (s *Server) changeVersion() (string, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UTC().Truncate(time.Microsecond)
	if !now.After(s.lastVersion) {
		now = s.lastVersion.Add(time.Microsecond)
	}
	s.lastVersion = now
	return now.Format("2006-01-02T15:04:05.000000Z"), now
}
