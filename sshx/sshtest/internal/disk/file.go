package disk

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

// IsNotExist reports whether an error says that there is no such file.
func IsNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// FileInfo describes a file as it was when requested.
type FileInfo struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
	UID   int
	GID   int
	Ino   uint64
	NLink int
	d     *Disk
}

// Name is the file's base name.
func (i *FileInfo) Name() string { return i.name }

// Size is its length in bytes.
func (i *FileInfo) Size() int64 { return i.size }

// Mode is its kind and permissions.
func (i *FileInfo) Mode() fs.FileMode { return i.mode }

// Type is its kind.
func (i *FileInfo) Type() fs.FileMode { return i.mode.Type() }

// ModTime is when its contents changed last.
func (i *FileInfo) ModTime() time.Time { return i.mtime }

// IsDir reports whether it is a directory.
func (i *FileInfo) IsDir() bool { return i.mode.IsDir() }

// Info returns i, which is a fs.DirEntry, too.
func (i *FileInfo) Info() (fs.FileInfo, error) { return i, nil }

// Sys returns an *Owner.
func (i *FileInfo) Sys() any { return i.Owner() }

// Uid is the number of its owner, for pkg/sftp.
func (i *FileInfo) Uid() uint32 { return uint32(i.UID) } //nolint:staticcheck // pkg/sftp names it so

// Gid is the number of its group, for pkg/sftp.
func (i *FileInfo) Gid() uint32 { return uint32(i.GID) } //nolint:staticcheck // and so

// Owner returns whose it is.
func (i *FileInfo) Owner() *Owner {
	acc := i.d.Accounts()
	return &Owner{UID: i.UID, GID: i.GID, User: acc.UserName(i.UID), Group: acc.GroupName(i.GID)}
}

// info describes inode n. The caller holds mu.
func (d *Disk) info(name string, n uint64) *FileInfo {
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
	return &FileInfo{name: name, size: size, mode: i.mode, mtime: i.mtime, UID: i.uid, GID: i.gid, Ino: n, NLink: nlink, d: d}
}

// Stat describes a file; it follows links.
func (v View) Stat(p string) (*FileInfo, error) { return v.Describe("stat", p, true) }

// Lstat describes a file; it does not follow a link.
func (v View) Lstat(p string) (*FileInfo, error) { return v.Describe("lstat", p, false) }

// Describe describes a file; op is the operation that errors name.
func (v View) Describe(op, p string, follow bool) (info *FileInfo, err error) {
	err = v.do(op, p, func() error {
		at, _, err := v.get(p, follow)
		if err == nil {
			info = v.d.info(path.Base(path.Clean(p)), at.ino)
		}
		return err
	})
	return info, err
}

// ReadDir returns what is in a directory, sorted by name.
func (v View) ReadDir(p string) (list []fs.DirEntry, err error) {
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

// Unsorted orders a list as a real directory does, which is to say by no rule that a program could
// count on.
func Unsorted(list []fs.DirEntry) []fs.DirEntry {
	sum := func(e fs.DirEntry) uint32 { return crc32.ChecksumIEEE([]byte(e.Name())) }
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return cmp.Compare(sum(a), sum(b)) })
	return list
}

