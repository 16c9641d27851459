package sshtest

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// fileInfo describes a file as it was when asked for.
type fileInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	uid   int
	gid   int
	ino   uint64
	nlink int
	d     *Disk
}

func (i *fileInfo) Name() string               { return i.name }
func (i *fileInfo) Size() int64                { return i.size }
func (i *fileInfo) Mode() fs.FileMode          { return i.mode }
func (i *fileInfo) Type() fs.FileMode          { return i.mode.Type() }
func (i *fileInfo) ModTime() time.Time         { return i.mtime }
func (i *fileInfo) IsDir() bool                { return i.mode.IsDir() }
func (i *fileInfo) Info() (fs.FileInfo, error) { return i, nil }
func (i *fileInfo) Sys() any                   { return i.owner() }
func (i *fileInfo) Uid() uint32                { return uint32(i.uid) } //nolint:staticcheck // pkg/sftp names it so
func (i *fileInfo) Gid() uint32                { return uint32(i.gid) } //nolint:staticcheck // and so

func (i *fileInfo) owner() *Owner {
	acc := i.d.accounts()
	return &Owner{UID: i.uid, GID: i.gid, User: acc.userName(i.uid), Group: acc.groupName(i.gid)}
}

// info describes inode n. The caller holds mu.
func (d *Disk) info(name string, n uint64) *fileInfo {
	i := d.inodes[n]
	size := int64(len(i.data))
	switch {
	case i.mode.IsDir():
		size = 4096
	case i.mode&fs.ModeSymlink != 0:
		size = int64(len(i.target))
	}
	nlink := i.nlink
	for _, e := range i.entries { // each directory has its own "." and a ".." in those below it
		if d.inodes[e].mode.IsDir() {
			nlink++
		}
	}
	if i.mode.IsDir() {
		nlink++
	}
	return &fileInfo{name: name, size: size, mode: i.mode, mtime: i.mtime, uid: i.uid, gid: i.gid, ino: n, nlink: nlink, d: d}
}

func (v view) stat(p string) (*fileInfo, error)  { return v.describe("stat", p, true) }
func (v view) lstat(p string) (*fileInfo, error) { return v.describe("lstat", p, false) }

func (v view) describe(op, p string, follow bool) (info *fileInfo, err error) {
	err = v.do(op, p, func() error {
		at, _, err := v.get(p, follow)
		if err == nil {
			info = v.d.info(path.Base(path.Clean(p)), at.ino)
		}
		return err
	})
	return info, err
}

func (v view) readDir(p string) (list []fs.DirEntry, err error) {
	err = v.do("readdir", p, func() error {
		_, i, err := v.get(p, true)
		switch {
		case err != nil:
			return err
		case !i.mode.IsDir():
			return syscall.ENOTDIR
		case !v.may(i, mayRead):
			return syscall.EACCES
		}
		for name, n := range i.entries {
			list = append(list, v.d.info(name, n))
		}
		slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
		return nil
	})
	return list, err
}

// unsorted orders a list as a real directory does, which is to say by no rule that a program could
// count on.
func unsorted(list []fs.DirEntry) []fs.DirEntry {
	sum := func(e fs.DirEntry) uint32 { return crc32.ChecksumIEEE([]byte(e.Name())) }
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(sum(a), sum(b)) })
	return list
}

