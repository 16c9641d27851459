package sshx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config says how to reach one machine, how to log in, and whom to trust. It is data: copy it
// and set Name, Address and HostKeys.Pinned for each of many machines that share the rest.
type Config struct {
	// Name is who the machine is: it begins every error and log line, and host keys are
	// looked up under it, whatever its address is now. "" means Address.
	Name string
	// Address is where it is: "host" or "host:port"; the port defaults to 22.
	Address string
	// User to log in as; "" means root.
	User string
	// Keys are offered in order, at most the first five, since OpenSSH hangs up at the sixth.
	// ReadKey and ParseKey make them, and an agent's can be used; see the example. No agent and no
	// file of the caller's home is used by itself.
	Keys []ssh.Signer
	// HostKeys says which host keys prove the machine's identity. Its zero value trusts none.
	HostKeys HostKeys
	// Jump lists the machines to go through, first hop first, each with its own user, keys and
	// HostKeys. A hop's own Jump and Dialer must be empty.
	Jump []Config
	// Dialer makes the TCP connection (of the first hop, if any); nil means a net.Dialer.
	Dialer Dialer
	// Timeout bounds one attempt to connect and log in, and applies to each hop by itself; 0
	// means 10 s.
	Timeout time.Duration
	// KeepAlive is how often an idle connection is asked whether it lives; 0 means 5 s.
	KeepAlive time.Duration
	// DeadAfter is how long a peer may be silent, while asked, before the connection is given
	// up, and all that waits on it ends; 0 means 25 s.
	DeadAfter time.Duration
	// Sessions is how many sessions run at once on one connection; further ones wait. 0 means
	// 6, which leaves room below OpenSSH's MaxSessions of 10 for sessions that are ending. From
	// 2 on, one more is kept open for the next command, which so saves a round trip.
	Sessions int
	// SudoPassword is what sudo is told if it asks for the password of User. It goes over stdin,
	// once, and is one of the Secrets. "" means that sudo may not ask.
	SudoPassword string
	// Secrets are replaced by *** in every output, error and log line; so are the lines, of 8
	// bytes or more, of those that have several, such as keys.
	Secrets []string
	// Logf receives what a user should know without asking, such as a host key trusted on first
	// use; nil discards it. It is called from any goroutine.
	Logf func(format string, args ...any)
	// Observe is told of every command that Run ran, once it has ended, and of every Put, Get, PutTree
	// and GetTree; nil observes nothing. It is called from any goroutine, and must return soon.
	Observe func(Observation)
}

// A Dialer makes network connections. *net.Dialer is one, and so is *Client.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// HostKeys says which host keys are trusted. Sources add up, but what KnownHosts revokes is not
// trusted even if another source has it; the zero value trusts none. Only algorithms for which a source has
// a key are asked of the machine, so a machine with keys of several kinds shows the one that is
// known. A certificate is also accepted if the key in it is known.
type HostKeys struct {
	// Pinned are the machine's public keys, in authorized_keys form ("ssh-ed25519 AAAA...") or that of
	// Pin ("ssh-ed25519 SHA256:...").
	Pinned []string
	// Authorities are public keys of CAs, in the same form, whose host certificates for Name are
	// trusted.
	Authorities []string
	// KnownHosts is the path of an OpenSSH known_hosts file, in which Name is looked up (with
	// the port, if Name is empty and the port is not 22). It is only read.
	KnownHosts string
	// TrustOnFirstUse accepts the key of the first login if nothing else is known of the machine, and
	// says so through Logf. Client.HostKey tells what to pin from then on.
	TrustOnFirstUse bool
	// InsecureIgnore accepts every key: anybody on the path can read and change everything.
	InsecureIgnore bool
}

// String describes the Config without its secrets.
func (c Config) String() string {
	c = c.filled()
	var via strings.Builder
	for _, j := range c.Jump {
		via.WriteString(" via " + j.Address)
	}
	return fmt.Sprintf("%s (%s@%s%s)", c.Name, c.User, c.Address, via.String())
}

