package sshx

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func TestPulse(t *testing.T) {
	t.Parallel()
	const every, dead = 5 * time.Second, 25 * time.Second
	for name, c := range map[string]struct {
		answers bool          // the peer answers when asked
		busy    time.Duration // until then it sends without being asked
		for_    time.Duration
		alive   bool
		asked   int64
	}{
		"silent":             {false, 0, time.Hour, false, 1},
		"idle, answering":    {true, 0, time.Minute, true, 11},
		"busy":               {false, time.Minute, time.Minute, true, 0},
		"busy, then silent":  {false, time.Minute, time.Hour, false, 1},
		"silent for a while": {false, 0, 20 * time.Second, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.for_)
				defer cancel()
				begun := time.Now()
				killed := make(chan bool)
				var asked atomic.Int64
				var heard atomic.Pointer[time.Time]
				heard.Store(&begun)
				p := pulse{every: every, dead: dead}
				p.last = func() time.Time {
					if now := time.Now(); now.Sub(begun) < c.busy {
						return now
					}
					return heard.Load().Add(0)
				}
				if c.busy > 0 {
					last := begun.Add(c.busy)
					heard.Store(&last)
				}
				p.ask = func() {
					asked.Add(1)
					if c.answers {
						now := time.Now()
						heard.Store(&now)
						return
					}
					select {
					case <-killed:
					case <-ctx.Done():
					}
				}
				gone := p.run(ctx, func() { close(killed) })
				assert.Equal(t, c.alive, !gone)
				assert.InDelta(t, c.asked, asked.Load(), 1)
				if gone {
					took := time.Since(begun) - c.busy
					assert.GreaterOrEqual(t, took, dead)
					assert.LessOrEqual(t, took, dead+every+2*every)
				}
			})
		})
	}
}

func TestPulseCountsFromTheLastSignOfLife(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		last func(begun time.Time) time.Time
		dies time.Duration // since begun
	}{
		"it stirs, but does not answer": {func(begun time.Time) time.Time {
			return begun.Add(min(time.Since(begun), time.Minute).Truncate(10 * time.Second))
		}, 85 * time.Second},
		"we were stopped, and could not hear": {func() func(time.Time) time.Time {
			var stop sync.Once
			return func(begun time.Time) time.Time {
				if time.Since(begun) > 10*time.Second {
					stop.Do(func() { time.Sleep(time.Hour) })
				}
				return begun
			}
		}(), time.Hour + 35*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				killed := make(chan bool)
				p := pulse{every: 5 * time.Second, dead: 25 * time.Second, last: func() time.Time { return c.last(begun) }, ask: func() { <-killed }}
				assert.True(t, p.run(t.Context(), func() { close(killed) }))
				assert.InDelta(t, c.dies, time.Since(begun), float64(15*time.Second))
				assert.GreaterOrEqual(t, time.Since(begun), c.dies-10*time.Second)
			})
		})
	}
}

func TestStatesOfMachines(t *testing.T) {
	t.Parallel()
	op := func(err error) error { return &DialError{Cause: &net.OpError{Op: "dial", Err: err}} }
	for want, err := range map[string]error{
		"refused":                      op(os.NewSyscallError("connect", syscall.ECONNREFUSED)),
		"no route":                     op(syscall.EHOSTUNREACH),
		"reset":                        op(syscall.ECONNRESET),
		"silent":                       op(os.ErrDeadlineExceeded),
		"no such name":                 op(&net.DNSError{IsNotFound: true}),
		"hangs up":                     &DialError{Cause: io.EOF},
		"sshd hangs up: booting":       &DialError{Reached: true, Banner: "booting", Cause: io.EOF},
		"no SSH":                       &DialError{Cause: errors.New("ssh: overflow reading version string")},
		"login refused":                &AuthError{},
		"host key not yet right":       &HostKeyError{},
		"no login: No space left":      &StartError{Text: "No space left"},
		"no answer":                    &CanceledError{Cause: errors.New("no answer within 20s")},
		"connection lost":              &DisconnectedError{Cause: ErrDead},
		"jump host hop: login refused": &jumpError{"m1", "hop", &AuthError{}},
		"not reached: administratively prohibited (off)": &DialError{Cause: &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "off"}},
	} {
		assert.Equal(t, want, stateOf(fmt.Errorf("%w", err)), "%v", err)
	}
}

