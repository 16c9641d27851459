package realguests

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// cgroupPrefix is that of the names of all cgroups of a run, in every hierarchy.
func cgroupPrefix(dir string) string { return "poolready-" + filepath.Base(dir) + "-" }

var hierarchies = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"}

// cgroupsOf are the cgroups that there are of a run.
func cgroupsOf(dir string) (paths []string) {
	for _, h := range hierarchies {
		found, err := filepath.Glob(filepath.Join(h, cgroupPrefix(dir)+"*"))
		if err == nil {
			paths = append(paths, found...)
		}
	}
	return paths
}

// removeCgroup removes a cgroup with all below it. The kernel takes a moment to see that the last
// process has left.
func removeCgroup(path string) {
	var dirs []string
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	slices.Reverse(dirs)
	for range 50 {
		dirs = slices.DeleteFunc(dirs, func(p string) bool {
			err := os.Remove(p)
			return err == nil || os.IsNotExist(err)
		})
		if len(dirs) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
