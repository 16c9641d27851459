package wire

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// openPTY returns the two ends of a terminal that is as raw as sshd makes it for us, see sshx.PTY.
func openPTY(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminals on this machine: %v", err)
	}
	t.Cleanup(func() { ours.Close() })
	ioctl := func(f *os.File, request uintptr, arg unsafe.Pointer) {
		t.Helper()
		raw, err := f.SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(arg))
			require.Zero(t, errno)
		}))
	}
	var unlock, number int32
	ioctl(ours, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	ioctl(ours, syscall.TIOCGPTN, unsafe.Pointer(&number))
	theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(number)), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { theirs.Close() })
	raw := syscall.Termios{Cflag: syscall.CS8 | syscall.CREAD}
	raw.Cc[syscall.VMIN] = 1
	ioctl(theirs, syscall.TCSETS, unsafe.Pointer(&raw))
	return ours, theirs
}

// A terminal is a command on one, of which we hold the other end.
type terminal struct {
	*exec.Cmd
	end *os.File
	out *bufio.Reader
}

// onTerminal starts cmd on a terminal and sends it input, as sshx does.
func onTerminal(t *testing.T, cmd *exec.Cmd, input string) *terminal {
	t.Helper()
	ours, theirs := openPTY(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	require.NoError(t, theirs.Close())
	_, err := io.WriteString(ours, input)
	require.NoError(t, err)
	return &terminal{Cmd: cmd, end: ours, out: bufio.NewReader(ours)}
}

// line reads a line, and returns the words after "sshx tok".
func (p *terminal) line(t *testing.T) string {
	t.Helper()
	l, err := p.out.ReadString('\n')
	require.NoError(t, err, "%q", l)
	rest, ok := strings.CutPrefix(l, "sshx tok ")
	require.True(t, ok, "%q", l)
	return strings.TrimSpace(rest)
}

// up sees the command start, and returns its process group.
func (p *terminal) up(t *testing.T) int {
	t.Helper()
	require.Equal(t, Read, p.line(t))
	_, err := io.WriteString(p.end, "\n")
	require.NoError(t, err)
	group, err := strconv.Atoi(p.line(t))
	require.NoError(t, err)
	return group
}

// finish returns the rest of the output, which ends with EIO, and the exit code.
func (p *terminal) finish(t *testing.T) (string, int) {
	t.Helper()
	waited := make(chan struct{})
	go func() { defer close(waited); _ = p.Wait() }() // at once, as sshd does
	out, _ := io.ReadAll(p.out)
	<-waited
	if ws, ok := p.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return string(out), 128 + int(ws.Signal())
	}
	return string(out), p.ProcessState.ExitCode()
}

func TestTerminalRunsScriptsAndArguments(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		env := map[string]string{"A": "it's\na line"}
		script := strings.Repeat("# 0123456789abcdef\n", 1<<15) + "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : >/dev/tty && echo \"$A\"; stty -a; exit 3"
		cmd := sh(true, Terminal, "tok", "")
		p := onTerminal(t, cmd, TerminalHeader(int64(len(script)), Preamble(env, "", []string{"/bin/sh"}))+script)
		p.up(t)
		out, code := p.finish(t)
		assert.True(t, strings.HasPrefix(out, "it's\na line\n"), "%q", out)
		for _, mode := range []string{"isig icanon", " -echo", " -onlcr"} {
			assert.Contains(t, out, mode)
		}
		assert.Equal(t, 3, code)
		left, err := os.ReadDir(cmd.Dir)
		require.NoError(t, err)
		assert.Empty(t, left, "the script's file is still there")

		p = onTerminal(t, sh(true, Terminal, "tok", ""), TerminalHeader(0, Preamble(env, "/", []string{"/bin/sh", "-c", `pwd; cat; printf "%s|" "$@" "$A"; exit 4`, "x", "a b", "", "it's"})))
		p.up(t)
		_, err = io.WriteString(p.end, "typed\n\x04")
		require.NoError(t, err)
		out, code = p.finish(t)
		assert.Equal(t, "/\ntyped\na b||it's|it's\na line|", out)
		assert.Equal(t, 4, code)
	})
}

