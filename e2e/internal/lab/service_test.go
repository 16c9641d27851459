package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// shopd is a product's server: it serves HTTP on the port that SHOP_PORT or --port says, and counts
// how often it was asked in /run/shopd, which it goes on with if it is resumed. With --fail it ends.
func shopd(ctx context.Context, p *sshtest.Proc) int {
	port := p.Env["SHOP_PORT"]
	for i, a := range p.Args {
		switch {
		case a == "--port" && i+1 < len(p.Args):
			port = p.Args[i+1]
		case a == "--fail":
			return p.Fail(3, "told to fail")
		}
	}
	l, err := p.Listen(ctx, "tcp", ":"+port)
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	n := 0
	if p.Resumed {
		b, _ := p.ReadFile("/run/shopd")
		_, _ = fmt.Sscan(string(b), &n)
	}
	fmt.Fprintf(p.Stdout, "serving on %s as %s\n", port, p.User)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n++
		_ = p.WriteFile("/run/shopd", []byte(fmt.Sprint(n)), 0o644)
		fmt.Fprintf(w, "request %d\n", n)
	})}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	_ = srv.Serve(l)
	return 0
}

// shopctl asks a shopd: shopctl HOST:PORT.
func shopctl(ctx context.Context, p *sshtest.Proc) int {
	c := &http.Client{Transport: &http.Transport{DialContext: p.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Args[1]+"/", nil)
	if err != nil {
		return p.Fail(2, "%v", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(p.Stdout, resp.Body)
	return 0
}

const shopUnit = "[Unit]\nDescription=Shop\nAfter=network-online.target\nWants=network-online.target\n\n" +
	"[Service]\nExecStart=/usr/bin/shopd --port 8080\n\n[Install]\nWantedBy=multi-user.target\n"

// shopOptions are a lab with the product, and as a package, too.
func shopOptions() Options {
	return Options{
		Debian:   []string{"m2"},
		Commands: map[string]sshtest.Command{"shopd": shopd, "shopctl": shopctl},
		Packages: map[string]Package{"shop": {Version: "2.0-1", Commands: []string{"shopd"}, Files: map[string]string{
			unitDir + "shop.service": shopUnit, "/etc/shop.conf": "answer=42\n", "/usr/bin/shop-setup": "#!/bin/sh\necho set up\n",
		}}},
	}
}

// own is a lab whose machines have the product without a package.
func own(t *testing.T) *machine {
	t.Helper()
	o := shopOptions()
	o.Packages = nil
	return boot(t, New(o), 1, nil)
}

// unit writes a unit file.
func (m *machine) unit(name, service string) {
	m.Helper()
	text := "[Service]\n" + service + "\n[Install]\nWantedBy=multi-user.target\n"
	require.NoError(m, m.disk.WriteFile(etcUnits+name+".service", []byte(text), 0o644))
}

// until waits for a script to succeed.
func (m *machine) until(script string) {
	m.Helper()
	require.Eventually(m, func() bool { _, code := m.host.Run(m.Context(), script); return code == 0 }, 20*time.Second, 5*time.Millisecond, script)
}

func TestUnitsOfTheUsersOwnRunTheirPrograms(t *testing.T) {
	t.Parallel()
	m := own(t)
	m.run(`cat >/etc/systemd/system/shop.service <<'EOF'
` + shopUnit + `EOF
systemctl daemon-reload`)
	assert.Contains(t, m.run("systemctl enable --now shop 2>&1"), "/etc/systemd/system/multi-user.target.wants/shop.service → /etc/systemd/system/shop.service")
	assert.Equal(t, "active", m.run("systemctl is-active shop"))
	assert.Equal(t, "enabled", m.run("systemctl is-enabled shop.service"))
	m.until("curl -sf http://localhost:8080/")
	assert.Contains(t, m.run("ss -Hltn 'sport = :8080'"), ":8080")
	m.until("journalctl -u shop -o cat | grep -q serving") // what it prints is there a moment later
	status := m.run("systemctl status shop")
	for _, want := range []string{"● shop.service - Shop", "loaded (/etc/systemd/system/shop.service; enabled; preset: disabled)", "active (running) since", "Main PID: ", "(shopd)", "serving on 8080 as root"} {
		assert.Contains(t, status, want)
	}
	assert.Equal(t, "serving on 8080 as root", m.run("journalctl -u shop -o cat --no-pager"))
	assert.Equal(t, strings.TrimSpace(shopUnit), strings.TrimPrefix(m.run("systemctl cat shop"), "# /etc/systemd/system/shop.service\n"))

	m.reboots()
	m.until("curl -sf http://localhost:8080/")
	m.run("systemctl stop shop")
	m.fails(7, "curl -s http://localhost:8080/")
	m.fails(3, "systemctl status shop")
	m.fails(4, "systemctl status no-such-unit")
	m.run("systemctl restart shop; systemctl disable --now shop")
	m.fails(3, "systemctl is-active shop")
	m.reboots()
	m.fails(7, "curl -s http://localhost:8080/")
	m.run("systemctl is-system-running")
}

func TestUnitsAreReadAsSystemdReadsThem(t *testing.T) {
	t.Parallel()
	m := own(t)
	m.run("useradd shop; echo 'SHOP_PORT=\"9000\"' >/etc/default-shop")
	m.unit("a", "User=shop\nEnvironmentFile=/etc/default-shop\nEnvironmentFile=-/etc/none\nStateDirectory=shop\nExecStart=/usr/bin/shopd")
	m.run("systemctl start a; stat -c %U /var/lib/shop | grep -qx shop")
	m.until("curl -sf http://localhost:9000/")
	m.until("journalctl -u a -o cat | grep -q serving")
	assert.Equal(t, "serving on 9000 as shop", m.run("journalctl -u a -o cat"))

	m.unit("b", "Environment='X=8100' \"Y=a b\"\nExecStart=/usr/bin/shopd --port ${X}")
	require.NoError(t, m.disk.MkdirAll(etcUnits+"b.service.d", 0o755))
	require.NoError(t, m.disk.WriteFile(etcUnits+"b.service.d/port.conf", []byte("[Service]\nEnvironment=X=8101\n"), 0o644))
	m.run("systemctl start b")
	m.until("curl -sf http://localhost:8101/")

	m.unit("c", "Type=oneshot\nRemainAfterExit=yes\nExecStartPre=/usr/bin/touch /tmp/pre\nExecStart=/usr/bin/touch /tmp/one\nExecStart=/usr/bin/touch /tmp/two")
	m.run("systemctl start c; test -e /tmp/pre -a -e /tmp/one -a -e /tmp/two")
	assert.Contains(t, m.run("systemctl status c"), "active (exited)")
	m.unit("d", "Type=oneshot\nExecStart=/usr/bin/false")
	assert.Contains(t, m.fails(1, "systemctl start d"), "control process exited")
	assert.Contains(t, m.fails(3, "systemctl status d"), "failed (Result: exit-code)")
	m.fails(1, "systemctl is-system-running")
	m.run("systemctl reset-failed; systemctl is-system-running")

	m.unit("e", "ExecStart=/usr/bin/no-such-program")
	m.run("systemctl start e") // a simple one has started before its program is looked for
	assert.Equal(t, "failed", strings.TrimSpace(m.fails(3, "systemctl is-active e")))
	m.unit("f", "Type=exec\nExecStart=/usr/bin/no-such-program")
	m.fails(1, "systemctl start f")
}

func TestServicesAreRestartedAsTheySay(t *testing.T) {
	t.Parallel()
	m := own(t)
	m.unit("always", "Restart=always\nRestartSec=0\nExecStart=/usr/bin/shopd --port 8080")
	m.run("systemctl start always")
	m.until("curl -sf http://localhost:8080/")
	before := m.run("pgrep shopd")
	m.run("kill -KILL $(pgrep shopd)")
	m.until("now=$(pgrep shopd) && [ \"$now\" != " + before + " ] && curl -sf http://localhost:8080/")
	m.run("systemctl stop always")
	m.fails(1, "pgrep shopd")

	m.unit("never", "ExecStart=/usr/bin/shopd --port 8080")
	m.run("systemctl start never")
	m.until("pgrep shopd")
	m.run("kill -KILL $(pgrep shopd)")
	m.until("systemctl is-failed never")
	assert.Contains(t, m.fails(3, "systemctl status never"), "failed (Result: signal)")

	m.unit("loop", "Restart=on-failure\nRestartSec=0\nExecStart=/usr/bin/shopd --fail")
	m.run("systemctl start loop")
	m.until("systemctl status loop | grep -q start-limit-hit")
}

func TestUnitsThatAreNotSimulatedAreRefused(t *testing.T) {
	t.Parallel()
	m := own(t)
	for _, line := range []string{
		"Type=forking", "Type=notify", "PrivateTmp=yes", "ProtectSystem=strict", "DynamicUser=yes", "ExecStop=/bin/true", "ExecStart=@/usr/bin/shopd x",
		"Group=wheel", "EnvironmentFile", "RestartSec=soon", "User=%i",
	} {
		if line == "User=%i" {
			line = "ExecStart=/usr/bin/shopd %i"
		}
		m.unit("x", "ExecStart=/usr/bin/shopd --port 1000\n"+line)
		for _, verb := range []string{"start", "enable", "restart"} {
			assert.Contains(t, m.fails(64, "systemctl "+verb+" x"), "not simulated", line)
		}
	}
	m.unit("x", "ExecStart=/usr/bin/shopd --port 8080")
	m.run("systemctl start x")
	m.unit("x", "ExecStart=/usr/bin/shopd --port 8081")
	assert.Contains(t, m.fails(64, "systemctl restart x"), "changed since it was started")
	m.fails(64, "journalctl -u sshd")
}

func TestPackagesOfTheUsersOwn(t *testing.T) {
	t.Parallel()
	l := New(shopOptions())
	red, deb := boot(t, l, 1, nil), boot(t, l, 2, nil)
	deb.mu.Lock()
	deb.aptDaily = false // it has run
	deb.mu.Unlock()
	for _, m := range []*machine{red, deb} {
		m.fails(127, "shopd")
		m.fails(127, "shop-setup")
	}
	red.run("dnf -y install shop")
	deb.run("apt-get -qq update; apt-get -y install shop")
	assert.Equal(t, "shop-2.0-1.el9.x86_64", red.run("rpm -q shop"))
	assert.Equal(t, "2.0-1", deb.run("dpkg-query -W -f '${Version}' shop"))
	red.fails(3, "systemctl is-active shop")
	deb.run("systemctl is-active shop")
	deb.until("curl -sf http://localhost:8080/ || { apt-get -y install curl; false; }")
	red.run("systemctl enable --now shop; shop-setup; grep 42 /etc/shop.conf")
	red.until("curl -sf http://localhost:8080/")

	red.run("dnf -y remove shop")
	deb.run("apt-get -y remove shop")
	for _, m := range []*machine{red, deb} {
		m.fails(127, "shopd")
		m.fails(127, "shop-setup")
		m.fails(1, "pgrep shopd")
		m.fails(5, "systemctl start shop")
	}
	deb.run("test -e /etc/shop.conf")
	red.fails(1, "test -e /etc/shop.conf")
}

// The network between machines is the modelled one, with its firewalls.
func TestProgramsReachEachOtherAsTheNetworkLetsThem(t *testing.T) {
	t.Parallel()
	o := shopOptions()
	o.Packages, o.Debian = nil, nil
	l := New(o)
	a, b := boot(t, l, 1, nil), boot(t, l, 2, nil)
	a.unit("shop", "ExecStart=/usr/bin/shopd --port 8080")
	a.run("systemctl start shop")
	a.until("pgrep shopd")
	addr := a.addr(0)
	assert.Contains(t, b.fails(1, "shopctl "+addr+":8080"), "no route to host", "the firewall rejects")
	a.run("firewall-cmd --add-port=8080/tcp")
	assert.Equal(t, "request 1", b.run("shopctl "+addr+":8080"))
	a.run("systemctl stop shop")
	assert.Contains(t, b.fails(1, "shopctl "+addr+":8080"), "connection refused")
	_, code := a.host.Run(t.Context(), "shopd --port 22")
	assert.Equal(t, 1, code, "sshd listens there")
}

// addr is the address that the DHCP server gave to a NIC.
func (m *machine) addr(nic int) string {
	m.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NotEmpty(m, m.links[nic].addrs)
	return m.links[nic].addrs[0].Addr().String()
}

func TestServicesGoOnWhenResumed(t *testing.T) {
	t.Parallel()
	o := shopOptions()
	o.Packages = nil
	l := New(o)
	m := boot(t, l, 1, nil)
	m.unit("shop", "ExecStart=/usr/bin/shopd --port 8080")
	m.run("systemctl start shop")
	m.until("curl -sf http://localhost:8080/")
	count := m.run("cat /run/shopd")
	disk, memory, err := m.SaveMemory()
	require.NoError(t, err)
	m.run("curl -sf http://localhost:8080/")
	m.Kill()

	g, err := l.Resume(&vspheretest.Machine{Disk: disk, Hardware: m.hw}, memory)
	require.NoError(t, err)
	again := &machine{t, g.(*Guest), m.hw}
	defer again.Kill()
	assert.Equal(t, "active", again.run("systemctl is-active shop"))
	again.until("test $(curl -sf http://localhost:8080/ | cut -d' ' -f2) -gt " + count)
}

func TestFaultsOfTheUsersOwnAreTold(t *testing.T) {
	t.Parallel()
	o := Options{
		Commands: map[string]sshtest.Command{"a b": shopd, "nothing": nil, "ok": shopd},
		Packages: map[string]Package{
			"curl": {}, "x": {Commands: []string{"unknown"}}, "y": {Files: map[string]string{"relative": ""}}, "z": {Version: "1 2"}, "fine": {Commands: []string{"ok"}},
		},
	}
	err := o.Validate()
	for _, want := range []string{`Commands["a b"]`, `Commands["nothing"]`, `Packages["curl"]`, `Packages["x"].Commands has "unknown"`, `Packages["y"].Files has "relative"`, `Packages["z"].Version`} {
		require.ErrorContains(t, err, want)
	}
	assert.NotContains(t, err.Error(), `"fine"`)
	require.NoError(t, shopOptions().Validate())
}
