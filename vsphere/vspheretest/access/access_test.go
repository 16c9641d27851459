package access_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

func TestConfigLogsIn(t *testing.T) {
	t.Parallel()
	srv := sshguest.NewServer(t)
	cfg, login := access.Config(srv)
	p, err := vsphere.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close(context.WithoutCancel(t.Context()))) })
	require.NoError(t, p.Preflight(t.Context(), nil))
	assert.Len(t, login.Keys, 1)
	assert.Equal(t, srv.HostKeys, login.HostKeys.Pinned)
	assert.NotNil(t, login.Dialer)
}
