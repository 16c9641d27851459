package sshx_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
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
	assert.Less(t, time.Since(begun), quick)
}

// connect lets a simulated machine reach the real network, or what dial returns.
func connect(m *sim, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	if dial == nil {
		var d net.Dialer
		dial = d.DialContext
	}
	m.Dial = dial
}

func TestHostKeysDecide(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		right := m.config(t)
		other, _ := newKey(t)
		dir := t.TempDir()
		host, port, err := net.SplitHostPort(right.Address)
		require.NoError(t, err)
		files := 0
		known := func(name string, key string) string {
			files++
			file := fmt.Sprintf("%s/%d", dir, files)
			require.NoError(t, os.WriteFile(file, []byte(name+" "+key+"\n"), 0o600))
			return file
		}
		wrong := sshx.AuthorizedKey(other.PublicKey())
		ed := slices.IndexFunc(right.HostKeys.Pinned, func(k string) bool { return strings.HasPrefix(k, "ssh-ed25519 ") })
		require.GreaterOrEqual(t, ed, 0)
		key := right.HostKeys.Pinned[ed]
		for name, c := range map[string]struct {
			name    string
			keys    sshx.HostKeys
			ok      bool
			changed bool
		}{
			"one pinned of several":   {"m1", sshx.HostKeys{Pinned: []string{key}}, true, false},
			"another pinned":          {"m1", sshx.HostKeys{Pinned: []string{wrong}}, false, true},
			"both pinned":             {"m1", sshx.HostKeys{Pinned: []string{wrong, key}}, true, false},
			"nothing known":           {"m1", sshx.HostKeys{}, false, false},
			"trust first":             {"m1", sshx.HostKeys{TrustFirst: true}, true, false},
			"trust first, pinned":     {"m1", sshx.HostKeys{TrustFirst: true, Pinned: []string{wrong}}, false, true},
			"ignore":                  {"m1", sshx.HostKeys{InsecureIgnore: true, Pinned: []string{wrong}}, true, false},
			"known by name":           {"m1", sshx.HostKeys{KnownHosts: known("m1", key)}, true, false},
			"known by address":        {"", sshx.HostKeys{KnownHosts: known("["+host+"]:"+port, key)}, true, false},
			"known otherwise":         {"m1", sshx.HostKeys{KnownHosts: known("m1,m3", wrong)}, false, true},
			"another is known":        {"m1", sshx.HostKeys{KnownHosts: known("m2222", key)}, false, false},
			"revoked":                 {"m1", sshx.HostKeys{KnownHosts: known("@revoked m1", key)}, false, false},
			"revoked, trust first":    {"m1", sshx.HostKeys{TrustFirst: true, KnownHosts: known("@revoked  m1", key)}, false, false},
			"an authority, no cert":   {"m1", sshx.HostKeys{Authorities: []string{wrong}}, false, true},
			"@cert-authority, no cer": {"m1", sshx.HostKeys{KnownHosts: known("@cert-authority m1*", wrong)}, false, true},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := right
				cfg.Name, cfg.HostKeys = c.name, c.keys
				var mu sync.Mutex
				var said []string
				cfg.Logf = func(format string, args ...any) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, fmt.Sprintf(format, args...))
				}
				client, err := sshx.Dial(t.Context(), cfg)
				if !c.ok {
					hk, ok := errors.AsType[*sshx.HostKeyError](err)
					require.True(t, ok, "%v", err)
					assert.Equal(t, c.changed, hk.Changed(), "%v", err)
					return
				}
				require.NoError(t, err)
				client.Close()
				if c.keys.TrustFirst {
					mu.Lock()
					defer mu.Unlock()
					require.Len(t, said, 1)
					assert.Contains(t, said[0], sshx.AuthorizedKey(client.HostKey()))
				}
			})
		}
	})
}

// certify gives the machine a certificate of its ed25519 host key, by authority for principal, and
// returns that key.
func certify(t *testing.T, m machine, authority ssh.Signer, principal string) (plain string) {
	t.Helper()
	pinned := m.config(t).HostKeys.Pinned
	plain = pinned[slices.IndexFunc(pinned, func(k string) bool { return strings.HasPrefix(k, "ssh-ed25519 ") })]
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(plain))
	require.NoError(t, err)
	cert := &ssh.Certificate{Key: key, CertType: ssh.HostCert, ValidPrincipals: []string{principal}, ValidBefore: ssh.CertTimeInfinity}
	require.NoError(t, cert.SignCert(rand.Reader, authority))
	switch m := m.(type) {
	case *sshd:
		m.write(t, m.tmp+"/cert.pub", string(ssh.MarshalAuthorizedKey(cert)))
		m.write(t, m.conf, m.read(t, m.conf)+"HostCertificate "+m.tmp+"/cert.pub\n")
	case *sim:
		m.write(t, "/etc/ssh/cert.pub", string(ssh.MarshalAuthorizedKey(cert)))
		m.write(t, "/etc/ssh/sshd_config.d/cert.conf", "HostCertificate /etc/ssh/cert.pub\n")
		require.NoError(t, m.StartSSHD())
	}
	return plain
}

func TestHostCertificates(t *testing.T) {
	t.Parallel()
	authority, _ := newKey(t)
	other, _ := newKey(t)
	line, wrong := sshx.AuthorizedKey(authority.PublicKey()), sshx.AuthorizedKey(other.PublicKey())
	dir := t.TempDir()
	for name, pattern := range map[string]string{"all": "*", "m1": "m1", "another port": "[*]:2222"} {
		require.NoError(t, os.WriteFile(dir+"/"+name, []byte("@cert-authority "+pattern+" "+line+"\n"), 0o600))
	}
	onMachines(t, func(t *testing.T, m machine) {
		plain := certify(t, m, authority, "m1")
		for name, c := range map[string]struct {
			host string
			keys sshx.HostKeys
			ok   bool
		}{
			"authority":            {"m1", sshx.HostKeys{Authorities: []string{wrong, line}}, true},
			"another authority":    {"m1", sshx.HostKeys{Authorities: []string{wrong}}, false},
			"for another machine":  {"m2", sshx.HostKeys{Authorities: []string{line}}, false},
			"known_hosts, all":     {"m1", sshx.HostKeys{KnownHosts: dir + "/all"}, true},
			"known_hosts, by name": {"m1", sshx.HostKeys{KnownHosts: dir + "/m1"}, true},
			"known_hosts, a port":  {"m1", sshx.HostKeys{KnownHosts: dir + "/another port"}, false},
			"plain key pinned":     {"m1", sshx.HostKeys{Pinned: []string{plain}}, true},
			"both":                 {"m1", sshx.HostKeys{Pinned: []string{plain}, Authorities: []string{line}}, true},
			"nothing, trust first": {"m1", sshx.HostKeys{TrustFirst: true}, true},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := m.config(t)
				cfg.Name, cfg.HostKeys = c.host, c.keys
				client, err := sshx.Dial(t.Context(), cfg)
				if !c.ok {
					_, ok := errors.AsType[*sshx.HostKeyError](err)
					require.True(t, ok, "%v", err)
					return
				}
				require.NoError(t, err)
				defer client.Close()
				_, isCert := client.HostKey().(*ssh.Certificate)
				assert.Equal(t, len(c.keys.Authorities) > 0 || c.keys.KnownHosts != "", isCert)
			})
		}
	})
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
		assert.True(t, de.Ran)
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
		m.mu.Lock()
		defer m.mu.Unlock()
		for cmd := range m.procs {
			require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		}
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
		_, err = c.DialContext(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorIs(t, err, sshx.ErrClosed)
	})
}
