package sshx_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestGetTreeSumsFilesOfStrangeNames(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		for _, name := range []string{`a\b`, `a\nb`, "new\nline\r", `\`, "  ./x", "-"} {
			m.write(t, dir+"/"+name, name)
		}
		require.NoError(t, c.GetTree(t.Context(), dir, t.TempDir(), sshx.GetOptions{Verify: true}))
	})
}

func TestGetTreeRestoresModesAndTimes(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		shell(t, c, "cd "+dir+"; mkdir -p d/e; echo f >d/e/f; chmod 4751 d/e/f; chmod 750 d/e; touch -d '2001-02-03 04:05:06 UTC' d/e/f; touch -d '2001-02-03 04:05:06 UTC' d/e")
		back := t.TempDir()
		last, sums := int64(-1), int64(0)
		require.NoError(t, c.GetTree(t.Context(), dir+"/d", back, sshx.GetOptions{Progress: func(n int64) { last = n; sums++ }}))
		assert.Positive(t, last)
		for name, mode := range map[string]fs.FileMode{"/e": fs.ModeDir | 0o750, "/e/f": 0o751} {
			info, err := os.Stat(back + name)
			require.NoError(t, err)
			assert.Equal(t, mode, info.Mode(), name)
			assert.Equal(t, "2001-02-03 04:05:06", info.ModTime().UTC().Format(time.DateTime), name)
		}
	})
}

func TestGetTreeProgressEndsWithAll(t *testing.T) {
	t.Parallel()
	withoutTar(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		var all int64
		for i := range 40 {
			m.write(t, fmt.Sprintf("%s/d%d/f", dir, i), strings.Repeat("x", 1000*i))
			all += int64(1000 * i)
		}
		var told []int64 // unguarded: it is told of one at a time
		require.NoError(t, c.GetTree(t.Context(), dir, t.TempDir(), sshx.GetOptions{Progress: func(n int64) { told = append(told, n) }}))
		assert.Equal(t, all, told[len(told)-1])
		assert.IsNonDecreasing(t, told)
	})
}

func TestGetTreeFromAMachineWithoutTarAsRoot(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.Halt()
	m.Installed = func(name string) bool { return name != "tar" }
	m.Boot()
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	require.NoError(t, c.PutTree(t.Context(), "/etc/app", fstest.MapFS{"secret": {Data: []byte("s")}, "d": {Mode: fs.ModeDir | 0o700}}, sshx.PutOptions{User: "root", Mode: 0o600}))
	back := t.TempDir()
	require.ErrorContains(t, c.GetTree(t.Context(), "/etc/app", back, sshx.GetOptions{}), "denied")
	left, err := os.ReadDir(back)
	require.NoError(t, err)
	for _, e := range left {
		assert.NotEqual(t, "secret", e.Name(), "a part of a file is left")
	}
	require.NoError(t, c.GetTree(t.Context(), "/etc/app", back, sshx.GetOptions{User: "root", Verify: true}))
	assert.Equal(t, map[string]string{"secret": "-rw------- s", "d": "dir"}, treeOf(t, back))
}

func TestGetTreeOfWhatIsNoTree(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		m.write(t, dir+"/ok/f", "f")
		shell(t, c, "cd "+dir+"; ln -s /etc/passwd ok/out")
		back := t.TempDir()
		require.ErrorContains(t, c.GetTree(t.Context(), dir+"/ok", back, sshx.GetOptions{}), `out: the link to "/etc/passwd" leads out of the directory`)
		assert.Equal(t, map[string]string{"f": "-rw-r--r-- f"}, treeOf(t, back), "the rest is there")
		require.Error(t, c.GetTree(t.Context(), dir+"/none", back, sshx.GetOptions{}))
		require.Error(t, c.GetTree(t.Context(), dir+"/ok/f", back, sshx.GetOptions{}))
		if m.real() {
			require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o600))
			require.Error(t, c.GetTree(t.Context(), dir, t.TempDir(), sshx.GetOptions{}), "a pipe")
		}
	})
}

func TestGetTreeOfNamesThatAreNotUTF8(t *testing.T) {
	t.Parallel()
	for name, tar := range map[string]bool{"with tar": true, "without tar": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t)
			if !tar {
				hideTar(t, m)
			}
			dir := m.dir(t)
			m.write(t, dir+"/\xff\xfe", "x")
			require.NoError(t, os.Symlink("\xff\xfe", dir+"/l\xff"))
			back := t.TempDir()
			require.NoError(t, dial(t, m).GetTree(t.Context(), dir, back, sshx.GetOptions{Verify: true}))
			assert.Equal(t, treeOf(t, dir), treeOf(t, back))
		})
	}
}

func TestNamesThatAreNotUTF8GoUpAsTheyCameDown(t *testing.T) {
	t.Parallel()
	for name, tar := range map[string]bool{"with tar": true, "without tar": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t)
			if !tar {
				hideTar(t, m)
			}
			src := t.TempDir()
			require.NoError(t, os.Mkdir(src+"/d\xff", 0o755))
			require.NoError(t, os.WriteFile(src+"/d\xff/\xff\xfe", []byte("x"), 0o644))
			require.NoError(t, os.Symlink("\xff\xfe", src+"/d\xff/l\xff"))
			c := dial(t, m)
			dst := m.dir(t) + "/tree"
			for range 2 {
				require.NoError(t, c.PutTree(t.Context(), dst, sshx.DirFS(src), sshx.PutOptions{IfChanged: true}))
			}
			back := t.TempDir()
			require.NoError(t, c.GetTree(t.Context(), dst, back, sshx.GetOptions{Verify: true}))
			assert.Equal(t, treeOf(t, src), treeOf(t, back))
			err := c.PutTree(t.Context(), dst, os.DirFS(src), sshx.PutOptions{})
			require.ErrorContains(t, err, "sshx.DirFS")
		})
	}
}

func TestDirFSIsAnFS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/a/b", 0o755))
	require.NoError(t, os.WriteFile(dir+"/a/f", []byte("x"), 0o644))
	fsys := sshx.DirFS(dir + "/a")
	require.NoError(t, fstest.TestFS(fsys, "f", "b"))
	for _, name := range []string{"../a/f", "/f", "b/../f", "", "\xff/../f"} {
		_, err := fsys.Open(name)
		assert.ErrorIs(t, err, fs.ErrInvalid, name)
	}
}

func TestGetTreeOfFilesThatGrow(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		m.write(t, dir+"/same", "same")
		m.write(t, dir+"/log", strings.Repeat("0123456789abcdef", 1<<16))
		grow := func(o sshx.GetOptions) error {
			ctx, cancel := context.WithCancel(t.Context())
			grows := make(chan error, 1)
			up := make(chan struct{})
			grown := sync.OnceFunc(func() { close(up) })
			go func() {
				_, err := c.Run(ctx, sshx.Cmd{
					Script: "cd " + dir + "; echo up; while :; do echo line >>log; done",
					Stdout: writer(func(p []byte) (int, error) { grown(); return len(p), nil }),
				})
				grows <- err
			}()
			<-up
			err := c.GetTree(t.Context(), dir, t.TempDir(), o)
			cancel()
			require.Error(t, <-grows)
			return err
		}
		require.NoError(t, grow(sshx.GetOptions{}))
		var err error
		for range 100 { // the log may not have grown just then
			if err = grow(sshx.GetOptions{Verify: true}); err != nil {
				break
			}
		}
		ce, ok := errors.AsType[*sshx.ChangedError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, dir+"/log", ce.Path)
		require.ErrorContains(t, err, "log changed while it was read: what came has sha256 "+ce.Got)
		assert.NotContains(t, err.Error(), "same")
		require.NoError(t, c.GetTree(t.Context(), dir, t.TempDir(), sshx.GetOptions{Verify: true}), "nobody writes any more")
	})
}

func TestGetTreeEndsWithTheConnectionAndItsContext(t *testing.T) {
	t.Parallel()
	for name, interrupt := range interrupts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onAllMachines(t, func(t *testing.T, m machine) {
				c := dial(t, m)
				dir := m.dir(t)
				sizes := map[string]int64{}
				for i := range 8 {
					name := fmt.Sprintf("f%d", i)
					m.write(t, dir+"/"+name, strings.Repeat("0123456789abcdef", 1<<16))
					sizes[name] = 1 << 20
				}
				if m.real() { // killing takes some time there
					require.NoError(t, os.Truncate(dir+"/f0", 1<<30))
					sizes["f0"] = 1 << 30
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				back := t.TempDir()
				done := false
				err := c.GetTree(ctx, dir, back, sshx.GetOptions{Progress: func(int64) {
					if !done {
						done = true
						interrupt(m, cancel)
					}
				}})
				require.Error(t, err)
				if name == "cancelled" {
					require.ErrorIs(t, err, context.Canceled)
				}
				for f := range treeOf(t, back) {
					info, err := os.Stat(back + "/" + f)
					require.NoError(t, err)
					assert.Equal(t, sizes[f], info.Size(), "a part of %s is left", f)
				}
			})
		})
	}
}

func sumOf(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
