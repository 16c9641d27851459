package sshx_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

func TestLinkConnectsOnceAndAgainOnlyWhenDead(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	l := sshx.NewLink(m.config(t))
	t.Cleanup(func() { l.Close() })
	clients := make([]*sshx.Client, 8)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c, err := l.Client(t.Context())
			if assert.NoError(t, err) {
				clients[i] = c
				_, _ = c.Run(t.Context(), sshx.Cmd{Args: []string{"false"}})
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		assert.Same(t, clients[0], c)
	}
	assert.Equal(t, 1, m.connections())
	m.DropConnections()
	<-clients[0].Done()
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	assert.NotSame(t, clients[0], c)
	assert.Equal(t, 2, m.connections())
	assert.Equal(t, 0, l.Generation())
}

func TestLinkDropBeginsANewGeneration(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	l := sshx.NewLink(m.config(t))
	t.Cleanup(func() { l.Close() })
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	l.Drop()
	<-c.Done()
	assert.Equal(t, 1, l.Generation())
	m.SetFaults(sshtest.Faults{Silent: true})
	failed := make(chan error, 1)
	go func() { _, err := l.Client(context.Background()); failed <- err }()
	require.Eventually(t, func() bool { return m.connections() == 2 }, quick, time.Millisecond)
	l.Drop() // what is being dialled is the machine as it was
	require.ErrorIs(t, <-failed, sshx.ErrDropped)
	m.SetFaults(sshtest.Faults{})
	old := m.BootID()
	m.Halt()
	m.Boot()
	c, err = l.WaitReady(t.Context(), sshx.Ready{BootIDNot: old})
	require.NoError(t, err)
	id, err := c.BootID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, m.BootID(), id)
	assert.Equal(t, 3, l.Generation())
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	<-c.Done()
	_, err = l.Client(t.Context())
	require.ErrorContains(t, err, "the link is closed")
}

func TestLinkWaitsForANewBootWhateverOthersDo(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	l := sshx.NewLink(m.config(t))
	t.Cleanup(func() { l.Close() })
	old := m.BootID()
	release := l.Hold()
	waited := make(chan error)
	var after string
	go func() {
		c, err := l.WaitReady(t.Context(), sshx.Hurried(sshx.Ready{BootIDNot: old, Report: func(state string) {
			if state == "not restarted yet" {
				m.Halt()
				m.Boot()
			}
		}}))
		if err == nil {
			after, err = c.BootID(t.Context())
		}
		waited <- err
	}()
	require.Eventually(t, func() bool { return l.Generation() == 1 }, quick, time.Millisecond)
	early := dial(t, m) // somebody who knows nothing of the restart was faster
	release(early)
	require.NoError(t, <-waited)
	assert.Equal(t, m.BootID(), after)
	<-early.Done()
}

func TestLinkInManyHands(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	l := sshx.NewLink(m.config(t))
	var users sync.WaitGroup
	ran := make(chan bool, 1)
	for range 6 {
		users.Go(func() {
			for {
				c, err := l.Client(context.Background())
				if errors.Is(err, sshx.ErrDropped) {
					continue
				}
				if err != nil {
					assert.ErrorContains(t, err, "the link is closed")
					return
				}
				if _, err := c.Run(context.Background(), sshx.Cmd{Args: []string{"true"}}); err == nil {
					select {
					case ran <- true:
					default:
					}
				}
			}
		})
	}
	var droppers sync.WaitGroup
	for range 2 {
		droppers.Go(func() {
			for range 10 {
				<-ran
				l.Drop()
			}
		})
	}
	droppers.Wait()
	assert.Equal(t, 20, l.Generation())
	require.NoError(t, l.Close())
	users.Wait()
}

func TestLinkRemembersAKeyTrustedOnFirstUse(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	cfg.HostKeys = sshx.HostKeys{TrustFirst: true}
	l := sshx.NewLink(cfg)
	t.Cleanup(func() { l.Close() })
	_, err := l.Client(t.Context())
	require.NoError(t, err)
	require.NoError(t, m.Disk().RemoveHostKeys())
	m.Boot()
	l.Drop()
	_, err = l.Client(t.Context())
	hk, ok := errors.AsType[*sshx.HostKeyError](err)
	require.True(t, ok, "%v", err)
	assert.True(t, hk.Changed())
}

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

func TestLinkLeavesNoJumpHostConnected(t *testing.T) {
	t.Parallel()
	hop, inner := newSim(t), newSim(t)
	connect(hop, nil)
	cfg := inner.config(t)
	cfg.Jump = []sshx.Config{hop.config(t)}
	var open atomic.Int32
	cfg.Dialer = dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		open.Add(1)
		return closeTold{conn, sync.OnceFunc(func() { open.Add(-1) })}, err
	})
	l := sshx.NewLink(cfg)
	t.Cleanup(func() { l.Close() })
	c, err := l.Client(t.Context())
	require.NoError(t, err)
	inner.SetFaults(sshtest.Faults{RefuseAuth: true})
	inner.DropConnections()
	<-c.Done()
	assert.EqualValues(t, 1, open.Load())
	_, err = l.Client(t.Context())
	require.Error(t, err)
	assert.Zero(t, open.Load())
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
