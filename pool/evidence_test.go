package pool_test

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// A heardT is a fakeT that keeps its log.
type heardT struct {
	*fakeT
	said []string
}

func (h *heardT) Logf(format string, args ...any) {
	h.said = append(h.said, fmt.Sprintf(format, args...))
}
func (h *heardT) Helper() {}

// evidenceIn returns the text of each file below dir, by its path without the directory of the test.
func evidenceIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		assert.Equal(t, fs.FileMode(0o600), info.Mode(), "others read none of it")
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		parts := strings.SplitN(filepath.ToSlash(rel), "/", 3) // evidence/TEST/...
		all[parts[len(parts)-1]] = string(data)
		return err
	}))
	return all
}

func TestAFailedTestLeavesEvidence(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.spec(1)
	spec.SSH.Secrets = []string{"hunter2hunter2"}
	spec.Evidence = pool.Evidence{
		Dir: t.TempDir(), Files: []string{"/var/log/my app/*.log", "/etc/nothing"},
		Collectors: []pool.Collector{
			{Name: "env.txt", Script: `echo "I am $NAME"; echo hunter2hunter2; exit 3`},
			{Name: "own.txt", Do: func(ctx context.Context, h *pool.Host) (string, error) { return h.Run(ctx, "cat", "/etc/base") }},
			{Name: "panics.txt", Do: func(context.Context, *pool.Host) (string, error) { panic("no such thing") }},
		},
	}
	set := r.open(spec)
	h := &heardT{fakeT: testOf(t, "TestMirror")}
	p := set.Acquire(h)
	con := p.Host("con")
	_, err := con.Script(t.Context(), `logger -t mirror "sync of hunter2hunter2 begins"
mkdir -p "/var/log/my app"
echo "first line" > "/var/log/my app/a.log"
echo "it broke" > "/var/log/my app/b.log"
`)
	require.NoError(t, err)
	_, err = con.Run(t.Context(), "sh", "-c", "echo the mirror is broken; echo hunter2hunter2; exit 9")
	require.Error(t, err)
	h.failed = true
	h.end()

	got := evidenceIn(t, spec.Evidence.Dir)
	for file, want := range map[string]string{
		"con1/journal.txt":                "mirror: sync of *** begins",
		"con1/processes.txt":              "COMMAND",
		"con1/ports.txt":                  "neither ss nor netstat",
		"con1/space.txt":                  "Mounted on",
		"con1/files/var/log/my app/a.log": "first line",
		"con1/files/var/log/my app/b.log": "it broke",
		"con1/env.txt":                    "I am con1\n***\n",
		"con1/own.txt":                    "base",
		"con1/panics.txt":                 "panic: no such thing",
		"dis1/files.txt":                  "no file matches",
		"dis1/env.txt":                    "I am dis1",
		"status.txt":                      `"purpose": "TestMirror"`,
	} {
		assert.Contains(t, got[file], want, file)
	}
	assert.Contains(t, got["con1/env.txt"], "exit", "and how it ended")
	assert.Contains(t, got, "con1/kernel.txt")
	assert.True(t, strings.HasPrefix(got["con1/console.png"], "\x89PNG"), "the screen")
	assert.Contains(t, got["con1/transcript.txt"], "exit 9 after")
	assert.Contains(t, got["con1/transcript.txt"], "| the mirror is broken\n    | ***")
	assert.NotContains(t, got["con1/transcript.txt"], "evidence", "it is the test's")
	for file, text := range got {
		assert.NotContains(t, text, "hunter2", file)
	}

	require.Len(t, h.said, 1)
	assert.LessOrEqual(t, strings.Count(h.said[0], "\n"), 20, "it fits a screen")
	for _, want := range []string{`pool 1 of set "lab"`, "it is reset now", "last failed command: con1: sh -c", "exit 9", "| the mirror is broken", spec.Evidence.Dir, "log in to dis1: ssh -F "} {
		assert.Contains(t, h.said[0], want)
	}
}

