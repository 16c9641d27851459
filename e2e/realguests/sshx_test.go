package realguests

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A machine is one stock guest without a vCenter, with the users steve, who needs no password for
// sudo; pw, whose password is "secret word"; and term, who needs none but has to have a terminal.
type machine struct {
	site  *Site
	hw    vspheretest.Hardware
	guest vspheretest.Guest
	cfg   sshx.Config // of root
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

// newMachine boots one with a NIC in the lab and others in these networks.
func newMachine(t *testing.T, networks ...string) *machine {
	site := openSite(
		t,
		Options{Topology: e2e.DefaultTopology().On("debian12", "debian12"), Kind: Kind(*kind)},
	)
	hw := vspheretest.Hardware{Name: "debian", NICs: []vspheretest.HardwareNIC{
		{MAC: "00:50:56:00:00:01", Network: site.topology.LabNetwork, Connected: true},
	}}
	for i, network := range networks {
		hw.NICs = append(hw.NICs, vspheretest.HardwareNIC{MAC: fmt.Sprintf("00:50:56:00:01:%02x", i), Network: network, Connected: true})
	}
	g := site.Boot(&vspheretest.Machine{Disk: site.Install(hw), Hardware: hw})
	t.Cleanup(g.Kill)
	key, err := site.image.key()
	require.NoError(t, err)
	m := &machine{site: site, hw: hw, guest: g, cfg: sshx.Config{
		Name: "debian", Keys: []ssh.Signer{key}, HostKeys: sshx.HostKeys{Pinned: site.HostKeys()},
		Dialer: dialer(func(ctx context.Context, _, address string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			return site.wire.sites[0].dial(ctx, to)
		}),
	}}
	limit := 5 * time.Minute
	if site.kind == VMs {
		limit *= 6
		m.cfg.Timeout, m.cfg.DeadAfter = 2*time.Minute, 5*time.Minute
	}
	require.Eventually(t, func() bool {
		for _, nic := range g.Info().NICs {
			for _, a := range nic.Addrs {
				if a.Addr().Is4() {
					m.cfg.Address = a.Addr().String()
				}
			}
		}
		return m.cfg.Address != ""
	}, limit, 100*time.Millisecond, "no address")
	c, err := sshx.WaitReady(t.Context(), m.cfg, sshx.Ready{SystemState: true})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Run(t.Context(), sshx.Cmd{Script: `set -e
for user in steve pw term; do
	useradd -m -s /bin/bash "$user"
	install -d -m 700 -o "$user" -g "$user" "/home/$user/.ssh"
	install -m 600 -o "$user" -g "$user" /root/.ssh/authorized_keys "/home/$user/.ssh/authorized_keys"
done
echo 'pw:secret word' | chpasswd
echo 'steve ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/90-steve
echo 'pw ALL=(ALL) ALL' >/etc/sudoers.d/90-pw
printf 'term ALL=(ALL) NOPASSWD: ALL\nDefaults:term requiretty\n' >/etc/sudoers.d/90-term
chmod 440 /etc/sudoers.d/90-*
`})
	require.NoError(t, err)
	return m
}

// dial logs in as a user.
func (m *machine) dial(t *testing.T, user, sudoPassword string) *sshx.Client {
	t.Helper()
	cfg := m.cfg
	cfg.User, cfg.SudoPassword = user, sudoPassword
	c, err := sshx.Dial(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func run(t *testing.T, c *sshx.Client, cmd sshx.Cmd) string {
	t.Helper()
	res, err := c.Run(t.Context(), cmd)
	require.NoError(t, err)
	return strings.TrimSpace(string(res.Stdout))
}

// TestSSH does what package sshx promises to a stock Debian.
func TestSSH(t *testing.T) {
	m := newMachine(t)
	for name, f := range map[string]func(*testing.T){
		"commands": m.testCommands, "sudo": m.testSudo, "trees": m.testTrees,
		"files of root": m.testRootFiles, "cancel": m.testCancel,
	} {
		t.Run(name, f)
	}
	t.Run("jobs", m.testJobs)
	t.Run("reboot", m.testReboot)
}

func (m *machine) testCommands(t *testing.T) {
	c := m.dial(t, "root", "")
	assert.Equal(t, "root", run(t, c, sshx.Cmd{Args: []string{"id", "-un"}}))
	assert.Equal(
		t,
		"x\ny'z",
		run(t, c, sshx.Cmd{Script: `echo "$A"`, Env: map[string]string{"A": "x\ny'z"}}),
	)
	assert.Equal(t, "2", run(t, c, sshx.Cmd{Script: "#!/bin/bash -eu\na=(1 2); echo ${a[1]}"}))
	assert.Equal(
		t,
		"1048576",
		run(
			t,
			c,
			sshx.Cmd{Args: []string{"wc", "-c"}, Stdin: bytes.NewReader(make([]byte, 1<<20))},
		),
	)
	_, err := c.Run(t.Context(), sshx.Cmd{Script: "exit 7"})
	var exit *sshx.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 7, exit.Code)
}

func (m *machine) testSudo(t *testing.T) {
	assert.Equal(
		t,
		"steve\n/home/steve",
		run(t, m.dial(t, "root", ""), sshx.Cmd{Script: "id -un; echo $HOME", User: "steve"}),
	)
	assert.Equal(
		t,
		"root",
		run(t, m.dial(t, "steve", ""), sshx.Cmd{Script: "id -un", User: "root"}),
	)
	assert.Equal(
		t,
		"root",
		run(t, m.dial(t, "pw", "secret word"), sshx.Cmd{Script: "id -un", User: "root"}),
	)
	for user, password := range map[string]string{"pw": "nonsense", "term": ""} {
		_, err := m.dial(t, user, password).
			Run(t.Context(), sshx.Cmd{Args: []string{"id"}, User: "root"})
		var sudo *sshx.SudoError
		assert.ErrorAs(t, err, &sudo, user)
	}
	_, err := m.dial(t, "pw", "").Run(t.Context(), sshx.Cmd{Args: []string{"id"}, User: "root"})
	var sudo *sshx.SudoError
	assert.ErrorAs(t, err, &sudo, "no password")
}

func (m *machine) testTrees(t *testing.T) {
	c := m.dial(t, "root", "")
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "dst")
	require.NoError(t, os.MkdirAll(filepath.Join(src, "a/b"), 0o750))
	require.NoError(
		t,
		os.WriteFile(filepath.Join(src, "a/b/x y"), bytes.Repeat([]byte("z"), 3<<20), 0o640),
	)
	require.NoError(t, os.WriteFile(filepath.Join(src, "run"), []byte("#!/bin/sh\n"), 0o755))
	require.NoError(t, os.Symlink("a/b/x y", filepath.Join(src, "link")))
	require.NoError(t, c.PutTree(t.Context(), "/srv/tree", os.DirFS(src), sshx.PutOptions{}))
	assert.Equal(
		t,
		"755 640",
		run(t, c, sshx.Cmd{Script: "cd /srv/tree && echo $(stat -c %a run 'a/b/x y')"}),
	)
	require.NoError(t, c.GetTree(t.Context(), "/srv/tree", dst, sshx.GetOptions{Verify: true}))
	for _, name := range []string{"a/b/x y", "run", "link"} {
		want, err := os.ReadFile(filepath.Join(src, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(dst, name))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, got), name)
	}
}

