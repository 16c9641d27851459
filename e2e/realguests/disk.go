package realguests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A layer is a directory of files that stand above those of the layers below. It is removed when
// no disk has it.
type layer struct {
	name string // in the Site's directory; files are in its directory "upper"
}

func (s *Site) newLayer() (*layer, error) {
	l := &layer{name: s.unique("layer")}
	dir := filepath.Join(s.dir, l.name)
	for _, d := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	runtime.AddCleanup(l, func(dir string) { _ = os.RemoveAll(dir) }, dir)
	return l, nil
}

// A tree is the disk of a container: layers above the image, of which only the last is written to.
type tree struct {
	site *Site

	mu     sync.Mutex
	lower  []*layer // the highest first
	upper  *layer
	in     bool // in use: the upper layer is being written to
	broken error
}

// Clone implements vspheretest.Disk. The copy of a disk that is in use has what was on it after
// some of the writes of that time, as after a power failure.
func (t *tree) Clone() vspheretest.Disk {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &tree{site: t.site, lower: t.lower, broken: t.broken}
	if c.broken == nil {
		c.broken = t.split(c)
	}
	return c
}

// split gives c an upper layer of its own, and what is in t's.
func (t *tree) split(c *tree) (err error) {
	if c.upper, err = t.site.newLayer(); err != nil {
		return err
	}
	upper := filepath.Join(t.site.dir, t.upper.name, "upper")
	if t.in {
		to := filepath.Join(t.site.dir, c.upper.name, "upper")
		out, err := exec.CommandContext(t.site.life, "cp", "-a", upper+"/.", to).CombinedOutput()
		if err != nil &&
			!strings.Contains(string(out), "No such file") { // what was removed meanwhile
			return fmt.Errorf("copy a disk in use: %w\n%s", err, out)
		}
		return nil
	}
	entries, err := os.ReadDir(upper)
	if err != nil || len(entries) == 0 { // nothing written: the layers below are all there is
		return err
	}
	fresh, err := t.site.newLayer()
	if err != nil {
		return err
	}
	t.lower, t.upper = append([]*layer{t.upper}, t.lower...), fresh
	c.lower = t.lower
	return nil
}

// install returns the disk of a template.
func (s *Site) installTree() *tree {
	t := &tree{site: s}
	if t.upper, t.broken = s.newLayer(); t.broken == nil {
		t.broken = s.adapt(filepath.Join(s.dir, t.upper.name, "upper"))
	}
	return t
}

// adapt writes what differs between an image and a container into a layer.
func (s *Site) adapt(upper string) error {
	if err := extract(containerFS, "container/root", upper); err != nil {
		return err
	}
	if !s.vlans {
		if err := extract(containerFS, "container/macvlan", upper); err != nil {
			return err
		}
	}
	// There is no udev to say that a NIC has been plugged in.
	const interfaces = "etc/network/interfaces"
	text, err := os.ReadFile(filepath.Join(s.image.root(), interfaces))
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(filepath.Join(upper, filepath.Dir(interfaces)), 0o755)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(
		filepath.Join(upper, interfaces),
		[]byte(strings.ReplaceAll(string(text), "allow-hotplug", "auto")),
		0o644,
	)
}

// use says that a container runs on the disk, and returns the options of its overlay, relative to
// the Site's directory; done says that it does so no more.
func (t *tree) use() (lower, upper, work string, done func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken != nil {
		return "", "", "", nil, t.broken
	}
	for _, l := range t.lower {
		lower += l.name + "/upper:"
	}
	t.in = true
	return lower + t.site.image.root(), t.upper.name + "/upper", t.upper.name + "/work", func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.in = false
	}, nil
}
