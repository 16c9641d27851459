package vspheretest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/vim25/soap"
	"golang.org/x/crypto/ssh"
)

// sshKey returns the private key that is kept as name in StateDir.
func (s *Server) sshKey(name string) (ssh.Signer, error) { return SSHKey(s.StateDir, name) }

// SSHKey returns the private key that is kept as the file name in dir, and makes both if they do
// not exist: for an OS whose machines, kept in the same StateDir, let it in. With dir "" it returns
// a fresh key.
func SSHKey(dir, name string) (ssh.Signer, error) {
	if dir != "" {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			key, err := ssh.ParsePrivateKey(data)
			return shown(key, data), err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, name)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(block)
	if dir != "" {
		if err := writeFile(filepath.Join(dir, name), text); err != nil {
			return nil, err
		}
	}
	key, err := ssh.NewSignerFromKey(private)
	return shown(key, text), err
}

// A shownKey is one that is no secret: sshx's WriteOpenSSH writes it to a file.
type shownKey struct {
	ssh.MultiAlgorithmSigner
	text []byte
}

// PrivateKey returns the text of a key file.
func (k *shownKey) PrivateKey() []byte { return k.text }

func shown(key ssh.Signer, text []byte) ssh.Signer {
	if multi, ok := key.(ssh.MultiAlgorithmSigner); ok {
		return &shownKey{multi, text}
	}
	return key
}

// certificate returns the certificate that the Server shows: the one kept in StateDir or,
// without, the process's.
func (s *Server) certificate() (*keyPair, error) {
	if s.StateDir == "" {
		return certificate()
	}
	file := filepath.Join(s.StateDir, "tls.pem")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := makeCertificate()
		if err != nil {
			return nil, err
		}
		key, err := x509.MarshalPKCS8PrivateKey(k.tls.PrivateKey)
		if err != nil {
			return nil, err
		}
		both := append([]byte(nil), k.pem...)
		both = append(both, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
		return k, writeFile(file, both)
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &keyPair{
		tls: pair, thumbprint: soap.ThumbprintSHA1(pair.Leaf),
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw}),
	}, nil
}
