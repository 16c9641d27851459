package sshx

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// trust decides on the host keys of one machine.
type trust struct {
	host        string // Config.Name, for errors
	addr        string // under which host keys are looked up, always with a port
	pinned      []ssh.PublicKey
	authorities []ssh.PublicKey
	known       knownHosts // what the known_hosts file says of addr
	first       bool
	ignore      bool

	// What was decided first, for the caller of the handshake: errors come back from there as text.
	got     ssh.PublicKey
	err     error
	learned bool // got is trusted on first use
}

// newTrust reads what the HostKeys of a filled Config name.
func newTrust(c Config) (*trust, error) {
	t := &trust{host: c.Name, addr: c.Name, first: c.HostKeys.TrustOnFirstUse, ignore: c.HostKeys.InsecureIgnore}
	if c.Name == strings.TrimSuffix(c.Address, ":22") {
		t.addr = c.Address
	} else if _, _, err := net.SplitHostPort(c.Name); err != nil {
		t.addr = net.JoinHostPort(strings.Trim(c.Name, "[]"), "22")
	}
	var err error
	if t.pinned, err = parsePins("HostKeys.Pinned", c.HostKeys.Pinned); err != nil {
		return nil, err
	}
	if t.authorities, err = parsePublic("HostKeys.Authorities", c.HostKeys.Authorities); err != nil {
		return nil, err
	}
	if file := c.HostKeys.KnownHosts; file != "" {
		if t.known, err = readKnownHosts(file, t.addr); err != nil {
			return nil, fmt.Errorf("HostKeys.KnownHosts: %w", err)
		}
	}
	return t, nil
}

// nowhere is in the place of the network address: keys are looked up by name.
var nowhere net.Addr = &net.TCPAddr{}

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
	if len(t.authorities)+len(t.known.authorities) > 0 {
		add(ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
			ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
	}
	for _, k := range slices.Concat(t.pinned, t.known.keys) {
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
	return len(t.want()) > 0
}

// check is the ssh.HostKeyCallback. It keeps its first verdict in t; it is called again whenever
// keys are exchanged anew.
func (t *trust) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	err := t.decide(key)
	if t.got == nil {
		t.got, t.err = key, err
	}
	return err
}

// decide accepts a certificate for its own sake or, as OpenSSH does, for that of the key in it.
func (t *trust) decide(key ssh.PublicKey) error {
	if t.ignore {
		return nil
	}
	no := &HostKeyError{Host: t.host, Got: key, Want: t.want()}
	plain, signer := key, ssh.PublicKey(nil)
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		plain, signer = cert.Key, cert.SignatureKey
	}
	if contains(t.known.revoked, plain) || isCert && contains(t.known.revoked, signer) {
		no.Cause = errors.New("the known_hosts file revokes it")
		return no
	}
	if contains(t.known.keys, key) || contains(t.known.keys, plain) {
		return nil
	}
	if all := slices.Concat(t.authorities, t.known.authorities); isCert && contains(all, signer) {
		checker := ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool { return contains(all, k) }}
		if no.Cause = checker.CheckHostKey(t.addr, nowhere, key); no.Cause == nil {
			return nil
		}
	}
	if contains(t.pinned, key) || contains(t.pinned, plain) {
		return nil
	}
	if t.first && !t.knowsSomething() {
		t.learned = true
		t.pinned = []ssh.PublicKey{key} // for when keys are exchanged anew
		return nil
	}
	if no.Cause == nil && len(no.Want) == 0 {
		no.Cause = errors.Join(t.known.unreadable...)
	}
	return no
}

// want returns all keys and authorities that are known for the machine.
func (t *trust) want() []ssh.PublicKey {
	return slices.Concat(t.pinned, t.authorities, t.known.keys, t.known.authorities)
}
