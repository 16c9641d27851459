//go:build unix

package wire

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Most tests wait for processes. -parallel overrides this.
	_ = flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0))))
	goleak.VerifyTestMain(m)
}

// A shell is one that machines have as /bin/sh.
type shell struct {
	name string
	argv []string
}

// shells returns those that this machine has.
func shells(t *testing.T) []shell {
	t.Helper()
	var found []shell
	for _, s := range []shell{{"dash", []string{"dash"}}, {"bash", []string{"bash", "--posix"}}, {"busybox", []string{"busybox", "sh"}}} {
		path, err := exec.LookPath(s.argv[0])
		if err != nil {
			t.Logf("not tested under %s, which this machine lacks", s.name)
			continue
		}
		s.argv[0] = path
		found = append(found, s)
	}
	if len(found) == 0 {
		t.Skip("this machine has neither dash nor bash nor busybox")
	}
	return found
}

// underShells runs f once for each shell. Inside, sh starts a text as sshd would: as leader of a
// session, with pipes. leader false is how sudo may do it.
func underShells(t *testing.T, f func(t *testing.T, sh func(leader bool, text string, args ...string) *exec.Cmd)) {
	t.Helper()
	for _, s := range shells(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			// busybox without its own tools proves nothing: put them before all others.
			path := os.Getenv("PATH")
			if s.name == "busybox" {
				dir := t.TempDir()
				out, err := exec.CommandContext(t.Context(), s.argv[0], "--install", "-s", dir).CombinedOutput()
				require.NoError(t, err, "%s", out)
				path = dir + ":" + path
			}
			f(t, func(leader bool, text string, args ...string) *exec.Cmd {
				tmp := t.TempDir() // of one command: files there are named by its token, which tests share
				// Names of texts are replaced by this shell where they start a shell themselves.
				text = strings.ReplaceAll(text, "/bin/sh -c", strings.Join(s.argv, " ")+" -c")
				// Nobody needs 2 s to see that TERM is ignored.
				text = strings.NewReplacer("sleep 2;", "sleep 0.2;", "do sleep 1;", "do sleep 0.1;", "-lt 20 ]", "-lt 2 ]").Replace(text)
				cmd := exec.CommandContext(t.Context(), s.argv[0], append(append(s.argv[1:len(s.argv):len(s.argv)], "-c", text, "sshx"), args...)...)
				cmd.Env = []string{"PATH=" + path, "TMPDIR=" + tmp, "HOME=" + tmp, "LC_ALL=C"}
				cmd.Dir = tmp
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: leader}
				cmd.WaitDelay = 20 * time.Second
				return cmd
			})
		})
	}
}

// A proc is a started text with its ends.
type proc struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err locked
}

// locked is a buffer that may be looked at while it is written.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func start(t *testing.T, cmd *exec.Cmd, input string) *proc {
	t.Helper()
	p := &proc{Cmd: cmd}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = &p.err
	p.in, p.out = in, bufio.NewReader(out)
	require.NoError(t, cmd.Start())
	_, err = io.WriteString(in, input)
	require.NoError(t, err)
	return p
}

// marker reads the line that announces the command and returns the process group.
func (p *proc) marker(t *testing.T) int {
	t.Helper()
	l, err := p.out.ReadString('\n')
	require.NoError(t, err, "stdout %q, stderr %q", l, p.err.String())
	f := strings.Fields(l)
	require.GreaterOrEqual(t, len(f), 3, "%q", l)
	require.Equal(t, "sshx", f[0])
	require.Equal(t, Answer("tok"), f[1])
	pid, err := strconv.Atoi(f[2])
	require.NoError(t, err)
	return pid
}

// finish reads the rest of the output and returns it with the exit code, 128+N for signal N.
func (p *proc) finish(t *testing.T) (string, int) {
	t.Helper()
	out, err := io.ReadAll(p.out)
	require.NoError(t, err)
	err = p.Wait()
	p.in.Close()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		if ws, ok := ee.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return string(out), 128 + int(ws.Signal())
		}
		return string(out), ee.ExitCode()
	}
	require.NoError(t, err)
	return string(out), 0
}

func gone(t *testing.T, group int) {
	t.Helper()
	require.Eventually(t, func() bool { return !lives(group) }, 10*time.Second, 5*time.Millisecond, "process group %d lives", group)
}

// lives reports whether a process of the group is more than a zombie, which waits for somebody
// to ask how it ended.
func lives(group int) bool {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		return !errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
	}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 2 && f[2] == strconv.Itoa(group) && f[0] != "Z" && f[0] != "X" {
			return true
		}
	}
	return false
}

