//go:build unix

package wire

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDetachedJobLivesAndIsPolled(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		id := filepath.Base(t.TempDir()) + "-" + strings.ReplaceAll(t.Name(), "/", "-") + strconv.Itoa(os.Getpid())
		t.Cleanup(func() { os.RemoveAll(JobDir(id)) })
		job := strings.TrimSuffix(sh(true, Job).Args[len(sh(true, Job).Args)-2], "\n")
		script := "echo one; echo two >&2; while [ ! -e go ]; do sleep 0.01; done; exit 5"
		cmd := sh(true, Detach, id, job)
		p := start(t, cmd, Header(int64(len(script)), Preamble(nil, cmd.Dir, []string{"/bin/sh"}))+script)
		out, code := p.finish(t)
		require.Zero(t, code, p.err.String())
		assert.Equal(t, "sshx "+Answer(id)+" "+JobDir(id)+"\n", out)
		poll := func(offset string) string {
			b, err := sh(true, Poll, id, offset, "1000").CombinedOutput()
			require.NoError(t, err)
			return string(b)
		}
		require.Eventually(t, func() bool { return poll("0") == "run - 8\none\ntwo\n" }, 10*time.Second, 10*time.Millisecond)
		assert.Equal(t, "run - 8\ntwo\n", poll("4"))
		assert.NoFileExists(t, JobDir(id)+"/env")
		require.NoError(t, os.WriteFile(cmd.Dir+"/go", nil, 0o600))
		require.Eventually(t, func() bool { return poll("8") == "done 5 8\n" }, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, os.RemoveAll(JobDir(id)))
		assert.Equal(t, "gone - 0\n", poll("0"))
	})
}

func TestDetachedJobIsKilled(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		id := strings.ReplaceAll(t.Name(), "/", "-") + strconv.Itoa(os.Getpid())
		t.Cleanup(func() { os.RemoveAll(JobDir(id)) })
		job := sh(true, Job).Args[len(sh(true, Job).Args)-2]
		p := start(t, sh(true, Detach, id, job), Header(0, Preamble(nil, "", []string{"/bin/sh", "-c", "echo up; sleep 1000"})))
		_, code := p.finish(t)
		require.Zero(t, code, p.err.String())
		poll := func() string {
			b, err := sh(true, Poll, id, "0", "1000").CombinedOutput()
			require.NoError(t, err)
			return string(b)
		}
		require.Eventually(t, func() bool { return poll() == "run - 3\nup\n" }, 10*time.Second, 10*time.Millisecond)
		b, err := os.ReadFile(JobDir(id) + "/pid")
		require.NoError(t, err)
		group, err := strconv.Atoi(strings.Fields(string(b))[0])
		require.NoError(t, err)
		out, err := sh(true, Kill, id).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, "done 143 3\nup\n", poll())
		gone(t, group)

		// A boot id that is not the kernel's: the machine was restarted meanwhile.
		require.NoError(t, os.Remove(JobDir(id)+"/rc"))
		assert.Equal(t, "dead - 3\nup\n", poll())
		require.NoError(t, os.WriteFile(JobDir(id)+"/boot", []byte("another\n"), 0o600))
		assert.Equal(t, "reboot - 3\nup\n", poll())
	})
}

// jobTest is one job, and the shell that runs the texts about it.
type jobTest struct {
	id  string
	dir string // of the command
	sh  func(leader bool, text string, args ...string) *exec.Cmd
	env []string // of all texts, beside theirs
}