// filled returns c with its defaults.
func (c Config) filled() Config {
	if c.Address != "" && !strings.ContainsAny(c.Address, "@/ \t") { // those are faults, and told as they are
		if _, _, err := net.SplitHostPort(c.Address); err != nil {
			c.Address = net.JoinHostPort(strings.Trim(c.Address, "[]"), "22")
		}
	}
	if c.User == "" {
		c.User = "root"
	}
	setDefault(&c.Timeout, 10*time.Second)
	setDefault(&c.KeepAlive, 5*time.Second)
	setDefault(&c.DeadAfter, 25*time.Second)
	setDefault(&c.Sessions, 6)
	if c.Name == "" {
		c.Name = strings.TrimSuffix(c.Address, ":22")
	}
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
	return c
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Validate returns every fault of c that shows without connecting, each beginning with its path,
// such as Config.HostKeys.Pinned[0], and joined by errors.Join. It reads the file HostKeys.KnownHosts.
// Dial does the same first.
func (c Config) Validate() error { return c.filled().validate() }

// validate returns all faults of a filled Config.
func (c Config) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, port, err := net.SplitHostPort(c.Address); c.Address == "" {
		fault("Config.Address is empty")
	} else if strings.Contains(c.Address, "://") {
		fault("Config.Address %q is a URL; want host or host:port", c.Address)
	} else if i := strings.LastIndex(c.Address, "@"); i >= 0 {
		fault("Config.Address %q has a user; want Address %q and User %q", c.Address, c.Address[i+1:], c.Address[:i])
	} else if strings.ContainsAny(c.Address, " \t/") {
		fault("Config.Address %q is not a host; want host or host:port", c.Address)
	} else if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		fault("Config.Address %q has no port from 1 to 65535", c.Address)
	}
	if strings.ContainsAny(c.Name+c.User+c.Address, "\x00\r\n") {
		fault("Config: a line break or NUL in Name, User or Address")
	}
	if len(c.Keys) == 0 {
		fault("Config.Keys is empty; see ReadKey")
	}
	if strings.ContainsAny(c.SudoPassword, "\x00\r\n") {
		fault("Config: a line break or NUL in SudoPassword")
	}
	if slices.Contains(c.Keys, nil) {
		fault("Config.Keys has a nil key")
	}
	if c.Timeout < 0 || c.KeepAlive < 0 || c.DeadAfter < 0 {
		fault("Config: a negative duration")
	}
	if c.Sessions < 0 {
		fault("Config.Sessions is %d", c.Sessions)
	}
	if _, err := newTrust(c); err != nil {
		fault("Config.%w", err)
	}
	for i, j := range c.Jump {
		if len(j.Jump) > 0 || j.Dialer != nil {
			fault("Config.Jump[%d] has a Jump or Dialer of its own; list all hops in one Jump", i)
			continue
		}
		if err := j.filled().validate(); err != nil {
			fault("Config.Jump[%d]: %w", i, err)
		}
	}
	return errors.Join(errs...)
}

// FromEnv returns the Config that variables of the environment describe, but for Name and
// Address. Their names begin with prefix; with "E2E_" they are
//
//	E2E_SSH_KEY      file of the private key that logs in, without a passphrase; required
//	E2E_KNOWN_HOSTS  known_hosts file with the keys of the machines and jump hosts; without it
//	                 the first key that each shows is trusted, and logf is told
//	E2E_SSH_JUMP     jump hosts as for ssh -J, [user@]host[:port],...; the same key logs in
//
// The error names every variable that is missing or wrong.
func FromEnv(prefix string, logf func(format string, args ...any)) (Config, error) {
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s%s %w", prefix, name, fmt.Errorf(format, args...)))
	}
	cfg := Config{Logf: logf}
	if file := os.Getenv(prefix + "SSH_KEY"); file == "" {
		bad("SSH_KEY", "is empty; set it to the private key file that logs in")
	} else if key, err := ReadKey(file, ""); err != nil {
		bad("SSH_KEY", "is no key file: %w", unprefixed(err))
	} else {
		cfg.Keys = []ssh.Signer{key}
	}
	cfg.HostKeys.KnownHosts = os.Getenv(prefix + "KNOWN_HOSTS")
	cfg.HostKeys.TrustOnFirstUse = cfg.HostKeys.KnownHosts == ""
	if _, err := newTrust(cfg.filled()); err != nil {
		bad("KNOWN_HOSTS", "is no known_hosts file: %w", errors.Unwrap(err))
	}
	var jump []Config
	for _, hop := range strings.Split(os.Getenv(prefix+"SSH_JUMP"), ",") {
		if hop = strings.TrimSpace(hop); hop == "" {
			continue
		}
		one := cfg
		one.Address = hop
		if i := strings.LastIndex(hop, "@"); i >= 0 {
			one.User, one.Address = hop[:i], hop[i+1:]
		}
		if one.Address == "" {
			bad("SSH_JUMP", "has the hop %q, which names no host; write [user@]host[:port],...", hop)
		} else if strings.Contains(hop, "://") {
			bad("SSH_JUMP", "has the hop %q, which is a URL; write [user@]host[:port],...", hop)
		}
		jump = append(jump, one)
	}
	cfg.Jump = jump
	if err := errors.Join(errs...); err != nil {
		return Config{}, fmt.Errorf("sshx: configuration: %w", err)
	}
	return cfg, nil
}
