package sshx_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"flag"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

func TestMain(m *testing.M) {
	// Most tests wait for machines. -parallel overrides this.
	_ = flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0))))
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		printResults() // of benchmarks
		os.Exit(code)
	}))
}

// A machine is one to test against: a real OpenSSH server, or sshtest's.
type machine interface {
	// config reaches the machine and trusts it.
	config(t testing.TB) sshx.Config
	// dir is a directory on the machine for this test alone.
	dir(t testing.TB) string
	// write makes a file on the machine, without SSH; read reads one.
	write(t testing.TB, path, content string)
	read(t testing.TB, path string) string
	exists(t testing.TB, path string) bool
	// sudo skips the test if the machine cannot run commands as the user "nobody" or as root.
	sudo(t testing.TB)
	real() bool
}

// onMachines runs f against each machine that there is.
func onMachines(t *testing.T, f func(t *testing.T, m machine)) {
	t.Helper()
	t.Run("sshd", func(t *testing.T) {
		t.Parallel()
		f(t, newSSHD(t))
	})
	t.Run("sshtest", func(t *testing.T) {
		t.Parallel()
		f(t, newSim(t))
	})
}

func dial(t testing.TB, m machine, change ...func(*sshx.Config)) *sshx.Client {
	t.Helper()
	cfg := m.config(t)
	for _, f := range change {
		f(&cfg)
	}
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func newKey(t testing.TB) (ssh.Signer, []byte) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(priv)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(priv, "")
	require.NoError(t, err)
	return signer, pem.EncodeToMemory(block)
}

// An sshd is a real OpenSSH server, one process for each connection, on a listener that we own.
type sshd struct {
	path     string
	tmp      string // with host, host.pub, id, authorized, sshd_config
	conf     string
	user     string
	key      ssh.Signer
	host     ssh.Signer
	addr     string
	listener net.Listener

	mu     sync.Mutex
	mounts string // a shell text to run before sshd, in a mount namespace of its own; see mount
	procs  map[*exec.Cmd]bool
	log    bytes.Buffer
	wg     sync.WaitGroup
}

// sshdPath finds sshd, which is no command for everybody, or skips the test.
func sshdPath(t testing.TB) string {
	t.Helper()
	places := []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"}
	if p := os.Getenv("SSHX_SSHD"); p != "" { // another one, or, if it does not exist, none
		places = []string{p}
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skip("no sshd on this machine; install openssh-server to test against a real one")
	return ""
}

// newSSHD starts a server with further lines of configuration.
func newSSHD(t testing.TB, lines ...string) *sshd {
	t.Helper()
	s := &sshd{path: sshdPath(t), procs: map[*exec.Cmd]bool{}}
	if os.Getuid() == 0 { // sshd insists on it, and packages leave it to the service to make
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	me, err := user.Current()
	require.NoError(t, err)
	s.user = me.Username
	dir := t.TempDir()
	s.tmp = dir
	var pem []byte
	s.host, pem = newKey(t)
	require.NoError(t, os.WriteFile(dir+"/host", pem, 0o600))
	require.NoError(t, os.WriteFile(dir+"/host.pub", ssh.MarshalAuthorizedKey(s.host.PublicKey()), 0o600))
	s.key, pem = newKey(t)
	require.NoError(t, os.WriteFile(dir+"/id", pem, 0o600))
	require.NoError(t, os.WriteFile(dir+"/authorized", ssh.MarshalAuthorizedKey(s.key.PublicKey()), 0o600))
	s.conf = dir + "/sshd_config"
	conf := append(lines,
		"HostKey "+dir+"/host", "AuthorizedKeysFile "+dir+"/authorized", "StrictModes no", "PidFile none",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "PermitRootLogin yes",
		"LogLevel VERBOSE", "PrintMotd no",
		"SetEnv HOME="+dir, "") // bash reads the .bashrc of whoever runs the tests otherwise
	if !slices.Contains(lines, "#no sftp") {
		server := "internal-sftp"
		for _, p := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"} {
			if _, err := os.Stat(p); err == nil {
				server = p // as distributions have it
			}
		}
		conf = append(conf, "Subsystem sftp "+server+"\n")
	}
	require.NoError(t, os.WriteFile(s.conf, []byte(strings.Join(conf, "\n")), 0o600))
	s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = s.listener.Addr().String()
	s.wg.Go(s.serve)
	t.Cleanup(func() {
		s.listener.Close()
		s.kill()
		s.wg.Wait()
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("sshd said:\n%s", s.log.String())
		}
	})
	return s
}

func (s *sshd) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		f, err := conn.(*net.TCPConn).File()
		conn.Close()
		if err != nil {
			continue
		}
		argv := []string{s.path, "-i", "-e", "-f", s.conf}
		s.mu.Lock()
		if s.mounts != "" {
			argv = append([]string{"unshare", "-m", "/bin/sh", "-c", s.mounts + `exec "$0" "$@"`}, argv...)
		}
		s.mu.Unlock()
		cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout = f, f
		cmd.Stderr = writer(func(p []byte) (int, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.log.Write(p)
		})
		// Where the login is not root's, a connection is two processes; its commands are sessions.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.WaitDelay = time.Second // commands that are left behind hold its stderr
		s.mu.Lock()
		err = cmd.Start()
		if err == nil {
			s.procs[cmd] = true
		}
		s.mu.Unlock()
		f.Close()
		if err != nil {
			continue
		}
		s.wg.Go(func() {
			_ = cmd.Wait()
			s.mu.Lock()
			delete(s.procs, cmd)
			s.mu.Unlock()
		})
	}
}

// kill ends all connections as kill -9 of sshd does.
func (s *sshd) kill() { s.signal(syscall.SIGKILL) }

// signal sends a signal to all processes of sshd.
func (s *sshd) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.procs {
		_ = syscall.Kill(-cmd.Process.Pid, sig)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func (s *sshd) real() bool { return true }

func (s *sshd) config(testing.TB) sshx.Config {
	return sshx.Config{
		Name: "m1", Address: s.addr, User: s.user, Keys: []ssh.Signer{s.key},
		HostKeys: sshx.HostKeys{Pinned: []string{sshx.AuthorizedKey(s.host.PublicKey())}},
		Timeout:  30 * time.Second,
	}
}

func (s *sshd) dir(t testing.TB) string { return t.TempDir() }

func (s *sshd) write(t testing.TB, path, content string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func (s *sshd) read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

func (s *sshd) exists(_ testing.TB, path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (s *sshd) sudo(t testing.TB) {
	t.Helper()
	for _, u := range []string{"root", "nobody"} {
		if out, err := exec.CommandContext(t.Context(), "sudo", "-n", "-u", u, "true").CombinedOutput(); err != nil {
			t.Skipf("sudo -n -u %s does not work here: %v: %s", u, err, out)
		}
	}
}
