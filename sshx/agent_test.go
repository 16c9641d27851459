package sshx_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/poolready/poolready/sshx"
)

// serveAgent serves on a socket whoever connects, with f, and returns the socket's path.
func serveAgent(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	path := t.TempDir() + "/agent"
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				f(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return path
}

// newAgent holds n keys of strangers and then one more, which it returns.
func newAgent(t *testing.T, n int) (socket string, last ssh.Signer) {
	t.Helper()
	ring := agent.NewKeyring()
	for range n + 1 {
		var pem []byte
		last, pem = newKey(t)
		key, err := ssh.ParseRawPrivateKey(pem)
		require.NoError(t, err)
		require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: key}))
	}
	return serveAgent(t, func(conn net.Conn) { _ = agent.ServeAgent(ring, conn) }), last
}

// allow lets a key in, in the place of the machine's own.
func allow(t *testing.T, m machine, key ssh.Signer) {
	t.Helper()
	switch m := m.(type) {
	case *sshd:
		m.write(t, m.tmp+"/authorized", sshx.AuthorizedKey(key.PublicKey())+"\n")
	case *sim:
		require.NoError(t, m.Disk().WriteFile("/root/.ssh/authorized_keys", []byte(sshx.AuthorizedKey(key.PublicKey())+"\n"), 0o600))
	}
}

func TestAgentLogsInAndIsNotForwarded(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		socket, key := newAgent(t, 3)
		allow(t, m, key)
		c := dial(t, m, func(cfg *sshx.Config) { cfg.Keys, cfg.Agent = nil, socket })
		res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"/bin/sh", "-c", "echo \"<$SSH_AUTH_SOCK>\""}})
		require.NoError(t, err)
		assert.Equal(t, "<>\n", string(res.Stdout))
		dial(t, m, func(cfg *sshx.Config) { cfg.Keys, cfg.Agent = cfg.Keys[:1], socket }) // its fifth key is the right one
	})
}

func TestAgentWithManyKeysNeedsToBeToldWhich(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		socket, key := newAgent(t, 8)
		allow(t, m, key)
		cfg := m.config(t)
		cfg.Keys, cfg.Agent = nil, socket
		_, err := sshx.Dial(t.Context(), cfg)
		ae, ok := errors.AsType[*sshx.AuthError](err)
		require.True(t, ok, "%v", err)
		assert.Len(t, ae.Offered, 5, "a sixth would be one too many for OpenSSH")
		cfg.AgentKeys = []string{sshx.AuthorizedKey(key.PublicKey())}
		c, err := sshx.Dial(t.Context(), cfg)
		require.NoError(t, err)
		c.Close()
	})
}

func TestAgentThatIsOfNoUse(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	cfg.Keys = nil
	other, _ := newKey(t)
	held, _ := newAgent(t, 0)
	for name, c := range map[string]struct {
		socket string
		keys   []string
		want   string
	}{
		"not there":      {t.TempDir() + "/none", nil, "none: connect: no such file"},
		"hangs up":       {serveAgent(t, func(net.Conn) {}), nil, "agent"},
		"empty":          {serveAgent(t, func(conn net.Conn) { _ = agent.ServeAgent(agent.NewKeyring(), conn) }), nil, "holds no keys"},
		"lacks the key":  {held, []string{sshx.AuthorizedKey(other.PublicKey())}, "does not hold ssh-ed25519 SHA256:"},
		"keys, no agent": {"", []string{sshx.AuthorizedKey(other.PublicKey())}, "AgentKeys without Config.Agent"},
		"not a key":      {held, []string{"x"}, `AgentKeys[0] "x"`},
	} {
		cfg.Agent, cfg.AgentKeys = c.socket, c.keys
		_, err := sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
		nr, ok := errors.AsType[*sshx.NotReadyError](err)
		require.True(t, ok, "%s: %v", name, err)
		assert.Equal(t, 1, nr.Tries, "%s: waiting does not help", name)
		require.ErrorContains(t, err, c.want, name)
	}
	assert.Zero(t, m.connections())
}

func TestAgentThatIsSilentEndsWithTheContext(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	cfg.Agent = serveAgent(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<16)); _, _ = conn.Read(make([]byte, 1)) })
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, enough)
	defer cancel()
	_, err := sshx.Dial(ctx, cfg)
	require.ErrorIs(t, err, enough)
	cfg.Timeout = 50 * time.Millisecond
	_, err = sshx.Dial(t.Context(), cfg)
	require.ErrorContains(t, err, "no login within 50ms")
}

// An unwilling agent ends when it is to sign.
type unwilling struct {
	agent.ExtendedAgent
	conn net.Conn
}

func (u unwilling) SignWithFlags(ssh.PublicKey, []byte, agent.SignatureFlags) (*ssh.Signature, error) {
	u.conn.Close()
	runtime.Goexit() // an error would be logged
	return nil, nil
}

func TestAgentThatDoesNotSignIsNotARefusal(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	key, pem := newKey(t)
	raw, err := ssh.ParseRawPrivateKey(pem)
	require.NoError(t, err)
	ring := agent.NewKeyring().(agent.ExtendedAgent)
	require.NoError(t, ring.Add(agent.AddedKey{PrivateKey: raw}))
	allow(t, m, key)
	cfg := m.config(t)
	cfg.Keys = nil
	cfg.Agent = serveAgent(t, func(conn net.Conn) { _ = agent.ServeAgent(unwilling{ring, conn}, conn) })
	_, err = sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
	nr, ok := errors.AsType[*sshx.NotReadyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 1, nr.Tries, "nobody wants to be asked again and again")
	_, ok = errors.AsType[*sshx.AuthError](err)
	assert.False(t, ok, "%v", err)
	require.ErrorContains(t, err, "agent: sign with ssh-ed25519 SHA256:")
}
