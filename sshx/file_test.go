package sshx_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestPutAndGet(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		for name, data := range map[string]string{
			"empty": "", "small": "hello\n", "it's a name\\": "\x00\xff\n", "big": strings.Repeat("0123456789abcde\n", 1<<17),
		} {
			dst := dir + "/" + name
			require.NoError(t, c.Put(t.Context(), dst, strings.NewReader(data), sshx.PutOptions{}))
			assert.Equal(t, data, m.read(t, dst))
			require.NoError(t, c.Put(t.Context(), dst, bytes.NewBufferString(data), sshx.PutOptions{Mode: 0o751}), "without a length")
			assert.Equal(t, data, m.read(t, dst))
			assert.Equal(t, "751", statMode(t, c, dst))
			var got bytes.Buffer
			require.NoError(t, c.Get(t.Context(), dst, &got, sshx.GetOptions{}))
			assert.Equal(t, data, got.String())
		}
		assert.Len(t, list(t, c, dir), 4, "no temporary file is left")
		var boot bytes.Buffer
		require.NoError(t, c.Get(t.Context(), "/proc/sys/kernel/random/boot_id", &boot, sshx.GetOptions{}), "a file without a size")
		assert.Len(t, boot.String(), 37)
	})
}

// list returns what is below a directory of the machine.
func list(t testing.TB, c *sshx.Client, dir string) []string {
	t.Helper()
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"find", "."}, Dir: dir})
	for err != nil && strings.Contains(string(res.Stdout), "No such file") { // one went while it was listed
		res, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"find", "."}, Dir: dir})
	}
	require.NoError(t, err)
	var names []string
	for _, n := range strings.Fields(strings.ReplaceAll(string(res.Stdout), " ", "_")) {
		if n != "." {
			names = append(names, strings.TrimPrefix(n, "./"))
		}
	}
	return names
}

func statMode(t testing.TB, c *sshx.Client, name string) string {
	t.Helper()
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"stat", "-c", "%a", name}})
	require.NoError(t, err)
	return strings.TrimSpace(string(res.Stdout))
}

func TestPutIsWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		dst := dir + "/f"
		m.write(t, dst, "old")
		broken := errors.New("broken")
		long := strings.Repeat("x", 1<<20)
		for name, r := range map[string]io.Reader{
			"fails":                 io.MultiReader(strings.NewReader(long), iotest.ErrReader(broken)),
			"is shorter than it is": &liar{strings.NewReader(long), 1 << 19},
		} {
			require.Error(t, c.Put(t.Context(), dst, r, sshx.PutOptions{VerifyUpTo: -1}), name)
			assert.Equal(t, "old", m.read(t, dst), name)
		}
		require.ErrorIs(t, c.Put(t.Context(), dst, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken)), sshx.PutOptions{}), broken)
		require.Eventually(t, func() bool { return len(list(t, c, dir)) == 1 }, quick, quick/1000, "a temporary file is left")
		require.ErrorContains(t, c.Put(t.Context(), dir, strings.NewReader(""), sshx.PutOptions{}), "is a directory")
		require.ErrorContains(t, c.Put(t.Context(), dir+"/no/such", strings.NewReader(""), sshx.PutOptions{}), "no/such")
		require.ErrorContains(t, c.Put(t.Context(), "-rf", strings.NewReader(""), sshx.PutOptions{}), "option")
		require.ErrorContains(t, c.Get(t.Context(), dir+"/none", io.Discard, sshx.GetOptions{}), "none")
		require.ErrorContains(t, c.Get(t.Context(), dir, io.Discard, sshx.GetOptions{}), "directory")
	})
}

// liar is a file that ends earlier than its length says.
type liar struct {
	*strings.Reader
	left int
}

func (l *liar) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.Reader.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func TestPutSendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dst := m.dir(t) + "/f"
		sent := int64(-1)
		o := sshx.PutOptions{IfChanged: true, Progress: func(n int64) { sent = n }}
		put := func(data string) int64 {
			sent = -1
			require.NoError(t, c.Put(t.Context(), dst, strings.NewReader(data), o))
			assert.Equal(t, data, m.read(t, dst))
			return sent
		}
		assert.EqualValues(t, 3, put("one"))
		assert.EqualValues(t, -1, put("one"))
		assert.EqualValues(t, 3, put("two"))
		assert.EqualValues(t, 5, put("three"))
		o.Mode = 0o600
		assert.EqualValues(t, -1, put("three"))
		assert.Equal(t, "600", statMode(t, c, dst))
	})
}

func TestPutAsRoot(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	require.Error(t, c.Put(t.Context(), "/etc/f", strings.NewReader("x"), sshx.PutOptions{}))
	require.NoError(t, c.Put(t.Context(), "/etc/f", strings.NewReader("x"), sshx.PutOptions{User: "root", Mode: 0o600}))
	require.ErrorContains(t, c.Get(t.Context(), "/etc/f", io.Discard, sshx.GetOptions{}), "denied")
	var got bytes.Buffer
	require.NoError(t, c.Get(t.Context(), "/etc/f", &got, sshx.GetOptions{User: "root"}))
	assert.Equal(t, "x", got.String())
	require.NoError(t, c.Put(t.Context(), "/etc/f", strings.NewReader("y"), sshx.PutOptions{Owner: "ops:wheel"}))
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"stat", "-c", "%U:%G %a", "/etc/f"}})
	require.NoError(t, err)
	assert.Equal(t, "ops:wheel 600\n", string(res.Stdout))
}

