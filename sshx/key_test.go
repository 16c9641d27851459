package sshx_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

func TestReadKeyTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	line, err := ssh.NewPublicKey(private.Public())
	require.NoError(t, err)
	plain, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	der, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	// As ssh-keygen -m PEM has it: OpenSSH's own form takes seconds to open under the race detector.
	locked, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte("open sesame"), x509.PEMCipherAES128) //nolint:staticcheck // see above
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range map[string][]byte{
		"plain": pem.EncodeToMemory(plain), "locked": pem.EncodeToMemory(locked), "public": ssh.MarshalAuthorizedKey(line), "noise": []byte("x"),
	} {
		require.NoError(t, os.WriteFile(dir+"/"+name, text, 0o600))
	}
	for _, c := range []struct{ file, passphrase, want string }{
		{"plain", "", ""},
		{"plain", "not needed", ""},
		{"locked", "open sesame", ""},
		{"locked", "", "locked: parse key: it is encrypted and needs a passphrase"},
		{"locked", "wrong", "locked: parse key: x509: decryption password incorrect"},
		{"public", "", "public: parse key: it is a public key; the private one is in the file without .pub"},
		{"noise", "", "noise: parse key: ssh: no key found"},
		{"none", "", "none: no such file or directory"},
	} {
		key, err := sshx.ReadKey(dir+"/"+c.file, c.passphrase)
		if c.want != "" {
			require.ErrorContains(t, err, c.want)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, line.Marshal(), key.PublicKey().Marshal())
	}
}

func TestMangledKeysAreNamedAsWhatTheyAre(t *testing.T) {
	t.Parallel()
	_, text := newKey(t)
	whole := string(text)
	for name, c := range map[string]struct{ text, want string }{
		"CRLF":               {strings.ReplaceAll(whole, "\n", "\r\n"), ""},
		"no last line end":   {strings.TrimSpace(whole), ""},
		"blank lines around": {"\n\n" + whole + "\n\n", ""},
		"a byte order mark":  {"\ufeff" + whole, "byte order mark"},
		"quoted line ends":   {strings.ReplaceAll(whole, "\n", `\n`), `it has \n in the place of line ends`},
		"line ends are gone": {strings.ReplaceAll(whole, "\n", " "), "its line ends are gone"},
		"indented":           {"  " + strings.ReplaceAll(whole, "\n", "\n  "), "indented"},
		"the end is missing": {whole[:len(whole)/2], "its end is missing"},
		"in base64":          {base64.StdEncoding.EncodeToString(text), "in base64"},
		"a path":             {"~/.ssh/id_ed25519\n", "is it a path"},
		"empty":              {"", "it is empty"},
		"PuTTY":              {"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "puttygen"},
		"encrypted PKCS#8":   {string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: text})), "encrypted PKCS#8"},
	} {
		_, err := sshx.ParseKey([]byte(c.text), "")
		if c.want == "" {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorContains(t, err, c.want, name)
		}
		_, err = sshx.ParseKey([]byte(c.text), "open sesame")
		if c.want != "" {
			assert.ErrorContains(t, err, c.want, name+", with a passphrase")
		}
		assert.NotContains(t, fmt.Sprint(err), strings.Split(whole, "\n")[1], name)
	}
}

// A locked key is one that an agent holds but does not sign with.
type locked struct{ ssh.AlgorithmSigner }

func (locked) SignWithAlgorithm(io.Reader, []byte, string) (*ssh.Signature, error) {
	return nil, errors.New("agent refused operation")
}

func TestAKeyThatDoesNotSignIsNotARefusal(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	cfg.Keys = []ssh.Signer{locked{cfg.Keys[0].(ssh.AlgorithmSigner)}}
	_, err := sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
	nr, ok := errors.AsType[*sshx.NotReadyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 1, nr.Tries, "nobody wants to be asked again and again")
	_, ok = errors.AsType[*sshx.AuthError](err)
	assert.False(t, ok, "%v", err)
	require.ErrorContains(t, err, "sign with ssh-ed25519 SHA256:")
	require.ErrorContains(t, err, "agent refused operation")
}
