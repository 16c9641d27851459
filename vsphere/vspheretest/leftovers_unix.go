//go:build unix

package vspheretest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// claim keeps a Server's directory, and those of its simulator, from being taken for leftovers until
// release is called or this process ends.
func claim(dir string, simulator []string) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "new"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	if err == nil {
		_, err = f.WriteString(strings.Join(simulator, "\n"))
	}
	if err == nil { // a lock that is not held keeps nothing out
		err = os.Rename(f.Name(), filepath.Join(dir, "lock"))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// removeLeftovers removes what Servers of processes that were killed left in tmp. It touches only
// what belongs to this process's user, and of what it cannot be sure it leaves.
func removeLeftovers(tmp string) {
	dirs, _ := filepath.Glob(filepath.Join(tmp, "vspheretest-*"))
	for _, dir := range dirs {
		if belongs(dir) {
			removeLeftover(tmp, dir)
		}
	}
}

func removeLeftover(tmp, dir string) {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	text, err := os.ReadFile(f.Name())
	if err != nil {
		return
	}
	for d := range strings.SplitSeq(string(text), "\n") {
		name := filepath.Base(d) // wherever it says that it is
		if d = filepath.Join(tmp, name); strings.HasPrefix(name, "govcsim-") && belongs(d) {
			_ = os.RemoveAll(d)
		}
	}
	_ = os.RemoveAll(dir)
}

// belongs reports whether dir is a directory, no link to one, that belongs to this process's user.
func belongs(dir string) bool {
	i, err := os.Lstat(dir)
	if err != nil || !i.IsDir() {
		return false
	}
	st, ok := i.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