func (m *machine) testRootFiles(t *testing.T) {
	c := m.dial(t, "steve", "")
	require.NoError(
		t,
		c.Put(
			t.Context(),
			"/etc/probe",
			strings.NewReader("hello"),
			sshx.PutOptions{User: "root", Mode: 0o600, Owner: "root:root"},
		),
	)
	assert.Equal(
		t,
		"root 600 5",
		run(t, c, sshx.Cmd{Args: []string{"stat", "-c", "%U %a %s", "/etc/probe"}, User: "root"}),
	)
	f, err := c.SFTP(t.Context(), "root")
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Stat("/root/.ssh/authorized_keys")
	assert.NoError(t, err)
}

func (m *machine) testCancel(t *testing.T) {
	c := m.dial(t, "root", "")
	for _, user := range []string{"", "steve"} {
		began := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			<-began
			cancel()
		}()
		_, err := c.Run(
			ctx,
			sshx.Cmd{
				Script: "sleep 5321 & echo; exec sleep 5322",
				User:   user,
				Stdout: signaller(began),
			},
		)
		var canceled *sshx.CanceledError
		require.ErrorAs(t, err, &canceled)
		assert.Equal(
			t,
			"none",
			run(t, c, sshx.Cmd{Script: "pgrep -ax sleep | grep ' 532[12]$' || echo none"}),
			"as %q",
			user,
		)
	}
}

// A signaller sends on a channel once something is written.
type signaller chan struct{}

func (s signaller) Write(b []byte) (int, error) {
	select {
	case s <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (m *machine) testJobs(t *testing.T) {
	c := m.dial(t, "root", "")
	job, err := c.Detach(
		t.Context(),
		sshx.Cmd{
			Name:   "restarts sshd",
			Script: "cat /proc/self/cgroup; systemctl restart ssh; sleep 2; echo survived",
		},
	)
	require.NoError(t, err)
	res, err := job.Wait(t.Context())
	require.NoError(t, err)
	assert.Contains(t, string(res.Stdout), "/sshx-"+job.ID()+".scope")
	assert.Contains(t, string(res.Stdout), "survived")

	for _, user := range []string{"root", "steve"} {
		c := m.dial(t, user, "")
		job, err := c.Detach(
			t.Context(),
			sshx.Cmd{Name: "ends after the session", Script: "sleep 2; echo end"},
		)
		require.NoError(t, err)
		c.Close()
		c = m.dial(t, user, "")
		res, err := c.Job(job.ID(), "").Wait(t.Context())
		require.NoError(t, err)
		assert.Contains(t, string(res.Stdout), "end")
	}

	job, err = m.dial(t, "root", "").
		Detach(t.Context(), sshx.Cmd{Name: "killed", Script: "setsid sleep 4321 & sleep 4322"})
	require.NoError(t, err)
	require.NoError(t, job.Kill(t.Context()))
	_, err = job.Wait(t.Context())
	assert.Error(t, err)
	assert.Equal(
		t,
		"none",
		run(t, m.dial(t, "root", ""), sshx.Cmd{Script: `pgrep -ax sleep | grep ' 432[12]$' || echo none
systemctl list-units 'sshx-*' --no-legend --plain --all`}),
	)
}

func (m *machine) testReboot(t *testing.T) {
	c := m.dial(t, "steve", "")
	was, err := c.BootID(t.Context())
	require.NoError(t, err)
	c, err = c.Reboot(t.Context(), sshx.Ready{SystemState: true})
	require.NoError(t, err)
	defer c.Close()
	is, err := c.BootID(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, was, is)
	assert.Equal(t, "steve", run(t, c, sshx.Cmd{Args: []string{"id", "-un"}}))
}
