package sshx_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// drop ends all connections of the machine.
func drop(m machine) {
	switch m := m.(type) {
	case *sim:
		m.DropConnections()
	case *sshd:
		m.kill()
	}
}

// lines calls f for every line that is written to it.
type lines struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	line func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	for {
		s, err := l.buf.ReadString('\n')
		if err != nil {
			l.buf.WriteString(s)
			return len(p), nil
		}
		l.line(strings.TrimSuffix(s, "\n"))
	}
}

func TestJobSurvivesItsConnection(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		script := "for i in 1 2 3; do echo $i; while [ ! -e " + dir + "/$i ]; do sleep 0.05; done; done; echo \"$A\" >&2; exit 5\n"
		j, err := c.Detach(t.Context(), sshx.Cmd{Name: "long", Script: script, Env: map[string]string{"A": "the\nend"}})
		require.NoError(t, err)
		var got []string
		out := &lines{line: func(s string) {
			got = append(got, s)
			if s == "2" {
				drop(m) // in the middle of it
			}
			if len(s) == 1 {
				m.write(t, dir+"/"+s, "")
			}
		}}
		res, err := j.Follow(t.Context(), out)
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 5, ee.Code)
		assert.Equal(t, []string{"1", "2", "3", "the", "end"}, got)
		assert.Equal(t, "1\n2\n3\nthe\nend\n", string(res.Stdout))
		assert.Error(t, c.Err(), "the connection was not lost")
		assert.False(t, m.exists(t, "/var/tmp/sshx."+j.ID()), "the job's directory is still there")
		_, err = j.Wait(t.Context())
		lost, ok := errors.AsType[*sshx.JobLostError](err)
		require.True(t, ok, "%v", err)
		assert.True(t, lost.Gone)
	})
}

func TestJobIsFoundAgainAndKilled(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		j, err := c.Detach(t.Context(), sshx.Cmd{Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		_, err = j.Follow(ctx, &lines{line: func(string) { cancel() }})
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "the job goes on")
		c.Close()

		again := dial(t, m).Job(j.ID(), "")
		require.NoError(t, again.Kill(t.Context()))
		res, err := again.Wait(t.Context())
		ee, ok := errors.AsType[*sshx.ExitError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 143, ee.Code)
		assert.True(t, strings.HasPrefix(string(res.Stdout), "up\n"))
		require.NoError(t, again.Kill(t.Context()), "of a job that is gone")
	})
}

func TestJobsOfOneNameAreTwo(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		var jobs []*sshx.Job
		for _, word := range []string{"one", "two"} {
			j, err := c.Detach(t.Context(), sshx.Cmd{Name: "twin", Script: "while [ ! -e " + dir + "/go ]; do sleep 0.01; done; echo " + word})
			require.NoError(t, err)
			jobs = append(jobs, j)
		}
		require.NoError(t, jobs[1].Kill(t.Context()))
		m.write(t, dir+"/go", "")
		res, err := jobs[0].Wait(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "one\n", string(res.Stdout))
		_, err = jobs[1].Wait(t.Context())
		require.ErrorContains(t, err, "exit status 143")
	})
}

func TestJobWritesWhereItWasTold(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m, func(cfg *sshx.Config) { cfg.Secrets = []string{"hunter2"} })
		var live bytes.Buffer
		big := strings.Repeat("0123456789abcde\n", 60000)
		file := m.dir(t) + "/big"
		m.write(t, file, big)
		j, err := c.Detach(t.Context(), sshx.Cmd{Script: "cat " + sshx.Quote(file) + "; echo $P\n", Env: map[string]string{"P": "hunter2"}, Stdout: &live})
		require.NoError(t, err)
		_, err = j.Wait(t.Context())
		require.NoError(t, err)
		assert.True(t, big+"***\n" == live.String(), "%d bytes", live.Len())
	})
}

// removeJobs removes the jobs of this machine whose script mentions dir.
func removeJobs(t *testing.T, dir string) {
	t.Helper()
	scripts, err := filepath.Glob("/var/tmp/sshx.*/script")
	require.NoError(t, err)
	for _, name := range scripts {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(dir+"/")) {
			require.NoError(t, os.RemoveAll(filepath.Dir(name)))
		}
	}
}
