package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/poolready/poolready/sshx/sshtest"
)

// ssh is a real SSH client on the modelled network. It knows: [-o OPTION=VALUE]... [-i KEY] [-p
// PORT] [-l USER] [USER@]HOST COMMAND..., with the options BatchMode, ConnectTimeout,
// IdentitiesOnly and StrictHostKeyChecking (yes or no). It never asks: a host key that is not known
// is refused.
func (g *Guest) ssh(ctx context.Context, p *sshtest.Proc) int {
	args, user, port, checking := p.Args[1:], p.User, 22, true
	var identities []string
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		value := args[1]
		switch args[0] {
		case "-o":
			k, v, _ := strings.Cut(value, "=")
			switch {
			case k == "BatchMode" && v == "yes", k == "ConnectTimeout", k == "IdentitiesOnly":
			case k == "StrictHostKeyChecking" && (v == "yes" || v == "no"):
				checking = v == "yes"
			default:
				return p.NotSimulated("-o " + value)
			}
		case "-i":
			identities = append(identities, value)
		case "-l":
			user = value
		case "-p":
			n, err := strconv.Atoi(value)
			if err != nil {
				return p.Fail(255, "Bad port '%s'", value)
			}
			port = n
		default:
			return p.NotSimulated(args[0])
		}
		args = args[2:]
	}
	if len(args) < 2 {
		return p.NotSimulated("without a command")
	}
	host := args[0]
	if u, h, ok := strings.Cut(host, "@"); ok {
		user, host = u, h
	}
	home := g.home(p.User)
	if identities == nil {
		for _, name := range []string{"id_rsa", "id_ecdsa", "id_ed25519"} {
			identities = append(identities, path.Join(home, ".ssh", name))
		}
	}
	var signers []ssh.Signer
	for _, file := range identities {
		if data, err := p.ReadFile(file); err == nil {
			if key, err := ssh.ParsePrivateKey(data); err == nil {
				signers = append(signers, key)
			}
		}
	}
	known, err := g.knownHosts(p, home)
	if err != nil {
		return p.Fail(255, "%v", err)
	}
	conn, err := g.dial(ctx, host, uint16(port), strings.Contains(host, ":"))
	if le, ok := errors.AsType[*lookupError](err); ok {
		return p.Fail(255, "Could not resolve hostname %s: %v", host, le.err)
	}
	if err != nil {
		return p.Fail(255, "connect to host %s port %d: %v", host, port, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c, err := sshHandshake(conn, host, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if checking && !known(host, key) {
				return errHostKey
			}
			return nil
		},
		Timeout: 10 * time.Second,
	})
	if errors.Is(err, errHostKey) {
		return p.Fail(255, "Host key verification failed.")
	}
	if err != nil {
		return p.Fail(255, "%s@%s: Permission denied (publickey): %v", user, host, err)
	}
	defer c.Close()
	if host == "localhost" || strings.HasPrefix(host, "127.") {
		g.loggedIn(user)
		defer g.loggedIn(user)
	}
	s, err := c.NewSession()
	if err != nil {
		return p.Fail(255, "%v", err)
	}
	s.Stdin, s.Stdout, s.Stderr = nil, p.Stdout, p.Stderr
	err = s.Run(strings.Join(args[1:], " "))
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		return exit.ExitStatus()
	}
	if err != nil {
		return p.Fail(255, "%v", err)
	}
	return 0
}

var errHostKey = errors.New("host key is not known")

func sshHandshake(conn net.Conn, host string, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	c, chans, reqs, err := ssh.NewClientConn(conn, host, cfg)
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// known reports whether a host is known to have a key.
type known func(host string, key ssh.PublicKey) bool

// knownHosts reads the system's and the user's file: lines of patterns, type and key.
func (g *Guest) knownHosts(p *sshtest.Proc, home string) (known, error) {
	type line struct{ patterns, key string }
	var lines []line
	for _, file := range []string{"/etc/ssh/ssh_known_hosts", path.Join(home, ".ssh/known_hosts")} {
		data, err := p.ReadFile(file)
		if err != nil {
			continue
		}
		for l := range strings.Lines(string(data)) {
			f := strings.Fields(l)
			if len(f) < 3 || strings.HasPrefix(f[0], "#") {
				continue
			}
			if strings.HasPrefix(f[0], "@") || strings.HasPrefix(f[0], "|") {
				return nil, fmt.Errorf("not simulated: %s in %s", f[0], file)
			}
			lines = append(lines, line{f[0], f[1] + " " + f[2]})
		}
	}
	return func(host string, key ssh.PublicKey) bool {
		have := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
		return slices.ContainsFunc(lines, func(l line) bool {
			if l.key != have {
				return false
			}
			return slices.ContainsFunc(strings.Split(l.patterns, ","), func(pattern string) bool {
				ok, _ := path.Match(pattern, knownhosts.Normalize(host))
				return ok
			})
		})
	}, nil
}

// home is a user's home directory.
func (g *Guest) home(user string) string {
	data, _ := g.disk.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); len(f) == 7 && f[0] == user {
			return f[5]
		}
	}
	return "/"
}
