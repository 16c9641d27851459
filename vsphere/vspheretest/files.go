package vspheretest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vmdk"
)

// The files of VMs are on the datastores, as vcsim's are, for those who list, download, export or
// register them: descriptors that can be read, and extents without content.

// local returns where the file of a datastore path is on this machine, or "".
func (s *Server) local(ctx *simulator.Context, dc *simulator.Datacenter, file string) string {
	var p object.DatastorePath
	if !p.FromString(file) {
		return ""
	}
	ds := datastoreIn(ctx, dc, p.Datastore)
	if ds == nil {
		return ""
	}
	root := ""
	ctx.WithLock(ds.Self, func() { root = ds.Summary.Url })
	if root == "" || !filepath.IsAbs(root) || strings.Contains(p.Path, "..") {
		return ""
	}
	return path.Join(root, p.Path)
}

func (s *Server) hasFile(ctx *simulator.Context, dc *simulator.Datacenter, file string) bool {
	local := s.local(ctx, dc, file)
	if local == "" {
		return false
	}
	_, err := os.Stat(local)
	return err == nil
}

// layFiles makes what files the VM has that are not there yet. The caller has the VM to itself.
func (s *Server) layFiles(ctx *simulator.Context, m *vm) {
	cfg := m.config(ctx)
	if cfg == nil {
		return
	}
	dc := datacenterOf(ctx, m.home.host.Self)
	write := func(file string, data []byte) {
		local := s.local(ctx, dc, file)
		if local == "" {
			return
		}
		if err := writeNew(local, data); err != nil && !errors.Is(err, fs.ErrExist) {
			s.logf("vspheretest: file of a VM: %v", err)
		}
	}
	vmx := cfg.Files.VmPathName
	write(vmx, fmt.Appendf(nil, ".encoding = \"UTF-8\"\ndisplayName = %q\nguestOS = %q\n", cfg.Name, cfg.GuestId))
	write(strings.TrimSuffix(vmx, ".vmx")+".nvram", nil)
	write(m.home.dir+"/vmware.log", []byte("created\n"))
	for _, d := range disks(cfg) {
		for b := backingOf(d); b != nil; b = b.Parent {
			extent := simulator.VirtualDiskBackingFileName(b.FileName)
			desc := vmdk.NewDescriptor(vmdk.Extent{Size: d.CapacityInBytes / vmdk.SectorSize, Info: path.Base(extent)})
			var text bytes.Buffer
			if err := desc.Write(&text); err == nil {
				write(b.FileName, text.Bytes())
				write(extent, nil)
			}
		}
	}
}

// writeNew writes a file that does not exist, and makes its directory.
func writeNew(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
			f, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// dropFiles removes the files of a VM that is destroyed: all that it made in its directory.
func (s *Server) dropFiles(ctx *simulator.Context, m *vm, files map[string]bool) {
	dc := datacenterOf(ctx, m.home.host.Self)
	all := []string{m.home.dir + "/vmware.log"}
	m.look(ctx, func(o *mo.VirtualMachine) {
		if o.Config != nil {
			vmx := o.Config.Files.VmPathName
			all = append(all, vmx, strings.TrimSuffix(vmx, ".vmx")+".nvram")
		}
	})
	for file := range files {
		all = append(all, file, simulator.VirtualDiskBackingFileName(file))
	}
	for _, file := range all {
		if local := s.local(ctx, dc, file); local != "" {
			_ = os.Remove(local)
		}
	}
	if local := s.local(ctx, dc, m.home.dir); local != "" && !strings.HasSuffix(m.home.dir, "]") {
		_ = os.Remove(local) // unless somebody put more into it
	}
}

// attachable says what is wrong with the file of a disk that a request names instead of having it
// made.
func (r *rig) attachable(b *types.VirtualDiskFlatVer2BackingInfo) types.BaseMethodFault {
	var p object.DatastorePath
	if !p.FromString(b.FileName) {
		return &types.InvalidDatastorePath{DatastorePath: b.FileName}
	}
	if !r.s.hasFile(r.ctx, r.dc, b.FileName) {
		return &types.FileNotFound{FileFault: types.FileFault{File: b.FileName}}
	}
	return nil
}

// capacity is what the descriptor of a disk says of its size in bytes; 0 if there is none to read.
func (s *Server) capacity(ctx *simulator.Context, dc *simulator.Datacenter, file string) int64 {
	f, err := os.Open(s.local(ctx, dc, file))
	if err != nil {
		return 0
	}
	defer f.Close()
	desc, err := vmdk.ParseDescriptor(f)
	if err != nil {
		return 0
	}
	return desc.Capacity()
}
