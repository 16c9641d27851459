package sshx_test

import (
	"net"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// A sim is a simulated machine behind a listener.
type sim struct {
	*sshtest.Host
	key  ssh.Signer
	addr string

	listener net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    int // accepted so far
}

// newSim boots a machine that lets in root, and ops, who may use sudo.
func newSim(t testing.TB) *sim {
	t.Helper()
	s := &sim{}
	var err error
	s.key, _ = newKey(t)
	disk := sshtest.NewDisk()
	authorized := sshx.AuthorizedKey(s.key.PublicKey())
	require.NoError(t, disk.MkdirAll("/root/.ssh", 0o700))
	require.NoError(t, disk.WriteFile("/root/.ssh/authorized_keys", []byte(authorized+"\n"), 0o600))
	require.NoError(t, disk.AddUser("ops", authorized))
	require.NoError(t, disk.WriteFile("/etc/sudoers.d/ops", []byte("ops ALL=(ALL) NOPASSWD: ALL\n"), 0o440))
	s.Host = sshtest.NewHost(disk)
	s.OnReboot = func() { s.Halt(); s.Boot() }
	s.Boot()
	s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = s.listener.Addr().String()
	s.wg.Go(s.serve)
	t.Cleanup(func() {
		s.listener.Close()
		s.Halt()
		s.wg.Wait()
	})
	return s
}

func (s *sim) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns++
		s.mu.Unlock()
		s.wg.Go(func() { s.ServeConn(conn) })
	}
}

func (s *sim) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// hostKeys are the machine's public keys, in authorized_keys form.
func (s *sim) hostKeys(t testing.TB) []string {
	t.Helper()
	list, err := s.Disk().ReadDir("/etc/ssh")
	require.NoError(t, err)
	var keys []string
	for _, e := range list {
		if strings.HasSuffix(e.Name(), "_key.pub") {
			f := strings.Fields(s.read(t, "/etc/ssh/"+e.Name()))
			keys = append(keys, f[0]+" "+f[1])
		}
	}
	return keys
}

func (s *sim) config(t testing.TB) sshx.Config {
	t.Helper()
	return sshx.Config{
		Name: "m1", Address: s.addr, Keys: []ssh.Signer{s.key},
		HostKeys: sshx.HostKeys{Pinned: s.hostKeys(t)}, Timeout: 30 * time.Second,
	}
}

func (s *sim) dir(t testing.TB) string {
	t.Helper()
	dir := "/tmp/" + strings.ReplaceAll(t.Name(), "/", "-")
	require.NoError(t, s.Disk().MkdirAll(dir, 0o755))
	return dir
}

func (s *sim) write(t testing.TB, name, content string) {
	t.Helper()
	require.NoError(t, s.Disk().MkdirAll(path.Dir(name), 0o755))
	require.NoError(t, s.Disk().WriteFile(name, []byte(content), 0o644))
}

func (s *sim) read(t testing.TB, name string) string {
	t.Helper()
	b, err := s.Disk().ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

func (s *sim) exists(_ testing.TB, name string) bool {
	_, err := s.Disk().Lstat(name)
	return err == nil
}

func (s *sim) sudo(testing.TB) {}
func (s *sim) real() bool      { return false }
