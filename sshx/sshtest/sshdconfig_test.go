package sshtest

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

func TestLoginFollowsConfigurationAndFiles(t *testing.T) {
	t.Parallel()
	const in, out = true, false
	for _, tc := range []struct {
		name, config, script string
		user                 string
		want                 bool
	}{
		{"root by key", "", "", "root", in},
		{"unknown user", "", "", "nobody9", out},
		{"PermitRootLogin no", "PermitRootLogin no", "", "root", out},
		{"PermitRootLogin no lets others in", "PermitRootLogin no", "", "admin", in},
		{"the first value counts", "PermitRootLogin yes\nPermitRootLogin no", "", "root", in},
		{"no keys", "PubkeyAuthentication no", "", "admin", out},
		{"AllowUsers", "AllowUsers root", "", "admin", out},
		{"DenyGroups", "DenyGroups admin", "", "admin", out},
		{"Match User", "Match User admin\nPubkeyAuthentication no", "", "admin", out},
		{"Match User is for that one", "Match User admin\nPubkeyAuthentication no", "", "root", in},
		{"key removed", "", ": >/root/.ssh/authorized_keys", "root", out},
		{"authorized_keys of another", "", "chown nobody /home/admin/.ssh/authorized_keys", "admin", out},
		{"authorized_keys writable by all", "", "chmod 666 /home/admin/.ssh/authorized_keys", "admin", out},
		{"home writable by the group", "", "chmod 775 /home/admin", "admin", out},
		{"without StrictModes", "StrictModes no", "chmod 775 /home/admin", "admin", in},
		{"elsewhere", "AuthorizedKeysFile /etc/keys/%u", "mkdir /etc/keys; cp /root/.ssh/authorized_keys /etc/keys/admin", "admin", in},
		{"options that are not simulated", "", `sed -i 's/^/from="10.0.0.0\/8" /' /home/admin/.ssh/authorized_keys`, "admin", out},
		{"options that only forbid", "", "sed -i 's/^/restrict,no-pty /' /home/admin/.ssh/authorized_keys", "admin", in},
		{"locked password", "", "passwd -l admin", "admin", in},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g := newGuest(t)
			require.NoError(t, g.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte(tc.config+"\n"), 0o600))
			out, code := g.Run(t.Context(), tc.script)
			require.Zero(t, code, out)
			require.NoError(t, g.StartSSHD())
			_, err := g.try(tc.user)
			if tc.want {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, "unable to authenticate")
			}
		})
	}
}

func TestSSHDRefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	for config, want := range map[string]string{
		"Frobnicate yes":             "Bad configuration option: Frobnicate",
		"PermitRootLogin maybe":      `bad permitrootlogin value "maybe"`,
		"MaxSessions":                "missing argument",
		"AllowUsers a@127.0.0.1":     "sshtest: sshd: not simulated: allowusers a@127.0.0.1",
		"DenyUsers a@10.0.0.1":       "sshtest: sshd: not simulated: denyusers a@10.0.0.1",
		"TrustedUserCAKeys /etc/ca":  "sshtest: sshd: not simulated: TrustedUserCAKeys",
		"Match Address 10.0.0.0/8":   "sshtest: sshd: not simulated: Match Address 10.0.0.0/8",
		"HostKey /etc/ssh/nope":      "no hostkeys available",
		"ClientAliveInterval banana": "bad clientaliveinterval value",
	} {
		require.NoError(t, g.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte(config+"\n"), 0o600))
		out, code := g.Run(t.Context(), "sshd -t")
		assert.Contains(t, out, want)
		assert.Equal(t, 255, code)
	}
	g.dial("root") // the one that runs has read none of this
	require.Error(t, g.StartSSHD())
	assert.False(t, g.SSHDRunning())
	_, err := g.try("root")
	require.Error(t, err)
	require.NoError(t, g.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("ClientAliveInterval 1m\n"), 0o600))
	out, _ := g.Run(t.Context(), "sshd -T | grep -E '^(clientalive|permitroot|maxsess)'")
	assert.Equal(t, "clientalivecountmax 3\nclientaliveinterval 60\nmaxsessions 10\npermitrootlogin without-password\n", out)
	require.NoError(t, g.StartSSHD())
	g.dial("root")
	g.StopSSHD()
	assert.False(t, g.SSHDRunning())
}

