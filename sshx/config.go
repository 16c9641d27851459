package sshx

import (
	"context"
	"net"
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
	// Keys are offered in order. No agent and no file of the caller's home is used by itself.
	Keys []ssh.Signer
	// HostKeys says which host keys prove the machine's identity. Its zero value trusts none.
	HostKeys HostKeys
	// Jump lists the machines to go through, first hop first, each with its own keys.
	Jump []Config
	// Dialer makes the TCP connection (of the first hop, if any); nil means a net.Dialer.
	Dialer Dialer
	// Timeout bounds one attempt to connect and log in; 0 means 10 s.
	Timeout time.Duration
	// KeepAlive is how often an idle connection is asked whether it lives; 0 means 5 s.
	KeepAlive time.Duration
	// DeadAfter is how long a peer may be silent before the connection is given up, and all
	// that waits on it ends; 0 means 25 s.
	DeadAfter time.Duration
	// Sessions is how many sessions run at once on one connection; further ones wait. 0 means 6.
	Sessions int
	// Secrets are replaced by *** in every output, error and log line.
	Secrets []string
	// Logf receives what a user should know without asking, such as a host key trusted on first use.
	Logf func(format string, args ...any)
}

// A Dialer makes network connections. *net.Dialer is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// HostKeys says which host keys are trusted. Sources add up; the zero value trusts none.
type HostKeys struct {
	// Pinned are the machine's public keys, in authorized_keys form ("ssh-ed25519 AAAA...").
	Pinned []string
	// Authorities are public keys of CAs, whose host certificates for Name are trusted.
	Authorities []string
	// KnownHosts is the path of an OpenSSH known_hosts file.
	KnownHosts string
	// TrustFirst accepts the key of the first connection if nothing else is known of the
	// machine, and says so through Logf. Client.HostKey tells what to pin from then on.
	TrustFirst bool
	// InsecureIgnore accepts every key: anybody on the path can read and change everything.
	InsecureIgnore bool
}
