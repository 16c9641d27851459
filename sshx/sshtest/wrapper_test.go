package sshtest

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// call runs one of sshx's texts, and leaves stdin open until it has ended.
func call(t *testing.T, c *ssh.Client, k wire.Call, stdin string) (out string, code int) {
	t.Helper()
	s, err := c.NewSession()
	require.NoError(t, err)
	defer s.Close()
	w, err := s.StdinPipe()
	require.NoError(t, err)
	var b strings.Builder
	s.Stdout = &b
	s.Stderr = &b
	require.NoError(t, s.Start(k.Command()))
	_, err = io.WriteString(w, stdin)
	require.NoError(t, err)
	if len(k.Args) > 1 && strings.Contains(k.Args[1], "i") && k.Text == wire.Run {
		_ = w.Close() // it is the command's
	}
	err = s.Wait()
	_ = w.Close()
	if err != nil {
		exit, ok := err.(*ssh.ExitError)
		require.True(t, ok, "%v", err)
		code = exit.ExitStatus()
	}
	return b.String(), code
}

// withoutPID takes the number off the line that announces the command.
func withoutPID(out string) string {
	head, rest, ok := strings.Cut(out, "\n")
	if f := strings.Fields(head); ok && len(f) >= 3 && f[0]+" " == wire.Marker {
		return f[1] + "|" + rest
	}
	return out
}

func TestWrapperRun(t *testing.T) {
	t.Parallel()
	pre := func(env map[string]string, dir string, words ...string) string { return wire.Preamble(env, dir, words) }
	for _, user := range []string{"", "root"} {
		t.Run("as "+user, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t)
			c := g.dial("admin")
			run := func(flags, stdin string, words ...string) (string, int) {
				k := wire.Call{User: user, Text: wire.Run, Name: "sshx", Args: append([]string{"tok" + rand.Text(), flags}, words...)}
				if len(words) > 0 {
					k.Text = wire.Exec
				}
				out, code := call(t, c, k, stdin)
				_, rest, ok := strings.Cut(withoutPID(out), "|")
				if !ok {
					rest = out
				}
				return rest, code
			}
			script := "echo \"$A $PWD $1 ${0%.*}\"; cat; echo err >&2; exit 7\n"
			out, code := run("m", wire.Header(int64(len(script)), pre(map[string]string{"A": "it's\n"}, "/etc", "/bin/sh"))+script)
			assert.Equal(t, "it's\n /etc  /tmp/sshx\nerr\n", out)
			assert.Equal(t, 7, code)
			left, _ := g.Run(t.Context(), "ls /tmp")
			assert.NotContains(t, left, "sshx.", "the script is gone")

			out, code = run("m", "", "printf", "<%s>", "a b", "'", "")
			assert.Equal(t, "<a b><'><>", out)
			assert.Zero(t, code)
			out, code = run("mi", wire.Header(0, pre(nil, "", "cat"))+"in")
			assert.Equal(t, "in", out)
			assert.Zero(t, code)
			out, code = run("m", wire.Header(0, pre(nil, "", "nosuch")))
			assert.Contains(t, out, "not found")
			assert.Equal(t, 127, code)
			out, code = run("m", wire.Header(0, pre(nil, "/nope", "true")))
			assert.Contains(t, out, "/nope")
			assert.Equal(t, wire.Failed, code)
			py := "#!/usr/bin/cat\nself\n"
			out, _ = run("m", wire.Header(int64(len(py)), pre(nil, "", "/usr/bin/cat"))+py)
			assert.Equal(t, py, out)
		})
	}
}

func TestWrapperKillsTheGroupWhenStdinEnds(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	for _, how := range []string{"close stdin", "a line", "close session", "close connection", "stop"} {
		for _, user := range []string{"", "root"} {
			t.Run(how+" "+user, func(t *testing.T) {
				t.Parallel()
				c := g.dial("admin")
				s, err := c.NewSession()
				require.NoError(t, err)
				w, err := s.StdinPipe()
				require.NoError(t, err)
				r, err := s.StdoutPipe()
				require.NoError(t, err)
				require.NoError(t, s.Start(wire.Call{User: user, Text: wire.Run, Name: "sshx", Args: []string{"t" + rand.Text(), "m"}}.Command()))
				mark := "/tmp/survived" + rand.Text()
				script := "sleep 1000 & echo $!; (sleep 1000; touch " + mark + "); touch " + mark + "\n"
				_, err = io.WriteString(w, wire.Header(int64(len(script)), wire.Preamble(nil, "", []string{"/bin/sh"}))+script)
				require.NoError(t, err)
				in := bufio.NewReader(r)
				head, err := in.ReadString('\n')
				require.NoError(t, err)
				child, err := in.ReadString('\n')
				require.NoError(t, err)
				pid := strings.Fields(head)[2]
				switch how {
				case "close stdin":
					require.NoError(t, w.Close())
					exit, ok := s.Wait().(*ssh.ExitError)
					require.True(t, ok)
					if exit.Signal() != "" {
						assert.Equal(t, "TERM", exit.Signal())
					} else {
						assert.Equal(t, 143, exit.ExitStatus())
					}
				case "a line":
					_, err = io.WriteString(w, "stop\n")
					require.NoError(t, err)
					require.Error(t, s.Wait())
				case "close session":
					require.NoError(t, s.Close())
				case "close connection":
					require.NoError(t, c.Close())
				case "stop":
					_, code := call(t, g.dial("admin"), wire.Call{User: user, Text: wire.Stop, Name: "sshx", Args: []string{pid}}, "")
					assert.Zero(t, code)
				}
				require.Eventually(t, func() bool {
					out, _ := g.Run(t.Context(), fmt.Sprintf("kill -0 %s; kill -0 %s", pid, strings.TrimSpace(child)))
					return strings.Count(out, "No such process") == 2
				}, 10*time.Second, 5*time.Millisecond)
				_, err = g.Disk().Stat(mark)
				require.Error(t, err)
			})
		}
	}
}

