package vspheretest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// A StateSaver is an OS that can outlive its process, which Server.StateDir needs. The default OS is
// one.
type StateSaver interface {
	OS
	// SaveDisk returns what LoadDisk makes an equal disk of. The disk may be in use.
	SaveDisk(Disk) ([]byte, error)
	LoadDisk(data []byte) (Disk, error)
	// Save returns what the OS knows beside the disks, and Load takes it back, before anything
	// else is asked of the OS.
	Save() ([]byte, error)
	Load(data []byte) error
}

// A state is what a StateDir holds, in state.json. Disks are files of their own, named by their
// contents.
type state struct {
	Format  int
	VCenter string // its instance UUID
	Shape   string // what the inventory is made of besides VMs
	Folders []string
	VMs     []savedVM
	OS      []byte

	Values, MACs, Snapshots, Deltas int // counters of what has been given out
}

const stateFormat = 2

type savedVM struct {
	Ref, Name, Dir                string
	Folder, Pool, Host, Datastore string // inventory paths
	Reverts                       int
	On                            bool
	Config, Guest, Tree           string // as XML
	Disk                          string
	Snapshots                     []savedSnapshot
}

type savedSnapshot struct {
	Ref, Config string
	Children    []string
	Disk        string
	Memory      []byte     `json:",omitempty"`
	Boot        *time.Time `json:",omitempty"`
}

// Save writes the VMs, with their snapshots and disks, to StateDir. Close does so too. What
// changes meanwhile may be in it or not; a VM that is being made or has an operation under way is
// saved as it is at that moment. Events, tasks, sessions and custom values are not saved.
func (s *Server) Save() error {
	k, ok := s.OS.(StateSaver)
	if s.StateDir == "" || !ok {
		return errors.New("vspheretest: save: no StateDir, or an OS that is no StateSaver")
	}
	s.saveMu.Lock()
	defer s.saveMu.Unlock()
	st := state{Format: stateFormat, VCenter: contentOf(s.model.Map()).About.InstanceUuid, Shape: s.shape()}
	ctx := s.context(nil)
	used := make(map[string]bool)
	keep := func(d Disk) (string, error) { return s.saveDisk(k, d, used) }
	for _, dc := range sortedRefs(ctx.Map.AllReference("Datacenter")) {
		vms := ctx.Map.Get(dc).(*simulator.Datacenter).VmFolder
		s.walkFolders(ctx, vms, s.pathOf(ctx, vms), func(dir string) { st.Folders = append(st.Folders, dir) })
	}
	for _, v := range s.allVMs() {
		saved, err := s.saveVM(ctx, v, keep)
		if err != nil {
			return fmt.Errorf("vspheretest: save: %w", err)
		}
		if saved != nil {
			st.VMs = append(st.VMs, *saved)
		}
	}
	slices.SortFunc(st.VMs, func(a, b savedVM) int { return strings.Compare(a.Ref, b.Ref) })
	var err error
	if st.OS, err = k.Save(); err != nil {
		return fmt.Errorf("vspheretest: save: %w", err)
	}
	s.mu.Lock()
	st.Values, st.MACs, st.Snapshots, st.Deltas = s.nvalue, s.nmac, s.nsnap, s.ndelta
	s.mu.Unlock()
	data, err := json.MarshalIndent(st, "", "\t")
	if err == nil {
		err = writeFile(filepath.Join(s.StateDir, "state.json"), data)
	}
	if err != nil {
		return fmt.Errorf("vspheretest: save: %w", err)
	}
	return s.sweepDisks(used)
}

// walkFolders calls f with the path of each folder below ref, parents first.
func (s *Server) walkFolders(ctx *simulator.Context, ref types.ManagedObjectReference, dir string, f func(dir string)) {
	for _, child := range children(ctx, ref) {
		if child.Type == "Folder" {
			p := path.Join(dir, s.nameOf(child))
			f(p)
			s.walkFolders(ctx, child, p, f)
		}
	}
}

