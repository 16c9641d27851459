package disk

import (
	"io/fs"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Disk is a file tree in memory, with owners, modes, symbolic and hard links, modification
// times and a size that can run out.
type Disk struct {
	mu     sync.Mutex
	inodes map[uint64]*inode // by number; 1 is the root directory
	shared bool              // inodes is another Disk's too: copy it before writing
	gen    uint64            // inodes of another generation are copied before writing
	next   uint64            // last inode number given out
	open   map[uint64]int    // open files per inode
	size   int64
	used   int64
	booted time.Time // what /proc/uptime counts from
}

const rootInode = 1

// generations numbers the owners of inodes: a Disk, between two clonings.
var generations atomic.Uint64

// newDisk returns a disk with nothing but the root directory.
func newDisk() *Disk {
	d := &Disk{inodes: map[uint64]*inode{}, gen: generations.Add(1), next: rootInode, open: map[uint64]int{}, size: 20 << 30}
	d.inodes[rootInode] = &inode{gen: d.gen, mode: fs.ModeDir | 0o755, mtime: time.Now(), entries: map[string]uint64{}, parent: rootInode, nlink: 1}
	return d
}

// Clone returns a copy that shares nothing that can be seen.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shared = true
	d.gen = generations.Add(1)
	return &Disk{
		inodes: d.inodes, shared: true, gen: generations.Add(1), next: d.next,
		open: map[uint64]int{}, size: d.size, used: d.used, booted: d.booted,
	}
}

// SetSize sets the size of the disk in bytes.
func (d *Disk) SetSize(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = bytes
}

// Usage returns the size of the disk and how much of it is used, in bytes.
func (d *Disk) Usage() (size, used int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size, d.used
}

// own returns inode n for writing. The caller holds mu.
func (d *Disk) own(n uint64) *inode {
	if d.shared {
		d.inodes = maps.Clone(d.inodes)
		d.shared = false
	}
	i := d.inodes[n]
	if i.gen != d.gen {
		c := *i
		c.gen = d.gen
		c.entries = maps.Clone(i.entries)
		c.frozen = true
		i = &c
		d.inodes[n] = i
	}
	return i
}

// add stores a new inode under name in directory dir. The caller holds mu and has checked.
func (d *Disk) add(dir uint64, name string, i *inode) uint64 {
	p := d.own(dir)
	d.next++
	i.gen, i.mtime, i.nlink = d.gen, time.Now(), 1
	if i.mode.IsDir() {
		i.entries, i.parent = map[string]uint64{}, dir
	}
	if p.mode&fs.ModeSetgid != 0 {
		i.gid = p.gid
		if i.mode.IsDir() {
			i.mode |= fs.ModeSetgid
		}
	}
	d.inodes[d.next] = i
	p.entries[name] = d.next
	p.mtime = i.mtime
	return d.next
}

// drop removes a name and, with the last one, the inode. The caller holds mu and has checked.
func (d *Disk) drop(dir uint64, name string) {
	p := d.own(dir)
	n := p.entries[name]
	delete(p.entries, name)
	p.mtime = time.Now()
	i := d.own(n)
	i.nlink--
	d.forget(n)
}

// forget frees inode n if nothing refers to it. The caller holds mu.
func (d *Disk) forget(n uint64) {
	if i := d.inodes[n]; i != nil && i.nlink == 0 && d.open[n] == 0 {
		if d.shared {
			i = d.own(n)
		}
		d.used -= int64(len(i.data))
		delete(d.inodes, n)
	}
}

// Root is the disk as root sees it, with a umask of 0.
func (d *Disk) Root() View { return View{d: d} }

// ReadFile returns a copy of the contents of a file.
func (d *Disk) ReadFile(path string) ([]byte, error) { return d.Root().ReadFile(path) }

// WriteFile writes data to a file.
func (d *Disk) WriteFile(path string, data []byte, mode fs.FileMode) error {
	return d.write(path, data, os.O_TRUNC, mode)
}

// AppendFile is WriteFile, except that what the file holds already stays before data.
func (d *Disk) AppendFile(path string, data []byte, mode fs.FileMode) error {
	return d.write(path, data, os.O_APPEND, mode)
}

