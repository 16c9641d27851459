package sshx_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// needNamespaces skips the test if nobody may mount anything here.
func needNamespaces(t testing.TB) {
	t.Helper()
	// The kernel's files under /proc are among what is to be replaced.
	probe := "mount --bind /etc/passwd /proc/sys/kernel/random/boot_id && mount --bind /etc/passwd /etc/group"
	if out, err := exec.CommandContext(t.Context(), "unshare", "-m", "/bin/sh", "-c", probe).CombinedOutput(); err != nil {
		t.Skipf("no mount namespaces here: %v: %s", err, out)
	}
}

// mount puts files and directories in the places of others for everything that runs on the
// machine from its next connection on, and nowhere else.
func (s *sshd) mount(t testing.TB, files map[string]string) {
	t.Helper()
	needNamespaces(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	for to, from := range files {
		if from == "tmpfs" { // a small one, for each connection its own
			s.mounts += "mount -t tmpfs -o size=256k tmpfs " + sshx.Quote(to) + " || exit 1; "
		} else if _, err := os.Stat(to); err == nil {
			s.mounts += "mount --bind " + sshx.Quote(from) + " " + sshx.Quote(to) + " || exit 1; "
		}
	}
}

// newBusybox returns a server with busybox in place of the tools that transfers use.
func newBusybox(t testing.TB) *sshd {
	t.Helper()
	box, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("no busybox on this machine")
	}
	s := newSSHD(t)
	files := map[string]string{}
	for _, tool := range []string{
		"sh", "tar", "find", "xargs", "mv", "cp", "rm", "mkdir", "rmdir", "cat", "wc", "stat", "chown", "chmod", "sha256sum", "sync", "head", "printf", "readlink",
	} {
		if _, err := os.Stat("/usr/bin/" + tool); err == nil {
			files["/usr/bin/"+tool] = box
		} else {
			files["/bin/"+tool] = box
		}
	}
	s.mount(t, files)
	return s
}

// opsPassword is that of ops, in the form of /etc/shadow: "correct horse".
const opsPassword = "$6$sshxtest$Bt5fm8EK0ywbeAOSJ3s750QDSJCB4fqe2V4wYE/pWorMbrZMSqqHh6DPtbQ0UZFCKHxNJVYQe5jy4jMrCcYcu0"

// newOps returns a server on which ops may use sudo, as a line of sudoers says.
func newOps(t testing.TB, sudoers string) *sshd {
	t.Helper()
	if _, err := exec.LookPath("sudo"); err != nil {
		t.Skip("no sudo on this machine")
	}
	s := newUser(t, map[string]string{
		"/etc/sudoers": "Defaults lecture=never,!requiretty\nroot ALL=(ALL) ALL\n" + sudoers + "\n",
		// A wrong password costs 2 s otherwise.
		"/etc/pam.d/sudo": "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n",
	})
	s.mount(t, map[string]string{"/run/sudo": t.TempDir(), "/var/lib/sudo": t.TempDir()})
	return s
}

// newUser returns a server that ops logs in to, with files of its own under etc, and further lines
// of configuration.
func newUser(t testing.TB, etc map[string]string, lines ...string) *sshd {
	t.Helper()
	needNamespaces(t) // and, with them, the right to read /etc/shadow
	s := newSSHD(t, lines...)
	dir, err := os.MkdirTemp("", "sshx-ops") //nolint:usetesting // t.TempDir is for its owner alone
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	for name, line := range map[string]string{
		"/etc/passwd": "ops:x:54321:54321::" + dir + ":/bin/sh\n",
		"/etc/group":  "ops:x:54321:\n",
		"/etc/shadow": "ops:" + opsPassword + ":19000:0:99999:7:::\n",
	} {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		etc[name] = string(b) + line
	}
	files := map[string]string{}
	for name, text := range etc {
		file := dir + "/" + strings.ReplaceAll(name, "/", "_")
		mode := os.FileMode(0o644)
		if name == "/etc/sudoers" || name == "/etc/shadow" {
			mode = 0o440
		}
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
		require.NoError(t, os.Chmod(file, mode))
		files[name] = file
	}
	s.mount(t, files)
	require.NoError(t, os.WriteFile(dir+"/authorized", ssh.MarshalAuthorizedKey(s.key.PublicKey()), 0o644))
	b, err := os.ReadFile(s.conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.conf, append([]byte("AuthorizedKeysFile "+dir+"/authorized\n"), b...), 0o600))
	s.user = "ops"
	return s
}

// A bootingMachine is a real one on which PAM lets in nobody but root, as it says why.
type bootingMachine struct {
	*sshd
	nologin string // file
}

// newBooting skips the test where there is no PAM.
func newBooting(t testing.TB, text string) *bootingMachine {
	t.Helper()
	var found []string
	for _, dir := range []string{"/lib", "/lib64", "/lib/*", "/usr/lib", "/usr/lib64", "/usr/lib/*"} {
		list, err := filepath.Glob(dir + "/security/pam_nologin.so")
		require.NoError(t, err)
		found = append(found, list...)
	}
	if len(found) == 0 {
		t.Skip("no pam_nologin on this machine")
	}
	b := &bootingMachine{}
	b.sshd = newUser(t, map[string]string{
		// Nothing but what this is about: no sessions of systemd's, no limits, no message of the day.
		"/etc/pam.d/sshd": "account required pam_nologin.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
	}, "UsePAM yes")
	if out, err := exec.CommandContext(t.Context(), b.path, "-T", "-f", b.conf).Output(); err != nil || !strings.Contains(string(out), "usepam yes") {
		t.Skipf("sshd knows no PAM here: %v", err)
	}
	run := t.TempDir()
	require.NoError(t, os.Chmod(run, 0o755))
	require.NoError(t, os.Mkdir(run+"/sshd", 0o755))
	b.nologin = run + "/nologin"
	require.NoError(t, os.WriteFile(b.nologin, []byte(text), 0o644))
	b.mount(t, map[string]string{"/run": run})
	return b
}
