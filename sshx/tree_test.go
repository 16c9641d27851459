package sshx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// onAllMachines is onMachines with those that have busybox in place of the usual tools, and no tar.
func onAllMachines(t *testing.T, f func(t *testing.T, m machine)) {
	t.Helper()
	onMachines(t, f)
	t.Run("busybox", func(t *testing.T) {
		t.Parallel()
		f(t, newBusybox(t))
	})
	t.Run("without tar", func(t *testing.T) { withoutTar(t, f) })
}

func shell(t testing.TB, c *sshx.Client, script string) string {
	t.Helper()
	res, err := c.Run(t.Context(), sshx.Cmd{Script: script})
	require.NoError(t, err)
	return string(res.Stdout)
}

func TestPutTreeIntoADirectoryThatExists(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		m.sudo(t)
		c := dial(t, m)
		dir := m.dir(t)
		dst := dir + "/tree"
		m.write(t, dir+"/outside", "outside")
		m.write(t, dst+"/d/kept", "kept")
		m.write(t, dst+"/d/f", "old")
		shell(t, c, "cd "+dst+"; ln -s ../outside link; ln -s none dangling; mkdir d/e; chmod 711 .; chown 1:2 . d; chmod 1777 d")
		src := fstest.MapFS{
			".":    {Mode: fs.ModeDir | 0o700},
			"link": {Data: []byte("no link")}, "dangling": {Data: []byte("none")}, "d": {Mode: fs.ModeDir | 0o755}, "d/f": {Data: []byte("new")},
			"d/.hidden": {}, "d/..more": {}, ".h": {Data: []byte("h")}, "d/e/f": {}, "new/dir": {Mode: fs.ModeDir | 0o750}, "new": {Mode: fs.ModeDir | 0o711},
		}
		require.NoError(t, c.PutTree(t.Context(), dst, src, sshx.PutOptions{}))
		assert.Equal(t, "outside", m.read(t, dir+"/outside"), "a link was written through")
		assert.Equal(t, "no link", m.read(t, dst+"/link"))
		assert.Equal(t, "none", m.read(t, dst+"/dangling"))
		assert.Equal(t, "new", m.read(t, dst+"/d/f"))
		assert.Equal(t, "711 1:2\n1777 1:2\n711 0:0\n750 0:0\n", shell(t, c, "stat -c '%a %u:%g' "+dst+" "+dst+"/d "+dst+"/new "+dst+"/new/dir"))
		assert.Equal(t, "./outside ./tree ./tree/.h ./tree/d ./tree/d/..more ./tree/d/.hidden ./tree/d/e ./tree/d/e/f ./tree/d/f ./tree/d/kept "+
			"./tree/dangling ./tree/link ./tree/new ./tree/new/dir", strings.Join(strings.Fields(shell(t, c, "cd "+dir+"; find . | sort | tail -n +2")), " "))
	})
}

func TestPutTreeReplacesAllOrNothing(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		for _, x := range []struct{ name, there, what, want string }{
			{"a directory by a file", "mkdir -p z/sub", "z", "is a directory"},
			{"a file by a directory", "echo >z", "z/f", "is not a directory"},
			{"a link by a directory", "ln -s . z", "z/f", "is not a directory"},
			{"deep down", "mkdir -p d/z/f", "d/z/f", "is a directory"},
			{"the whole by a directory", "rm -r $PWD; echo >$PWD", "a", "is not a directory"},
			{"a dangling link by a directory", "rm -r $PWD; ln -s none $PWD", "a", "is not a directory"},
		} {
			dir := m.dir(t) + "/" + strings.ReplaceAll(x.name, " ", "-")
			m.write(t, dir+"/a", "old")
			before := shell(t, c, "cd "+dir+"; "+x.there+"; find "+dir+" | sort")
			src := fstest.MapFS{"a": {Data: []byte("new")}, x.what: {Data: []byte("new")}}
			require.ErrorContains(t, c.PutTree(t.Context(), dir, src, sshx.PutOptions{}), x.want, x.name)
			assert.Equal(t, before, shell(t, c, "find "+dir+" | sort"), x.name)
			assert.NotContains(t, shell(t, c, "cat "+dir+"/a 2>/dev/null || true"), "new", x.name)
			assert.Empty(t, shell(t, c, "cd "+filepath.Dir(dir)+"; ls -d .sshx* 2>/dev/null || true"), x.name)
		}
	})
}

func TestPutTreeToTheRoot(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	before := shell(t, c, "ls -a /; stat -c %a / /opt")
	require.NoError(t, c.PutTree(t.Context(), "/", fstest.MapFS{"opt/app/f": {Data: []byte("f")}}, sshx.PutOptions{}))
	assert.Equal(t, "f", m.read(t, "/opt/app/f"))
	assert.Equal(t, before, shell(t, c, "ls -a /; stat -c %a / /opt"))
}

