package disk

import (
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCloneSharesNothingThatCanBeSeen(t *testing.T) {
	t.Parallel()
	d := NewDisk()
	require.NoError(t, d.WriteFile("/a/f", []byte("one"), 0o644))
	v := d.Root()
	open, err := v.Open("/a/f", os.O_RDWR, 0)
	require.NoError(t, err)
	defer open.Close()
	c := d.Clone()
	cc := c.Clone()

	_, err = open.WriteAt([]byte("TWO and more"), 0) // through a file that was open before
	require.NoError(t, err)
	require.NoError(t, c.Chmod("/a/f", 0o600))
	require.NoError(t, c.WriteFile("/a/g", []byte("new"), 0o644))
	require.NoError(t, cc.RemoveAll("/a"))

	read := func(d *Disk, name string) string {
		data, err := d.ReadFile(name)
		if err != nil {
			return "none"
		}
		return string(data)
	}
	assert.Equal(t, []string{"TWO and more", "one", "none"}, []string{read(d, "/a/f"), read(c, "/a/f"), read(cc, "/a/f")})
	assert.Equal(t, []string{"none", "new", "none"}, []string{read(d, "/a/g"), read(c, "/a/g"), read(cc, "/a/g")})
	i, err := d.Stat("/a/f")
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o644), i.Mode())
}

func TestClonesMayBeUsedAtOnce(t *testing.T) {
	t.Parallel()
	d := NewDisk()
	require.NoError(t, d.WriteFile("/f", []byte("x"), 0o644))
	var wg sync.WaitGroup
	for range 8 {
		c := d.Clone()
		wg.Go(func() {
			for range 50 {
				assert.NoError(t, c.AppendFile("/f", []byte("y"), 0o644))
				assert.NoError(t, d.Clone().WriteFile("/g", nil, 0o644))
			}
			data, err := c.ReadFile("/f")
			assert.NoError(t, err)
			assert.Equal(t, "x"+strings.Repeat("y", 50), string(data))
		})
	}
	wg.Wait()
}

// Cloning must not depend on what is on the disk: allocations are counted, not time.
func TestCloneIsCheap(t *testing.T) {
	d := NewDisk()
	for i := range 2000 {
		require.NoError(t, d.WriteFile("/many/"+string(rune('a'+i%26))+"/"+randomHex(8), make([]byte, 100), 0o644))
	}
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() { d.Clone() }), 5.0)
}

func TestDiskPaths(t *testing.T) {
	t.Parallel()
	d := NewDisk()
	require.NoError(t, d.WriteFile("/d/f", []byte("f"), 0o644))
	require.NoError(t, d.Symlink("f", "/d/l"))
	require.NoError(t, d.Symlink("/d", "/dl"))
	require.NoError(t, d.Symlink("loop", "/loop"))
	require.NoError(t, d.Symlink("/gone", "/dangling"))
	for _, tc := range []struct {
		path string
		err  error
	}{
		{"/d/f", nil},
		{"d/f", nil},
		{"/d//f", nil},
		{"/d/./f", nil},
		{"/d/../d/f", nil},
		{"/../d/f", nil},
		{"/d/l", nil},
		{"/dl/l", nil},
		{"/dl/", nil},
		{"/d/f/", syscall.ENOTDIR},
		{"/d/f/x", syscall.ENOTDIR},
		{"/nope", syscall.ENOENT},
		{"/nope/x", syscall.ENOENT},
		{"/loop", syscall.ELOOP},
		{"/dangling", syscall.ENOENT},
		{"", syscall.ENOENT},
	} {
		_, err := d.Stat(tc.path)
		require.ErrorIs(t, err, tc.err, tc.path)
	}
	i, err := d.Lstat("/d/l")
	require.NoError(t, err)
	assert.Equal(t, fs.ModeSymlink|0o777, i.Mode())
	require.NoError(t, d.WriteFile("/dangling", []byte("through the link"), 0o644))
	data, err := d.ReadFile("/gone")
	require.NoError(t, err)
	assert.Equal(t, "through the link", string(data))

	require.ErrorIs(t, d.Remove("/d"), syscall.ENOTEMPTY)
	require.ErrorIs(t, d.Rename("/d", "/d/e"), syscall.EINVAL)
	require.NoError(t, d.MkdirAll("/e/x", 0o755))
	require.ErrorIs(t, d.Rename("/d", "/e"), syscall.ENOTEMPTY)
	require.ErrorIs(t, d.Rename("/d/f", "/e"), syscall.EISDIR)
	require.ErrorIs(t, d.Rename("/e", "/d/f"), syscall.ENOTDIR)
	require.NoError(t, d.Rename("/d", "/e/x"))
	_, err = d.Stat("/e/x/f")
	require.NoError(t, err)
	real, err := d.Root().Realpath("/e/x/l", true)
	require.NoError(t, err)
	assert.Equal(t, "/e/x/f", real)
	require.ErrorIs(t, d.MkdirAll("/e/x/f/y", 0o755), syscall.ENOTDIR)
}

