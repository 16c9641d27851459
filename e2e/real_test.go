package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
)

// real returns the spec for the vCenter of the environment. GOVC_* say how to log in to it, and
//
//   - E2E_SSH_KEY names the private key file that logs in to the template as root;
//   - E2E_KNOWN_HOSTS names the file with the host keys of the template, and of jump hosts; without,
//     they are trusted on first use, and that is said;
//   - E2E_SSH_JUMP lists jump hosts as ssh -J has them, [user@]host[:port],..., for guests that are not
//     reached otherwise. The same key logs in;
//   - E2E_EXPECT is how long golden, and then each VM, takes to be made ready where no record of an
//     earlier build tells, such as 90s. Without, half an hour and ten minutes, for which go test
//     needs a -timeout of its own the first time.
func real(t pool.T) pool.Spec {
	t.Helper()
	uncached(t)
	cfg, err := vsphere.FromEnv()
	require.NoError(t, err)
	file := os.Getenv("E2E_SSH_KEY")
	require.NotEmpty(t, file, "GOVC_URL is set: set E2E_SSH_KEY to the private key file that logs in to the template as root")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	signer, err := ssh.ParsePrivateKey(data)
	require.NoError(t, err, "E2E_SSH_KEY")
	p, err := vsphere.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	topology := theTopology(t)
	topology.RunnerKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	known := os.Getenv("E2E_KNOWN_HOSTS")
	access := sshx.Config{
		Keys: []ssh.Signer{signer}, HostKeys: sshx.HostKeys{KnownHosts: known, TrustFirst: known == ""}, Logf: t.Logf,
	}
	access.Jump = jumps(os.Getenv("E2E_SSH_JUMP"), access)
	spec := topology.Spec(p, access)
	if s := os.Getenv("E2E_EXPECT"); s != "" {
		d, err := time.ParseDuration(s)
		require.NoError(t, err, "E2E_EXPECT")
		spec.Golden.Expect = d
		for i := range spec.Roles {
			spec.Roles[i].Expect = d
		}
	}
	return spec
}

// uncached keeps go test from saying "ok (cached)" of a vCenter that it has not looked at. go test
// does not save the result of a run that opened a file below the module with a time later than two
// seconds ago, so this opens one with a time to come. It lies in the user's directory for caches;
// the path to it begins in the module, so that go test minds it.
func uncached(t pool.T) {
	t.Helper()
	try := func() error {
		dir, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		file := filepath.Join(dir, "poolready-uncached")
		later := time.Now().Add(24 * time.Hour)
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(file, nil, 0o600), os.Chtimes(file, later, later)); err != nil {
			return err
		}
		here, err := os.Getwd()
		if err != nil {
			return err
		}
		f, err := os.Open(here + strings.Repeat("/..", 1+strings.Count(here, "/")) + file)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if err := try(); err != nil {
		t.Logf("go test may repeat this result without looking, unless it is told -count=1: %v", err)
	}
}

// jumps are the hosts of a list as ssh -J has it, each like hop in all else.
func jumps(list string, hop sshx.Config) []sshx.Config {
	var all []sshx.Config
	for _, s := range strings.Split(list, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		one := hop
		one.Address = s
		if i := strings.LastIndex(s, "@"); i >= 0 {
			one.User, one.Address = s[:i], s[i+1:]
		}
		all = append(all, one)
	}
	return all
}

func TestJumpHostsAreListedAsForSSH(t *testing.T) {
	t.Parallel()
	key := sshx.HostKeys{KnownHosts: "/etc/known"}
	assert.Empty(t, jumps("", sshx.Config{}))
	assert.Equal(t, []sshx.Config{
		{User: "lab", Address: "127.0.0.1:8922", HostKeys: key},
		{Address: "bastion", HostKeys: key},
		{User: "a@b", Address: "[::1]:22", HostKeys: key},
	}, jumps("lab@127.0.0.1:8922, bastion,a@b@[::1]:22", sshx.Config{HostKeys: key}))
}