// ReadFile is os.ReadFile.
func (v View) ReadFile(p string) ([]byte, error) {
	f, err := v.Open(p, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.all()
}

// WriteFile is os.WriteFile.
func (v View) WriteFile(p string, data []byte, mode fs.FileMode) error {
	f, err := v.Open(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// ReplaceFile puts data in place of a file by renaming a new one over it, with mode and owner of
// the old.
func (v View) ReplaceFile(p string, data []byte, mode fs.FileMode) error {
	old, err := v.Stat(p)
	if err == nil {
		mode = old.mode
	}
	tmp := p + ".sshtest+"
	if err := v.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	if err := v.Chmod(tmp, mode); err != nil {
		return err
	}
	if old != nil {
		_ = v.Chown(tmp, old.UID, old.GID, false)
	}
	if to, err := v.Realpath(p, false); err == nil {
		p = to
	}
	return v.Rename(tmp, p)
}

// A File is an open file. It stays what it is when its name goes.
type File struct {
	d      *Disk
	name   string
	ino    uint64
	flag   int
	device string

	mu     sync.Mutex
	off    int64
	closed bool
}

// Open is os.OpenFile.
func (v View) Open(p string, flag int, mode fs.FileMode) (f *File, err error) {
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
			if !v.may(v.d.inodes[at.dir], mayWrite|MayExec) {
				return syscall.EACCES
			}
			if len(at.name) > 255 {
				return syscall.ENAMETOOLONG
			}
			at.ino = v.d.add(at.dir, at.name, v.mine(&inode{mode: special(mode) &^ v.Umask}))
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
		f = &File{d: v.d, name: p, ino: at.ino, flag: flag, device: device}
		return nil
	})
	return f, err
}

// SetUptime makes /proc/uptime, which counts from the time booted.
func (d *Disk) SetUptime(booted time.Time) {
	const file = "/proc/uptime"
	_ = d.Remove(file)
	_ = d.WriteFile(file, nil, 0o444)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.booted = booted
	if at, err := d.Root().find(file, false); err == nil && at.ino != 0 {
		d.own(at.ino).device = "uptime"
		d.writeUptime(at.ino)
	}
}

// writeUptime writes the file's content again. The caller holds mu.
func (d *Disk) writeUptime(ino uint64) {
	up := time.Since(d.booted).Seconds()
	text := fmt.Sprintf("%-32s\n", fmt.Sprintf("%.2f %.2f", up, up)) // of one size always
	i := d.own(ino)
	if d.resize(i, 0) == nil && d.resize(i, int64(len(text))) == nil {
		copy(i.data, text)
	}
}

func (f *File) Read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.ReadAt(b, f.off)
	f.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt reads at an offset.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
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
		return 0, Fail("read", f.name, syscall.EBADF)
	case i.mode.IsDir():
		return 0, Fail("read", f.name, syscall.EISDIR)
	case off < 0:
		return 0, Fail("read", f.name, syscall.EINVAL)
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
func (f *File) all() ([]byte, error) {
	if f.device != "" && f.device != "null" {
		return nil, Fail("read", f.name, errors.New("endless device read whole"))
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	i := f.d.inodes[f.ino]
	if i == nil {
		return nil, Fail("read", f.name, syscall.EBADF)
	}
	if i.mode.IsDir() {
		return nil, Fail("read", f.name, syscall.EISDIR)
	}
	return slices.Clone(i.data), nil
}

func (f *File) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.write(b, &f.off, f.flag&os.O_APPEND != 0)
	return n, err
}

// WriteAt writes at the end of a file that is open for appending, as pwrite does on Linux.
func (f *File) WriteAt(b []byte, off int64) (int, error) {
	return f.write(b, &off, f.flag&os.O_APPEND != 0)
}

func (f *File) write(b []byte, off *int64, end bool) (int, error) {
	switch f.device {
	case "null", "zero", "random":
		return len(b), nil
	case "full":
		return 0, Fail("write", f.name, syscall.ENOSPC)
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.flag&(os.O_WRONLY|os.O_RDWR) == 0 || f.d.inodes[f.ino] == nil {
		return 0, Fail("write", f.name, syscall.EBADF)
	}
	i := f.d.own(f.ino)
	if end {
		*off = int64(len(i.data))
	}
	if *off < 0 || *off > 1<<40 {
		return 0, Fail("write", f.name, syscall.EINVAL)
	}
	if err := f.d.resize(i, max(int64(len(i.data)), *off+int64(len(b)))); err != nil {
		return 0, Fail("write", f.name, err)
	}
	if i.frozen {
		i.data, i.frozen = slices.Clone(i.data), false
	}
	copy(i.data[*off:], b)
	*off += int64(len(b))
	i.mtime = time.Now()
	return len(b), nil
}

// Truncate cuts or extends the file to n bytes.
func (f *File) Truncate(n int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.flag&(os.O_WRONLY|os.O_RDWR) == 0 || f.d.inodes[f.ino] == nil {
		return Fail("truncate", f.name, syscall.EBADF)
	}
	i := f.d.own(f.ino)
	i.mtime = time.Now()
	return Fail("truncate", f.name, f.d.resize(i, n))
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return Fail("close", f.name, fs.ErrClosed)
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

// FileModeOf returns the mode that chmod's bits mean.
func FileModeOf(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	if bits&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if bits&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if bits&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// BitsOf returns chmod's bits of a mode.
func BitsOf(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

// Reason is an error's text as libc writes it, without operation and path.
func Reason(err error) string {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		s := no.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// As returns the description under another name.
func (i *FileInfo) As(name string) *FileInfo {
	c := *i
	c.name = name
	return &c
}

// ProgramInfo describes a program that is there though no file is.
func (d *Disk) ProgramInfo(name string) *FileInfo {
	return &FileInfo{name: name, mode: 0o755, size: 64 << 10, d: d}
}
