package sshx_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// pin is the short form of a key.
func pin(t *testing.T, line string) string {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	require.NoError(t, err)
	return sshx.Pin(k)
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
			"pinned by fingerprint":   {"m1", sshx.HostKeys{Pinned: []string{pin(t, key)}}, true, false},
			"another's fingerprint":   {"m1", sshx.HostKeys{Pinned: []string{pin(t, wrong)}}, false, true},
			"both pinned":             {"m1", sshx.HostKeys{Pinned: []string{wrong, key}}, true, false},
			"nothing known":           {"m1", sshx.HostKeys{}, false, false},
			"trust first":             {"m1", sshx.HostKeys{TrustOnFirstUse: true}, true, false},
			"trust first, pinned":     {"m1", sshx.HostKeys{TrustOnFirstUse: true, Pinned: []string{wrong}}, false, true},
			"ignore":                  {"m1", sshx.HostKeys{InsecureIgnore: true, Pinned: []string{wrong}}, true, false},
			"known by name":           {"m1", sshx.HostKeys{KnownHosts: known("m1", key)}, true, false},
			"known by address":        {"", sshx.HostKeys{KnownHosts: known("["+host+"]:"+port, key)}, true, false},
			"known otherwise":         {"m1", sshx.HostKeys{KnownHosts: known("m1,m3", wrong)}, false, true},
			"another is known":        {"m1", sshx.HostKeys{KnownHosts: known("m2222", key)}, false, false},
			"revoked":                 {"m1", sshx.HostKeys{KnownHosts: known("@revoked m1", key)}, false, false},
			"revoked, trust first":    {"m1", sshx.HostKeys{TrustOnFirstUse: true, KnownHosts: known("@revoked  m1", key)}, false, false},
			"an authority, no cert":   {"m1", sshx.HostKeys{Authorities: []string{wrong}}, false, true},
			"@cert-authority, no cer": {"m1", sshx.HostKeys{KnownHosts: known("@cert-authority m*", wrong)}, false, true},
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
				if c.keys.TrustOnFirstUse {
					mu.Lock()
					defer mu.Unlock()
					require.Len(t, said, 1)
					assert.Contains(t, said[0], sshx.AuthorizedKey(client.HostKey()))
				}
			})
		}
	})
}

// A server with keys of several kinds shows the one that is known.
func TestHostKeyAlgorithmsFollowThePins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	pins := map[string]string{}
	var lines []string
	for kind, key := range map[string]crypto.Signer{"rsa": rsaKey, "ecdsa": ecKey} {
		block, err := ssh.MarshalPrivateKey(key, "")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(dir+"/"+kind, pem.EncodeToMemory(block), 0o600))
		public, err := ssh.NewPublicKey(key.Public())
		require.NoError(t, err)
		pins[kind] = sshx.AuthorizedKey(public)
		lines = append(lines, "HostKey "+dir+"/"+kind)
	}
	m := newSSHD(t, lines...)
	pins["ed25519"] = sshx.AuthorizedKey(m.host.PublicKey())
	for kind, pin := range pins {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			file := t.TempDir() + "/known_hosts"
			require.NoError(t, os.WriteFile(file, []byte("# all\n\nm2,m1 "+pin+" comment\n"), 0o600))
			for _, keys := range []sshx.HostKeys{{Pinned: []string{pin}}, {KnownHosts: file}} {
				c := dial(t, m, func(cfg *sshx.Config) { cfg.HostKeys = keys })
				assert.Equal(t, pin, sshx.AuthorizedKey(c.HostKey()))
			}
		})
	}
}

// certify gives the machine a certificate of its ed25519 host key, by authority for principal, and
// returns that key and the certificate.
func certify(t *testing.T, m machine, authority ssh.Signer, principal string) (plain, certificate string) {
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
	return plain, sshx.AuthorizedKey(cert)
}

