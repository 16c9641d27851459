package sshx_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

func TestPutKeepsModeAndOwnerOfWhatItReplaces(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		m.sudo(t)
		c := dial(t, m)
		dst := m.dir(t) + "/f"
		look := func() string {
			res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"stat", "-c", "%a %u:%g", dst}})
			require.NoError(t, err)
			return strings.TrimSpace(string(res.Stdout))
		}
		put := func(o sshx.PutOptions, data string) {
			t.Helper()
			require.NoError(t, c.Put(t.Context(), dst, strings.NewReader(data), o))
			assert.Equal(t, data, m.read(t, dst))
		}
		put(sshx.PutOptions{}, "new")
		assert.Equal(t, "644 0:0", look())
		_, err := c.Run(t.Context(), sshx.Cmd{Script: "chown 1:2 \"$F\" && chmod 4751 \"$F\"", Env: map[string]string{"F": dst}})
		require.NoError(t, err)
		put(sshx.PutOptions{}, "changed")
		assert.Equal(t, "4751 1:2", look())
		put(sshx.PutOptions{IfChanged: true}, "changed")
		assert.Equal(t, "4751 1:2", look())
		put(sshx.PutOptions{Mode: 0o600}, "again")
		assert.Equal(t, "600 1:2", look())
		put(sshx.PutOptions{Owner: "root:root", Mode: fs.ModeSetuid | 0o755}, "and again")
		assert.Equal(t, "4755 0:0", look(), "chown takes setuid away")
	})
}

func TestPutSaysThatAnOwnerCannotBeKept(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	m.write(t, "/home/ops/f", "root's")
	require.ErrorContains(t, c.Put(t.Context(), "f", strings.NewReader("x"), sshx.PutOptions{}), "which cannot be kept")
	assert.Equal(t, "root's", m.read(t, "/home/ops/f"))
	require.NoError(t, c.Put(t.Context(), "/home/ops/f", strings.NewReader("x"), sshx.PutOptions{User: "root"}))
	assert.Equal(t, "x", m.read(t, "/home/ops/f"))
}

// What is not on the disk when it gets its name may be empty after a power cut.
func TestPutIsOnTheDiskBeforeItHasItsName(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.Halt()
	var mu sync.Mutex
	var synced []string
	m.Commands = map[string]sshtest.Command{"sync": func(_ context.Context, p *sshtest.Proc) int {
		mu.Lock()
		defer mu.Unlock()
		old, _ := p.ReadFile("/root/f")
		tmp, _ := p.ReadFile(p.Args[1])
		synced = append(synced, string(old)+" "+string(tmp))
		return 0
	}}
	m.Boot()
	m.write(t, "/root/f", "old")
	require.NoError(t, dial(t, m).Put(t.Context(), "/root/f", strings.NewReader("new"), sshx.PutOptions{}))
	assert.Equal(t, []string{"old new"}, synced)
	assert.Equal(t, "new", m.read(t, "/root/f"))
}

// onceRead is a reader, of unknown length or not, that does something in the middle.
type onceRead struct {
	io.Reader
	after int
	do    func()
}

func (o *onceRead) Read(p []byte) (int, error) {
	n, err := o.Reader.Read(p[:min(len(p), 64<<10)])
	if o.after -= n; o.after <= 0 && o.do != nil {
		o.do()
		o.do = nil
	}
	return n, err
}

// seekable has a length and does something in the middle of its second reading, the first being for
// the sum.
type seekable struct {
	*strings.Reader
	onceRead
}

func (s *seekable) Read(p []byte) (int, error) { return s.onceRead.Read(p) }