// detach starts a job that runs script.
func detach(t *testing.T, sh func(bool, string, ...string) *exec.Cmd, script string, env ...string) *jobTest {
	t.Helper()
	j := &jobTest{id: strings.ReplaceAll(t.Name(), "/", "-") + strconv.Itoa(os.Getpid()), sh: sh, env: env}
	t.Cleanup(func() { os.RemoveAll(JobDir(j.id)) })
	job := sh(true, Job)
	cmd := sh(true, Detach, j.id, job.Args[len(job.Args)-2])
	cmd.Env = append(cmd.Env, env...)
	j.dir = cmd.Dir
	p := start(t, cmd, Header(int64(len(script)), Preamble(nil, cmd.Dir, []string{"/bin/sh"}))+script)
	out, code := p.finish(t)
	require.Zero(t, code, p.err.String())
	require.Equal(t, "sshx "+Answer(j.id)+" "+JobDir(j.id)+"\n", out)
	return j
}

func (j *jobTest) poll(t *testing.T) string {
	t.Helper()
	cmd := j.sh(true, Poll, j.id, "0", "1000")
	cmd.Env = append(cmd.Env, j.env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err)
	return string(out)
}

func (j *jobTest) polls(t *testing.T, want string) {
	t.Helper()
	last := ""
	require.Eventually(t, func() bool { last = j.poll(t); return last == want }, 10*time.Second, 10*time.Millisecond, "want %q", want)
}

func (j *jobTest) kill(t *testing.T) {
	t.Helper()
	cmd := j.sh(true, Kill, j.id)
	cmd.Env = append(cmd.Env, j.env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func (j *jobTest) group(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(JobDir(j.id) + "/pid")
	require.NoError(t, err)
	group, err := strconv.Atoi(strings.Fields(string(b))[0])
	require.NoError(t, err)
	return group
}

// reboots makes it look as if the machine had restarted since the job began.
func (j *jobTest) reboots(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile(JobDir(j.id)+"/boot", []byte("another\n"), 0o600))
}

func TestJobThatAShutdownEndsIsToldFromOneThatWasKilled(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		t.Run("by a shutdown", func(t *testing.T) {
			t.Parallel()
			j := detach(t, sh, "echo up; sleep 1000")
			j.polls(t, "run - 3\nup\n")
			require.NoError(t, syscall.Kill(-j.group(t), syscall.SIGTERM)) // as systemd does to all there is
			j.polls(t, "done 143 3\nup\n")
			j.reboots(t)
			assert.Equal(t, "reboot - 3\nup\n", j.poll(t))
		})
		t.Run("by us, before one", func(t *testing.T) {
			t.Parallel()
			j := detach(t, sh, "echo up; sleep 1000")
			j.polls(t, "run - 3\nup\n")
			j.kill(t)
			j.reboots(t)
			assert.Equal(t, "done 143 3\nup\n", j.poll(t))
		})
		t.Run("by itself, before one", func(t *testing.T) {
			t.Parallel()
			j := detach(t, sh, "echo up; exit 143")
			j.polls(t, "done 143 3\nup\n")
			j.reboots(t)
			assert.Equal(t, "done 143 3\nup\n", j.poll(t))
		})
		t.Run("although it ignores TERM", func(t *testing.T) {
			t.Parallel()
			j := detach(t, sh, "trap '' TERM; echo up; while :; do sleep 1000; done")
			j.polls(t, "run - 3\nup\n")
			group := j.group(t)
			j.kill(t)
			assert.Equal(t, "done 137 3\nup\n", j.poll(t))
			gone(t, group)
		})
	})
}

