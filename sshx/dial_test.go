package sshx_test

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// quick is what a dial that must fail may take at most; it fails long before.
const quick = 20 * time.Second

func TestDialEndsWithItsContextOrTimeout(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]sshtest.Faults{
		"silent":            {Silent: true},
		"slow key exchange": {SlowKeyExchange: time.Hour},
		"frozen":            {Frozen: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newSim(t)
			m.SetFaults(f)
			cfg := m.config(t)
			cause := errors.New("enough")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
			defer cancel()
			begun := time.Now()
			_, err := sshx.Dial(ctx, cfg)
			require.ErrorIs(t, err, cause)
			_, ok := errors.AsType[*sshx.DialError](err)
			assert.True(t, ok, "%v", err)
			cfg.Timeout = 50 * time.Millisecond
			_, err = sshx.Dial(t.Context(), cfg)
			require.ErrorContains(t, err, "no login within 50ms")
			assert.Less(t, time.Since(begun), quick)
		})
	}
}

func TestDialThroughAJumpHostEndsWithItsContext(t *testing.T) {
	t.Parallel()
	hop, inner := newSim(t), newSim(t)
	connect(hop, nil)
	inner.SetFaults(sshtest.Faults{Silent: true})
	cfg := inner.config(t)
	cfg.Jump = []sshx.Config{hop.config(t)}
	cfg.Timeout = 100 * time.Millisecond
	cfg.Jump[0].Timeout = time.Minute
	begun := time.Now()
	_, err := sshx.Dial(t.Context(), cfg)
	require.ErrorContains(t, err, "no login within 100ms")

	connect(hop, func(ctx context.Context, network, address string) (net.Conn, error) {
		hop.SetFaults(sshtest.Faults{Frozen: true}) // on the way, with nothing told
		return nil, errors.New("too late")
	})
	t.Cleanup(func() { hop.SetFaults(sshtest.Faults{}) })
	_, err = sshx.Dial(t.Context(), cfg)
	require.ErrorContains(t, err, "no login within 100ms")
	assert.Less(t, time.Since(begun), quick)
}

func TestDialEndsWhileNamesAreLookedUp(t *testing.T) {
	t.Parallel()
	key, _ := newKey(t)
	cfg := sshx.Config{Address: "m1.test", Keys: []ssh.Signer{key}, HostKeys: sshx.HostKeys{InsecureIgnore: true}, Timeout: 50 * time.Millisecond}
	cfg.Dialer = &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done() // a name server that does not answer
		return nil, ctx.Err()
	}}}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err := sshx.WaitReady(ctx, cfg, sshx.Ready{Report: func(state string) {
		assert.Equal(t, "silent", state)
		cancel(enough)
	}})
	require.ErrorIs(t, err, enough)
	require.ErrorContains(t, err, "no login within 50ms")
}

// connect lets a simulated machine reach the real network, or what dial returns.
func connect(m *sim, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	if dial == nil {
		var d net.Dialer
		dial = d.DialContext
	}
	m.Dial = dial
}

func TestRefusedLoginIsAnAuthError(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		cfg := m.config(t)
		right := cfg.Keys[0]
		var keys []ssh.Signer
		for range 4 {
			k, _ := newKey(t)
			keys = append(keys, k)
		}
		cfg.Keys = keys
		_, err := sshx.Dial(t.Context(), cfg)
		ae, ok := errors.AsType[*sshx.AuthError](err)
		require.True(t, ok, "%v", err)
		assert.Len(t, ae.Offered, 4)
		assert.ErrorContains(t, err, "log in as "+ae.User+": refused; offered ssh-ed25519 SHA256:")

		cfg.Keys = append(keys, right)
		c, err := sshx.Dial(t.Context(), cfg)
		require.NoError(t, err, "the fifth key")
		c.Close()

		cfg.Keys = append([]ssh.Signer{keys[0]}, append(keys, right)...)
		_, err = sshx.Dial(t.Context(), cfg)
		_, ok = errors.AsType[*sshx.AuthError](err)
		require.True(t, ok, "the sixth key is not offered: %v", err)
	})
}

func TestRefusedLoginSaysWhatElseThereIs(t *testing.T) {
	t.Parallel()
	m := newSSHD(t, "PubkeyAuthentication no", "PasswordAuthentication yes")
	_, err := sshx.Dial(t.Context(), m.config(t))
	ae, ok := errors.AsType[*sshx.AuthError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, []string{"password"}, ae.Allowed)
	require.ErrorContains(t, err, "; it accepts only password")
}

func TestWaitReadyEndsAtOnceWhereOfferedKeysAreTooMany(t *testing.T) {
	t.Parallel()
	m := newSSHD(t, "MaxAuthTries 2")
	cfg := m.config(t)
	for range 3 {
		k, _ := newKey(t)
		cfg.Keys = append([]ssh.Signer{k}, cfg.Keys...)
	}
	_, err := sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
	_, ok := errors.AsType[*sshx.AuthError](err)
	require.True(t, ok, "%v", err)
	nr, ok := errors.AsType[*sshx.NotReadyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 1, nr.Tries)
	require.ErrorContains(t, err, "Too many authentication failures")
}