// treeOf is a tree as a map of names to what is there.
func treeOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		rel, _ := filepath.Rel(dir, name)
		switch {
		case rel == ".":
		case d.IsDir():
			got[rel] = "dir"
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(name)
			require.NoError(t, err)
			got[rel] = "-> " + to
		default:
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			info, err := d.Info()
			require.NoError(t, err)
			got[rel] = info.Mode().Perm().String() + " " + string(b)
		}
		return nil
	}))
	return got
}

func TestTreesGoThereAndBack(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		src := t.TempDir()
		for name, text := range map[string]string{"a/b/c.txt": "c", "run.sh": "#!/bin/sh\n", "it's": "", "big": strings.Repeat("x", 300<<10)} {
			require.NoError(t, os.MkdirAll(filepath.Dir(src+"/"+name), 0o755))
			require.NoError(t, os.WriteFile(src+"/"+name, []byte(text), 0o644))
		}
		require.NoError(t, os.Chmod(src+"/run.sh", 0o755))
		require.NoError(t, os.Mkdir(src+"/empty", 0o755))
		require.NoError(t, os.Symlink("a/b", src+"/link"))
		want := treeOf(t, src)
		dst := m.dir(t) + "/tree"
		require.NoError(t, c.PutTree(t.Context(), dst, os.DirFS(src), sshx.PutOptions{}))
		back := t.TempDir()
		require.NoError(t, c.GetTree(t.Context(), dst, back, sshx.GetOptions{}))
		assert.Equal(t, want, treeOf(t, back))

		// Into what is there: other files stay, the same are replaced.
		m.write(t, dst+"/kept", "kept")
		m.write(t, dst+"/it's", "old")
		require.NoError(t, c.PutTree(t.Context(), dst+"/", os.DirFS(src), sshx.PutOptions{}))
		require.NoError(t, c.GetTree(t.Context(), dst, back, sshx.GetOptions{}), "onto an earlier copy")
		want["kept"] = "-rw-r--r-- kept"
		assert.Equal(t, want, treeOf(t, back))
		assert.Len(t, list(t, c, filepath.Dir(dst)), len(want)+1, "something temporary is left")
	})
}

func TestPutTreeSendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		src := fstest.MapFS{
			"same":    {Data: []byte("same")},
			"d/other": {Data: []byte(strings.Repeat("o", 50000))},
		}
		dst := m.dir(t) + "/tree"
		var sent int64
		o := sshx.PutOptions{IfChanged: true, Mode: 0o640, Progress: func(n int64) { sent = n }}
		put := func() int64 {
			sent = 0
			require.NoError(t, c.PutTree(t.Context(), dst, src, o))
			for name, f := range src {
				assert.Equal(t, string(f.Data), m.read(t, dst+"/"+name))
			}
			return sent
		}
		assert.Greater(t, put(), int64(50000))
		assert.Zero(t, put())
		src["same"] = &fstest.MapFile{Data: []byte("changed")}
		assert.Less(t, put(), int64(20000))
		assert.Zero(t, put())
		assert.Equal(t, "640", statMode(t, c, dst+"/same"))
	})
}

func TestPutTreeThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		src := t.TempDir()
		require.NoError(t, os.WriteFile(src+"/a", bytes.Repeat([]byte("x"), 1<<20), 0o644))
		require.NoError(t, os.WriteFile(src+"/b", nil, 0o644))
		gone := hollow{os.DirFS(src), "b"}
		require.ErrorIs(t, c.PutTree(t.Context(), dir+"/tree", gone, sshx.PutOptions{}), fs.ErrNotExist)
		require.Error(t, c.PutTree(t.Context(), dir+"/no/such/tree", os.DirFS(src), sshx.PutOptions{}))
		require.Eventually(t, func() bool { return len(list(t, c, dir)) == 0 }, quick, quick/1000)
	})
}

// hollow is a file system that cannot open one of its files.
type hollow struct {
	fs.FS
	gone string
}

func (h hollow) Open(name string) (fs.File, error) {
	if name == h.gone {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return h.FS.Open(name)
}

func TestSFTPWithAndWithoutSubsystem(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]machine{"sshd": nil, "without subsystem": nil, "sshtest": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			switch name {
			case "sshd":
				m = newSSHD(t)
			case "sshtest":
				m = newSim(t)
			default:
				m = newSSHD(t, "#no sftp")
			}
			c := dial(t, m)
			file := m.dir(t) + "/f"
			sc, err := c.SFTP(t.Context(), "")
			require.NoError(t, err)
			f, err := sc.Create(file)
			require.NoError(t, err)
			_, err = f.ReadFrom(strings.NewReader("hello"))
			require.NoError(t, err)
			require.NoError(t, f.Close())
			info, err := sc.Stat(file)
			require.NoError(t, err)
			assert.EqualValues(t, 5, info.Size())
			_, err = sc.Stat(file + "x")
			require.ErrorIs(t, err, fs.ErrNotExist)
			require.NoError(t, sc.Close())
			assert.Equal(t, "hello", m.read(t, file))
			if m.real() {
				m.sudo(t)
				sc, err = c.SFTP(t.Context(), "nobody")
				require.NoError(t, err)
				_, err = sc.ReadDir("/")
				require.NoError(t, err)
				require.NoError(t, sc.Close())
			}
		})
	}
}
