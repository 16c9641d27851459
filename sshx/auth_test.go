package sshx_test

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// Hardened machines insist on algorithms that are not among the defaults of x/crypto/ssh.
func TestEveryAlgorithmThatIsSupportedIsOffered(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"KexAlgorithms diffie-hellman-group16-sha512", "KexAlgorithms diffie-hellman-group-exchange-sha256",
		"KexAlgorithms diffie-hellman-group14-sha256", "KexAlgorithms ecdh-sha2-nistp521", "KexAlgorithms curve25519-sha256",
		"Ciphers aes256-gcm@openssh.com", "Ciphers chacha20-poly1305@openssh.com",
		"Ciphers aes256-ctr\nMACs hmac-sha2-512-etm@openssh.com", "Ciphers aes128-ctr\nMACs hmac-sha2-512",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			out, err := dial(t, newSSHD(t, line)).Output(t.Context(), "echo", "hi")
			require.NoError(t, err)
			assert.Equal(t, "hi", out)
		})
	}
}

// asks is an SSH server that wants answers to questions after a key.
func asks(t *testing.T, questions ...string) sshx.Config {
	t.Helper()
	host, _ := newKey(t)
	user, _ := newKey(t)
	sc := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{
			KeyboardInteractiveCallback: func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				_, err := ask("", "", questions, make([]bool, len(questions)))
				return nil, err
			},
		}}
	}}
	sc.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		sshConn, chans, reqs, err := ssh.NewServerConn(conn, sc)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		for c := range chans {
			_ = c.Reject(ssh.Prohibited, "")
		}
		_ = sshConn.Wait()
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return sshx.Config{
		Address: l.Addr().String(), User: "root", Keys: []ssh.Signer{user},
		HostKeys: sshx.HostKeys{Pinned: []string{sshx.AuthorizedKey(host.PublicKey())}},
	}
}

func TestKeyboardInteractiveWithoutQuestionsIsAnswered(t *testing.T) {
	t.Parallel()
	c, err := sshx.Dial(t.Context(), asks(t))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestQuestionsAfterAKeyAreTold(t *testing.T) {
	t.Parallel()
	_, err := sshx.Dial(t.Context(), asks(t, "One-time password: "))
	ae, ok := errors.AsType[*sshx.AuthError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, []string{"publickey"}, ae.Passed)
	assert.Equal(t, []string{"keyboard-interactive"}, ae.Allowed)
	assert.Equal(t, []string{"One-time password:"}, ae.Asked)
	require.ErrorContains(t, err, "One-time password")
}

// So does sshd with PAM, whose modules have nothing to ask.
func TestKeyboardInteractiveOfSSHD(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]string{"no question": "auth required pam_permit.so", "a password": "auth required pam_unix.so"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newUser(t, map[string]string{"/etc/pam.d/sshd": auth + "\naccount required pam_permit.so\nsession required pam_permit.so\n"},
				"UsePAM yes", "KbdInteractiveAuthentication yes", "AuthenticationMethods publickey,keyboard-interactive")
			if out, err := exec.CommandContext(t.Context(), m.path, "-T", "-f", m.conf).Output(); err != nil || !strings.Contains(string(out), "usepam yes") {
				t.Skipf("sshd knows no PAM here: %v", err)
			}
			c, err := sshx.Dial(t.Context(), m.config(t))
			if name == "no question" {
				require.NoError(t, err)
				require.NoError(t, c.Close())
				return
			}
			ae, ok := errors.AsType[*sshx.AuthError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, []string{"publickey"}, ae.Passed)
			assert.Equal(t, []string{"Password:"}, ae.Asked)
		})
	}
}

func TestAddressesThatAreNoneAreRefusedByName(t *testing.T) {
	t.Parallel()
	key, _ := newKey(t)
	for address, want := range map[string]string{
		"root@10.0.0.7":       `want Address "10.0.0.7" and User "root"`,
		"a@b@[::1]:22":        `want Address "[::1]:22" and User "a@b"`,
		"ssh://root@h:22":     "is a URL",
		"ssh://10.0.0.7":      "is a URL",
		"10.0.0.7/24":         "is not a host",
		"10.0.0.7 or so":      "is not a host",
		"10.0.0.7:ssh":        "has no port from 1 to 65535",
		"10.0.0.7:99999":      "has no port from 1 to 65535",
		"10.0.0.7:":           "has no port from 1 to 65535",
		"":                    "is empty",
		"10.0.0.7":            "",
		"[::1]":               "",
		"fe80::1%lo":          "",
		"[fe80::1%eth0]:2222": "",
		"host.lab:22":         "",
	} {
		err := sshx.Config{Address: address, Keys: []ssh.Signer{key}}.Validate()
		if want == "" {
			assert.NoError(t, err, address)
		} else {
			assert.ErrorContains(t, err, want, address)
		}
	}
}

