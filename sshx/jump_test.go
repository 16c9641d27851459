package sshx_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestJumpHostsInAChain(t *testing.T) {
	t.Parallel()
	a, b, inner := newSim(t), newSim(t), newSim(t)
	connect(a, nil)
	connect(b, nil)
	cfg := inner.config(t)
	cfg.Jump = []sshx.Config{a.config(t), b.config(t)}
	cfg.Jump[0].Name, cfg.Jump[1].Name, cfg.Name = "a", "b", "inner"
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("x", 1<<20))})
	require.NoError(t, err)
	assert.Len(t, res.Stdout, 1<<20)
	b.Halt() // a hop dies, and takes with it what goes through it
	<-c.Done()
	_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	require.Error(t, err)
	require.NoError(t, c.Close())

	b.Boot()
	key, _ := newKey(t)
	cfg.Jump[1].HostKeys = sshx.HostKeys{Pinned: []string{sshx.AuthorizedKey(key.PublicKey())}}
	_, err = sshx.Dial(t.Context(), cfg)
	hk, ok := errors.AsType[*sshx.HostKeyError](err)
	require.True(t, ok, "each hop has its own policy: %v", err)
	assert.Equal(t, "b", hk.Host)
	require.ErrorContains(t, err, "sshx: inner: jump: b: host key")
}

// A conn tells when it is closed.
type closeTold struct {
	net.Conn
	closed func()
}

func (c closeTold) Close() error {
	c.closed()
	return c.Conn.Close()
}

func TestJumpHostsAreClosedLast(t *testing.T) {
	t.Parallel()
	hop, inner := newSim(t), newSim(t)
	connect(hop, nil)
	cfg := inner.config(t)
	cfg.Jump = []sshx.Config{hop.config(t)}
	var c *sshx.Client
	var first sync.Once
	cfg.Dialer = dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		return closeTold{conn, func() {
			first.Do(func() { assert.ErrorIs(t, c.Err(), sshx.ErrClosed, "the hop was closed first") })
		}}, err
	})
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

func TestJumpThroughARealSSHD(t *testing.T) {
	t.Parallel()
	hop, inner := newSSHD(t), newSSHD(t)
	cfg := inner.config(t)
	cfg.Jump = []sshx.Config{hop.config(t)}
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	res, err := c.Run(t.Context(), sshx.Cmd{Script: "echo in"})
	require.NoError(t, err)
	assert.Equal(t, "in\n", string(res.Stdout))
	freeze(t, hop) // Close waits for nobody
	require.NoError(t, c.Close())
}
