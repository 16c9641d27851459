package sshx

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Pin returns the short form of a public key for HostKeys.Pinned: its type and its fingerprint, as in
// "ssh-ed25519 SHA256:uwhOoCVTS7b3wlX1popZs5k609OaD1vQurHU34cCWPk".
func Pin(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

// A pinned is a public key of which only the fingerprint is known.
type pinned struct{ kind, fingerprint string }

func (p pinned) Type() string    { return p.kind }
func (p pinned) Marshal() []byte { return []byte(p.fingerprint) }
func (pinned) Verify([]byte, *ssh.Signature) error {
	return errors.New("only the key's fingerprint is known")
}

// parsePins reads keys in either of the forms of HostKeys.Pinned.
func parsePins(what string, lines []string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for i, l := range lines {
		k, err := parsePin(l)
		if err != nil {
			return nil, fmt.Errorf("%s[%d] %q: %w", what, i, l, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func parsePin(line string) (ssh.PublicKey, error) {
	kind, print, _ := strings.Cut(strings.TrimSpace(line), " ")
	sum, short := strings.CutPrefix(print, "SHA256:")
	if !short {
		return parseKeyLine(line)
	}
	if b, err := base64.RawStdEncoding.DecodeString(sum); err != nil || len(b) != sha256.Size {
		return nil, errors.New("its fingerprint is not the base64 of a SHA-256, without padding")
	}
	return pinned{kind, print}, nil
}

// contains reports whether key is one of keys.
func contains(keys []ssh.PublicKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ssh.PublicKey) bool {
		if p, ok := k.(pinned); ok {
			return p.kind == key.Type() && p.fingerprint == ssh.FingerprintSHA256(key)
		}
		return bytes.Equal(k.Marshal(), key.Marshal())
	})
}

// fingerprint names a key in errors and logs.
func fingerprint(k ssh.PublicKey) string {
	if p, ok := k.(pinned); ok {
		return p.kind + " " + p.fingerprint
	}
	return Pin(k)
}