func TestRunGivesArgumentsAsTheyAre(t *testing.T) {
	t.Parallel()
	args := []string{"printf", "%s|", "a b", "", "it's", "$HOME", "*", "\\n\\\\", "two\nlines\n", "!x", "-e"}
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		p := start(t, sh(true, Run, "tok", "m"), Header(0, Preamble(map[string]string{"A": "x\n'y'\n", "f": "1"}, "", args)))
		p.marker(t)
		out, code := p.finish(t)
		assert.Equal(t, strings.Join(args[2:], "|")+"|", out)
		assert.Zero(t, code)

		direct := Call{Direct: true, Text: Exec, Args: append([]string{"tok", "m"}, args...)}.Command()
		for _, cmd := range []*exec.Cmd{
			sh(true, Exec, append([]string{"tok", "m"}, args...)...), sh(true, direct),
			sh(true, "set -euf; IFS=0123456789; "+direct), // as startup files may leave it
		} {
			p = start(t, cmd, "")
			p.marker(t)
			out, code = p.finish(t)
			assert.Equal(t, strings.Join(args[2:], "|")+"|", out)
			assert.Zero(t, code)
		}
	})
}

func TestRunExportsAndChangesDirectory(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		script := "echo \"$A|$f|$PWD|$#|$0\"; cat; exit 7"
		pre := Preamble(map[string]string{"A": "x\n'y'", "f": "1", "PATH": os.Getenv("PATH")}, "/", []string{"/bin/sh", "-u"})
		cmd := sh(true, Run, "tok", "m")
		p := start(t, cmd, Header(int64(len(script)), pre)+script)
		p.marker(t)
		out, code := p.finish(t)
		head, file, _ := strings.Cut(strings.TrimSuffix(out, "\n"), "|"+cmd.Dir+"/sshx.")
		assert.Equal(t, "x\n'y'|1|/|0", head)
		assert.Len(t, file, 26)
		assert.NotContains(t, strings.Join(cmd.Args, " "), file, "everybody could have been there before")
		assert.Equal(t, 7, code)
		left, err := os.ReadDir(cmd.Dir)
		require.NoError(t, err)
		assert.Empty(t, left, "the script's file is still there")
	})
}

func TestRunMergesInOrderOrKeepsApart(t *testing.T) {
	t.Parallel()
	script := "i=0; while [ $i -lt 50 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done"
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		in := Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"})) + script
		p := start(t, sh(true, Run, "tok", "m"), in)
		p.marker(t)
		out, _ := p.finish(t)
		var want, wantOut, wantErr strings.Builder
		for i := range 50 {
			fmt.Fprintf(&want, "o%d\ne%d\n", i, i)
			fmt.Fprintf(&wantOut, "o%d\n", i)
			fmt.Fprintf(&wantErr, "e%d\n", i)
		}
		assert.Equal(t, want.String(), out)
		assert.Empty(t, p.err.String())

		p = start(t, sh(true, Run, "tok", "s"), in)
		pid := p.marker(t)
		out, _ = p.finish(t)
		assert.Equal(t, wantOut.String(), out)
		assert.Equal(t, fmt.Sprintf("sshx toktok %d\n", pid)+wantErr.String(), p.err.String())
	})
}

func TestRunNeverRunsHalfAScript(t *testing.T) {
	t.Parallel()
	pre := Preamble(nil, "", []string{"/bin/sh"})
	script := "echo ran\n# more\n"
	long := Header(0, Preamble(map[string]string{"A": "x\ny"}, "", []string{"echo", "ran"}))
	for name, in := range map[string]string{
		"script":        Header(100, pre) + script,
		"header":        "100 ",
		"nothing":       "",
		"preamble":      strings.TrimSuffix(Header(0, Preamble(nil, "", []string{"echo", "ran"})), "\n"),
		"long preamble": long[:len(long)-3],
		"no directory":  Header(0, Preamble(nil, "/does/not/exist", []string{"echo", "ran"})),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
				cmd := sh(true, Run, "tok", "s")
				p := start(t, cmd, in)
				if name != "no directory" { // the input is whole
					p.in.Close()
				}
				out, code := p.finish(t)
				assert.Empty(t, out)
				assert.Equal(t, Failed, code)
				left, err := os.ReadDir(cmd.Dir)
				require.NoError(t, err)
				assert.Empty(t, left)
			})
		})
	}
}

