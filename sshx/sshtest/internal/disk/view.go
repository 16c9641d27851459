package disk

import (
	"cmp"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A View is a disk as one user may use it.
type View struct {
	d     *Disk
	UID   int // 0 may do everything
	GIDs  []int
	Umask fs.FileMode
}

// The bits of access(2).
const (
	mayRead  fs.FileMode = 4
	mayWrite fs.FileMode = 2
	MayExec  fs.FileMode = 1
)

// Fail names operation and path in an error.
func Fail(op, p string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: p, Err: err}
}

// do runs f with the disk locked, and names op and p in its error.
func (v View) do(op, p string, f func() error) error {
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	return Fail(op, p, f())
}

func (v View) mine(i *inode) *inode { // a new inode of the user's
	i.uid = v.UID
	if len(v.GIDs) > 0 {
		i.gid = v.GIDs[0]
	}
	return i
}

// Mkdir is os.Mkdir.
func (v View) Mkdir(p string, mode fs.FileMode) error {
	return v.do("mkdir", p, func() error {
		at, err := v.entry(p)
		if err != nil {
			return err
		}
		v.d.add(at.dir, at.name, v.mine(&inode{mode: fs.ModeDir | special(mode)&^v.Umask}))
		return nil
	})
}

// special keeps the bits that chmod may set.
func special(mode fs.FileMode) fs.FileMode {
	return mode & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

// MkdirAll is os.MkdirAll.
func (v View) MkdirAll(p string, mode fs.FileMode) error {
	p = path.Clean("/" + p)
	if i, err := v.Stat(p); err == nil {
		if !i.IsDir() {
			return Fail("mkdir", p, syscall.ENOTDIR)
		}
		return nil
	}
	if p != "/" {
		if err := v.MkdirAll(path.Dir(p), mode); err != nil {
			return err
		}
	}
	if err := v.Mkdir(p, mode); err != nil {
		if i, err2 := v.Stat(p); err2 == nil && i.IsDir() {
			return nil // somebody else made it
		}
		return err
	}
	return nil
}

// mayUnlink reports whether the user may remove an entry of a directory.
func (v View) mayUnlink(dir, i *inode) error {
	switch {
	case !v.may(dir, mayWrite|MayExec):
		return syscall.EACCES
	case dir.mode&fs.ModeSticky != 0 && v.UID != 0 && v.UID != dir.uid && v.UID != i.uid:
		return syscall.EPERM
	}
	return nil
}

// Remove is os.Remove.
func (v View) Remove(p string) error {
	return v.do("remove", p, func() error {
		at, i, err := v.get(strings.TrimRight(p, "/"), false)
		switch {
		case err != nil:
			return err
		case at.name == "":
			return syscall.EBUSY
		}
		if err := v.mayUnlink(v.d.inodes[at.dir], i); err != nil {
			return err
		}
		if len(i.entries) > 0 {
			return syscall.ENOTEMPTY
		}
		v.d.drop(at.dir, at.name)
		return nil
	})
}

// RemoveAll is os.RemoveAll.
func (v View) RemoveAll(p string) error {
	i, err := v.Lstat(p)
	if err != nil {
		if IsNotExist(err) {
			return nil
		}
		return err
	}
	if i.IsDir() {
		list, err := v.ReadDir(p)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := v.RemoveAll(path.Join(p, e.Name())); err != nil {
				return err
			}
		}
		if path.Clean(p) == "/" {
			return nil
		}
	}
	return v.Remove(p)
}

