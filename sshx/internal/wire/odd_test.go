//go:build unix

package wire

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bash's read, in the place of which there is nothing portable, takes TMOUT for its own limit.
func TestRunOutlivesTMOUT(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		const script = "sleep 1.2; echo done"
		for name, c := range map[string]struct {
			cmd *exec.Cmd
			in  string
		}{
			"script": {sh(true, Run, "tok", "m"), Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"})) + script},
			"args":   {sh(true, Exec, "tok", "m", "/bin/sh", "-c", script), ""},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.cmd.Env = append(c.cmd.Env, "TMOUT=1")
				p := start(t, c.cmd, c.in)
				p.marker(t)
				out, code := p.finish(t)
				assert.Equal(t, "done\n", out)
				assert.Zero(t, code)
			})
		}
	})
}

func TestScriptsMayDoAsTheyLike(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for script, want := range map[string]struct {
			out  string
			code int
		}{
			"echo no newline":                                      {"no newline\n", 0},
			"echo a\r\n":                                           {"a\r\n", 0},
			"exit 255":                                             {"", 255},
			"exec echo replaced":                                   {"replaced\n", 0},
			"exec setsid sh -c 'echo x; exit 4'":                   {"x\n", 4},
			"exec 3>&- 4>&- 0<&-; echo closed":                     {"closed\n", 0},
			"cat; echo $#; umask":                                  {"0\n0022\n", 0},
			"trap 'echo left' EXIT; exit 5":                        {"left\n", 5},
			"kill $PPID; echo the parent minds":                    {"the parent minds\n", 0},
			"kill -s HUP 0; echo not":                              {"", 129},
			"kill -s INT 0; echo not":                              {"", 130},
			"kill -s QUIT 0; echo not":                             {"", 131},
			"kill -s TERM 0; echo not":                             {"", 143},
			"trap '' HUP; kill -s HUP 0; echo on":                  {"on\n", 0},
			strings.Repeat("# 0123456789\n", 1<<17) + "echo large": {"large\n", 0},
		} {
			name := script[:min(len(script), 20)]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cmd := sh(true, "umask 022; "+Run, "tok", "m")
				p := start(t, cmd, Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"}))+script)
				p.marker(t)
				out, code := p.finish(t)
				if want.code < 128 { // shells say how their children died, each in its own words
					assert.Equal(t, want.out, out)
				}
				assert.NotContains(t, out, "not")
				assert.Equal(t, want.code, code)
				left, err := os.ReadDir(cmd.Dir)
				require.NoError(t, err)
				assert.Empty(t, left, "the script's file is still there")
			})
		}
	})
}

func TestRunTakesEveryByte(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for c := 1; c < 256; c++ {
		b.WriteByte(byte(c))
	}
	for name, value := range map[string]string{"all": b.String(), "in one line": strings.ReplaceAll(b.String(), "\n", "")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
				for _, locale := range []string{"C", "C.UTF-8"} {
					cmd := sh(true, Run, "tok", "m")
					cmd.Env = append(cmd.Env, "LC_ALL="+locale)
					// "env" without words would print more than what we gave.
					p := start(t, cmd, Header(0, Preamble(map[string]string{"A": value}, "", []string{"printf", "%s", value})))
					p.marker(t)
					out, code := p.finish(t)
					assert.Equal(t, value, out)
					assert.Zero(t, code)

					script := "tr '\\0' '|' </proc/self/environ; : '" + strings.ReplaceAll(value, "'", "") + "'"
					cmd = sh(true, Run, "tok", "m")
					cmd.Env = append(cmd.Env, "LC_ALL="+locale)
					p = start(t, cmd, Header(int64(len(script)), Preamble(map[string]string{"A": value}, "", []string{"/bin/sh"}))+script)
					p.marker(t)
					out, code = p.finish(t)
					assert.Contains(t, out, "A="+value+"|")
					assert.Zero(t, code)
				}
			})
		})
	}
}

func TestScriptsThatCannotBeWrittenAreNotRun(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for name, dir := range map[string]string{"no such directory": "/does/not/exist", "not to be written to": "/proc/sys", "full": "full"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				const script = "echo ran"
				text := strings.Replace(Run, `/var/tmp /dev/shm "$HOME"`, "/proc/sys/kernel", 1)
				if dir == "full" {
					dir, text = "", strings.Replace(Run, `<&3 >"$_sshx_f"`, `<&3 >/dev/full`, 1)
					text = strings.Replace(text, `exec head -c "$_sshx_n" /dev/zero`, "exec true", 1)
				}
				cmd := sh(true, text, "tok", "m")
				if dir != "" {
					cmd.Env = append(cmd.Env, "TMPDIR="+dir)
				}
				p := start(t, cmd, Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"}))+script)
				out, code := p.finish(t)
				assert.NotContains(t, out, "ran")
				assert.NotEmpty(t, out, "it does not say why")
				assert.Equal(t, Failed, code)
			})
		}
	})
}

func TestScriptsAreWrittenWhereThereIsRoom(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for _, dir := range []string{"/does/not/exist", "/proc/sys"} {
			const script = "echo ran"
			cmd := sh(true, Run, "tok", "m")
			cmd.Env = append(cmd.Env, "TMPDIR="+dir)
			p := start(t, cmd, Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"}))+script)
			p.marker(t)
			out, code := p.finish(t)
			assert.Equal(t, "ran\n", out)
			assert.Zero(t, code)
		}
	})
}

func TestDetachThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		whole := Header(4, Preamble(nil, "", []string{"/bin/sh"})) + "true"
		for name, in := range map[string]string{"header": whole[:9], "preamble": whole[:40], "script": whole[:len(whole)-1]} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				id := strings.ReplaceAll(t.Name(), "/", "-") + strconv.Itoa(os.Getpid())
				t.Cleanup(func() { os.RemoveAll(JobDir(id)) })
				p := start(t, sh(true, Detach, id, Job), in)
				require.NoError(t, p.in.Close())
				_, code := p.finish(t)
				assert.Equal(t, Failed, code)
				assert.NoDirExists(t, JobDir(id))
			})
		}
	})
}

func TestJobOfSomebodyElseIsNotThere(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		j := detach(t, sh, "echo up; sleep 1000")
		j.polls(t, "run - 3\nup\n")
		group := j.group(t)
		require.NoError(t, os.Chown(JobDir(j.id), 65534, 65534))
		assert.Equal(t, "gone - 0\n", j.poll(t))
		j.kill(t)
		require.NoError(t, syscall.Kill(-group, 0), "who makes such a directory has root kill what he likes")
		require.NoError(t, syscall.Kill(-group, syscall.SIGKILL))
	})
}

func TestStopReachesAllOfTheGroup(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		p := start(t, sh(true, Exec, "tok", "mi", "/bin/sh", "-c", "(trap '' TERM; echo up; exec sleep 1000) & wait"), "")
		group := p.marker(t)
		up, err := p.out.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "up\n", up)
		stop := sh(true, Stop, strconv.Itoa(group))
		require.NoError(t, stop.Start())
		_, code := p.finish(t)
		assert.Equal(t, 143, code)
		require.NoError(t, stop.Wait())
		gone(t, group)
	})
}

func TestKillReachesAllOfTheGroup(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		j := detach(t, sh, "(trap '' TERM; echo up; exec sleep 1000) & wait")
		j.polls(t, "run - 3\nup\n")
		group := j.group(t)
		j.kill(t)
		assert.Equal(t, "done 143 3\nup\n", j.poll(t))
		gone(t, group)
	})
}

func TestJobThatSignalsItsGroupLeavesAnExitCode(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for name, want := range map[string]string{"HUP": "done 129 ", "INT": "done 130 ", "QUIT": "done 131 ", "TERM": "done 143 "} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				j := detach(t, sh, "kill -s "+name+" 0; sleep 1000")
				require.Eventually(t, func() bool { return strings.HasPrefix(j.poll(t), want) }, 10*time.Second, 10*time.Millisecond, "want %q", want)
			})
		}
	})
}

// Between Detach and Job, systemd may take its time.
func TestJobThatIsKilledBeforeItStartsNeverDoes(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		wait := t.TempDir() + "/go"
		sh = fakeSystemd(t, sh, `while [ -e "$WAIT" ]; do sleep 0.01; done; shift 3; exec "$@"`)
		require.NoError(t, os.WriteFile(wait, nil, 0o600))
		j := detach(t, sh, "echo up; sleep 1000", "WAIT="+wait, "CALLS=/dev/null")
		assert.Equal(t, "new - 0\n", j.poll(t))
		kill := j.sh(true, strings.ReplaceAll(Kill, "-lt 20 ]", "-lt 200 ]"), j.id)
		kill.Env = append(kill.Env, j.env...)
		require.NoError(t, kill.Start())
		require.Eventually(t, func() bool { _, err := os.Stat(JobDir(j.id) + "/killed"); return err == nil }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, os.Remove(wait))
		require.NoError(t, kill.Wait())
		assert.Equal(t, "done 143 0\n", j.poll(t))
		gone(t, j.group(t))
	})
}

func TestJobWhosePIDIsAnothersNowIsNotKilled(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		j := detach(t, sh, "echo up; sleep 1000")
		j.polls(t, "run - 3\nup\n")
		group := j.group(t)
		pid := JobDir(j.id) + "/pid"
		b, err := os.ReadFile(pid)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(pid, []byte(strings.TrimSpace(string(b))+"1\n"), 0o600)) // began at another time
		assert.Equal(t, "dead - 3\nup\n", j.poll(t))
		j.kill(t)
		require.NoError(t, syscall.Kill(-group, 0))
		require.NoError(t, syscall.Kill(-group, syscall.SIGKILL))
	})
}

// Whatever a script does to its group, it ends when nobody waits for it any more.
func TestScriptThatSignalsItsGroupIsStillKilled(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for _, signal := range []string{"HUP", "INT", "QUIT", "USR1", "TERM"} {
			t.Run(signal, func(t *testing.T) {
				t.Parallel()
				script := "trap '' " + signal + "; kill -s " + signal + " 0; echo up; while :; do sleep 1000; done"
				p := start(t, sh(true, Run, "tok", "m"), Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"}))+script)
				group := p.marker(t)
				up, err := p.out.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "up\n", up)
				require.NoError(t, p.in.Close())
				_, _ = p.finish(t)
				gone(t, group)
			})
		}
	})
}