func TestConfigIsCheckedBeforeAnythingIsDialled(t *testing.T) {
	t.Parallel()
	key, _ := newKey(t)
	dialer := dialerFunc(func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialled")
		return nil, errors.New("dialled")
	})
	for want, cfg := range map[string]sshx.Config{
		"Config.Address is empty":          {Keys: []ssh.Signer{key}},
		"Config.Keys is empty":             {Address: "h"},
		`Config.Address "h:" has no port`:  {Address: "h:", Keys: []ssh.Signer{key}},
		`"h:65536" has no port from 1`:     {Address: "h:65536", Keys: []ssh.Signer{key}},
		"Config.Keys has a nil key":        {Address: "h", Keys: []ssh.Signer{nil}},
		"HostKeys.Pinned[0] \"nonsense\"":  {Address: "h", Keys: []ssh.Signer{key}, HostKeys: sshx.HostKeys{Pinned: []string{"nonsense"}}},
		"HostKeys.KnownHosts: open /none":  {Address: "h", Keys: []ssh.Signer{key}, HostKeys: sshx.HostKeys{KnownHosts: "/none"}},
		"Config.Jump[0]: Config.Keys is":   {Address: "h", Keys: []ssh.Signer{key}, Jump: []sshx.Config{{Address: "j"}}},
		"Config.Jump[0] has a Jump":        {Address: "h", Keys: []ssh.Signer{key}, Jump: []sshx.Config{{Jump: []sshx.Config{{}}}}},
		"Config.Sessions is -1":            {Address: "h", Keys: []ssh.Signer{key}, Sessions: -1},
		"a negative duration":              {Address: "h", Keys: []ssh.Signer{key}, KeepAlive: -1},
		"a line break or NUL in Name":      {Address: "h", Name: "a\nb", Keys: []ssh.Signer{key}},
		"Config.Keys is empty; see ReadKe": {Address: "h"},
	} {
		cfg.Dialer = dialer
		assert.ErrorContains(t, cfg.Validate(), want)
		_, err := sshx.Dial(t.Context(), cfg)
		assert.ErrorContains(t, err, want)
		_, err = sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
		assert.ErrorContains(t, err, want)
	}
}

type dialerFunc func(ctx context.Context, network, address string) (net.Conn, error)

func (f dialerFunc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

func TestDeadPeerEndsEverythingThatWaits(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m, func(cfg *sshx.Config) { cfg.KeepAlive, cfg.DeadAfter = 20*time.Millisecond, 400*time.Millisecond })
		running := make(chan error, 1)
		up := make(chan bool, 1)
		go func() {
			_, err := c.Run(context.Background(), sshx.Cmd{Script: "echo up; sleep 1000", Stdout: &lines{line: func(string) { up <- true }}})
			running <- err
		}()
		<-up
		freeze(t, m)
		err := <-running
		de, ok := errors.AsType[*sshx.DisconnectedError](err)
		require.True(t, ok, "%v", err)
		assert.ErrorIs(t, err, sshx.ErrDead)
		assert.True(t, de.Started)
		assert.Equal(t, "up\n", string(de.Output))
		<-c.Done()
		require.ErrorIs(t, c.Err(), sshx.ErrDead)
		_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.ErrorIs(t, err, sshx.ErrDead)
		require.NoError(t, c.Close())
	})
}

// freeze makes the machine's sshd stand still.
func freeze(t *testing.T, m machine) {
	t.Helper()
	switch m := m.(type) {
	case *sim:
		m.SetFaults(sshtest.Faults{Frozen: true})
		t.Cleanup(func() { m.SetFaults(sshtest.Faults{}) })
	case *sshd:
		m.signal(syscall.SIGSTOP)
	}
}

func TestRunEndsWithItsContextOnADeadPeer(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	c := dial(t, m)
	m.SetFaults(sshtest.Faults{Frozen: true})
	t.Cleanup(func() { m.SetFaults(sshtest.Faults{}) })
	for name, cmd := range map[string]sshx.Cmd{"args": {Args: []string{"true"}}, "script": {Script: "true"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		begun := time.Now()
		_, err := c.Run(ctx, cmd)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		assert.Less(t, time.Since(begun), quick)
	}
}

func TestIdleConnectionIsKept(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m, func(cfg *sshx.Config) { cfg.KeepAlive, cfg.DeadAfter = 10*time.Millisecond, 2*time.Second })
		select {
		case <-c.Done():
			t.Fatal(c.Err())
		case <-time.After(300 * time.Millisecond):
		}
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.NoError(t, err)
	})
}

func TestCloseEndsWhatRuns(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		running := make(chan error, 1)
		_, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.NoError(t, err)
		go func() {
			_, err := c.Run(context.Background(), sshx.Cmd{Script: "sleep 1000", Stdout: nil})
			running <- err
		}()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-running, sshx.ErrClosed)
		require.NoError(t, c.Close())
		<-c.Done()
		_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
		require.ErrorIs(t, err, sshx.ErrClosed)
		assert.NotContains(t, err.Error(), "\n")
		_, err = c.DialContext(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorIs(t, err, sshx.ErrClosed)
	})
}
