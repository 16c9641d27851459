package sshx

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// An unpacked is the local copy of a tree, while it is made from what a machine says there is.
// Nothing outside of root is written: os.Root sees to that, also where links lead elsewhere.
// Links are made last, so that nothing is written through them, and no more than is known of all
// of them is needed to tell where each leads.
type unpacked struct {
	root  *os.Root
	dirs  []unpackedDir
	links []unpackedLink

	mu   sync.Mutex           // guards sums; files may come several at a time
	sums map[string]hash.Hash // of files; nil if none are wanted
}

type unpackedDir struct {
	name string
	mode fs.FileMode
	time time.Time
}

type unpackedLink struct{ name, to string }

func newUnpacked(root *os.Root, sums bool) *unpacked {
	u := &unpacked{root: root}
	if sums {
		u.sums = map[string]hash.Hash{}
	}
	return u
}

// safeName checks a name that came from the machine.
func safeName(name string) (string, error) {
	local := path.Clean(strings.TrimSuffix(name, "/"))
	foreign := filepath.Separator != '/' && strings.ContainsRune(name, filepath.Separator)
	if foreign || strings.ContainsRune(name, 0) || !filepath.IsLocal(local) {
		return "", fmt.Errorf("the machine sent the name %q, which leads out of the directory", name)
	}
	return local, nil
}

// dir makes a directory, which belongs to us until finish.
func (u *unpacked) dir(name string, mode fs.FileMode, modTime time.Time) error {
	name, err := safeName(name)
	if err != nil || name == "." {
		return err
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	err = u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, lerr := u.root.Lstat(name)
		if lerr != nil {
			return lerr
		}
		if info.IsDir() {
			err = u.root.Chmod(name, info.Mode().Perm()|0o700)
		}
	}
	u.dirs = append(u.dirs, unpackedDir{name, mode, modTime})
	return err
}

// file makes a file of what write writes. It may be called from several goroutines.
func (u *unpacked) file(name string, mode fs.FileMode, modTime time.Time, write func(io.Writer) error) error {
	name, err := u.place(name)
	if err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := io.Writer(f)
	if u.sums != nil {
		sum := sha256.New()
		w = io.MultiWriter(f, sum)
		u.mu.Lock()
		u.sums[name] = sum
		u.mu.Unlock()
	}
	if err = errors.Join(write(w), f.Close()); err == nil {
		err = errors.Join(u.root.Chmod(name, mode), u.root.Chtimes(name, modTime, modTime))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), u.root.Remove(name))
	}
	return nil
}

// link notes a symbolic link.
func (u *unpacked) link(name, to string) error {
	name, err := safeName(name)
	u.links = append(u.links, unpackedLink{name, to})
	return err
}

// hardLink makes a hard link to what was unpacked before.
func (u *unpacked) hardLink(name, to string) error {
	to, err := safeName(to)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(u.links, func(l unpackedLink) bool { return l.name == to }); i >= 0 {
		return u.link(name, u.links[i].to)
	}
	if name, err = u.place(name); err != nil {
		return err
	}
	return u.root.Link(to, name)
}

// place makes room for something that is no directory, and returns its local name.
func (u *unpacked) place(name string) (string, error) {
	name, err := safeName(name)
	if err != nil {
		return "", err
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return "", err
	}
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return name, nil
	case err == nil && info.IsDir():
		err = fmt.Errorf("%s: a directory is in its place", name)
	case err == nil:
		err = u.root.Remove(name)
	}
	return name, err
}

// finish makes the links, and gives directories their modes, but always what their owner needs to
// remove them, and times.
func (u *unpacked) finish() error {
	var errs []error
	made := u.links[:0]
	for _, l := range u.links {
		name, err := u.place(l.name)
		if err == nil {
			err = u.root.Symlink(l.to, name)
		}
		if err == nil {
			made = append(made, l)
		}
		errs = append(errs, err)
	}
	for _, l := range made {
		if u.leadsOut(l.name) {
			errs = append(errs, fmt.Errorf("%s: the link to %q leads out of the directory", l.name, l.to), u.root.Remove(l.name))
		}
	}
	for _, d := range slices.Backward(u.dirs) {
		errs = append(errs, u.root.Chmod(d.name, d.mode|0o700), u.root.Chtimes(d.name, d.time, d.time))
	}
	return errors.Join(errs...)
}

// leadsOut follows a link, and those on its way, as the kernel does. What does not exist is taken
// for a directory. More links than any kernel follows lead nowhere.
func (u *unpacked) leadsOut(name string) bool {
	var at []string // where we are, below root; no links
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0 && links < 256; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return true
			}
			at = at[:len(at)-1]
			continue
		}
		to, err := u.root.Readlink(path.Join(append(at, next)...))
		if err != nil {
			at = append(at, next)
			continue
		}
		if path.IsAbs(to) || filepath.IsAbs(to) {
			return true
		}
		links++
		todo = append(strings.Split(to, "/"), todo...)
	}
	return false
}