func TestBackoffLeavesTimeForPenaltiesToLapse(t *testing.T) {
	t.Parallel()
	var b backoff
	next := func(err error, jumps bool) time.Duration {
		d, knocked := b.next(err, jumps)
		assert.Equal(t, d >= backoffMax && knocked, knocked)
		return d
	}
	first := next(io.EOF, false)
	assert.InDelta(t, time.Second, first, float64(100*time.Millisecond))
	for range 20 {
		assert.LessOrEqual(t, next(io.EOF, false), 5500*time.Millisecond)
	}
	for range 20 {
		assert.GreaterOrEqual(t, next(&AuthError{}, false), 5*time.Second)
		assert.GreaterOrEqual(t, next(&DialError{Reached: true}, false), 5*time.Second)
		assert.GreaterOrEqual(t, next(&HostKeyError{}, false), 5*time.Second)
	}
	nobody := &DialError{Cause: syscall.EHOSTUNREACH}
	b = backoff{}
	assert.InDelta(t, 200*time.Millisecond, next(nobody, false), float64(20*time.Millisecond))
	for range 20 {
		assert.LessOrEqual(t, next(nobody, false), 1100*time.Millisecond)
	}
	assert.GreaterOrEqual(t, next(nobody, true), 900*time.Millisecond, "each attempt logs in to the jump host")
}

func TestRedactorAcrossWrites(t *testing.T) {
	t.Parallel()
	secrets := Config{Secrets: []string{"aab", "aabaa", "", "key\nline2", "x"}}.secrets()
	for in, want := range map[string]string{
		"":                        "",
		"aaaab":                   "aa***",
		"aabaab":                  "***b",
		"aabab":                   "***ab",
		"aabaaab":                 "***ab",
		"aab":                     "***",
		"aa":                      "aa",
		"key\nline2 key\nline3":   "*** key\nline3",
		"axx":                     "a******",
		strings.Repeat("aab", 50): "",
	} {
		var whole, pieces bytes.Buffer
		a, b := newRedactor(&whole, secrets), newRedactor(&pieces, secrets)
		_, _ = io.WriteString(a, in)
		for i := range len(in) {
			_, _ = io.WriteString(b, in[i:i+1])
		}
		require.NoError(t, a.flush())
		require.NoError(t, b.flush())
		assert.Equal(t, whole.String(), pieces.String(), "%q", in)
		assert.NotContains(t, whole.String(), "aab")
		if want != "" || in == "" {
			assert.Equal(t, want, whole.String(), "%q", in)
		}
	}
}

func TestKeptIsTheHeadAndTheTail(t *testing.T) {
	t.Parallel()
	for _, step := range []int{1, 3, 7, 100} {
		k := kept{max: 10}
		var all []byte
		for len(all) < 95 {
			p := bytes.Repeat([]byte{byte('a' + len(all)%26)}, step)
			n, err := k.Write(p)
			require.NoError(t, err)
			require.Equal(t, step, n)
			all = append(all, p...)
			if len(all) <= 20 {
				require.Equal(t, all, k.bytes())
				continue
			}
			want := string(all[:10]) + "\n[... " + strconv.Itoa(len(all)-20) + " bytes left out ...]\n" + string(all[len(all)-10:])
			require.Equal(t, want, string(k.bytes()))
			require.Equal(t, string(all[len(all)-5:]), string(k.end(5)))
		}
	}
}

func untar(root *os.Root, r io.Reader) error {
	u := newUnpacked(root, false)
	if err := u.tar(r); err != nil {
		return err
	}
	return u.finish()
}

// noWayOut fails the test if a link below dir leads elsewhere.
func noWayOut(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == fs.ModeSymlink {
			to, _ := filepath.EvalSymlinks(name)
			assert.True(t, to == "" || strings.HasPrefix(to+"/", dir+"/"), "%s leads to %s", name, to)
		}
		return err
	}))
}

