package sshx_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// plain connects without sshx, as the same kind of user on a real machine and a simulated one.
func plain(t *testing.T, m machine, change ...func(*ssh.ClientConfig)) *ssh.Client {
	t.Helper()
	c, err := tryPlain(t, m, change...)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func tryPlain(t *testing.T, m machine, change ...func(*ssh.ClientConfig)) (*ssh.Client, error) {
	t.Helper()
	cfg := m.config(t)
	cc := &ssh.ClientConfig{User: cfg.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(cfg.Keys...)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: quick}
	if !m.real() {
		cc.User = "ops"
		if os.Getuid() == 0 {
			cc.User = "root"
		}
	}
	for _, f := range change {
		f(cc)
	}
	return ssh.Dial("tcp", cfg.Address, cc)
}

// A wish is a request on a session's channel.
type wish struct {
	name    string
	payload []byte
}

func text(words ...string) (b []byte) {
	for _, w := range words {
		b = append(b, ssh.Marshal(struct{ W string }{w})...)
	}
	return b
}

func execute(command string) wish { return wish{"exec", text(command)} }

// session makes requests on a new channel, sends input, and tells all that came back.
func session(c *ssh.Client, input string, wishes ...wish) string {
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		return err.Error()
	}
	defer ch.Close()
	var said strings.Builder
	for _, w := range wishes {
		ok, err := ch.SendRequest(w.name, true, w.payload)
		fmt.Fprintf(&said, "%s: %v %v\n", w.name, ok, err)
		if err != nil {
			return said.String()
		}
	}
	var out, errs bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(&out, ch) })
	wg.Go(func() { _, _ = io.Copy(&errs, ch.Stderr()) })
	_, _ = io.WriteString(ch, input)
	_ = ch.CloseWrite()
	for r := range requests {
		fmt.Fprintf(&said, "%s %v %q\n", r.Type, r.WantReply, r.Payload)
	}
	wg.Wait()
	fmt.Fprintf(&said, "%q %q", &out, &errs)
	return said.String()
}

// lackOfTerminals is why an sshd of whoever runs the tests gives no terminals, or "". One that is
// not root's cannot make a terminal its user's, and drops the connection that asks for it.
func lackOfTerminals(t *testing.T) string {
	t.Helper()
	if os.Getuid() == 0 {
		return ""
	}
	s := newSSHD(t)
	session, err := plain(t, s).NewSession()
	require.NoError(t, err)
	if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		said := strings.Split(strings.TrimSpace(s.log.String()), "\n")
		return fmt.Sprintf("%v: %s", err, strings.Join(said[max(0, len(said)-2):], "; "))
	}
	return ""
}