func TestFilesOutliveTheirNames(t *testing.T) {
	t.Parallel()
	d := NewDisk()
	_, before := d.Usage()
	f, err := d.Root().Open("/f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	require.NoError(t, err)
	_, err = d.Root().Open("/f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	require.ErrorIs(t, err, fs.ErrExist)
	require.NoError(t, d.Root().Link("/f", "/g"))
	require.NoError(t, d.Remove("/f"))
	require.NoError(t, d.Remove("/g"))
	_, err = f.Write([]byte("data"))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = f.ReadAt(b, 0)
	require.NoError(t, err)
	assert.Equal(t, "data", string(b))
	require.NoError(t, f.Close())
	_, after := d.Usage()
	assert.Equal(t, before, after)
}

func TestDiskGetsFull(t *testing.T) {
	t.Parallel()
	d := NewDisk()
	_, used := d.Usage()
	d.SetSize(used + 1000)
	require.NoError(t, d.WriteFile("/a", make([]byte, 900), 0o644))
	require.ErrorIs(t, d.WriteFile("/b", make([]byte, 200), 0o644), syscall.ENOSPC)
	require.NoError(t, d.Remove("/a"))
	require.NoError(t, d.WriteFile("/b", make([]byte, 200), 0o644))
	require.ErrorIs(t, d.WriteFile("/dev/full", []byte("x"), 0o644), syscall.ENOSPC)
	require.NoError(t, d.WriteFile("/dev/null", []byte("x"), 0o644))
}

func TestUsersMayDoWhatModesSay(t *testing.T) {
	t.Parallel()
	d := NewDisk()
	require.NoError(t, d.AddUser("ann"))
	require.NoError(t, d.AddUser("bob"))
	ann, bob := d.As("ann", 0o022), d.As("bob", 0o022)
	require.NoError(t, ann.WriteFile("/home/ann/f", []byte("x"), 0o600))
	i, err := d.Stat("/home/ann/f")
	require.NoError(t, err)
	assert.Equal(t, &Owner{UID: 1000, GID: 1000, User: "ann", Group: "ann"}, i.Sys())

	deny := map[string]func() error{
		"enter another's home":     func() error { _, err := bob.Stat("/home/ann/f"); return err },
		"read shadow":              func() error { _, err := ann.ReadFile("/etc/shadow"); return err },
		"write to etc":             func() error { return ann.WriteFile("/etc/x", nil, 0o644) },
		"append to passwd":         func() error { _, err := ann.Open("/etc/passwd", os.O_WRONLY|os.O_APPEND, 0); return err },
		"make a directory in etc":  func() error { return ann.Mkdir("/etc/d", 0o755) },
		"remove from etc":          func() error { return ann.Remove("/etc/hosts") },
		"rename in etc":            func() error { return ann.Rename("/etc/hosts", "/etc/h") },
		"move a file into etc":     func() error { return ann.Rename("/home/ann/f", "/etc/f") },
		"link into etc":            func() error { return ann.Symlink("x", "/etc/l") },
		"chmod what is not theirs": func() error { return ann.Chmod("/etc/hosts", 0o777) },
		"give a file away":         func() error { return ann.Chown("/home/ann/f", 0, -1, true) },
		"set times of others":      func() error { return ann.Chtimes("/etc/hosts", time.Now()) },
		"list a closed directory":  func() error { _, err := bob.ReadDir("/home/ann"); return err },
	}
	for name, f := range deny {
		require.ErrorIs(t, f(), fs.ErrPermission, name)
	}
	require.NoError(t, ann.WriteFile("/tmp/theirs", nil, 0o666))
	require.ErrorIs(t, bob.Remove("/tmp/theirs"), fs.ErrPermission, "sticky")
	require.ErrorIs(t, bob.Rename("/tmp/theirs", "/tmp/mine"), fs.ErrPermission, "sticky")
	require.NoError(t, ann.Remove("/tmp/theirs"))
	require.ErrorIs(t, d.As("root", 0).Access("/etc/hosts", MayExec), fs.ErrPermission, "root too needs an x bit")
	require.NoError(t, ann.Chmod("/home/ann/f", 0o640))
	require.NoError(t, ann.Chown("/home/ann/f", -1, 1000, true))
}

func FuzzDiskPaths(f *testing.F) {
	for _, p := range []string{"/", "a", "/a/b", "../..", "/a/./../b/", "//", "/l/x", "/l/../y", "/up/l/up", "\x00", "."} {
		f.Add(p, p)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		d := newDisk()
		require.NoError(t, d.MkdirAll("/a/b/c", 0o755))
		require.NoError(t, d.Symlink("a/b", "/l"))
		require.NoError(t, d.Symlink("..", "/a/up"))
		v := View{d: d, UID: 0}
		_ = v.Mkdir(a, 0o755)
		_ = v.WriteFile(b, []byte("x"), 0o644)
		_ = v.Rename(a, b)
		_ = v.Symlink(b, a)
		_ = v.Link(b, a)
		_ = d.Remove(b)
		// Whatever happened, the tree is a tree: each directory is where it says, and everything
		// that exists can be found by its path.
		seen := map[uint64]bool{}
		var walk func(p string)
		walk = func(p string) {
			i, err := v.Lstat(p)
			require.NoError(t, err, "%q", p)
			if !i.IsDir() {
				return
			}
			require.False(t, seen[i.Ino], "%q twice", p)
			seen[i.Ino] = true
			require.Equal(t, path.Clean(p), v.pathOf(i.Ino))
			list, err := v.ReadDir(p)
			require.NoError(t, err)
			for _, e := range list {
				require.NotContains(t, e.Name(), "/")
				walk(strings.TrimSuffix(p, "/") + "/" + e.Name())
			}
		}
		walk("/")
		for n, i := range d.inodes {
			require.True(t, !i.mode.IsDir() || seen[n], "directory %d is lost", n)
		}
	})
}