func TestPutTreeIfChangedSetsModesOwnersAndDirectories(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		m.sudo(t)
		c := dial(t, m)
		dst := m.dir(t) + "/tree"
		src := fstest.MapFS{"f": {Data: []byte("f"), Mode: 0o644}, "run": {Data: []byte("run"), Mode: 0o755}, `a\b`: {Data: []byte("b")}}
		var sent int64
		put := func(o sshx.PutOptions) string {
			sent = 0
			o.IfChanged, o.Progress = true, func(n int64) { sent = n }
			require.NoError(t, c.PutTree(t.Context(), dst, src, o))
			return shell(t, c, "cd "+dst+"; stat -c '%n %a %u:%g' f run")
		}
		assert.Equal(t, "f 644 0:0\nrun 755 0:0\n", put(sshx.PutOptions{}))
		assert.Equal(t, "f 640 0:0\nrun 640 0:0\n", put(sshx.PutOptions{Mode: 0o640}))
		assert.Zero(t, sent)
		assert.Equal(t, "f 4755 1:2\nrun 4755 1:2\n", put(sshx.PutOptions{Mode: fs.ModeSetuid | 0o755, Owner: "1:2"}), "chown takes setuid away")
		assert.Zero(t, sent)
		src["empty/dir"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		put(sshx.PutOptions{})
		assert.True(t, m.exists(t, dst+"/empty/dir"))
		put(sshx.PutOptions{})
		assert.Zero(t, sent)
		shell(t, c, "cd "+dst+"; mv f g; ln -s g f")
		put(sshx.PutOptions{})
		assert.NotZero(t, sent, "a link counts as the file")
		assert.Empty(t, shell(t, c, "readlink "+dst+"/f || true"))
	})
}

// Links are not followed by what sets owners.
func TestPutTreeWithOwnerAndSetuid(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		m.sudo(t)
		c := dial(t, m)
		dir := m.dir(t)
		m.write(t, dir+"/outside", "")
		src := t.TempDir()
		require.NoError(t, os.WriteFile(src+"/f", nil, 0o644))
		require.NoError(t, os.Symlink("../outside", src+"/link"))
		require.NoError(t, c.PutTree(t.Context(), dir+"/tree", os.DirFS(src), sshx.PutOptions{Owner: "1:2", Mode: fs.ModeSetuid | 0o711}))
		assert.Equal(t, "0:0 644\n1:2 4711\n1:2 755\n", shell(t, c, "cd "+dir+"; stat -c '%u:%g %a' outside tree/f tree"))
	})
}

func TestTreesOfStrangeNames(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		src := t.TempDir()
		for _, name := range []string{
			"new\nline", "-rf", "--", " blank ", `it's`, `"`, `back\slash`, `x\x2dy`, "*", "$HOME", "~", "größe", "日本",
			strings.Repeat("long", 60), strings.Repeat("deep-directory/", 18) + "f", "größe-" + strings.Repeat("l", 120), "[a]/?", ".sshx-",
		} {
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(src, name)), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(src, name), []byte(name), 0o644))
		}
		require.NoError(t, os.Symlink(strings.Repeat("l", 200), src+"/to-ö"))
		want := treeOf(t, src)
		dst := m.dir(t) + "/a tree's"
		for range 2 { // new, and into what is there
			require.NoError(t, c.PutTree(t.Context(), dst, os.DirFS(src), sshx.PutOptions{}))
			back := t.TempDir()
			require.NoError(t, c.GetTree(t.Context(), dst, back, sshx.GetOptions{}))
			assert.Equal(t, want, treeOf(t, back))
		}
		var sent int64
		require.NoError(t, c.PutTree(t.Context(), dst+"/big", fstest.MapFS{"f": {Data: make([]byte, 100)}}, sshx.PutOptions{Progress: func(n int64) { sent = n }}))
		assert.GreaterOrEqual(t, sent, int64(100))
	})
}

func TestPutTreeToADirectoryWhoseParentIsNotOurs(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	for _, dst := range []string{"/home/ops", ".", "/home/ops/..//ops/"} {
		src := fstest.MapFS{"f": {Data: []byte(dst), Mode: 0o600}}
		require.NoError(t, c.PutTree(t.Context(), dst, src, sshx.PutOptions{}), dst)
		assert.Equal(t, dst, m.read(t, "/home/ops/f"))
	}
	require.ErrorContains(t, c.PutTree(t.Context(), "/home/other", fstest.MapFS{"f": {}}, sshx.PutOptions{}), "denied")
}