// sudo-rs, which new Ubuntus have in the place of sudo, has other words.
func TestSudoRefusalsHintAtTheirRemedy(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"sudo: a password is required", "sudo-rs: interactive authentication is required"} {
		err := &sshx.SudoError{Host: "m1", User: "root", Cmd: `"id"`, Text: text}
		assert.ErrorContains(t, err, "NOPASSWD", text)
	}
}

func TestRefusalsDoNotShowTheWrapper(t *testing.T) {
	t.Parallel()
	onOps(t, "ops ALL=(ALL) /usr/bin/id", func(t *testing.T, m machine) {
		for name, change := range map[string]func(*sshx.Config){"password": asOps("correct horse"), "no password": asOps("")} {
			c := dial(t, m, change)
			for kind, cmd := range kinds("/nowhere") {
				cmd.User = "root"
				_, err := c.Run(t.Context(), cmd)
				_, ok := errors.AsType[*sshx.SudoError](err)
				require.True(t, ok, "%s, %s: %v", name, kind, err)
				assert.NotContains(t, err.Error(), "kill -0", "%s, %s", name, kind)
				assert.NotContains(t, err.Error(), "_sshx", "%s, %s", name, kind)
			}
		}
	})
}

func TestPutKeepsAccessControlLists(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"setfacl", "getfacl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not on this machine; install acl", tool)
		}
	}
	m := newSSHD(t)
	c := dial(t, m)
	// The temporary directory may be of a kind that has none.
	dst := "/var/tmp/sshx-acl-" + rand.Text()
	t.Cleanup(func() { os.Remove(dst) })
	m.write(t, dst, "old")
	acl := func() string { return shell(t, c, "getfacl -cp "+dst) }
	if out, err := exec.CommandContext(t.Context(), "setfacl", "-m", "u:nobody:rwx,g:daemon:r,m::r", dst).CombinedOutput(); err != nil {
		t.Skipf("no ACLs here: %s", out)
	}
	before := acl()
	require.Contains(t, before, "user:nobody:rwx")
	require.NoError(t, c.Put(t.Context(), dst, strings.NewReader("new"), sshx.PutOptions{}))
	assert.Equal(t, "new", m.read(t, dst))
	assert.Equal(t, before, acl())

	require.NoError(t, c.Put(t.Context(), dst, strings.NewReader("newer"), sshx.PutOptions{Mode: 0o600}))
	assert.Contains(t, acl(), "user:nobody:rwx")
	assert.Contains(t, acl(), "mask::---", "the mode is for the mask")

	bin := t.TempDir()
	m.mount(t, map[string]string{"/usr/bin/setfacl": bin + "/none", "/bin/setfacl": bin + "/none"})
	m.write(t, bin+"/none", "")
	require.NoError(t, os.Chmod(bin+"/none", 0o644))
	err := dial(t, m).Put(t.Context(), dst, strings.NewReader("lost"), sshx.PutOptions{})
	require.ErrorContains(t, err, "setfacl")
	assert.Equal(t, "newer", m.read(t, dst))
}

func TestScriptsRunWhereTmpIsFull(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	full := t.TempDir()
	m.write(t, m.conf, "SetEnv TMPDIR="+full+" HOME="+m.tmp+"\n"+m.read(t, m.conf))
	m.mount(t, map[string]string{full: "tmpfs"})
	c := dial(t, m)
	shell(t, c, "head -c 1000000 /dev/zero >"+full+"/fill 2>/dev/null; test -s "+full+"/fill")
	for name, script := range map[string]string{"short": "echo ran", "its name": "echo ran # $0", "long": "echo ran\n" + strings.Repeat("#\n", 100<<10)} {
		res, err := c.Run(t.Context(), sshx.Cmd{Script: script})
		require.NoError(t, err, name)
		assert.Equal(t, "ran\n", string(res.Stdout), name)
	}
}