// busy is a script of a pipeline and a background child that ignores TERM: none may be left.
const busy = "echo up; (trap '' TERM; sleep 1000) & sleep 1000 | cat"

func TestRunKillsTheGroupWhenStdinEnds(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for _, c := range []struct {
			name string
			cmd  *exec.Cmd
			in   string
		}{
			{"script", sh(true, Run, "tok", "m"), Header(int64(len(busy)), Preamble(nil, "", []string{"/bin/sh"})) + busy},
			{"args", sh(true, Run, "tok", "m"), Header(0, Preamble(nil, "", []string{"/bin/sh", "-c", busy}))},
			{"args in arguments", sh(true, Exec, "tok", "m", "/bin/sh", "-c", busy), ""},
			{"in the login shell", sh(true, "set -eu; kill() { :; }; "+Call{Direct: true, Text: Exec, Args: []string{"tok", "m", "/bin/sh", "-c", busy}}.Command()), ""},
			{"not the leader", sh(false, Lead, "tok", "m"), Header(int64(len(busy)), Preamble(nil, "", []string{"/bin/sh"})) + busy},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				if c.name == "not the leader" { // Lead is given Run as $0
					for i, a := range c.cmd.Args {
						if a == "sshx" {
							run := strings.ReplaceAll(Run, "/bin/sh -c", c.cmd.Args[0]+" -c")
							c.cmd.Args = append(c.cmd.Args[:i:i], append([]string{run}, c.cmd.Args[i:]...)...)
							break
						}
					}
				}
				p := start(t, c.cmd, c.in)
				group := p.marker(t)
				up, err := p.out.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "up\n", up)
				require.NoError(t, syscall.Kill(-group, 0), "no such group")
				p.in.Close()
				_, code := p.finish(t)
				assert.Equal(t, 143, code)
				gone(t, group)
			})
		}
	})
}

func TestRunLeavesDaemonsAlone(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for _, words := range [][]string{{"/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 3"}} {
			p := start(t, sh(true, Run, "tok", "m"), Header(0, Preamble(nil, "", words)))
			group := p.marker(t)
			_, code := p.finish(t) // closes stdin afterwards, as sshd does
			assert.Equal(t, 3, code)
			for range 20 { // the watcher sees the end of stdin and must do nothing
				require.NoError(t, syscall.Kill(-group, 0), "the daemon was killed")
				time.Sleep(5 * time.Millisecond)
			}
			require.NoError(t, syscall.Kill(-group, syscall.SIGKILL))
		}
	})
}

func TestRunStreamsStdinAndStopEndsIt(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		pre := Preamble(map[string]string{"A": "x\ny"}, "", []string{"cat"})
		data := strings.Repeat("0123456789\n", 20000)
		p := start(t, sh(true, Run, "tok", "mi"), Header(0, pre))
		p.marker(t)
		go func() { _, _ = io.WriteString(p.in, data); p.in.Close() }()
		out, code := p.finish(t)
		assert.Equal(t, data, out)
		assert.Zero(t, code)

		p = start(t, sh(true, Run, "tok", "mi"), Header(0, pre))
		group := p.marker(t)
		stop, err := sh(true, Stop, strconv.Itoa(group)).CombinedOutput()
		require.NoError(t, err, "%s", stop)
		_, code = p.finish(t)
		assert.Equal(t, 143, code)
		stop, err = sh(true, Stop, strconv.Itoa(group)).CombinedOutput()
		require.NoError(t, err, "%s", stop)
	})
}

func TestRunDoesNotIgnoreSIGINT(t *testing.T) {
	t.Parallel()
	script := "sleep 1000 & kill -s INT $$; echo alive"
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		p := start(t, sh(true, Run, "tok", "m"), Header(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"}))+script)
		group := p.marker(t)
		line := make(chan string, 1)
		go func() { s, _ := p.out.ReadString('\n'); line <- s }()
		select {
		case s := <-line:
			assert.Empty(t, s)
		case <-time.After(200 * time.Millisecond):
		}
		_ = syscall.Kill(-group, syscall.SIGKILL)
		<-line // the group, sleeper included, is gone
		_, _ = p.finish(t)
	})
}

func TestReadySaysSoAndRunsTheText(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		cmd := sh(true, Ready, "a b", "c")
		cmd.Args[len(cmd.Args)-3] = `echo "$0 $1"` // in the place of $0
		p := start(t, cmd, "")
		out, code := p.finish(t)
		assert.Equal(t, "a b c\n", out)
		assert.Zero(t, code)
		assert.Equal(t, ReadyLine+"\n", p.err.String())
	})
}
