package sshx

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the format's
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

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
