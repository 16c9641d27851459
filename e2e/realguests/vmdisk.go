package realguests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// An overlay is a qcow2 file that has what was written since its backing file. It is removed when
// no disk has it.
type overlay struct {
	path    string
	backing *overlay // nil is the image's disk
}

func (s *Site) newOverlay(backing *overlay) (*overlay, error) {
	o := &overlay{path: filepath.Join(s.dir, s.unique("disk")+".qcow2"), backing: backing}
	below := s.image.disk()
	if backing != nil {
		below = backing.path
	}
	err := qemuImg(s.life, "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", o.path)
	if err != nil {
		return nil, err
	}
	runtime.AddCleanup(o, func(path string) { _ = os.Remove(path) }, o.path)
	return o, nil
}

func qemuImg(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("qemu-img %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// A vmDisk is the disk of a VM under QEMU.
type vmDisk struct {
	site *Site

	mu      sync.Mutex
	top     *overlay
	written bool // top may have something
	in      bool // a VM runs on it
	broken  error
}

func (s *Site) installVM() *vmDisk {
	d := &vmDisk{site: s}
	d.top, d.broken = s.newOverlay(nil)
	return d
}

// Clone implements vspheretest.Disk.
func (d *vmDisk) Clone() vspheretest.Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &vmDisk{site: d.site, broken: d.broken}
	if c.broken == nil {
		c.broken = d.split(c)
	}
	return c
}

func (d *vmDisk) split(c *vmDisk) (err error) {
	switch {
	case d.in: // as after a power failure, at best; a snapshot with memory stops the VM first
		if c.top, err = d.site.newOverlay(d.top.backing); err == nil {
			c.written, err = true, copyFile(d.site.life, d.top.path, c.top.path)
		}
	case !d.written:
		c.top, err = d.site.newOverlay(d.top.backing)
	default:
		below := d.top
		if d.top, err = d.site.newOverlay(below); err == nil {
			d.written = false
			c.top, err = d.site.newOverlay(below)
		}
	}
	return err
}

func copyFile(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy a disk: %w\n%s", err, out)
	}
	return nil
}

// use says that a VM runs on the disk, which has at least so many GiB; done says that it does no
// more.
func (d *vmDisk) use(gib int) (path string, done func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return "", nil, d.broken
	}
	if gib > imageGiB {
		if err := qemuImg(d.site.life, "resize", "-q", d.top.path, fmt.Sprintf("%dG", gib)); err != nil {
			return "", nil, err
		}
	}
	d.in, d.written = true, true
	return d.top.path, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.in = false
	}, nil
}