func TestPutLeavesNothingBeside(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	data := strings.Repeat("0123456789abcdef", size/16)
	for name, c := range map[string]struct {
		known     bool
		after     int
		interrupt func(m machine, cancel func())
	}{
		"cancelled while it is read": {false, size / 2, func(_ machine, cancel func()) { cancel() }},
		"cancelled while it is sent": {true, size / 2, func(_ machine, cancel func()) { cancel() }},
		"cancelled at once":          {true, 0, func(_ machine, cancel func()) { cancel() }},
		"connection lost":            {true, size / 2, func(m machine, _ func()) { drop(m) }},
		"connection lost at the end": {true, size, func(m machine, _ func()) { drop(m) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onMachines(t, func(t *testing.T, m machine) {
				cl := dial(t, m)
				dir := m.dir(t)
				m.write(t, dir+"/f", "old")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				once := onceRead{strings.NewReader(data), c.after, func() { c.interrupt(m, cancel) }}
				r := io.Reader(&once)
				if c.known {
					s := strings.NewReader(data)
					once.Reader = s
					r = &seekable{s, once}
				}
				require.Error(t, cl.Put(ctx, dir+"/f", r, sshx.PutOptions{VerifyUpTo: -1}))
				again := dial(t, m)
				require.Eventually(t, func() bool { return strings.Join(list(t, again, dir), " ") == "f" }, quick, quick/1000, "%v", list(t, again, dir))
				if name != "connection lost at the end" {
					assert.Equal(t, "old", m.read(t, dir+"/f"))
				}
			})
		})
	}
}

// A cancelling source cancels when it is first read, and gives nothing then: whoever goes on reads it
// again at once.
type cancelling struct {
	*strings.Reader
	cancel func()
	reads  atomic.Int32
}

func (c *cancelling) Read(p []byte) (int, error) {
	if c.reads.Add(1) == 1 {
		c.cancel()
		return 0, nil
	}
	return c.Reader.Read(p)
}

func TestPutReadsNoMoreOnceItsContextHasEnded(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		cl := dial(t, m)
		file := m.dir(t) + "/f"
		m.write(t, file, "old")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		src := &cancelling{Reader: strings.NewReader("new"), cancel: cancel}
		require.ErrorIs(t, cl.Put(ctx, file, src, sshx.PutOptions{VerifyUpTo: -1}), context.Canceled)
		assert.EqualValues(t, 1, src.reads.Load())
		assert.Equal(t, "old", m.read(t, file))
	})
}

