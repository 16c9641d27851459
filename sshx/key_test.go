package sshx_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

func TestReadKeyTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	line, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	plain, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("open sesame"))
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