// shape describes what a state depends on.
func (s *Server) shape() string {
	if s.Model != nil {
		counts, err := json.Marshal(s.Model)
		if err != nil {
			panic("vspheretest: " + err.Error()) // they are numbers
		}
		return fmt.Sprintf("model %s", counts)
	}
	return fmt.Sprintf("%q %q %d %q %q %q", s.Datacenter, s.Cluster, s.Hosts, s.Datastores, s.Networks, s.ResourcePools)
}

func (s *Server) saveVM(ctx *simulator.Context, v *vm, keep func(Disk) (string, error)) (*savedVM, error) {
	out := &savedVM{
		Ref: v.ref.Value, Dir: v.home.dir, Host: s.pathOf(ctx, v.home.host.Self), Datastore: s.pathOf(ctx, v.home.ds.Self),
	}
	var o mo.VirtualMachine
	v.look(ctx, func(p *mo.VirtualMachine) {
		o = mo.VirtualMachine{Config: deepCopy(p.Config), Guest: deepCopy(p.Guest), Snapshot: deepCopy(p.Snapshot), ResourcePool: p.ResourcePool}
		o.Name, o.Parent, o.Runtime.PowerState = p.Name, p.Parent, p.Runtime.PowerState
	})
	if o.Config == nil {
		return nil, nil // it is being made
	}
	out.Name, out.On = o.Name, o.Runtime.PowerState == poweredOn
	out.Folder = s.pathOf(ctx, *o.Parent)
	if o.ResourcePool != nil {
		out.Pool = s.pathOf(ctx, *o.ResourcePool)
	}
	s.mu.Lock()
	disk, snaps := v.disk, maps.Clone(v.snaps)
	out.Reverts = v.reverts
	s.mu.Unlock()
	var err error
	if out.Disk, err = keep(disk); err != nil {
		return nil, fmt.Errorf("disk of %q: %w", o.Name, err)
	}
	out.Config, out.Guest, out.Tree = toXML(o.Config), toXML(o.Guest), toXML(o.Snapshot)
	for ref, k := range snaps {
		snap, ok := snapshotOf(ctx, &ref)
		if !ok {
			continue
		}
		sv := savedSnapshot{Ref: ref.Value, Memory: k.memory, Boot: k.boot}
		ctx.WithLock(ref, func() {
			sv.Config = toXML(&snap.Config)
			for _, c := range snap.ChildSnapshot {
				sv.Children = append(sv.Children, c.Value)
			}
		})
		if sv.Disk, err = keep(k.disk); err != nil {
			return nil, fmt.Errorf("snapshot of %q: %w", o.Name, err)
		}
		out.Snapshots = append(out.Snapshots, sv)
	}
	return out, nil
}

// saveDisk writes a disk to a file named by its contents and returns the name.
func (s *Server) saveDisk(k StateSaver, d Disk, used map[string]bool) (string, error) {
	if d == nil {
		return "", nil
	}
	data, err := k.SaveDisk(d)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:16])
	used[name] = true
	file := filepath.Join(s.StateDir, "disks", name)
	if _, err := os.Stat(file); err == nil {
		return name, nil
	}
	return name, writeFile(file, data)
}

// sweepDisks removes the files of disks that are no more.
func (s *Server) sweepDisks(used map[string]bool) error {
	entries, err := os.ReadDir(filepath.Join(s.StateDir, "disks"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !used[e.Name()] {
			err = errors.Join(err, os.Remove(filepath.Join(s.StateDir, "disks", e.Name())))
		}
	}
	return err
}

// writeFile writes a file that is there whole or not at all.
func writeFile(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func toXML(v any) string {
	b, err := xml.Marshal(v)
	if err != nil {
		panic("vspheretest: " + err.Error()) // the types of the API can be marshalled
	}
	return string(b)
}

func fromXML[T any](text string) (*T, error) {
	if text == "" {
		return nil, nil
	}
	v := new(T)
	d := xml.NewDecoder(bytes.NewReader([]byte(text)))
	d.TypeFunc = types.TypeFunc()
	return v, d.Decode(v)
}