func (d *Disk) write(path string, data []byte, flag int, mode fs.FileMode) error {
	v := d.Root()
	if err := v.MkdirAll(parentOf(path), 0o755); err != nil {
		return err
	}
	f, err := v.Open(path, os.O_WRONLY|os.O_CREATE|flag, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// MkdirAll makes a directory and those that lead to it, with mode.
func (d *Disk) MkdirAll(path string, mode fs.FileMode) error { return d.Root().MkdirAll(path, mode) }

// Remove removes a file, a link, or an empty directory.
func (d *Disk) Remove(path string) error { return d.Root().Remove(path) }

// RemoveAll removes path and everything below it. It is no error if there is nothing.
func (d *Disk) RemoveAll(path string) error { return d.Root().RemoveAll(path) }

// Rename moves a file or directory, in place of a file or an empty directory that was there.
func (d *Disk) Rename(from, to string) error { return d.Root().Rename(from, to) }

// Symlink makes path a symbolic link to target.
func (d *Disk) Symlink(target, path string) error { return d.Root().Symlink(target, path) }

// Chmod sets the permission, setuid, setgid and sticky bits of a file.
func (d *Disk) Chmod(path string, mode fs.FileMode) error { return d.Root().Chmod(path, mode) }

// Chown sets the owner of a file.
func (d *Disk) Chown(path, user, group string) error {
	uid, gid := -1, -1
	acc := d.Accounts()
	if user != "" {
		u, ok := acc.UserNamedOrNumbered(user)
		if !ok {
			return &fs.PathError{Op: "chown", Path: path, Err: unknownUserError(user)}
		}
		uid = u
	}
	if group != "" {
		g, ok := acc.GroupNamedOrNumbered(group)
		if !ok {
			return &fs.PathError{Op: "chown", Path: path, Err: unknownGroupError(group)}
		}
		gid = g
	}
	return d.Root().Chown(path, uid, gid, true)
}

// Chtimes sets the modification time of a file.
func (d *Disk) Chtimes(path string, mtime time.Time) error { return d.Root().Chtimes(path, mtime) }

// Stat describes a file; it follows links. Sys of what it returns is an *Owner.
func (d *Disk) Stat(path string) (fs.FileInfo, error) { return d.Root().Stat(path) }

// Lstat is Stat, except that it describes a symbolic link itself.
func (d *Disk) Lstat(path string) (fs.FileInfo, error) { return d.Root().Lstat(path) }

// Readlink returns what a symbolic link says.
func (d *Disk) Readlink(path string) (string, error) { return d.Root().Readlink(path) }

// ReadDir returns what is in a directory, sorted by name. Links are not followed.
func (d *Disk) ReadDir(path string) ([]fs.DirEntry, error) { return d.Root().ReadDir(path) }

// An Owner says whose a file is. It is what Sys returns for files of a Disk.
type Owner struct {
	UID, GID    int
	User, Group string // names on this disk, or the numbers in words
}

// inode is a file, directory, link or device. One whose gen is not its Disk's is never changed.
type inode struct {
	gen     uint64
	mode    fs.FileMode
	uid     int
	gid     int
	nlink   int
	mtime   time.Time
	data    []byte
	frozen  bool              // data belongs to others too: copy before writing
	entries map[string]uint64 // of a directory
	parent  uint64            // of a directory
	target  string            // of a symbolic link
	device  string            // null, zero, full or random; uptime is a file that is written when it is opened
}

// grow makes room for n bytes in a file. The caller holds the disk's mu and owns i.
func (d *Disk) resize(i *inode, n int64) error {
	if n < 0 {
		return syscall.EINVAL
	}
	old := int64(len(i.data))
	if n > old && d.used+n-old > d.size {
		return syscall.ENOSPC
	}
	d.used += n - old
	switch {
	case n == 0:
		i.data, i.frozen = nil, false
	case n <= old && !i.frozen:
		i.data = i.data[:n]
	case i.frozen || n > int64(cap(i.data)):
		room := n
		if n > old {
			room += n / 4
		}
		data := make([]byte, n, room)
		copy(data, i.data)
		i.data, i.frozen = data, false
	default:
		i.data = i.data[:n]
		clear(i.data[old:])
	}
	return nil
}