func TestPutOfUnknownLengthKeepsNothingHere(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	m := newSim(t)
	c := dial(t, m)
	long := strings.Repeat("0123456789abcdef", 1<<17)
	require.NoError(t, c.Put(t.Context(), "/root/f", io.MultiReader(strings.NewReader(long)), sshx.PutOptions{}))
	assert.True(t, long == m.read(t, "/root/f"))
	broken := errors.New("broken")
	require.ErrorIs(t, c.Put(t.Context(), "/root/f", io.MultiReader(strings.NewReader(long), iotest.ErrReader(broken)), sshx.PutOptions{}), broken)
	boot, err := os.Open("/proc/sys/kernel/random/boot_id")
	if err == nil {
		defer boot.Close()
		require.NoError(t, c.Put(t.Context(), "/root/g", boot, sshx.PutOptions{}))
		assert.Len(t, m.read(t, "/root/g"), 37, "a file without a size")
	}
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// withoutTar returns machines that have none.
func withoutTar(t *testing.T, f func(t *testing.T, m machine)) {
	t.Helper()
	t.Run("sshd", func(t *testing.T) {
		t.Parallel()
		m := newSSHD(t)
		hideTar(t, m)
		f(t, m)
	})
	t.Run("sshtest", func(t *testing.T) {
		t.Parallel()
		m := newSim(t)
		m.Halt()
		m.Installed = func(name string) bool { return name != "tar" }
		m.Boot()
		f(t, m)
	})
}

func hideTar(t *testing.T, m *sshd) {
	t.Helper()
	empty := t.TempDir() + "/empty"
	require.NoError(t, os.WriteFile(empty, nil, 0o644))
	m.mount(t, map[string]string{"/usr/bin/tar": empty, "/bin/tar": empty})
}

func TestPutTreeToAMachineWithoutTar(t *testing.T) {
	t.Parallel()
	withoutTar(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		src := t.TempDir()
		want := map[string]string{"a/b/c.txt": "c", "run.sh": "#!/bin/sh\n", "it's": "", "big": strings.Repeat("x", 300<<10)}
		for name, text := range want {
			require.NoError(t, os.MkdirAll(src+"/a/b", 0o755))
			require.NoError(t, os.WriteFile(src+"/"+name, []byte(text), 0o644))
		}
		require.NoError(t, os.Chmod(src+"/run.sh", 0o755))
		require.NoError(t, os.Symlink("a/b", src+"/link"))
		dst := m.dir(t) + "/tree"
		var sent int64
		o := sshx.PutOptions{Progress: func(n int64) { sent = n }}
		require.NoError(t, c.PutTree(t.Context(), dst, os.DirFS(src), o))
		assert.EqualValues(t, 300<<10+len("c#!/bin/sh\n"), sent)
		for name, text := range want {
			assert.Equal(t, text, m.read(t, dst+"/"+name), name)
		}
		assert.Equal(t, "755", statMode(t, c, dst+"/run.sh"))
		res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"readlink", dst + "/link"}})
		require.NoError(t, err)
		assert.Equal(t, "a/b\n", string(res.Stdout))
		m.write(t, dst+"/kept", "kept")
		require.NoError(t, os.WriteFile(src+"/it's", []byte("new"), 0o644))
		require.NoError(t, c.PutTree(t.Context(), dst, os.DirFS(src), sshx.PutOptions{IfChanged: true}))
		assert.Equal(t, "new", m.read(t, dst+"/it's"))
		assert.Equal(t, "kept", m.read(t, dst+"/kept"))
		require.NoError(t, os.Remove(src+"/link")) // it cannot read links
		gone := hollow{os.DirFS(src), "run.sh"}
		require.ErrorIs(t, c.PutTree(t.Context(), dst+"2", gone, sshx.PutOptions{}), fs.ErrNotExist)
		require.Error(t, c.PutTree(t.Context(), dst+"/no/such/tree", os.DirFS(src), sshx.PutOptions{}))
		res, err = c.Run(t.Context(), sshx.Cmd{Script: "ls -d \"$D\"*", Env: map[string]string{"D": dst}})
		require.NoError(t, err)
		assert.Equal(t, dst+"\n", string(res.Stdout), "something is left")
	})
}

func TestPutReplacesFilesAndLinksOnly(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		m.write(t, dir+"/d/outside", "outside")
		shell(t, c, "cd "+dir+"; ln -s d/outside link; ln -s none dangling; ln -s d todir; ln -s /dev/null masked")
		for _, name := range []string{"link", "dangling", "masked", strings.Repeat("long", 63), "-rf", " new\nline", "*"} {
			require.NoError(t, c.Put(t.Context(), dir+"/"+name, strings.NewReader(name), sshx.PutOptions{}), name)
			assert.Equal(t, name, m.read(t, dir+"/"+name))
			assert.Empty(t, shell(t, c, "readlink "+dir+"/"+sshx.Quote(name)+" || true"), name)
		}
		assert.Equal(t, "outside", m.read(t, dir+"/d/outside"))
		require.ErrorContains(t, c.Put(t.Context(), dir+"/todir", strings.NewReader(""), sshx.PutOptions{}), "is a directory")
		if m.real() {
			require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o600))
			require.ErrorContains(t, c.Put(t.Context(), dir+"/fifo", strings.NewReader(""), sshx.PutOptions{}), "is neither file nor link")
			info, err := os.Lstat(dir + "/fifo")
			require.NoError(t, err)
			assert.Equal(t, fs.ModeNamedPipe, info.Mode().Type())
		}
	})
}

func TestPutOfTheSameKeepsSetuid(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		m.sudo(t)
		c := dial(t, m)
		dst := m.dir(t) + "/f"
		require.NoError(t, c.Put(t.Context(), dst, strings.NewReader("x"), sshx.PutOptions{Mode: fs.ModeSetuid | 0o755}))
		require.NoError(t, c.Put(t.Context(), dst, strings.NewReader("x"), sshx.PutOptions{IfChanged: true, Owner: "1:2"}))
		assert.Equal(t, "4755 1:2\n", shell(t, c, "stat -c '%a %u:%g' "+dst))
	})
}