// Rename is os.Rename.
func (v View) Rename(from, to string) error {
	v.d.mu.Lock()
	defer v.d.mu.Unlock()
	if err := v.renameLocked(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (v View) renameLocked(from, to string) error {
	d := v.d
	src, i, err := v.get(strings.TrimRight(from, "/"), false)
	if err != nil {
		return err
	}
	if src.name == "" {
		return syscall.EBUSY
	}
	if !i.mode.IsDir() && (strings.HasSuffix(from, "/") || strings.HasSuffix(to, "/")) {
		return syscall.ENOTDIR
	}
	if err := v.mayUnlink(d.inodes[src.dir], i); err != nil {
		return err
	}
	dst, err := v.find(strings.TrimRight(to, "/"), false)
	if err != nil {
		return err
	}
	if dst.name == "" {
		return syscall.EBUSY
	}
	if dst.ino == src.ino {
		return nil
	}
	if !v.may(d.inodes[dst.dir], mayWrite|MayExec) {
		return syscall.EACCES
	}
	for n := dst.dir; n != rootInode; n = d.inodes[n].parent {
		if n == src.ino {
			return syscall.EINVAL // into itself
		}
	}
	if dst.ino != 0 {
		old := d.inodes[dst.ino]
		if err := v.mayUnlink(d.inodes[dst.dir], old); err != nil {
			return err
		}
		switch {
		case old.mode.IsDir() && !i.mode.IsDir():
			return syscall.EISDIR
		case !old.mode.IsDir() && i.mode.IsDir():
			return syscall.ENOTDIR
		case len(old.entries) > 0:
			return syscall.ENOTEMPTY
		}
		d.drop(dst.dir, dst.name)
	}
	now := time.Now()
	sp := d.own(src.dir)
	delete(sp.entries, src.name)
	sp.mtime = now
	dp := d.own(dst.dir)
	dp.entries[dst.name] = src.ino
	dp.mtime = now
	if i.mode.IsDir() {
		d.own(src.ino).parent = dst.dir
	}
	return nil
}

// Symlink is os.Symlink.
func (v View) Symlink(target, p string) error {
	return v.do("symlink", p, func() error {
		at, err := v.entry(p)
		if err != nil {
			return err
		}
		if target == "" {
			return syscall.ENOENT
		}
		v.d.add(at.dir, at.name, v.mine(&inode{mode: fs.ModeSymlink | 0o777, target: target}))
		return nil
	})
}

// Link is os.Link.
func (v View) Link(old, p string) error {
	return v.do("link", p, func() error {
		_, i, err := v.get(old, false)
		if err != nil {
			return err
		}
		src, _ := v.find(old, false)
		at, err := v.entry(p)
		if err != nil {
			return err
		}
		if i.mode.IsDir() {
			return syscall.EPERM
		}
		v.d.own(at.dir).entries[at.name] = src.ino
		v.d.own(src.ino).nlink++
		return nil
	})
}

// Chmod is os.Chmod.
func (v View) Chmod(p string, mode fs.FileMode) error {
	return v.do("chmod", p, func() error {
		at, i, err := v.get(p, true)
		if err != nil {
			return err
		}
		if v.UID != 0 && v.UID != i.uid {
			return syscall.EPERM
		}
		i = v.d.own(at.ino)
		i.mode = i.mode.Type() | special(mode)
		return nil
	})
}

// Chown sets owner and group; -1 leaves what is.
func (v View) Chown(p string, uid, gid int, follow bool) error {
	return v.do("chown", p, func() error {
		at, i, err := v.get(p, follow)
		if err != nil {
			return err
		}
		if v.UID != 0 && (v.UID != i.uid || uid >= 0 && uid != i.uid || gid >= 0 && !slices.Contains(v.GIDs, gid)) {
			return syscall.EPERM
		}
		i = v.d.own(at.ino)
		if uid >= 0 {
			i.uid = uid
		}
		if gid >= 0 {
			i.gid = gid
		}
		if !i.mode.IsDir() {
			i.mode &^= fs.ModeSetuid | fs.ModeSetgid
		}
		return nil
	})
}

// Chtimes sets the modification time.
func (v View) Chtimes(p string, mtime time.Time) error {
	return v.do("chtimes", p, func() error {
		at, i, err := v.get(p, true)
		if err != nil {
			return err
		}
		if v.UID != i.uid && !v.may(i, mayWrite) {
			return syscall.EACCES
		}
		v.d.own(at.ino).mtime = mtime
		return nil
	})
}

// Access reports, by its error, whether the user may use a file so.
func (v View) Access(p string, want fs.FileMode) error {
	return v.do("access", p, func() error {
		_, i, err := v.get(p, true)
		if err == nil && !v.may(i, want) {
			err = syscall.EACCES
		}
		return err
	})
}

// Readlink is os.Readlink.
func (v View) Readlink(p string) (target string, err error) {
	err = v.do("readlink", p, func() error {
		_, i, err := v.get(p, false)
		if err == nil && i.mode&fs.ModeSymlink == 0 {
			err = syscall.EINVAL
		}
		if err == nil {
			target = i.target
		}
		return err
	})
	return target, err
}

// Realpath returns p without links; the last component need not exist unless must.
func (v View) Realpath(p string, must bool) (real string, err error) {
	err = v.do("realpath", p, func() error {
		at, err := v.find(p, true)
		if err != nil {
			return err
		}
		if at.ino == 0 {
			if must {
				return syscall.ENOENT
			}
			real = path.Join(v.pathOf(at.dir), at.name)
			return nil
		}
		if at.name != "" && !v.d.inodes[at.ino].mode.IsDir() {
			real = path.Join(v.pathOf(at.dir), at.name)
			return nil
		}
		real = v.pathOf(at.ino)
		return nil
	})
	return real, err
}

// pathOf returns the path of a directory. The caller holds mu.
func (v View) pathOf(dir uint64) string {
	p := ""
	for dir != rootInode {
		up := v.d.inodes[dir].parent
		for name, n := range v.d.inodes[up].entries {
			if n == dir {
				p = "/" + name + p
				break
			}
		}
		dir = up
	}
	return cmp.Or(p, "/")
}

// Tree calls f for a path and, if deep, all that is below it, parents first. Links are not followed
// below.
func (v View) Tree(p string, deep bool, f func(string) error) error {
	if err := f(p); err != nil {
		return err
	}
	i, err := v.Lstat(p)
	if err != nil || !deep || !i.IsDir() {
		return err
	}
	list, err := v.ReadDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := v.Tree(path.Join(p, e.Name()), true, f); err != nil {
			return err
		}
	}
	return nil
}