// fakeSystemd makes the texts believe in a systemd, whose systemd-run is the given script.
func fakeSystemd(t *testing.T, sh func(bool, string, ...string) *exec.Cmd, run string) func(bool, string, ...string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"systemd-run": run, "systemctl": `echo "systemctl $*" >>"$CALLS"; exit 1`, "id": `[ "$1" = -u ] && echo 0 || echo root`,
	} {
		require.NoError(t, os.WriteFile(dir+"/"+name, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	}
	return func(leader bool, text string, args ...string) *exec.Cmd {
		cmd := sh(leader, strings.ReplaceAll(text, "/run/systemd/system", dir), args...)
		for i, e := range cmd.Env {
			if path, ok := strings.CutPrefix(e, "PATH="); ok {
				cmd.Env[i] = "PATH=" + dir + ":" + path
			}
		}
		return cmd
	}
}

func TestJobIsInAScopeOfItsOwnWhereSystemdRuns(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for name, c := range map[string]struct{ run, scope string }{
			"it does":          {`echo "systemd-run $1 $2 $3" >>"$CALLS"; shift 3; exec "$@"`, "--system\n"},
			"it refuses to":    {`echo "systemd-run $1 $2 $3" >>"$CALLS"; echo "Failed to connect to bus" >&2; exit 1`, ""},
			"it was not asked": {"", ""},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				calls := t.TempDir() + "/calls"
				sh := sh
				if c.run != "" {
					sh = fakeSystemd(t, sh, c.run)
				} else if _, err := os.Stat("/run/systemd/system"); err == nil {
					t.Skip("it is")
				}
				j := detach(t, sh, "echo up; while [ -e go ] || sleep 0.01; do [ -e go ] && exit 5; done", "CALLS="+calls)
				j.polls(t, "run - 3\nup\n")
				group := j.group(t)
				require.NoError(t, syscall.Kill(-group, 0), "the job leads a group")
				scope, _ := os.ReadFile(JobDir(j.id) + "/scope")
				assert.Equal(t, c.scope, string(scope))
				j.kill(t)
				assert.Equal(t, "done 143 3\nup\n", j.poll(t))
				gone(t, group)
				said, _ := os.ReadFile(calls)
				unit := "sshx-" + j.id
				switch want := ""; name {
				case "it does":
					want = "systemd-run --system --scope --unit=" + unit + "\nsystemctl --system kill -s TERM " + unit + ".scope\n"
					assert.True(t, strings.HasPrefix(string(said), want), "%s", said)
				case "it refuses to":
					assert.Equal(t, "systemd-run --system --scope --unit="+unit+"\n", string(said))
				}
			})
		}
	})
}

// A real systemd, of which tests in containers see nothing: the login session is ended with all
// that is in it, as KillUserProcesses=yes does, and as a stop of sshd with its control group.
func TestJobOutlivesItsSessionUnderSystemd(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getuid() != 0 {
		t.Skip("this machine does not run systemd, or we are not root")
	}
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		name := strings.ReplaceAll(t.Name(), "/", "-") + strconv.Itoa(os.Getpid())
		systemctl := func(args ...string) string {
			out, _ := exec.CommandContext(context.Background(), "systemctl", args...).CombinedOutput()
			return strings.TrimSpace(string(out))
		}
		session := func(leader bool, text string, args ...string) *exec.Cmd {
			cmd := sh(leader, text, args...)
			if len(args) == 2 && args[0] != "0" && strings.Contains(text, "mkdir") { // Detach
				// All that it leaves in the session's scope is killed below.
				cmd.Args = append([]string{"systemd-run", "--scope", "--unit=session-" + name}, cmd.Args...)
				cmd.Path, _ = exec.LookPath("systemd-run")
			}
			return cmd
		}
		j := detach(t, session, "echo up; setsid sleep 1000 & while :; do sleep 0.01; [ -e go ] && exit 5; done")
		j.polls(t, "run - 3\nup\n")
		b, err := os.ReadFile("/proc/" + strconv.Itoa(j.group(t)) + "/cgroup")
		require.NoError(t, err)
		require.Contains(t, string(b), "sshx-"+j.id+".scope")
		systemctl("kill", "-s", "KILL", "session-"+name+".scope")
		require.Eventually(t, func() bool { return systemctl("is-active", "session-"+name+".scope") != "active" }, 10*time.Second, 10*time.Millisecond)
		assert.Equal(t, "run - 3\nup\n", j.poll(t), "the job died with the session")
		j.kill(t)
		assert.Equal(t, "done 143 3\nup\n", j.poll(t))
		assert.NotEqual(t, "active", systemctl("is-active", "sshx-"+j.id+".scope"), "the sleeper in a session of its own lives")
	})
}