func (v view) readFile(p string) ([]byte, error) {
	f, err := v.open(p, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.all()
}

// writeFile is os.WriteFile.
func (v view) writeFile(p string, data []byte, mode fs.FileMode) error {
	f, err := v.open(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// replaceFile puts data in place of a file by renaming a new one over it, with mode and owner of
// the old.
func (v view) replaceFile(p string, data []byte, mode fs.FileMode) error {
	old, err := v.stat(p)
	if err == nil {
		mode = old.mode
	}
	tmp := p + ".sshtest+"
	if err := v.writeFile(tmp, data, mode); err != nil {
		return err
	}
	if err := v.chmod(tmp, mode); err != nil {
		return err
	}
	if old != nil {
		_ = v.chown(tmp, old.uid, old.gid, false)
	}
	if to, err := v.realpath(p, false); err == nil {
		p = to
	}
	return v.rename(tmp, p)
}

// A file is an open file. It stays what it is when its name goes.
type file struct {
	d      *Disk
	name   string
	ino    uint64
	flag   int
	device string

	mu     sync.Mutex
	off    int64
	closed bool
}

func (v view) open(p string, flag int, mode fs.FileMode) (f *file, err error) {
	err = v.do("open", p, func() error {
		at, err := v.find(p, flag&os.O_EXCL == 0)
		if err != nil {
			return err
		}
		if p == "" {
			return syscall.ENOENT
		}
		write := flag&(os.O_WRONLY|os.O_RDWR) != 0
		if at.ino == 0 {
			if flag&os.O_CREATE == 0 {
				return syscall.ENOENT
			}
			if strings.HasSuffix(p, "/") {
				return syscall.EISDIR
			}
			if !v.may(v.d.inodes[at.dir], mayWrite|mayExec) {
				return syscall.EACCES
			}
			if len(at.name) > 255 {
				return syscall.ENAMETOOLONG
			}
			at.ino = v.d.add(at.dir, at.name, v.mine(&inode{mode: special(mode) &^ v.umask}))
		} else {
			i := v.d.inodes[at.ino]
			switch {
			case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
				return syscall.EEXIST
			case i.mode.IsDir() && write:
				return syscall.EISDIR
			case flag&os.O_WRONLY == 0 && !v.may(i, mayRead), write && !v.may(i, mayWrite):
				return syscall.EACCES
			}
			if flag&os.O_TRUNC != 0 && write && i.device == "" {
				i = v.d.own(at.ino)
				i.mtime = time.Now()
				_ = v.d.resize(i, 0)
			}
		}
		device := v.d.inodes[at.ino].device
		if device == "uptime" {
			device = ""
			v.d.writeUptime(at.ino)
		}
		v.d.open[at.ino]++
		f = &file{d: v.d, name: p, ino: at.ino, flag: flag, device: device}
		return nil
	})
	return f, err
}

// setUptime makes /proc/uptime, which counts from the time booted.
func (d *Disk) setUptime(booted time.Time) {
	const file = "/proc/uptime"
	_ = d.Remove(file)
	_ = d.WriteFile(file, nil, 0o444)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.booted = booted
	if at, err := d.root().find(file, false); err == nil && at.ino != 0 {
		d.own(at.ino).device = "uptime"
		d.writeUptime(at.ino)
	}
}

// writeUptime writes the file's content anew. The caller holds mu.
func (d *Disk) writeUptime(ino uint64) {
	up := time.Since(d.booted).Seconds()
	text := fmt.Sprintf("%-32s\n", fmt.Sprintf("%.2f %.2f", up, up)) // of one size always
	i := d.own(ino)
	if d.resize(i, 0) == nil && d.resize(i, int64(len(text))) == nil {
		copy(i.data, text)
	}
}

func (f *file) Read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.ReadAt(b, f.off)
	f.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(b []byte, off int64) (int, error) {
	switch f.device {
	case "null":
		return 0, io.EOF
	case "zero", "full":
		clear(b)
		return len(b), nil
	case "random":
		return rand.Read(b)
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	i := f.d.inodes[f.ino]
	switch {
	case f.flag&os.O_WRONLY != 0 || i == nil:
		return 0, fail("read", f.name, syscall.EBADF)
	case i.mode.IsDir():
		return 0, fail("read", f.name, syscall.EISDIR)
	case off < 0:
		return 0, fail("read", f.name, syscall.EINVAL)
	case off >= int64(len(i.data)):
		return 0, io.EOF
	}
	n := copy(b, i.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// all returns a copy of the whole contents.
func (f *file) all() ([]byte, error) {
	if f.device != "" && f.device != "null" {
		return nil, fail("read", f.name, errors.New("endless device read whole"))
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	i := f.d.inodes[f.ino]
	if i == nil {
		return nil, fail("read", f.name, syscall.EBADF)
	}
	if i.mode.IsDir() {
		return nil, fail("read", f.name, syscall.EISDIR)
	}
	return slices.Clone(i.data), nil
}

func (f *file) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.write(b, &f.off, f.flag&os.O_APPEND != 0)
	return n, err
}

// WriteAt writes at the end of a file that is open for appending, as pwrite does on Linux.
func (f *file) WriteAt(b []byte, off int64) (int, error) {
	return f.write(b, &off, f.flag&os.O_APPEND != 0)
}

func (f *file) write(b []byte, off *int64, end bool) (int, error) {
	switch f.device {
	case "null", "zero", "random":
		return len(b), nil
	case "full":
		return 0, fail("write", f.name, syscall.ENOSPC)
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.flag&(os.O_WRONLY|os.O_RDWR) == 0 || f.d.inodes[f.ino] == nil {
		return 0, fail("write", f.name, syscall.EBADF)
	}
	i := f.d.own(f.ino)
	if end {
		*off = int64(len(i.data))
	}
	if *off < 0 || *off > 1<<40 {
		return 0, fail("write", f.name, syscall.EINVAL)
	}
	if err := f.d.resize(i, max(int64(len(i.data)), *off+int64(len(b)))); err != nil {
		return 0, fail("write", f.name, err)
	}
	if i.frozen {
		i.data, i.frozen = slices.Clone(i.data), false
	}
	copy(i.data[*off:], b)
	*off += int64(len(b))
	i.mtime = time.Now()
	return len(b), nil
}

// truncate cuts or extends the file to n bytes.
func (f *file) truncate(n int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.flag&(os.O_WRONLY|os.O_RDWR) == 0 || f.d.inodes[f.ino] == nil {
		return fail("truncate", f.name, syscall.EBADF)
	}
	i := f.d.own(f.ino)
	i.mtime = time.Now()
	return fail("truncate", f.name, f.d.resize(i, n))
}

func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fail("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.open[f.ino]--; f.d.open[f.ino] == 0 {
		delete(f.d.open, f.ino)
	}
	f.d.forget(f.ino)
	return nil
}