// A grower is a file system whose files have another length than it says.
type grower struct {
	fstest.MapFS
	by int
}

func (g grower) Open(name string) (fs.File, error) {
	f, err := g.MapFS.Open(name)
	if err != nil || name != "f" {
		return f, err
	}
	return grown{f, io.LimitReader(io.MultiReader(f, strings.NewReader(strings.Repeat("x", 10000))), int64(100000+g.by))}, nil
}

type grown struct {
	fs.File
	io.Reader
}

func (g grown) Read(p []byte) (int, error) { return g.Reader.Read(p) }

func TestSourcesThatChangeWhileTheyAreRead(t *testing.T) {
	t.Parallel()
	onAllMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		for by, want := range map[int]string{1: "f: the source changed while it was read: it has grown", -1: "f: the source changed while it was read: it lacks 1 bytes"} {
			src := grower{fstest.MapFS{"f": {Data: make([]byte, 100000)}}, by}
			require.ErrorContains(t, c.PutTree(t.Context(), dir+"/tree", src, sshx.PutOptions{}), want)
		}
		data := strings.Repeat("x", 100000)
		for r, want := range map[io.Reader]string{
			&liar{strings.NewReader(data), 99999}: "the source changed while it was read: it lacks 1 bytes",
			&appended{strings.NewReader(data)}:    "the source changed while it was read: it has grown",
		} {
			require.ErrorContains(t, c.Put(t.Context(), dir+"/f", r, sshx.PutOptions{VerifyUpTo: -1}), want)
		}
		require.Eventually(t, func() bool { return len(list(t, c, dir)) == 0 }, quick, quick/1000)
	})
}

// appended is a file that is longer than its length says.
type appended struct{ *strings.Reader }

func (a *appended) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if errors.Is(err, io.EOF) && len(p) > 0 {
		p[0] = 'x'
		return 1, nil
	}
	return n, err
}

// trap is a file system that does something in the middle of a file.
type trap struct {
	fstest.MapFS
	do func()
}

func (x trap) Open(name string) (fs.File, error) {
	f, err := x.MapFS.Open(name)
	if err != nil || name != "f" {
		return f, err
	}
	return grown{f, &onceRead{f, 64 << 10, x.do}}, nil
}

// interrupts are ways in which a transfer ends half-way.
var interrupts = map[string]func(m machine, cancel func()){
	"cancelled":       func(_ machine, cancel func()) { cancel() },
	"connection lost": func(m machine, _ func()) { drop(m) },
}

func TestPutTreeLeavesNothingBeside(t *testing.T) {
	t.Parallel()
	for name, interrupt := range interrupts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onAllMachines(t, func(t *testing.T, m machine) {
				c := dial(t, m)
				dir := m.dir(t)
				m.write(t, dir+"/tree/f", "old")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				src := trap{fstest.MapFS{"f": {Data: make([]byte, 3<<20)}}, func() { interrupt(m, cancel) }}
				require.Error(t, c.PutTree(ctx, dir+"/tree", src, sshx.PutOptions{}))
				again := dial(t, m)
				require.Eventually(t, func() bool { return strings.Join(list(t, again, dir), " ") == "tree tree/f" }, quick, quick/1000, "%v", list(t, again, dir))
				assert.Equal(t, "old", m.read(t, dir+"/tree/f"))
			})
		})
	}
}

func TestFullDisksKeepWhatTheyHad(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for name, tar := range map[string]bool{"with tar": true, "without tar": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSSHD(t)
			dir := t.TempDir()
			m.mount(t, map[string]string{dir: "tmpfs"})
			if !tar {
				hideTar(t, m)
			}
			c := dial(t, m) // what is mounted is its own
			shell(t, c, "mkdir "+dir+"/tree; echo old | tee "+dir+"/f >"+dir+"/tree/f")
			want := shell(t, c, "cd "+dir+"; find . | sort; cat f tree/f")
			for what, err := range map[string]error{
				"file":     c.Put(t.Context(), dir+"/f", bytes.NewReader(big), sshx.PutOptions{}),
				"tree":     c.PutTree(t.Context(), dir+"/tree", fstest.MapFS{"f": {Data: big}}, sshx.PutOptions{}),
				"new tree": c.PutTree(t.Context(), dir+"/new", fstest.MapFS{"f": {Data: big}, "g": {Data: big}}, sshx.PutOptions{}),
			} {
				require.Error(t, err, what)
				if what == "file" {
					require.ErrorContains(t, err, "No space left", what)
				}
			}
			assert.Equal(t, want, shell(t, c, "cd "+dir+"; find . | sort; cat f tree/f"))
		})
	}
}
