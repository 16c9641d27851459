package sshx

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// trust decides on the host keys of one machine.
type trust struct {
	host        string // Config.Name, for errors
	addr        string // under which host keys are looked up, always with a port
	pinned      []ssh.PublicKey
	authorities []ssh.PublicKey
	known       ssh.HostKeyCallback // of the known_hosts file; nil without one
	first       bool
	ignore      bool
	logf        func(string, ...any)

	knownKeys []ssh.PublicKey // that the file has for addr
	knownCAs  []ssh.PublicKey

	// What was decided, for the caller of the handshake: errors come back from there as text.
	got ssh.PublicKey
	err error
}

// newTrust reads what the HostKeys of a filled Config name.
func newTrust(c Config) (*trust, error) {
	t := &trust{host: c.Name, addr: c.Name, first: c.HostKeys.TrustFirst, ignore: c.HostKeys.InsecureIgnore, logf: c.Logf}
	if c.Name == strings.TrimSuffix(c.Address, ":22") {
		t.addr = c.Address
	} else if _, _, err := net.SplitHostPort(c.Name); err != nil {
		t.addr = net.JoinHostPort(strings.Trim(c.Name, "[]"), "22")
	}
	var err error
	if t.pinned, err = parsePublic("HostKeys.Pinned", c.HostKeys.Pinned); err != nil {
		return nil, err
	}
	if t.authorities, err = parsePublic("HostKeys.Authorities", c.HostKeys.Authorities); err != nil {
		return nil, err
	}
	if file := c.HostKeys.KnownHosts; file != "" {
		if err := t.readKnownHosts(file); err != nil {
			return nil, fmt.Errorf("HostKeys.KnownHosts: %w", err)
		}
	}
	return t, nil
}

// readKnownHosts reads the file, and which keys it has for addr.
func (t *trust) readKnownHosts(file string) error {
	var err error
	if t.known, err = knownhosts.New(file); err != nil {
		return err
	}
	// Asking for a key that nobody has tells those that are known.
	var ke *knownhosts.KeyError
	if err := t.known(t.addr, &net.TCPAddr{}, nobody{}); errors.As(err, &ke) {
		for _, k := range ke.Want {
			t.knownKeys = append(t.knownKeys, k.Key)
		}
	}
	rest, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for len(rest) > 0 {
		marker, hosts, key, _, next, err := ssh.ParseKnownHosts(rest)
		if err != nil {
			break // knownhosts.New read it all; what is left is blank
		}
		if marker == "cert-authority" && matchHosts(hosts, knownhosts.Normalize(t.addr)) {
			t.knownCAs = append(t.knownCAs, key)
		}
		rest = next
	}
	return nil
}

// matchHosts reports whether the patterns of a known_hosts line cover host. Hashed ones never do:
// they cannot be of use for an authority.
func matchHosts(patterns []string, host string) bool {
	match := false
	for _, p := range patterns {
		neg := strings.HasPrefix(p, "!")
		if wildcard(strings.TrimPrefix(p, "!"), host) {
			if neg {
				return false
			}
			match = true
		}
	}
	return match
}

// wildcard matches "*" and "?" as known_hosts has them.
func wildcard(pattern, s string) bool {
	for i, p := range []byte(pattern) {
		switch {
		case p == '*':
			for j := 0; j <= len(s); j++ {
				if wildcard(pattern[i+1:], s[j:]) {
					return true
				}
			}
			return false
		case s == "" || p != '?' && p != s[0]:
			return false
		}
		s = s[1:]
	}
	return s == ""
}

// nobody is a public key of a kind that does not exist.
type nobody struct{}

func (nobody) Type() string                        { return "sshx-nobody" }
func (nobody) Marshal() []byte                     { return []byte("sshx-nobody") }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// algorithms returns the host key algorithms to ask for: those of the keys that are known.
func (t *trust) algorithms() []string {
	var algos []string
	add := func(a ...string) {
		for _, a := range a {
			if !slices.Contains(algos, a) {
				algos = append(algos, a)
			}
		}
	}
	if len(t.authorities)+len(t.knownCAs) > 0 {
		add(ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
			ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
	}
	for _, k := range slices.Concat(t.pinned, t.knownKeys) {
		if k.Type() == ssh.KeyAlgoRSA {
			add(ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			add(k.Type())
		}
	}
	if len(algos) == 0 || t.ignore {
		algos = []string{
			ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
			ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
		}
	}
	return algos
}

// knowsSomething reports whether any source has a key for the machine.
func (t *trust) knowsSomething() bool {
	return len(t.pinned)+len(t.authorities)+len(t.knownKeys)+len(t.knownCAs) > 0
}

// check is the ssh.HostKeyCallback. It keeps its verdict in t.
func (t *trust) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	t.got = key
	t.err = t.decide(remote, key)
	return t.err
}

func (t *trust) decide(remote net.Addr, key ssh.PublicKey) error {
	if t.ignore {
		return nil
	}
	no := &HostKeyError{Host: t.host, Got: key, Want: slices.Concat(t.pinned, t.authorities, t.knownKeys, t.knownCAs)}
	cert, isCert := key.(*ssh.Certificate)
	if isCert && contains(t.authorities, cert.SignatureKey) {
		checker := ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool { return contains(t.authorities, k) }}
		if no.Cause = checker.CheckHostKey(t.addr, remote, key); no.Cause == nil {
			return nil
		}
		return no
	}
	if !isCert && contains(t.pinned, key) {
		return nil
	}
	if t.known != nil {
		err := t.known(t.addr, remote, key)
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*knownhosts.RevokedError](err); ok || isCert {
			no.Cause = err
		}
	}
	if t.first && !t.knowsSomething() && no.Cause == nil {
		t.logf("%s: WARNING: host key %s trusted on first use; pin it: %s", t.host, fingerprint(key), AuthorizedKey(key))
		return nil
	}
	return no
}

func contains(keys []ssh.PublicKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) })
}