func TestUnpackWritesNothingOutside(t *testing.T) {
	t.Parallel()
	file := func(name string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
	}
	link := func(kind byte, name, to string) *tar.Header {
		return &tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o777}
	}
	for name, headers := range map[string][]*tar.Header{
		"absolute":            {file("/evil")},
		"parent":              {file("../evil")},
		"parent inside":       {file("a/../../evil")},
		"absolute link":       {link(tar.TypeSymlink, "l", "/etc")},
		"link to parent":      {link(tar.TypeSymlink, "a/l", "../../etc")},
		"hard link to parent": {link(tar.TypeLink, "l", "../secret")},
		"through a link":      {link(tar.TypeSymlink, "l", "m"), link(tar.TypeSymlink, "m", "..")},
		"through a directory": {link(tar.TypeSymlink, "l", "."), link(tar.TypeSymlink, "l/m", "..")},
		"back from a link":    {{Name: "a/b/", Typeflag: tar.TypeDir, Mode: 0o755}, link(tar.TypeSymlink, "a/b/up", "../.."), link(tar.TypeSymlink, "l", "a/b/up/..")},
		"through what is not": {link(tar.TypeSymlink, "l", "none/../..")},
		"hard link to a link": {link(tar.TypeSymlink, "a/l", ".."), link(tar.TypeLink, "l", "a/l")},
		"onto a directory":    {{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644}, link(tar.TypeSymlink, "d", "..")},
		"endless":             {{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 50}},
		"device":              {{Name: "dev", Typeflag: tar.TypeChar}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(top, "secret"), []byte("s"), 0o600))
			require.NoError(t, os.Mkdir(filepath.Join(top, "dst"), 0o755))
			root, err := os.OpenRoot(filepath.Join(top, "dst"))
			require.NoError(t, err)
			defer root.Close()
			var buf bytes.Buffer
			tw := tar.NewWriter(&buf)
			for _, h := range append(headers, file("l/evil")) {
				if tw.WriteHeader(h) != nil {
					break // after what is endless
				}
			}
			_ = tw.Close()
			require.Error(t, untar(root, &buf))
			noWayOut(t, root.Name())
			left, err := os.ReadDir(top)
			require.NoError(t, err)
			assert.Len(t, left, 2, "something was written outside")
		})
	}
}

// A hostile is an SFTP server that lists anything, as directories.
type hostile struct{ name string }

func (h hostile) Filelist(*sftp.Request) (sftp.ListerAt, error) { return h, nil }

func (h hostile) ListAt(to []fs.FileInfo, at int64) (int, error) {
	if at > 0 {
		return 0, io.EOF
	}
	to[0] = h
	return 1, io.EOF
}

func (h hostile) Name() string     { return h.name }
func (hostile) Size() int64        { return 0 }
func (hostile) Mode() fs.FileMode  { return fs.ModeDir | 0o755 }
func (hostile) ModTime() time.Time { return time.Time{} }
func (hostile) IsDir() bool        { return true }
func (hostile) Sys() any           { return nil }

func TestReadTreeRefusesStrangeNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a/..", "a/.", "/", "../f/.."} {
		cr, sw := io.Pipe()
		sr, cw := io.Pipe()
		srv := sftp.NewRequestServer(struct {
			io.Reader
			io.WriteCloser
		}{sr, sw}, sftp.Handlers{FileList: hostile{name}})
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(); sw.Close() }()
		sc, err := sftp.NewClientPipe(cr, cw)
		require.NoError(t, err)
		root, err := os.OpenRoot(t.TempDir())
		require.NoError(t, err)
		defer root.Close()
		err = readTree(t.Context(), sc, "/", ".", newUnpacked(root, false), func(string, fs.FileInfo) { t.Errorf("%q is taken for a file", name) })
		require.ErrorContains(t, err, "the machine sent the name", "%q", name)
		require.NoError(t, sc.Close())
		<-served
	}
}

func TestInterpreterIsTheFirstLine(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{
		"echo": "/bin/sh", "#!/bin/bash": "/bin/bash", "#! /usr/bin/env  python3 -u\nx": "/usr/bin/env python3 -u", "#!\n": "/bin/sh", "\n#!/bin/bash": "/bin/sh",
	} {
		assert.Equal(t, want, strings.Join(interpreter(script), " "), "%q", script)
	}
}
