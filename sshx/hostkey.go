package sshx

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the format's
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
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
// keys are exchanged again.
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
		t.pinned = []ssh.PublicKey{key} // for when keys are exchanged again
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

// knownHosts is what a known_hosts file says of one host, as OpenSSH reads it.
type knownHosts struct {
	keys, authorities, revoked []ssh.PublicKey
	unreadable                 []error // lines for the host that were skipped
}

// readKnownHosts reads what the file says of addr, a host and a port. A host at another port than 22
// is looked up as "[host]:port" and, if that has no keys, as "host".
func readKnownHosts(file, addr string) (knownHosts, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return knownHosts{}, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil { // the file alone is checked
		host, port = addr, "22"
	}
	host = strings.ToLower(host)
	if port == "22" {
		return parseKnownHosts(text, file, host), nil
	}
	k := parseKnownHosts(text, file, "["+host+"]:"+port)
	if len(k.keys)+len(k.authorities) == 0 {
		plain := parseKnownHosts(text, file, host)
		plain.unreadable = append(k.unreadable, plain.unreadable...)
		return plain, nil
	}
	return k, nil
}

func parseKnownHosts(text []byte, file, name string) (k knownHosts) {
	lines := strings.Split(strings.TrimPrefix(string(text), "\ufeff"), "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		skip := func(err error) {
			k.unreadable = append(k.unreadable, fmt.Errorf("%s:%d: line skipped: %w", file, i+1, err))
		}
		fields := strings.Fields(line)
		marker := ""
		if fields[0][0] == '@' {
			marker, fields = fields[0], fields[1:]
		}
		if len(fields) < 3 {
			skip(errors.New("not a host, a type and a key"))
			continue
		}
		if matches, err := matchHosts(fields[0], name); err != nil {
			skip(err)
			continue
		} else if !matches && marker != "@revoked" { // a key is revoked for all
			continue
		}
		blob, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil {
			skip(err)
			continue
		}
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			skip(err)
			continue
		}
		switch marker {
		case "":
			k.keys = append(k.keys, key)
		case "@cert-authority":
			k.authorities = append(k.authorities, key)
		case "@revoked":
			k.revoked = append(k.revoked, key)
		default:
			skip(fmt.Errorf("unknown marker %s", marker))
		}
	}
	return k
}

// matchHosts reports whether a known_hosts field names the host: patterns, separated by commas, of
// which one that begins with "!" excludes what it matches, or a hash of the name.
func matchHosts(field, name string) (bool, error) {
	if rest, ok := strings.CutPrefix(field, "|1|"); ok {
		salt, hash, _ := strings.Cut(rest, "|")
		s, err := base64.StdEncoding.DecodeString(salt)
		h, herr := base64.StdEncoding.DecodeString(hash)
		if err = errors.Join(err, herr); err != nil {
			return false, fmt.Errorf("hashed host: %w", err)
		}
		mac := hmac.New(sha1.New, s)
		mac.Write([]byte(name))
		return hmac.Equal(mac.Sum(nil), h), nil
	}
	matched := false
	for p := range strings.SplitSeq(strings.ToLower(field), ",") {
		p, not := strings.CutPrefix(p, "!")
		switch {
		case !matchHost(p, name):
		case not:
			return false, nil
		default:
			matched = true
		}
	}
	return matched, nil
}

// matchHost reports whether the pattern, with "*" and "?", matches the name.
func matchHost(pattern, name string) bool {
	star, from := -1, 0 // the last "*", and where what follows it was tried last
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			from++
			p, n = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