// TestStandInAnswersAsSSHD asks a real sshd and sshtest the same, below what sshx makes of it.
func TestStandInAnswersAsSSHD(t *testing.T) {
	t.Parallel()
	standIn := newSim(t)
	connect(standIn, nil)
	authentic := newSSHD(t, "AcceptEnv LC_*")
	var version [2]int
	_, err := fmt.Sscanf(string(plain(t, authentic).ServerVersion()), "SSH-2.0-OpenSSH_%d.%d", &version[0], &version[1])
	require.NoError(t, err)
	standIn.RootSignals = version[0] > 9 || version[0] == 9 && version[1] >= 8
	long := "true " + strings.Repeat("x", 130<<10)
	channel := func(kind string, payload []byte) func(*ssh.Client) string {
		return func(c *ssh.Client) string {
			_, _, err := c.OpenChannel(kind, payload)
			return fmt.Sprint(err)
		}
	}
	global := func(kind string) func(*ssh.Client) string {
		return func(c *ssh.Client) string {
			ok, data, err := c.SendRequest(kind, true, nil)
			return fmt.Sprint(ok, data, err)
		}
	}
	requests := func(wishes ...wish) func(*ssh.Client) string {
		return func(c *ssh.Client) string { return session(c, "x\n", wishes...) }
	}
	to := func(port uint32) []byte {
		return ssh.Marshal(struct {
			Host string
			Port uint32
			From string
			At   uint32
		}{"127.0.0.1", port, "127.0.0.1", 0})
	}
	terminal := wish{"pty-req", append(append(text("xterm"), make([]byte, 16)...), text("")...)}
	noTerminals := lackOfTerminals(t)
	for name, look := range map[string]func(*ssh.Client) string{
		"a keepalive":               global("keepalive@openssh.com"),
		"an unknown global request": global("nonsense"),
		"an unknown channel":        channel("nonsense", nil),
		"a port that refuses":       channel("direct-tcpip", to(1)),
		"exit":                      requests(execute("echo out; echo err >&2; exit 7")),
		"killed by a signal":        requests(execute("kill -TERM $$")),
		"killed hard":               requests(execute("echo x; kill -9 $$; echo no")),
		"replaced, and killed":      requests(execute("exec sh -c 'kill -HUP $$'")),
		"what it calls is killed":   requests(execute("exec 2>/dev/null; sh -c 'kill -TERM $$'; exit $?")),
		"too long for one argument": requests(execute(long)),
		"as long as one can be":     requests(execute(long[:128<<10-1])),
		"its environment":           requests(wish{"env", text("FOO", "1")}, wish{"env", text("LC_X", "2")}, execute("echo $FOO $LC_X; echo $SSH_CLIENT | wc -w; echo $SSH_CONNECTION | wc -w")),
		"an unknown subsystem":      requests(wish{"subsystem", text("nope")}, execute("echo a")),
		"an unknown request":        requests(wish{"nonsense", nil}, wish{"signal", text("TERM")}, execute("cat")),
		"more than one command":     requests(execute("cat"), execute("echo b"), wish{"shell", nil}, wish{"subsystem", text("sftp")}, wish{"env", text("LC_X", "1")}),
		"a terminal": func(c *ssh.Client) string {
			return session(c, "", terminal, execute("echo $TERM; for i in 0 1 2; do test -t $i; echo $?; done; [ -t 1 ] | cat; test -t 0 </dev/null || echo err >&2; exit 4"))
		},
		"a terminal for a command that runs": requests(execute("cat"), terminal),
		"a shell": func(c *ssh.Client) string {
			return session(c, "read x\nfoo\necho $x\nexit 3\necho no\n", wish{"shell", nil})
		},
		"input that nobody reads":     func(c *ssh.Client) string { return session(c, strings.Repeat("x", 1<<20), execute("exit 2")) },
		"a signal (root's, 9.7: not)": signalled,
		"signals to a subsystem": func(c *ssh.Client) string {
			return session(c, "", wish{"subsystem", text("sftp")}, wish{"signal", text("KILL")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if noTerminals != "" && strings.HasPrefix(name, "a terminal") {
				t.Skipf("the sshd of an ordinary user gives no terminals here: %s", noTerminals)
			}
			assert.Equal(t, look(plain(t, authentic)), look(plain(t, standIn)))
		})
	}
	for name, look := range map[string]func(m machine) string{
		"more than a packet holds": func(m machine) string {
			c := plain(t, m)
			err := c.Conn.(interface{ Wait() error })
			_ = session(c, "", execute(strings.Repeat("x", 255<<10)))
			_ = session(c, "", execute(strings.Repeat("x", 256<<10)))
			return fmt.Sprint(err.Wait() != nil)
		},
		"what cannot be parsed": func(m machine) string {
			c := plain(t, m)
			_, _, _ = c.OpenChannel("direct-tcpip", []byte{1})
			return fmt.Sprint(c.Wait())
		},
		"a stranger": func(m machine) string {
			_, err := tryPlain(t, m, func(cc *ssh.ClientConfig) { cc.User = "no-such-user" })
			return fmt.Sprint(err)
		},
		"a password": func(m machine) string {
			_, err := tryPlain(t, m, func(cc *ssh.ClientConfig) { cc.Auth = []ssh.AuthMethod{ssh.Password("x")} })
			return fmt.Sprint(err)
		},
		"many keys": func(m machine) string {
			_, err := tryPlain(t, m, func(cc *ssh.ClientConfig) {
				var keys []ssh.Signer
				for range 8 {
					k, _ := newKey(t)
					keys = append(keys, k)
				}
				cc.Auth = []ssh.AuthMethod{ssh.PublicKeys(keys...)}
			})
			return strings.ToLower(fmt.Sprint(err)) // x/crypto's begins with a small letter
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, look(authentic), look(standIn))
		})
	}
}

