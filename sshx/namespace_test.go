package sshx_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// mount puts files and directories in the places of others for everything that runs on the
// machine from its next connection on, and nowhere else; it skips the test if nobody may do that
// here.
func (s *sshd) mount(t testing.TB, files map[string]string) {
	t.Helper()
	// The kernel's files under /proc are among what is to be replaced.
	probe := "mount --bind /etc/passwd /proc/sys/kernel/random/boot_id && mount --bind /etc/passwd /etc/group"
	if out, err := exec.CommandContext(t.Context(), "unshare", "-m", "/bin/sh", "-c", probe).CombinedOutput(); err != nil {
		t.Skipf("no mount namespaces here: %v: %s", err, out)
	}
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
	s := newSSHD(t)
	dir, err := os.MkdirTemp("", "sshx-ops") //nolint:usetesting // t.TempDir is for its owner alone
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	files := map[string]string{}
	put := func(to, text string, mode os.FileMode) {
		file := dir + "/" + filepath.Base(to)
		require.NoError(t, os.WriteFile(file, []byte(text), mode))
		require.NoError(t, os.Chmod(file, mode))
		files[to] = file
	}
	with := func(name, line string) string {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(b) + line
	}
	put("/etc/passwd", with("/etc/passwd", "ops:x:54321:54321::"+dir+":/bin/sh\n"), 0o644)
	put("/etc/group", with("/etc/group", "ops:x:54321:\n"), 0o644)
	put("/etc/shadow", with("/etc/shadow", "ops:"+opsPassword+":19000:0:99999:7:::\n"), 0o640)
	put("/etc/sudoers", "Defaults lecture=never,!requiretty\nroot ALL=(ALL) ALL\n"+sudoers+"\n", 0o440)
	// A wrong password costs 2 s otherwise.
	put("/etc/pam.d/sudo", "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n", 0o644)
	for _, state := range []string{"/run/sudo", "/var/lib/sudo"} {
		files[state] = t.TempDir()
	}
	s.mount(t, files)
	require.NoError(t, os.WriteFile(dir+"/authorized", ssh.MarshalAuthorizedKey(s.key.PublicKey()), 0o644))
	b, err := os.ReadFile(s.conf)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.conf, append([]byte("AuthorizedKeysFile "+dir+"/authorized\n"), b...), 0o600))
	s.user = "ops"
	return s
}
