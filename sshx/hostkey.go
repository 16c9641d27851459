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

	knownKeys []ssh.PublicKey // that the file has for addr
	knownCAs  []ssh.PublicKey

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
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if t.known, err = knownhosts.New(file); err != nil {
		return err
	}
	// Asking for a key that nobody has tells those that are known, authorities among them.
	if ke, ok := errors.AsType[*knownhosts.KeyError](t.lookUp(nobody{})); ok {
		lines := strings.Split(string(text), "\n")
		for _, k := range ke.Want {
			if k.Line <= len(lines) && strings.HasPrefix(strings.TrimSpace(lines[k.Line-1]), "@cert-authority") {
				t.knownCAs = append(t.knownCAs, k.Key)
			} else {
				t.knownKeys = append(t.knownKeys, k.Key)
			}
		}
	}
	return nil
}

// lookUp asks the known_hosts file for a key.
func (t *trust) lookUp(key ssh.PublicKey) error { return t.known(t.addr, nowhere, key) }

// nowhere is in the place of the network address: keys are looked up by name.
var nowhere net.Addr = &net.TCPAddr{}

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
	no := &HostKeyError{Host: t.host, Got: key, Want: slices.Concat(t.pinned, t.authorities, t.knownKeys, t.knownCAs)}
	plain, signer := key, ssh.PublicKey(nobody{})
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		plain, signer = cert.Key, cert.SignatureKey
	}
	if t.known != nil {
		for _, k := range []ssh.PublicKey{plain, signer} {
			if err := t.lookUp(k); errors.As(err, new(*knownhosts.RevokedError)) {
				no.Cause = err
				return no
			}
		}
		err := t.lookUp(key)
		if err == nil || t.lookUp(plain) == nil {
			return nil
		}
		if isCert {
			no.Cause = err
		}
	}
	if contains(t.authorities, signer) {
		checker := ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool { return contains(t.authorities, k) }}
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
	return no
}

func contains(keys []ssh.PublicKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), key.Marshal()) })
}
