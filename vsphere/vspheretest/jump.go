package vspheretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A jump is an SSH server that does nothing but pass connections on to the lab network, so that
// any SSH client can reach the guests with -J.
type jump struct {
	s      *Server
	l      net.Listener
	config *ssh.ServerConfig

	hostKey string // in authorized_keys form

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// serveJump starts the jump host, if there is to be one.
func (s *Server) serveJump() error {
	if s.JumpAddr == "" {
		return nil
	}
	j, err := s.startJump(s.JumpAddr)
	if err == nil {
		s.Jump, s.JumpKey = j.l.Addr().String(), j.hostKey
	}
	return err
}

// JumpHost returns the address of the jump host and its host key, in authorized_keys form. It starts
// one on a free port of 127.0.0.1 if JumpAddr is empty.
func (s *Server) JumpHost() (addr, hostKey string, err error) {
	s.jumpMu.Lock()
	defer s.jumpMu.Unlock()
	j := s.jump
	if j == nil {
		if j, err = s.startJump("127.0.0.1:0"); err != nil {
			return "", "", err
		}
	}
	return j.l.Addr().String(), j.hostKey, nil
}

func (s *Server) startJump(addr string) (*jump, error) {
	if s.life == nil || s.life.Err() != nil {
		return nil, errors.New("jump host: the server does not run")
	}
	hostKey, err := s.sshKey("jump_host_key")
	if err != nil {
		return nil, fmt.Errorf("jump host: %w", err)
	}
	var allowed [][]byte
	if s.ClientKey != nil {
		allowed = append(allowed, s.ClientKey.PublicKey().Marshal())
	}
	for _, line := range s.AuthorizedKeys {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("AuthorizedKeys: %w", err)
		}
		allowed = append(allowed, key.Marshal())
	}
	j := &jump{s: s, conns: make(map[net.Conn]bool), config: &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			for _, a := range allowed {
				if bytes.Equal(a, key.Marshal()) {
					return nil, nil
				}
			}
			return nil, errors.New("unknown key")
		},
	}}
	j.config.AddHostKey(hostKey)
	j.hostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(hostKey.PublicKey())))
	if j.l, err = net.Listen("tcp", addr); err != nil {
		return nil, fmt.Errorf("jump host: listen on %s: %w", addr, err)
	}
	s.jump = j
	s.work.Go(j.accept)
	return j, nil
}

// closeJump ends the jump host's connections; who tends them ends then.
func (s *Server) closeJump() {
	s.jumpMu.Lock()
	defer s.jumpMu.Unlock()
	if s.jump == nil {
		return
	}
	_ = s.jump.l.Close()
	s.jump.mu.Lock()
	defer s.jump.mu.Unlock()
	for c := range s.jump.conns {
		_ = c.Close()
	}
	s.jump.conns = nil
}

func (j *jump) accept() {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := j.l.Accept()
		if err != nil {
			return
		}
		j.mu.Lock()
		if j.conns == nil { // closing
			j.mu.Unlock()
			_ = c.Close()
			return
		}
		j.conns[c] = true
		j.mu.Unlock()
		all.Go(func() {
			j.serve(c)
			j.mu.Lock()
			delete(j.conns, c)
			j.mu.Unlock()
		})
	}
}

func (j *jump) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // for the login
	conn, chans, reqs, err := ssh.NewServerConn(c, j.config)
	if err != nil {
		return
	}
	_ = c.SetDeadline(time.Time{})
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(j.s.life)
	defer cancel()
	all.Go(func() { ssh.DiscardRequests(reqs) })
	for ch := range chans {
		all.Go(func() { j.forward(ctx, ch) })
	}
	_ = conn.Close()
}

// forward passes one channel on, until both sides are done or ctx ends. RFC 4254 section 7.2 has
// the layout of its request.
func (j *jump) forward(ctx context.Context, ch ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if ch.ChannelType() != "direct-tcpip" || ssh.Unmarshal(ch.ExtraData(), &to) != nil {
		_ = ch.Reject(ssh.UnknownChannelType, "this host only passes connections on")
		return
	}
	conn, err := j.s.DialContext(ctx, "tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port)))
	if err != nil {
		_ = ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	near, reqs, err := ch.Accept()
	if err != nil {
		return
	}
	defer near.Close()
	var both sync.WaitGroup
	both.Go(func() { ssh.DiscardRequests(reqs) })
	both.Go(func() {
		_, _ = io.Copy(near, conn)
		_ = near.Close() // the guest has nothing more to say
	})
	_, _ = io.Copy(conn, near)
	_ = conn.(*labConn).CloseWrite() // nor has the client
	both.Wait()
}
