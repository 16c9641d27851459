package sshguest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// treeSize is the global record of an archive that has the disk's size, in bytes.
const treeSize = "POOLREADY.size"

// DumpTree returns all that is on the disk, and its size, for LoadTree, as a compressed tar
// archive. Hard links become copies, and devices are left out, as every disk has its own.
func DumpTree(d *sshtest.Disk) ([]byte, error) {
	d = d.Clone() // a state that does not change meanwhile
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	size, _ := d.Usage()
	if err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeXGlobalHeader, Name: "disk", PAXRecords: map[string]string{treeSize: strconv.FormatInt(size, 10)},
	}); err != nil {
		return nil, err
	}
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := d.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			p := path.Join(dir, e.Name())
			if err := dumpFile(w, d, p); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			if e.IsDir() {
				if err := walk(p); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := errors.Join(walk("/"), w.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func dumpFile(w *tar.Writer, d *sshtest.Disk, p string) error {
	info, err := d.Lstat(p)
	if err != nil {
		return err
	}
	target := ""
	switch mode := info.Mode(); {
	case mode&fs.ModeSymlink != 0:
		if target, err = d.Readlink(p); err != nil {
			return err
		}
	case !mode.IsRegular() && !mode.IsDir():
		return nil
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Format = p, tar.FormatPAX
	if h.Typeflag == tar.TypeSymlink {
		h.ModTime = time.Unix(0, 0) // a link's own time cannot be set
	}
	if o, ok := info.Sys().(*sshtest.Owner); ok {
		h.Uid, h.Gid = o.UID, o.GID
	}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	data, err := d.ReadFile(p)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// LoadTree returns a disk with what DumpTree found.
func LoadTree(data []byte) (*sshtest.Disk, error) {
	d := sshtest.NewDisk()
	entries, err := d.ReadDir("/")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() != "dev" {
			if err := d.RemoveAll("/" + e.Name()); err != nil {
				return nil, err
			}
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	r := tar.NewReader(z)
	var all []*tar.Header
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && h.Typeflag == tar.TypeXGlobalHeader {
			size, err := strconv.ParseInt(h.PAXRecords[treeSize], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("size of the disk: %w", err)
			}
			d.SetSize(size)
			continue
		}
		if err == nil {
			err = loadFile(d, h, r)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	for i := range all { // last to first: what is in a directory, before its times
		h := all[len(all)-1-i]
		if h.Typeflag != tar.TypeSymlink {
			if err := d.Chtimes(h.Name, h.ModTime); err != nil {
				return nil, err
			}
		}
	}
	return d, nil
}

func loadFile(d *sshtest.Disk, h *tar.Header, r io.Reader) error {
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeSymlink:
		return d.Symlink(h.Linkname, h.Name)
	case tar.TypeDir:
		if err := d.MkdirAll(h.Name, 0o755); err != nil {
			return err
		}
	default:
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := d.WriteFile(h.Name, data, mode.Perm()); err != nil {
			return err
		}
	}
	if err := d.Chown(h.Name, strconv.Itoa(h.Uid), strconv.Itoa(h.Gid)); err != nil {
		return err
	}
	return d.Chmod(h.Name, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}
