package vspheretest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// loadState reads StateDir; nil if there is no state yet.
func (s *Server) loadState() (*state, error) {
	if s.StateDir == "" {
		return nil, nil
	}
	k, ok := s.OS.(StateSaver)
	if !ok {
		return nil, fmt.Errorf("StateDir is set, but the OS (%T) is no StateSaver", s.OS)
	}
	data, err := os.ReadFile(filepath.Join(s.StateDir, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := new(state)
	if err := json.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("%s: %w", s.StateDir, err)
	}
	if st.Format != stateFormat {
		return nil, fmt.Errorf("%s has format %d, this is %d; remove it to start from nothing", s.StateDir, st.Format, stateFormat)
	}
	if shape := s.shape(); st.Shape != shape {
		return nil, fmt.Errorf("%s was made with other hosts, datastores, networks or pools (%s, now %s); use the same, or another directory", s.StateDir, st.Shape, shape)
	}
	return st, k.Load(st.OS)
}

// restore makes the VMs of a state, off, and returns those that were on.
func (s *Server) restore(ctx *simulator.Context, st *state) ([]*vm, error) {
	s.restored = true
	si := ctx.Map.Get(serviceInstance).(*simulator.ServiceInstance)
	si.Content.About.InstanceUuid = st.VCenter
	s.nvalue, s.nmac, s.nsnap, s.ndelta = st.Values, st.MACs, st.Snapshots, st.Deltas
	for _, dir := range st.Folders {
		if _, err := s.makeFolder(ctx, contentOf(ctx.Map).RootFolder, dir); err != nil {
			return nil, err
		}
	}
	var on []*vm
	for i := range st.VMs {
		v, err := s.restoreVM(ctx, &st.VMs[i])
		if err != nil {
			return nil, fmt.Errorf("VM %q: %w", st.VMs[i].Name, err)
		}
		if st.VMs[i].On {
			on = append(on, v)
		}
	}
	return on, nil
}

func (s *Server) restoreVM(ctx *simulator.Context, saved *savedVM) (*vm, error) {
	folder, ok1 := s.atPath(ctx, saved.Folder).(*simulator.Folder)
	host, ok2 := s.atPath(ctx, saved.Host).(*simulator.HostSystem)
	ds, ok3 := s.atPath(ctx, saved.Datastore).(*simulator.Datastore)
	if !ok1 || !ok2 || !ok3 {
		return nil, fmt.Errorf("no folder %s, host %s or datastore %s", saved.Folder, saved.Host, saved.Datastore)
	}
	cfg, err1 := fromXML[types.VirtualMachineConfigInfo](saved.Config)
	guest, err2 := fromXML[types.GuestInfo](saved.Guest)
	tree, err3 := fromXML[types.VirtualMachineSnapshotInfo](saved.Tree)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	b := &builder{
		s: s, ctx: ctx, name: saved.Name, folder: folder, pool: s.at.pool, ds: ds, host: host, dir: saved.Dir,
		self: types.ManagedObjectReference{Type: "VirtualMachine", Value: saved.Ref},
	}
	if saved.Pool != "" {
		if p, ok := asPool(s.atPath(ctx, saved.Pool)); ok {
			b.pool = p.Self
		}
	}
	s.dirs[saved.Dir] = true
	template, version, modified := cfg.Template, cfg.ChangeVersion, cfg.Modified
	s.rehome(ctx, host, cfg)
	v := b.put(*cfg)
	var err error
	if v.disk, err = s.loadDisk(saved.Disk); err != nil {
		return nil, err
	}
	v.reverts = saved.Reverts
	for _, sv := range saved.Snapshots {
		if err := s.restoreSnapshot(ctx, v, sv); err != nil {
			return nil, err
		}
	}
	change(ctx, v.obj, func() {
		v.obj.Config.Template, v.obj.Summary.Config.Template = template, template
		v.obj.Config.ChangeVersion, v.obj.Config.Modified = version, modified
		if guest != nil {
			v.obj.Guest = guest
			v.obj.Summary.Guest = guestSummary(guest)
		}
		setSnapshots(v.obj, tree)
		if template {
			v.obj.ResourcePool = nil
		}
	})
	if template {
		b.leavePool(v)
	}
	s.toolsGone(ctx, v)
	return v, nil
}

func (s *Server) restoreSnapshot(ctx *simulator.Context, v *vm, saved savedSnapshot) error {
	cfg, err := fromXML[types.VirtualMachineConfigInfo](saved.Config)
	if err != nil {
		return err
	}
	s.rehome(ctx, v.home.host, cfg)
	snap := &simulator.VirtualMachineSnapshot{}
	snap.Self = types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: saved.Ref}
	snap.Vm, snap.Config = v.ref, *cfg
	for _, c := range saved.Children {
		snap.ChildSnapshot = append(snap.ChildSnapshot, types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: c})
	}
	ctx.Map.Put(snap)
	disk, err := s.loadDisk(saved.Disk)
	v.snaps[snap.Self] = kept{disk, saved.Memory, saved.Boot}
	return err
}

// rehome makes the references in a saved configuration those of this inventory.
func (s *Server) rehome(ctx *simulator.Context, host *simulator.HostSystem, cfg *types.VirtualMachineConfigInfo) {
	dc := datacenterOf(ctx, host.Self)
	for _, n := range nics(cfg) {
		if b, ok := n.Backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok {
			if ref, ok := networkIn(ctx, dc, b.DeviceName); ok {
				b.Network = &ref
			}
		}
	}
	each([]*types.VirtualMachineConfigInfo{cfg}, func(b *types.VirtualDiskFlatVer2BackingInfo, _ bool) {
		var p object.DatastorePath
		if b.Datastore != nil && p.FromString(b.FileName) {
			if ds := datastoreIn(ctx, dc, p.Datastore); ds != nil {
				b.Datastore = &ds.Self
			}
		}
	})
}

func (s *Server) loadDisk(name string) (Disk, error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(s.StateDir, "disks", name))
	if err != nil {
		return nil, err
	}
	return s.OS.(StateSaver).LoadDisk(data)
}

// resume powers on what was on when the state was saved, as hosts do after a power failure.
func (s *Server) resume(on []*vm) {
	ctx := s.context(nil)
	for _, v := range on {
		s.setPower(ctx, v, poweredOn)
		s.post(ctx, &types.VmPoweredOnEvent{VmEvent: s.vmEvent(ctx, v)})
		s.startGuest(ctx, v)
	}
}
