package sshx_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestConfigFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	_, pem := newKey(t)
	require.NoError(t, os.WriteFile(key, pem, 0o600))
	known := filepath.Join(dir, "known_hosts")
	require.NoError(t, os.WriteFile(known, nil, 0o600))
	logf := func(string, ...any) {}

	t.Setenv("LAB_SSH_KEY", key)
	cfg, err := sshx.FromEnv("LAB_", logf)
	require.NoError(t, err)
	assert.Len(t, cfg.Keys, 1)
	assert.Equal(t, sshx.HostKeys{TrustOnFirstUse: true}, cfg.HostKeys)
	assert.NotNil(t, cfg.Logf)
	assert.Empty(t, cfg.Jump)

	t.Setenv("LAB_KNOWN_HOSTS", known)
	t.Setenv("LAB_SSH_JUMP", "lab@127.0.0.1:8922, bastion,a@b@[::1]:22")
	cfg, err = sshx.FromEnv("LAB_", logf)
	require.NoError(t, err)
	assert.Equal(t, sshx.HostKeys{KnownHosts: known}, cfg.HostKeys)
	var hops [][2]string
	for _, hop := range cfg.Jump {
		assert.Equal(t, cfg.Keys, hop.Keys)
		assert.Equal(t, cfg.HostKeys, hop.HostKeys)
		assert.Empty(t, hop.Jump)
		hops = append(hops, [2]string{hop.User, hop.Address})
	}
	assert.Equal(t, [][2]string{{"lab", "127.0.0.1:8922"}, {"", "bastion"}, {"a@b", "[::1]:22"}}, hops)

	t.Setenv("LAB_SSH_KEY", known)
	t.Setenv("LAB_KNOWN_HOSTS", filepath.Join(dir, "none"))
	t.Setenv("LAB_SSH_JUMP", "lab@")
	_, err = sshx.FromEnv("LAB_", logf)
	for _, name := range []string{"LAB_SSH_KEY is", "LAB_KNOWN_HOSTS is", "LAB_SSH_JUMP has"} {
		assert.ErrorContains(t, err, name, "all at once")
	}
	t.Setenv("LAB_SSH_KEY", "")
	_, err = sshx.FromEnv("LAB_", logf)
	assert.ErrorContains(t, err, "LAB_SSH_KEY is empty")
}
