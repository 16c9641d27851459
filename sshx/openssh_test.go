package sshx_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// openSSH runs the real client with the command that WriteOpenSSH returned.
func openSSH(t *testing.T, command []string, remote ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("no ssh on this machine; install openssh-client")
	}
	words := append(append(append([]string{}, command[1:]...), "-o", "BatchMode=yes"), remote...)
	out, err := exec.CommandContext(t.Context(), command[0], words...).CombinedOutput()
	return string(out), err
}

// withFile is cfg with a key that is in a file.
func withFile(t *testing.T, cfg sshx.Config, keyText []byte) sshx.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "a key%20")
	require.NoError(t, os.WriteFile(file, keyText, 0o600))
	key, err := sshx.ReadKey(file, "")
	require.NoError(t, err)
	cfg.Keys = []ssh.Signer{key}
	return cfg
}

func TestTheOpenSSHConfigurationLogsIn(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	text, err := os.ReadFile(filepath.Join(m.tmp, "id"))
	require.NoError(t, err)
	direct := withFile(t, m.config(t), text)
	direct.Name = "con2"
	good := direct.HostKeys
	wrong, _ := newKey(t)
	var pin string
	for _, k := range good.Pinned {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k))
		require.NoError(t, err)
		pin = sshx.Pin(key)
	}
	otherPin := sshx.Pin(wrong.PublicKey())
	file := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(file, []byte("con2,other "+good.Pinned[0]+"\n"), 0o600))
	for name, test := range map[string]struct {
		keys sshx.HostKeys
		in   bool
	}{
		"pinned":             {good, true},
		"a fingerprint":      {sshx.HostKeys{Pinned: []string{pin}}, true},
		"another one":        {sshx.HostKeys{Pinned: []string{otherPin}}, false},
		"in known_hosts":     {sshx.HostKeys{KnownHosts: file}, true},
		"trust on first use": {sshx.HostKeys{TrustOnFirstUse: true}, true},
		"insecure":           {sshx.HostKeys{InsecureIgnore: true}, true},
		"another key":        {sshx.HostKeys{Pinned: []string{sshx.AuthorizedKey(wrong.PublicKey())}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := direct
			cfg.HostKeys = test.keys
			command, err := cfg.WriteOpenSSH(filepath.Join(t.TempDir(), "a dir", "%x"))
			require.NoError(t, err)
			assert.Equal(t, "con2", command[len(command)-1])
			out, err := openSSH(t, command, "echo", "hello")
			if !test.in {
				assert.Error(t, err)
				assert.Contains(t, out, "Host key verification failed")
				return
			}
			require.NoError(t, err, out)
			assert.Equal(t, "hello", strings.TrimSpace(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]))
		})
	}
	t.Run("through two jump hosts", func(t *testing.T) {
		t.Parallel()
		a, b := newSSHD(t), newSSHD(t)
		cfg := direct
		for _, hop := range []*sshd{a, b} {
			text, err := os.ReadFile(filepath.Join(hop.tmp, "id"))
			require.NoError(t, err)
			cfg.Jump = append(cfg.Jump, withFile(t, hop.config(t), text))
		}
		command, err := cfg.WriteOpenSSH(t.TempDir())
		require.NoError(t, err)
		out, err := openSSH(t, command, "echo", "hello")
		require.NoError(t, err, out)
		assert.Equal(t, "hello\n", out)
		config, err := os.ReadFile(command[2])
		require.NoError(t, err)
		assert.NotContains(t, string(config), "PRIVATE KEY")
	})
}