func TestHostCertificates(t *testing.T) {
	t.Parallel()
	authority, _ := newKey(t)
	other, _ := newKey(t)
	line, wrong := sshx.AuthorizedKey(authority.PublicKey()), sshx.AuthorizedKey(other.PublicKey())
	onMachines(t, func(t *testing.T, m machine) {
		plain, cert := certify(t, m, authority, "m1")
		dir, files := t.TempDir(), 0
		known := func(lines ...string) sshx.HostKeys {
			files++
			file := fmt.Sprintf("%s/%d", dir, files)
			require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
			return sshx.HostKeys{KnownHosts: file}
		}
		and := func(k sshx.HostKeys, pinned, authorities string) sshx.HostKeys {
			if pinned != "" {
				k.Pinned = []string{pinned}
			}
			if authorities != "" {
				k.Authorities = []string{authorities}
			}
			return k
		}
		for name, c := range map[string]struct {
			host string
			keys sshx.HostKeys
			want string // what the machine shows and is accepted
		}{
			"authority":               {"m1", sshx.HostKeys{Authorities: []string{wrong, line}}, cert},
			"another authority":       {"m1", sshx.HostKeys{Authorities: []string{wrong}}, ""},
			"for another machine":     {"m2", sshx.HostKeys{Authorities: []string{line}}, ""},
			"known_hosts, all":        {"m1", known("@cert-authority * " + line), cert},
			"known_hosts, by name":    {"m1", known("@cert-authority m1 " + line), cert},
			"known_hosts, a port":     {"m1", known("@cert-authority [*]:2222 " + line), ""},
			"known_hosts, any port":   {"m1:2222", known("@cert-authority * " + line), cert},
			"known_hosts, not a port": {"m1:2222", known("@cert-authority m1 "+line, "[m1]:2222 "+plain), plain},
			"plain key pinned":        {"m1", sshx.HostKeys{Pinned: []string{plain}}, plain},
			"both":                    {"m1", sshx.HostKeys{Pinned: []string{plain}, Authorities: []string{line}}, cert},
			"its key is pinned":       {"m1", sshx.HostKeys{Pinned: []string{plain}, Authorities: []string{wrong}}, cert},
			"its key is known":        {"m1", and(known("m1 "+plain), "", wrong), cert},
			"its key is not known":    {"m1", and(known("m1 "+wrong), "", wrong), ""},
			"it is pinned itself":     {"m1", sshx.HostKeys{Pinned: []string{cert}}, cert},
			"authority revoked":       {"m1", and(known("@revoked * "+line), "", line), ""},
			"its key revoked":         {"m1", and(known("@revoked * "+plain), plain, line), ""},
			"nothing, trust first":    {"m1", sshx.HostKeys{TrustOnFirstUse: true}, plain},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := m.config(t)
				cfg.Name, cfg.HostKeys = c.host, c.keys
				client, err := sshx.Dial(t.Context(), cfg)
				if c.want == "" {
					_, ok := errors.AsType[*sshx.HostKeyError](err)
					require.True(t, ok, "%v", err)
					return
				}
				require.NoError(t, err)
				defer client.Close()
				got := sshx.AuthorizedKey(client.HostKey())
				if c.keys.TrustOnFirstUse {
					_, isCert := client.HostKey().(*ssh.Certificate)
					assert.False(t, isCert)
					return
				}
				assert.Equal(t, c.want, got)
			})
		}
	})
}

// A piped conn is at no address.
type piped struct{ net.Conn }

func (piped) RemoteAddr() net.Addr { return addrPipe{} }

type addrPipe struct{}

func (addrPipe) Network() string { return "pipe" }
func (addrPipe) String() string  { return "pipe" }

func TestKnownHostsDoNotAskForTheAddress(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	cfg := m.config(t)
	cfg.HostKeys = sshx.HostKeys{KnownHosts: t.TempDir() + "/known_hosts"}
	require.NoError(t, os.WriteFile(cfg.HostKeys.KnownHosts, []byte("m1 "+m.hostKeys(t)[0]+"\n"), 0o600))
	cfg.Dialer = dialerFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		return piped{conn}, err
	})
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A connection that lasts exchanges keys again and again.
func TestKeyTrustedOnFirstUseIsToldOnce(t *testing.T) {
	t.Parallel()
	m := newSSHD(t, "RekeyLimit 64K")
	cfg := m.config(t)
	cfg.HostKeys = sshx.HostKeys{TrustOnFirstUse: true}
	var told atomic.Int32
	cfg.Logf = func(string, ...any) { told.Add(1) }
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	defer c.Close()
	res, err := c.Run(t.Context(), sshx.Cmd{Args: []string{"cat"}, Stdin: strings.NewReader(strings.Repeat("x", 256<<10))})
	require.NoError(t, err)
	assert.Len(t, res.Stdout, 256<<10)
	assert.EqualValues(t, 1, told.Load())
}

func TestKeysTrustedOnFirstUseArePinnedOnTheWholeWay(t *testing.T) {
	t.Parallel()
	hop, inner := newSim(t), newSim(t)
	connect(hop, nil)
	var mu sync.Mutex
	var said []string
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprintf(format, args...))
	}
	cfg := inner.config(t)
	cfg.HostKeys = sshx.HostKeys{TrustOnFirstUse: true}
	cfg.Jump = []sshx.Config{hop.config(t)}
	cfg.Jump[0].Name, cfg.Jump[0].HostKeys = "hop", sshx.HostKeys{TrustOnFirstUse: true}
	cfg.Logf, cfg.Jump[0].Logf = note, note

	// What lets nobody in is not trusted yet.
	inner.SetFaults(sshtest.Faults{Booting: "later"})
	ready := sshx.Ready{Report: func(string) { inner.SetFaults(sshtest.Faults{}) }}
	c, err := sshx.WaitReady(t.Context(), cfg, sshx.Hurried(ready))
	require.NoError(t, err)
	require.Len(t, said, 2)
	assert.Contains(t, said[0], "hop: WARNING")
	assert.Contains(t, said[1], "m1: WARNING")
	assert.True(t, cfg.Jump[0].HostKeys.TrustOnFirstUse, "the caller's Config was changed")

	c, err = c.Reboot(t.Context(), sshx.Hurried(sshx.Ready{}))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.Len(t, said, 2, "keys that are pinned need no warning")

	j, err := c.Detach(t.Context(), sshx.Cmd{Script: "sleep 1000"})
	require.NoError(t, err)
	require.NoError(t, hop.Disk().RemoveHostKeys())
	hop.Boot()
	_, err = j.Wait(t.Context())
	hk, ok := errors.AsType[*sshx.HostKeyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "hop", hk.Host)
}