func TestPlainCommandsRunOnWhenTheirChannelIsClosed(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	c := g.dial("root")
	s, err := c.NewSession()
	require.NoError(t, err)
	r, err := s.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, s.Start("echo on; while ! [ -e /tmp/go ]; do sleep 0.01; done; touch /tmp/done"))
	_, err = io.ReadFull(r, make([]byte, 3))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, c.Close())
	require.NoError(t, g.Disk().WriteFile("/tmp/go", nil, 0o644))
	require.Eventually(t, func() bool { _, err := g.Disk().Stat("/tmp/done"); return err == nil }, 10*time.Second, time.Millisecond)
}

func TestDetachedJobs(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	detach := func(id, script string) {
		out, code := call(t, g.dial("admin"), wire.Call{Text: wire.Detach, Name: "sshx", Args: []string{id, wire.Job}},
			wire.Header(int64(len(script)), wire.Preamble(map[string]string{"A": "x"}, "", []string{"/bin/sh"}))+script)
		require.Zero(t, code, out)
		require.Equal(t, wire.Marker+wire.Answer(id)+" "+wire.JobDir(id)+"\n", out)
	}
	poll := func(id string, from int) string {
		out, code := call(t, g.dial("admin"), wire.Call{Text: wire.Poll, Name: "sshx", Args: []string{id, fmt.Sprint(from), "100"}}, "")
		require.Zero(t, code)
		return out
	}
	kill := func(id string) {
		_, code := call(t, g.dial("admin"), wire.Call{Text: wire.Kill, Name: "sshx", Args: []string{id}}, "")
		require.Zero(t, code)
	}
	assert.Equal(t, "gone - 0\n", poll("none", 0))

	detach("j1", "echo one $A; while ! [ -e /tmp/go ]; do sleep 0.01; done; echo two >&2; exit 5\n")
	require.Eventually(t, func() bool { return poll("j1", 0) == "run - 6\none x\n" }, 10*time.Second, 5*time.Millisecond)
	g.DropConnections()
	require.NoError(t, g.Disk().WriteFile("/tmp/go", nil, 0o644))
	require.Eventually(t, func() bool { return poll("j1", 6) == "done 5 10\ntwo\n" }, 10*time.Second, 5*time.Millisecond)
	i, err := g.Disk().Stat(wire.JobDir("j1"))
	require.NoError(t, err)
	assert.Equal(t, "admin", i.Sys().(*Owner).User)
	assert.Equal(t, "drwx------", i.Mode().String())

	detach("j2", "sleep 1000\n")
	kill("j2")
	assert.Equal(t, "done 143 0\n", poll("j2", 0))
	kill("j2")

	detach("j3", "sleep 1000\n")
	_, code := g.Run(t.Context(), "kill -9 -- -$(cut -d' ' -f1 "+wire.JobDir("j3")+"/pid)")
	require.Zero(t, code)
	require.Eventually(t, func() bool { return poll("j3", 0) == "dead - 0\n" }, 10*time.Second, 5*time.Millisecond)

	detach("j4", "sleep 1000\n")
	g.Boot()
	assert.Equal(t, "reboot - 0\n", poll("j4", 0))
	assert.Equal(t, "done 5 10\ntwo\n", poll("j1", 6))
	out, code := call(t, g.dial("admin"), wire.Call{Text: wire.Detach, Name: "sshx", Args: []string{"j1", wire.Job}}, wire.Header(0, wire.Preamble(nil, "", []string{"true"})))
	assert.Equal(t, wire.Failed, code, out)
}

func TestTruncatedInputRunsNothing(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	script := "touch /tmp/ran\n"
	whole := wire.Header(int64(len(script)), wire.Preamble(nil, "", []string{"/bin/sh"})) + script
	for n := range len(whole) {
		if n%7 != 0 && n != len(whole)-1 {
			continue
		}
		_, errs, code := g.ssh(g.dial("admin"), wire.Call{Text: wire.Run, Name: "sshx", Args: []string{"t" + rand.Text(), "m"}}.Command(), whole[:n])
		assert.Equal(t, wire.Failed, code, "%q: %s", whole[:n], errs)
	}
	_, err := g.Disk().Stat("/tmp/ran")
	require.Error(t, err)
}

func TestShellsThatAreKilledLeaveNoHoldOnTheOutput(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	out, _ := g.Run(t.Context(), "sh -c 'sleep 1000 & echo $$; kill $$; sleep 1000'; echo after")
	assert.Contains(t, out, "after")
	out, code := g.Run(t.Context(), "sleep 1000 & pkill -f 'sleep 1000'; echo not reached")
	assert.NotContains(t, out, "not reached", "it matches the shell's own command line")
	assert.Equal(t, 143, code)
}
