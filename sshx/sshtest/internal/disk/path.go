package disk

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// may reports whether the user may do what all bits of want say with i.
func (v View) may(i *inode, want fs.FileMode) bool {
	if v.UID == 0 {
		return want&MayExec == 0 || i.mode.IsDir() || i.mode&0o111 != 0
	}
	perm := i.mode.Perm()
	switch {
	case i.uid == v.UID:
		perm >>= 6
	case slices.Contains(v.GIDs, i.gid):
		perm >>= 3
	}
	return perm&want == want
}

// A place is what a path leads to. ino is 0 if there is nothing of that name in dir.
type place struct {
	dir  uint64
	name string // "" if the path ends in the root, "." or ".."
	ino  uint64
}

const maxLinks = 40

// find walks to p. It follows links on the way, and the last component if follow. The caller holds
// mu.
func (v View) find(p string, follow bool) (place, error) {
	d := v.d
	links := 0
	todo := Split(p)
	mustDir := strings.HasSuffix(p, "/")
	at := place{dir: rootInode, ino: rootInode}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		dir := d.inodes[at.ino]
		if !dir.mode.IsDir() {
			return place{}, syscall.ENOTDIR
		}
		if !v.may(dir, MayExec) {
			return place{}, syscall.EACCES
		}
		switch name {
		case ".":
			at = place{dir: at.ino, ino: at.ino}
			continue
		case "..":
			at = place{dir: dir.parent, ino: dir.parent}
			continue
		}
		next := place{dir: at.ino, name: name, ino: dir.entries[name]}
		if next.ino == 0 {
			if len(todo) > 0 {
				return place{}, syscall.ENOENT
			}
			return next, nil
		}
		if i := d.inodes[next.ino]; i.mode&fs.ModeSymlink != 0 && (follow || len(todo) > 0 || mustDir) {
			if links++; links > maxLinks {
				return place{}, syscall.ELOOP
			}
			todo = append(Split(i.target), todo...)
			if strings.HasPrefix(i.target, "/") {
				at = place{dir: rootInode, ino: rootInode}
			}
			if len(todo) == 0 {
				return at, nil
			}
			continue
		}
		at = next
	}
	if mustDir && at.ino != 0 && !d.inodes[at.ino].mode.IsDir() {
		return place{}, syscall.ENOTDIR
	}
	return at, nil
}

// Split returns the components of a path.
func Split(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

func parentOf(p string) string { return path.Dir(path.Clean("/" + p)) }

// get is find for something that must exist.
func (v View) get(p string, follow bool) (place, *inode, error) {
	if p == "" {
		return place{}, nil, syscall.ENOENT
	}
	at, err := v.find(p, follow)
	if err != nil {
		return at, nil, err
	}
	if at.ino == 0 {
		return at, nil, syscall.ENOENT
	}
	return at, v.d.inodes[at.ino], nil
}

// entry is find for a name that is about to be made, which must not exist and not be a "." or "..".
func (v View) entry(p string) (place, error) {
	at, err := v.find(strings.TrimRight(p, "/"), false)
	switch {
	case err != nil:
		return at, err
	case p == "":
		return at, syscall.ENOENT
	case at.ino != 0 || at.name == "":
		return at, syscall.EEXIST
	case len(at.name) > 255:
		return at, syscall.ENAMETOOLONG
	case !v.may(v.d.inodes[at.dir], mayWrite|MayExec):
		return at, syscall.EACCES
	}
	return at, nil
}
