package sshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Server is a Host that listens on loopback, for tests of SSH clients. Use NewServer, or
// NewUnstartedServer to change Host or its disk first.
type Server struct {
	*Host
	// Addr is "127.0.0.1:port" once started. It stays the same.
	Addr string
	// ClientKey lets in as root, and as admin, who may do everything through sudo without a
	// password.
	ClientKey ssh.Signer
	// HostKey is the machine's ed25519 key at the start, in authorized_keys form without comment.
	HostKey string

	t testing.TB

	mu       sync.Mutex
	listener net.Listener // nil while the port refuses
	conns    map[net.Conn]bool
	accepted int
	closed   bool
	wg       sync.WaitGroup
}

// NewServer returns a server that is booted and listens. It is closed when the test ends. A reboot
// that a command asks for happens at once, and power off is Refuse. What is not simulated fails the
// test: see Host.OnNotSimulated, which tests that expect refusals set on an unstarted server.
func NewServer(t testing.TB) *Server {
	t.Helper()
	s := NewUnstartedServer(t)
	s.Start()
	return s
}

// NewUnstartedServer returns a server for Start. Until then Host's fields may be set.
func NewUnstartedServer(t testing.TB) *Server {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	signer, err := ssh.NewSignerFromKey(key)
	must(err)
	line := string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	d := NewDisk()
	must(d.AddUser("root", line))
	must(d.AddUser("admin", line))
	must(d.WriteFile("/etc/sudoers.d/admin", []byte("admin ALL=(ALL) NOPASSWD: ALL\n"), 0o440))
	s := &Server{Host: NewHost(d), ClientKey: signer, t: t, conns: map[net.Conn]bool{}}
	s.OnNotSimulated = func(r Refusal) {
		t.Errorf("%v; simulate it with Host.Commands, or set Server.OnNotSimulated if the test expects it", &r)
	}
	s.OnReboot = func() { s.restartHost(true) }
	s.OnPowerOff = func() { s.restartHost(false) }
	return s
}

// Start boots the machine and listens.
func (s *Server) Start() {
	s.t.Helper()
	s.Boot()
	pub, err := s.Disk().ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
	must(err)
	s.HostKey = strings.Join(strings.Fields(string(pub))[:2], " ")
	s.t.Cleanup(s.Close)
	if err := s.listen("127.0.0.1:0"); err != nil {
		s.t.Fatalf("sshtest: %v", err)
	}
}

func (s *Server) listen(addr string) error {
	var l net.Listener
	var err error
	for range 100 { // the port is ours again a moment later, should somebody have borrowed it
		if l, err = net.Listen("tcp", addr); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return l.Close()
	}
	s.listener = l
	if s.Addr == "" {
		s.Addr = l.Addr().String()
	}
	s.wg.Go(func() { s.accept(l) })
	return nil
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.accepted++
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			s.ServeConn(c)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.conns, c)
		})
	}
}

// restartHost is what a reboot and power off do.
func (s *Server) restartHost(again bool) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	s.Refuse()
	s.Halt()
	if again {
		s.Boot()
		if err := s.Accept(); err != nil {
			s.t.Errorf("sshtest: after a reboot: %v", err)
		}
	}
}

// Refuse makes the port refuse connections. Those that are there stay.
func (s *Server) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		_ = s.listener.Close()
		s.listener = nil
	}
}

// Accept listens again, on the same port, after Refuse.
func (s *Server) Accept() error {
	s.mu.Lock()
	up, closed := s.listener != nil, s.closed
	s.mu.Unlock()
	if up || closed {
		return nil
	}
	if err := s.listen(s.Addr); err != nil {
		return fmt.Errorf("listen again: %w", err)
	}
	return nil
}

// Accepted is how many TCP connections there have been.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Close stops listening, halts the machine, and returns when nothing of both is left. Closing
// twice does nothing.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	if s.listener != nil {
		_ = s.listener.Close()
		s.listener = nil
	}
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.Halt()
	s.wg.Wait()
	s.Halt() // a reboot may have been under way
}

// ClientConfig is how x/crypto/ssh logs in as a user, who expects HostKey.
func (s *Server) ClientConfig(user string) *ssh.ClientConfig {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	must(err)
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(s.ClientKey)},
		HostKeyCallback: ssh.FixedHostKey(key), HostKeyAlgorithms: []string{key.Type()},
	}
}

// must is for what cannot fail on a disk that only we know.
func must(err error) {
	if err != nil {
		panic("sshtest: " + err.Error())
	}
}