func TestEvidenceIsCollectedWhenItIsWanted(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var commands atomic.Int32
	for _, test := range []struct {
		when    string
		failed  bool
		keep    string
		is      bool
		message string
	}{
		{"", false, "", false, ""},
		{"", true, "failed", true, "it is kept as it is until "},
		{"never", true, "", false, "it is reset now"},
		{"always", false, "", true, "its test passed"},
	} {
		spec := r.spec(1)
		spec.Evidence = pool.Evidence{When: test.when, Dir: t.TempDir()}
		spec.Keep.When = test.keep
		spec.SSH.Observe = func(sshx.Observation) { commands.Add(1) }
		set := r.open(spec)
		h := &heardT{fakeT: testOf(t, "TestMirror")}
		set.Acquire(h)
		h.failed = test.failed
		requests, ran := len(r.Requests()), commands.Load()
		set.Close() // so that nothing is reset in the background
		h.end()
		if !test.is {
			assert.Empty(t, evidenceIn(t, spec.Evidence.Dir))
		} else {
			assert.Contains(t, evidenceIn(t, spec.Evidence.Dir), "status.txt")
		}
		if test.message == "" {
			assert.Empty(t, h.said)
			assert.Equal(t, ran, commands.Load(), "commands")
			assert.LessOrEqual(t, len(r.Requests())-requests, 6, "what releases the lease")
		} else {
			require.Len(t, h.said, 1)
			assert.Contains(t, h.said[0], test.message)
		}
		require.NoError(t, pool.Release(t.Context(), r.spec(1)))
	}
}

// A mutable Dialer is one whose connections say nothing more, as those to a host that hangs.
type mutable struct {
	sshx.Dialer
	quiet atomic.Bool
	to    string // addresses that begin so; set before quiet
}

type muteConn struct {
	net.Conn
	to string
	d  *mutable
}

func (d *mutable) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.quiet.Load() && strings.HasPrefix(address, d.to) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return muteConn{c, address, d}, nil
}

func (c muteConn) Write(p []byte) (int, error) {
	if c.d.quiet.Load() && strings.HasPrefix(c.to, c.d.to) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestAHostThatHangsDoesNotHoldUpEvidence(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.spec(1)
	d := &mutable{Dialer: r.Server}
	spec.SSH.Dialer = d
	spec.Evidence.Dir = t.TempDir()
	set := r.open(spec)
	h := &heardT{fakeT: testOf(t, "TestMirror")}
	p := set.Acquire(h)
	d.to = p.Host("dis").Addr().String()
	d.quiet.Store(true)
	h.failed = true
	begun := time.Now()
	h.end()
	assert.Less(t, time.Since(begun), 2*time.Minute, "Limits.Boot is 10 minutes")
	got := evidenceIn(t, spec.Evidence.Dir)
	assert.Contains(t, got["con1/journal.txt"], "entries")
	assert.Contains(t, got["dis1/unreachable.txt"], "the VM is powered on")
	assert.NotContains(t, got, "dis1/journal.txt")
	require.Len(t, h.said, 1)
	assert.Contains(t, h.said[0], "evidence is incomplete: dis1: ")
}

func TestAHostThatIsNotReadyLeavesEvidence(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.spec(2)
	spec.MinPools = 1
	spec.Evidence.Dir = t.TempDir()
	spec.Roles[0].Steps = append(spec.Roles[0].Steps, pool.Script("odd", `if [ "$NAME" = con2 ]; then logger "this is why"; exit 4; fi`))
	set := r.open(spec)
	for _, s := range set.Status() {
		assert.Equal(t, s.Pool == 1, s.Ready, s.Host)
	}
	got := evidenceIn(t, spec.Evidence.Dir)
	assert.Contains(t, got["con2/journal.txt"], "this is why")
	assert.Contains(t, got["con2/transcript.txt"], "exit 4")
	assert.Contains(t, got["error.txt"], `step "odd"`)
	for file := range got {
		assert.NotContains(t, file, "1/", "only of what failed")
	}
	spec.MinPools = 2
	_, err := pool.Open(t.Context(), spec)
	require.ErrorContains(t, err, "evidence: "+spec.Evidence.Dir)
}
