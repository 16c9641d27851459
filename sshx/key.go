package sshx

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ReadKey reads a private key from a file, such as ssh-keygen writes. The passphrase is for an
// encrypted key; "" is for one that is not.
func ReadKey(path, passphrase string) (ssh.Signer, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("sshx: read key: %w", err)
	}
	key, err := ParseKey(pem, passphrase)
	if err != nil {
		return nil, fmt.Errorf("sshx: %s: %w", path, unprefixed(err))
	}
	if multi, ok := key.(ssh.MultiAlgorithmSigner); ok {
		return &keyFile{multi, path}, nil
	}
	return key, nil
}

// A keyFile is a key that knows the file it is from, for WriteOpenSSH.
type keyFile struct {
	ssh.MultiAlgorithmSigner
	path string
}

func (k *keyFile) IdentityFile() string { return k.path }

// ParseKey reads a private key from the text of a key file.
func ParseKey(pem []byte, passphrase string) (ssh.Signer, error) {
	key, err := ssh.ParsePrivateKey(pem)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		if passphrase == "" {
			return nil, errors.New("sshx: parse key: it is encrypted and needs a passphrase")
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(pem, []byte(passphrase))
	}
	if err != nil {
		if _, _, _, _, perr := ssh.ParseAuthorizedKey(pem); perr == nil {
			return nil, errors.New("sshx: parse key: it is a public key; the private one is in the file without .pub")
		}
		return nil, fmt.Errorf("sshx: parse key: %w%s", err, mangled(string(pem)))
	}
	return key, nil
}

// mangled says what the text of a key that cannot be read looks like, and what to do, or nothing.
func mangled(text string) string {
	trimmed := strings.TrimSpace(text)
	lines := strings.Split(trimmed, "\n")
	switch {
	case trimmed == "":
		return "; it is empty"
	case strings.HasPrefix(text, "\ufeff"):
		return "; it begins with a byte order mark (BOM): save it without"
	case strings.HasPrefix(trimmed, "PuTTY-User-Key-File"):
		return "; it is a key of PuTTY: convert it with puttygen KEY -O private-openssh -o NEW"
	case strings.Contains(trimmed, "BEGIN ENCRYPTED PRIVATE KEY"):
		return "; it is encrypted PKCS#8, which is not supported: convert it with ssh-keygen -p -f KEY"
	case !strings.Contains(trimmed, "-----BEGIN "):
		return "; it is not the text of a key, which begins with -----BEGIN; is it a path, or in base64?"
	case strings.Contains(trimmed, `\n`):
		return `; it has \n in the place of line ends, as of a variable that was quoted: put line ends there`
	case len(lines) < 3:
		return "; its line ends are gone, as of a variable that was not quoted: keep it in a file, or quote it"
	case !strings.Contains(trimmed, "-----END "):
		return "; its end is missing"
	case lines[1] != strings.TrimLeft(lines[1], " \t"):
		return "; its lines are indented: remove the blanks"
	}
	return ""
}

// AuthorizedKey returns the public half of a key as a line of authorized_keys, without comment
// and newline: the form of HostKeys.Pinned.
func AuthorizedKey(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

// maxKeys is how many keys are offered: OpenSSH hangs up at the sixth.
const maxKeys = 5

// errSign is a key that does not sign, such as one of an agent that is gone. That is no refusal of
// the machine's, and trying again does not help.
var errSign = errors.New("sign with")

// offered returns the keys to offer to a machine, whose failures to sign are errSign.
func offered(keys []ssh.Signer) []ssh.Signer {
	var out []ssh.Signer
	for _, k := range keys[:min(len(keys), maxKeys)] {
		switch s := k.(type) {
		case ssh.MultiAlgorithmSigner:
			k = multiSigner{signer{s}, s}
		case ssh.AlgorithmSigner:
			k = signer{s}
		}
		out = append(out, k)
	}
	return out
}

type signer struct{ ssh.AlgorithmSigner }

func (k signer) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

func (k signer) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	sig, err := k.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", errSign, fingerprint(k.PublicKey()), err)
	}
	return sig, nil
}

type multiSigner struct {
	signer
	multi ssh.MultiAlgorithmSigner
}

func (k multiSigner) Algorithms() []string { return k.multi.Algorithms() }

// parsePublic reads keys in authorized_keys form; what names the field in errors.
func parsePublic(what string, lines []string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	for i, l := range lines {
		k, err := parseKeyLine(l)
		if err != nil {
			return nil, fmt.Errorf("%s[%d] %q: %w", what, i, l, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// parseKeyLine reads one key in authorized_keys form.
func parseKeyLine(line string) (ssh.PublicKey, error) {
	k, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err == nil && (len(options) > 0 || len(strings.TrimSpace(string(rest))) > 0) {
		err = errors.New("more than one public key")
	}
	return k, err
}

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
