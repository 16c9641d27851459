package sshx_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/poolready/poolready/sshx"
)

// Each file is also given to the machine's own ssh, which must come to the same end.
func TestKnownHostsAreReadAsOpenSSHDoes(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	client, err := exec.LookPath("ssh")
	require.NoError(t, err)
	key := m.config(t).HostKeys.Pinned[0]
	other, _ := newKey(t)
	wrong := sshx.AuthorizedKey(other.PublicKey())
	host, port, err := net.SplitHostPort(m.addr)
	require.NoError(t, err)
	exact := "[" + host + "]:" + port
	for name, c := range map[string]struct {
		text, alias string
		ok          bool
		skipped     int // lines
	}{
		"exact":                        {exact + " " + key, "", true, 0},
		"any host":                     {"* " + key, "", true, 0},
		"a pattern and another port":   {"127.0.0.* " + key, "", true, 0},
		"a question mark":              {"127.?.0.1 " + key, "", true, 0},
		"a pattern of a name":          {"*.lab " + key, "a.lab", true, 0},
		"a name in capitals":           {"A.Lab " + key, "a.LAB", true, 0},
		"no port":                      {host + " " + key, "", true, 0},
		"no port, but wrong with one":  {host + " " + key + "\n" + exact + " " + wrong, "", false, 0},
		"another port":                 {"[" + host + "]:1 " + key, "", false, 0},
		"hashed":                       {knownhosts.HashHostname(exact) + " " + key, "", true, 0},
		"hashed without port":          {knownhosts.HashHostname(host) + " " + key, "", true, 0},
		"hashed, of another":           {knownhosts.HashHostname("127.0.0.2") + " " + key, "", false, 0},
		"excluded":                     {"*,!127.0.0.1,!" + exact + " " + key, "", false, 0},
		"another is excluded":          {"!10.*,* " + key, "", true, 0},
		"revoked":                      {exact + " " + key + "\n@revoked * " + key, "", false, 0},
		"CRLF":                         {exact + " " + key + "\r\n", "", true, 0},
		"junk before it":               {"junk\nthis is junk\n" + exact + " " + key, "", true, 1},
		"a type that is not known":     {"other.lab ssh-foo AAAAB3NzaC1yc2E=\n" + exact + " " + key, "", true, 0},
		"an old type for this host":    {exact + " ssh-foo AAAAB3NzaC1yc2E=\n" + exact + " " + key, "", true, 1},
		"a key that is cut off":        {exact + " " + key[:40] + "\n" + exact + " " + key, "", true, 1},
		"a long comment":               {"# " + strings.Repeat("x", 70000) + "\n" + exact + " " + key, "", true, 0},
		"an authority of all, and key": {"@cert-authority * " + wrong + "\n" + exact + " " + key, "", true, 0},
		"several keys":                 {exact + " " + wrong + "\n" + exact + " " + key, "", true, 0},
		"nothing":                      {"", "", false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := t.TempDir() + "/known_hosts"
			require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
			cfg := m.config(t)
			cfg.Name, cfg.HostKeys = c.alias, sshx.HostKeys{KnownHosts: file}
			var mu sync.Mutex
			skipped := 0
			cfg.Logf = func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				if s := fmt.Sprintf(format, args...); strings.Contains(s, "line skipped") {
					assert.Contains(t, s, file+":")
					skipped++
				}
			}
			conn, err := sshx.Dial(t.Context(), cfg)
			if c.ok {
				require.NoError(t, err)
				conn.Close()
			} else {
				require.ErrorAs(t, err, new(*sshx.HostKeyError))
			}
			mu.Lock()
			assert.Equal(t, c.skipped, skipped)
			mu.Unlock()
			args := []string{
				"-F", "none", "-o", "UserKnownHostsFile=" + file, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
				"-o", "BatchMode=yes", "-i", m.tmp + "/id", "-p", port, m.user + "@" + host, "true",
			}
			if c.alias != "" {
				args = append([]string{"-o", "HostKeyAlias=" + c.alias}, args...)
			}
			out, err := exec.CommandContext(t.Context(), client, args...).CombinedOutput()
			assert.Equal(t, c.ok, err == nil, "ssh itself: %s", out)
		})
	}
}

func TestKnownHostsOfWhichNoLineCanBeReadSaysSo(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	file := t.TempDir() + "/known_hosts"
	require.NoError(t, os.WriteFile(file, []byte("m1 ssh-ed25519 AAAA\n"), 0o600))
	cfg.HostKeys = sshx.HostKeys{KnownHosts: file}
	_, err := sshx.Dial(t.Context(), cfg)
	hk, ok := errors.AsType[*sshx.HostKeyError](err)
	require.True(t, ok, "%v", err)
	assert.Empty(t, hk.Want)
	require.ErrorContains(t, err, file+":1:")
}