// Without PAM, sshd looks for the file itself, once the user is in.
func TestNologinWithoutPAM(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	require.NoError(t, g.Disk().WriteFile("/etc/nologin", []byte("closed\n"), 0o644))
	_, err := g.try("admin")
	require.ErrorContains(t, err, "EOF")
	require.NoError(t, g.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("UsePAM no\n"), 0o600))
	require.NoError(t, g.StartSSHD())
	out, errs, code := g.ssh(g.dial("admin"), "echo in", "")
	assert.Equal(t, []any{"", "closed\n", 254}, []any{out, errs, code})
	out, _, code = g.ssh(g.dial("root"), "echo in", "")
	assert.Equal(t, "in\n", out)
	assert.Zero(t, code)
}

func TestForcedCommandsRunInsteadOfOthers(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	_, code := g.Run(t.Context(), `sed -i 's/^/command="echo forced: $SSH_ORIGINAL_COMMAND" /' /home/admin/.ssh/authorized_keys`)
	require.Zero(t, code)
	out, _, _ := g.ssh(g.dial("admin"), "id", "")
	assert.Equal(t, "forced: id\n", out)
	// ForceCommand is the rest of the line, quotes and runs of spaces too.
	require.NoError(t, g.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("ForceCommand echo \"a  b: $SSH_ORIGINAL_COMMAND\"\n"), 0o600))
	require.NoError(t, g.StartSSHD())
	out, _, _ = g.ssh(g.dial("root"), "id", "")
	assert.Equal(t, "a  b: id\n", out)
}

func TestEnvironmentOfSessions(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	_, code := g.Run(t.Context(), "echo ABA_TESTING=1 >>/etc/environment; echo 'echo noise; export RC=1' >/home/admin/.bashrc; usermod -s /bin/sh root")
	require.Zero(t, code)
	s, err := g.dial("admin").NewSession()
	require.NoError(t, err)
	require.Error(t, s.Setenv("FOO", "1"))
	require.NoError(t, s.Setenv("LC_TIME", "C"))
	out, err := s.Output("echo $ABA_TESTING $RC $FOO $LC_TIME $LOGNAME $PWD $SHELL")
	require.NoError(t, err)
	assert.Equal(t, "noise\n1 1 C admin /home/admin /bin/bash\n", string(out))
	_, _, code = g.ssh(g.dial("admin"), "exit 3", "")
	assert.Equal(t, 3, code)
	_, errs, code := g.ssh(g.dial("root"), "echo "+string(make129k()), "")
	assert.Equal(t, "/bin/sh: Argument list too long\n", errs)
	assert.Equal(t, 1, code)
}

func make129k() []byte {
	b := make([]byte, 129<<10)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

func TestHostCertificate(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	ca := newSigner(t)
	line, err := g.Disk().ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
	require.NoError(t, err)
	pub, _, _, _, err := ssh.ParseAuthorizedKey(line)
	require.NoError(t, err)
	cert := &ssh.Certificate{
		Key: pub, CertType: ssh.HostCert, ValidPrincipals: []string{"guest"}, ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	require.NoError(t, cert.SignCert(rand.Reader, ca))
	require.NoError(t, g.Disk().WriteFile("/etc/ssh/cert.pub", ssh.MarshalAuthorizedKey(cert), 0o644))
	require.NoError(t, g.Disk().WriteFile("/etc/ssh/sshd_config.d/10.conf", []byte("HostCertificate /etc/ssh/cert.pub\n"), 0o600))
	require.NoError(t, g.StartSSHD())
	var seen ssh.PublicKey
	_, err = g.try("root", func(c *ssh.ClientConfig) {
		c.HostKeyAlgorithms = []string{ssh.CertAlgoED25519v01}
		c.HostKeyCallback = (&ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool {
			seen = k
			return string(k.Marshal()) == string(ca.PublicKey().Marshal())
		}}).CheckHostKey
	})
	require.NoError(t, err)
	assert.NotNil(t, seen)
}