func TestTerminalIsInterrupted(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		p := onTerminal(t, sh(true, Terminal, "tok", ""), TerminalHeader(0, Preamble(nil, "", []string{"/bin/sh", "-c", "trap 'echo int; exit 5' INT; echo up; read x"})))
		p.up(t)
		up, err := p.out.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "up\n", up)
		_, err = io.WriteString(p.end, "\x03")
		require.NoError(t, err)
		out, code := p.finish(t)
		assert.Equal(t, "int\n", out)
		assert.Equal(t, 5, code)
	})
}

// What ignores the hang-up of its terminal is killed all the same, as is what ignores Stop's TERM.
func TestTerminalEndsItsGroup(t *testing.T) {
	t.Parallel()
	const stubborn = "trap '' HUP; (trap '' TERM; exec sleep 1000) & echo up; sleep 1000 | cat"
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		for name, c := range map[string]struct {
			script string
			words  []string
			sudo   bool // a shell in between leads the group, as sudo does
			stop   bool
		}{
			"script, hung up":         {script: stubborn, words: []string{"/bin/sh"}},
			"args, hung up":           {words: []string{"/bin/sh", "-c", stubborn}},
			"script, stopped":         {script: stubborn, words: []string{"/bin/sh"}, stop: true},
			"args, stopped":           {words: []string{"/bin/sh", "-c", stubborn}, stop: true},
			"not the leader, hung up": {script: stubborn, words: []string{"/bin/sh"}, sudo: true},
			"not the leader, stopped": {script: stubborn, words: []string{"/bin/sh"}, sudo: true, stop: true},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cmd := sh(true, Terminal, "tok", "")
				if c.sudo {
					cmd.Args = append([]string{"sh", "-c", `"$@"; exit $?`, "sudo"}, cmd.Args...)
					cmd.Path = "/bin/sh"
				}
				p := onTerminal(t, cmd, TerminalHeader(int64(len(c.script)), Preamble(nil, "", c.words))+c.script)
				group := p.up(t)
				assert.Equal(t, cmd.Process.Pid, group)
				up, err := p.out.ReadString('\n')
				require.NoError(t, err)
				require.Equal(t, "up\n", up)
				if c.stop {
					out, err := sh(true, Stop, strconv.Itoa(group)).CombinedOutput()
					require.NoError(t, err, "%s", out)
				}
				require.NoError(t, p.end.Close())
				_ = p.Wait()
				gone(t, group)
				if c.script != "" && !c.stop {
					require.Eventually(t, func() bool { left, err := os.ReadDir(cmd.Dir); return err == nil && len(left) == 0 }, 10*time.Second, 10*time.Millisecond)
				}
			})
		}
	})
}

func TestTerminalNeverRunsHalfAScript(t *testing.T) {
	t.Parallel()
	underShells(t, func(t *testing.T, sh func(bool, string, ...string) *exec.Cmd) {
		const script = "echo >ran\n# more\n"
		whole := TerminalHeader(int64(len(script)), Preamble(nil, "", []string{"/bin/sh"})) + script
		for name, in := range map[string]string{
			"header": whole[:20], "preamble": whole[:70], "script": whole[:len(whole)-3], "no answer": whole, // to Read
			"no directory": TerminalHeader(0, Preamble(nil, "/does/not/exist", []string{"echo", "ran"})),
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cmd := sh(true, Terminal, "tok", "")
				p := onTerminal(t, cmd, in)
				switch name {
				case "no answer":
					require.Equal(t, Read, p.line(t))
				case "no directory":
					require.Equal(t, Read, p.line(t))
					_, err := io.WriteString(p.end, "\n")
					require.NoError(t, err)
					out, code := p.finish(t)
					assert.Contains(t, out, "/does/not/exist")
					assert.Equal(t, Failed, code)
					return
				}
				require.NoError(t, p.end.Close())
				_ = p.Wait()
				left, err := os.ReadDir(cmd.Dir)
				require.NoError(t, err)
				assert.Empty(t, left)
			})
		}
	})
}