// signalled sends a command a signal, and lets it end if that does nothing.
func signalled(c *ssh.Client) string {
	s, err := c.NewSession()
	if err != nil {
		return err.Error()
	}
	defer s.Close()
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start("echo up; read x; echo on; exit 5"); err != nil {
		return err.Error()
	}
	_, _ = io.ReadFull(out, make([]byte, len("up\n")))
	_ = s.Signal(ssh.SIGTERM)
	_, _ = io.WriteString(in, "x\n")
	rest, _ := io.ReadAll(out)
	return fmt.Sprintf("%q %v", rest, s.Wait())
}

// TestStandInsFilesAnswerAsSFTPServer compares what refused operations are refused with.
func TestStandInsFilesAnswerAsSFTPServer(t *testing.T) {
	t.Parallel()
	look := func(m machine) map[string]string {
		c, err := sftp.NewClient(plain(t, m))
		require.NoError(t, err)
		defer c.Close()
		dir := m.dir(t) + "/"
		if s, ok := m.(*sim); ok && os.Getuid() != 0 {
			_, code := s.Run(t.Context(), "chown ops "+dir)
			require.Zero(t, code)
		}
		require.NoError(t, c.Mkdir(dir+"d"))
		for _, name := range []string{"f", "g", "d/x"} {
			f, err := c.Create(dir + name)
			require.NoError(t, err)
			_, err = f.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		require.NoError(t, c.Symlink("nowhere", dir+"dangling"))
		require.NoError(t, c.Symlink("loop", dir+"loop"))
		said := map[string]string{}
		note := func(name string, err error) {
			status, ok := errors.AsType[*sftp.StatusError](err)
			switch {
			case ok:
				said[name] = status.FxCode().Error()
			case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
				said[name] = errors.Unwrap(fmt.Errorf("%w", err)).Error()
			default:
				said[name] = fmt.Sprint(err)
			}
			said[name] = strings.ReplaceAll(said[name], dir, "")
		}
		open := func(name string, flags int) {
			f, err := c.OpenFile(dir+name, flags)
			note(fmt.Sprintf("open %s %#x", name, flags), err)
			if err == nil {
				_ = f.Close()
			}
		}
		for _, name := range []string{"f", "no", "f/x", "d", "no/x", "dangling", "loop"} {
			open(name, os.O_RDONLY)
			_, err := c.Stat(dir + name)
			note("stat "+name, err)
			_, err = c.ReadDir(dir + name)
			note("list "+name, err)
			_, err = c.ReadLink(dir + name)
			note("readlink "+name, err)
			real, err := c.RealPath(dir + name)
			note("realpath "+name, err)
			said["realpath "+name] += strings.ReplaceAll(real, dir, "")
			note("mkdir "+name, c.Mkdir(dir+name))
			if name == "no" {
				note("rmdir "+name, c.RemoveDirectory(dir+name))
			}
			note("chmod "+name, c.Chmod(dir+name, 0o755))
			note("chtimes "+name, c.Chtimes(dir+name, time.Unix(5, 0), time.Unix(5, 0)))
			open(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY)
			_ = c.Remove(dir + "no")
			note("truncate "+name, c.Truncate(dir+name, 3))
			note("link "+name, c.Link(dir+name, dir+"g"))
			note("symlink "+name, c.Symlink("x", dir+"g"))
			note("rename "+name, c.Rename(dir+name, dir+"g"))
			note("posix rename "+name, c.PosixRename(dir+name, dir+"d"))
			note("posix rename into "+name, c.PosixRename(dir+"d", dir+name+"/d"))
		}
		note("rmdir d", c.RemoveDirectory(dir+"d"))
		note("rmdir f", c.RemoveDirectory(dir+"f"))
		note("remove d", c.Remove(dir+"d"))
		note("remove f/x", c.Remove(dir+"f/x"))
		f, err := c.OpenFile(dir+"f", os.O_WRONLY|os.O_APPEND)
		require.NoError(t, err)
		_, err = f.Write([]byte("END"))
		note("append", err)
		require.NoError(t, f.Close())
		said["appended"] = fmt.Sprintf("%q", m.read(t, dir+"f"))
		return said
	}
	real := newSSHD(t)
	assert.Equal(t, look(real), look(newSim(t)))
}
