package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A machine is a guest that a test plays with.
type machine struct {
	*testing.T
	*Guest
	hw vspheretest.Hardware
}

// boot starts a machine with the lab's three NICs, whose MACs end in n.
func boot(t *testing.T, l *Lab, n int, disk vspheretest.Disk) *machine {
	t.Helper()
	hw := vspheretest.Hardware{Name: fmt.Sprintf("m%d", n), DiskGiB: 20}
	for i, network := range []string{l.opts.LabNetwork, l.opts.PrivateNetwork, l.opts.ExternalNetwork} {
		hw.NICs = append(hw.NICs, vspheretest.HardwareNIC{MAC: fmt.Sprintf("00:50:56:00:%02x:%02x", n, i), Network: network, Connected: true})
	}
	if disk == nil {
		disk = l.Install(hw)
	}
	m := &machine{t, l.Boot(&vspheretest.Machine{Disk: disk, Hardware: hw}).(*Guest), hw}
	m.AwaitStartup()
	t.Cleanup(m.Kill)
	return m
}

// run runs a script that must succeed and returns its output.
func (m *machine) run(script string) string {
	m.Helper()
	out, code := m.host.Run(m.Context(), script)
	require.Zero(m, code, "%s\n%s", script, out)
	return strings.TrimSpace(out)
}

// fails runs a script that must end with the exit code, and returns its output.
func (m *machine) fails(code int, script string) string {
	m.Helper()
	out, got := m.host.Run(m.Context(), script)
	require.Equal(m, code, got, "%s\n%s", script, out)
	return out
}

func (m *machine) reboots() {
	m.Helper()
	before := m.host.BootID()
	m.reboot()
	m.AwaitStartup()
	require.NotEqual(m, before, m.host.BootID())
}

func TestWhatIsNotSimulatedFailsLoudly(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{}), 1, nil)
	m.run("dnf -y install dnsmasq bind-utils podman git tmux rsync")
	for name := range m.commands() {
		if !m.installed(name) {
			continue
		}
		assert.Contains(t, m.fails(64, name+" --no-such-option with words"), "not simulated", name)
	}
	for _, script := range []string{
		"nmcli connection modify 'Wired connection 1' ipv4.route-metric 5",
		"nmcli device show ens192",
		"ss -tlnp",
		"dnf -y install no-such-package",
		"sysctl -w vm.swappiness=1",
		"firewall-cmd --add-service=no-such-service",
		"ip -4 neigh",
		"ip link set dev ens192 mtu 9000",
		"systemctl mask sshd",
		"systemctl show sshd",
		"firewall-cmd --add-rich-rule=x",
		"dig example.org",
		"curl -X POST http://example.org/",
		"dnf install tmux",
		"chronyc tracking",
		"echo nonsense >>/etc/chrony.conf; systemctl restart chronyd",
		"ssh root@localhost",
	} {
		assert.Contains(t, m.fails(64, script), "not simulated", script)
	}
}

func TestARebootForgetsWhatIsNotOnTheDisk(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{}), 1, nil)
	m.run(`firewall-cmd --add-port=1000/tcp && firewall-cmd --permanent --add-port=2000/tcp
sysctl -w net.ipv4.ip_forward=1
systemctl stop chronyd; systemctl disable firewalld
nmcli connection add type ethernet con-name ens224 ifname ens224 ipv4.method manual ipv4.addresses 10.9.0.1/24
ip link set dev ens192 down`)
	assert.Equal(t, "1", m.run("sysctl -n net.ipv4.ip_forward"))
	m.reboots()
	assert.Equal(t, "inactive", strings.TrimSpace(m.fails(3, "systemctl is-active firewalld")))
	m.run("systemctl start firewalld")
	assert.Equal(t, "2000/tcp", m.run("firewall-cmd --list-ports"))
	assert.Equal(t, "0", m.run("sysctl -n net.ipv4.ip_forward"))
	assert.Equal(t, "active", m.run("systemctl is-active chronyd"))
	assert.Contains(t, m.run("ip -br addr"), "10.9.0.1/24")
	assert.Contains(t, m.run("ip -br link show ens192"), "UP", "NetworkManager sets what it manages up")
}

func TestCloningCarriesTheDiskAndNothingElse(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	m := boot(t, l, 1, nil)
	m.run("dnf -y install git; hostnamectl set-hostname original; : >/etc/machine-id; ip link set dev ens192 down")
	a := boot(t, l, 2, m.machine.Disk.Clone())
	b := boot(t, l, 3, m.machine.Disk.Clone())
	m.run("hostnamectl set-hostname changed; dnf -y remove git")
	for _, c := range []*machine{a, b} {
		assert.Equal(t, "original", c.run("hostnamectl --static"))
		c.run("git --version")
		assert.Len(t, c.run("cat /etc/machine-id"), 32)
	}
	m.fails(127, "git --version")
	assert.NotEqual(t, a.run("cat /etc/machine-id"), b.run("cat /etc/machine-id"))
	assert.NotEqual(t, a.run("ip -4 -o addr show dev ens192"), b.run("ip -4 -o addr show dev ens192"))
}

func TestNetworkManagerDecidesAddressesRoutesAndNames(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{Reserved: map[string]netip.Addr{"00:50:56:00:01:00": netip.MustParseAddr("10.0.2.10")}}), 1, nil)
	assert.Contains(t, m.run("ip -4 -o addr show dev ens192"), "10.0.2.10/20")
	assert.Contains(t, m.run("ip -o link show dev ens192"), "mtu 9000", "as the lab's DHCP server says")
	assert.Equal(t, []string{"ens192", "ens256"}, fields(m.run(`ip route show default | sed -E 's/.* dev ([^ ]+).*/\1/'`)))
	assert.Contains(t, m.run("cat /etc/resolv.conf"), "nameserver 10.0.1.8")

	m.run("nmcli connection modify 'Wired connection 1' ipv4.never-default yes 802-3-ethernet.mtu 1500")
	assert.Contains(t, m.run("ip -o link show dev ens192"), "mtu 9000", "a profile counts once it is activated")
	m.run("nmcli connection up 'Wired connection 1'")
	assert.Contains(t, m.run("ip -o link show dev ens192"), "mtu 1500")
	assert.Equal(t, []string{"ens256"}, fields(m.run(`ip route show default | sed -E 's/.* dev ([^ ]+).*/\1/'`)))

	m.run("nmcli connection add type vlan con-name v ifname ens224.10 dev ens224 id 10 ipv4.method manual ipv4.addresses 10.10.20.1/24")
	assert.Contains(t, m.run("ip -br addr show ens224.10"), "10.10.20.1/24")
	m.reboots()
	assert.Contains(t, m.run("ip -br addr show ens224.10"), "10.10.20.1/24")
	m.run("nmcli connection delete v")
	m.fails(1, "ip addr show ens224.10")
	m.reboots()
	m.fails(1, "ip addr show ens224.10")
}

func TestProfilesThatNetworkManagerRefuses(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{}), 1, nil)
	for _, words := range []string{
		"ipv4.method manual",
		"ipv4.method sometimes",
		"ipv4.gateway 10.0.0.1",
		"ipv4.addresses 10.0.0.300/24",
		"ipv4.method manual ipv4.addresses 10.9.0.2/24 ipv4.gateway 10.9.0.1 ipv4.never-default yes",
		"802-3-ethernet.mtu lots",
		"connection.autoconnect maybe",
		"ipv4.dns",
	} {
		m.fails(2, "nmcli connection modify 'Wired connection 2' "+words)
	}
	m.fails(10, "nmcli connection up nosuch")
	m.run("nmcli connection add type ethernet con-name x ifname ens224 ipv4.method disabled ipv6.method disabled")
	m.run("chmod 644 /etc/NetworkManager/system-connections/x.nmconnection")
	m.fails(10, "nmcli connection up x") // a file that others can read is ignored
}

func TestKeyfilesRoundTrip(t *testing.T) {
	t.Parallel()
	p := profile{props: map[string]string{
		"connection.id": "x", "connection.uuid": "u", "connection.type": "vlan", "connection.interface-name": "e.10", "connection.autoconnect": "no",
		"vlan.id": "10", "vlan.parent": "e", "ipv4.method": "manual", "ipv4.addresses": "10.0.0.1/24,10.0.0.2/24", "ipv4.gateway": "10.0.0.9",
		"ipv4.dns": "10.0.0.8,10.0.0.7", "ipv4.ignore-auto-dns": "yes", "ipv6.method": "disabled", "802-3-ethernet.mtu": "1500",
	}}
	require.NoError(t, p.verify())
	q, err := parseKeyfile(p.keyfile())
	require.NoError(t, err)
	assert.Equal(t, p.props, q.props)
	_, err = parseKeyfile([]byte("[wifi]\nssid=x\n"))
	assert.ErrorAs(t, err, new(errNotSimulated))
}

func TestAnUnmanagedLinkStaysDown(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{}), 1, nil)
	m.run("printf '[keyfile]\\nunmanaged-devices=interface-name:ens256\\n' >/etc/NetworkManager/conf.d/u.conf")
	m.reboots()
	assert.Contains(t, m.run("ip -br link show ens256"), "DOWN")
	assert.NotContains(t, m.run("ip route"), "ens256")
	m.fails(4, "nmcli connection up 'Wired connection 3'")
	m.run("ip link set dev ens256 up")
	assert.Contains(t, m.run("ip -6 route show default"), "dev ens256", "the kernel listens to routers")
}

func TestTheHypervisorsCableCounts(t *testing.T) {
	t.Parallel()
	l := New(Options{Reserved: map[string]netip.Addr{"00:50:56:00:01:00": netip.MustParseAddr("10.0.2.10")}})
	m := boot(t, l, 1, nil)
	to := netip.MustParseAddrPort("10.0.2.10:22")
	serves := func() bool {
		here, there := net.Pipe()
		defer here.Close()
		go m.ServeConn(there, to)
		b := make([]byte, 4)
		n, _ := here.Read(b)
		return string(b[:n]) == "SSH-"
	}
	require.True(t, serves())
	hw := m.hw
	hw.NICs = slices.Clone(hw.NICs)
	hw.NICs[0].Connected = false
	m.HardwareChanged(hw)
	assert.False(t, serves(), "the cable is out")
	assert.Contains(t, m.run("ip -br link show ens192"), "NO-CARRIER")
	m.fails(4, "nmcli connection up 'Wired connection 1'")
	hw.NICs = slices.Clone(hw.NICs)
	hw.NICs[0].Connected = true
	m.HardwareChanged(hw)
	assert.True(t, serves())
	m.run("systemctl stop sshd")
	assert.False(t, serves())
	m.run("systemctl start sshd; firewall-cmd --remove-service=ssh")
	assert.False(t, serves(), "the firewall is closed")
}

func TestServicesFailAsTheirsDo(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{}), 1, nil)
	m.fails(5, "systemctl start dnsmasq")
	m.fails(127, "dnsmasq --test")
	m.run("dnf -y install dnsmasq bind-utils && systemctl enable --now dnsmasq")
	m.run("echo nonsense >/etc/dnsmasq.d/x.conf")
	assert.Contains(t, m.fails(1, "systemctl restart dnsmasq"), "bad option at line 1 of /etc/dnsmasq.d/x.conf")
	assert.Equal(t, "failed", strings.TrimSpace(m.fails(3, "systemctl is-active dnsmasq")))
	assert.Equal(t, "degraded", strings.TrimSpace(m.fails(1, "systemctl is-system-running")))
	m.run("printf 'server=10.0.0.1 # upstream\\n' >/etc/dnsmasq.d/x.conf && dnsmasq --test")
	for _, line := range []string{"server=10.0.0.1#5353", "server=/lan/10.0.0.1", "dhcp-range=10.0.0.2,10.0.0.9", "address=/a/b/10.0.0.1"} {
		m.run("echo '" + line + "' >/etc/dnsmasq.d/x.conf")
		m.fails(64, "dnsmasq --test")
		m.fails(64, "systemctl restart dnsmasq")
	}
	m.run("mv /etc/dnsmasq.d/x.conf /etc/dnsmasq.d/x.conf.rpmsave && systemctl restart dnsmasq")
	m.run("echo nonsense >/etc/chrony.conf")
	m.fails(64, "systemctl restart chronyd")
	m.run("systemctl disable --now NetworkManager")
	m.fails(8, "nmcli -g NAME connection show")
	m.fails(1, "echo 'steve may do it' >/tmp/s && visudo -cqf /tmp/s")
}

func TestPackagesNeedTheMirror(t *testing.T) {
	t.Parallel()
	m := boot(t, New(Options{}), 1, nil)
	m.fails(100, "dnf -q check-update")
	m.run("dnf -y update")
	m.run("dnf -q check-update")
	m.fails(1, "needs-restarting -r")
	m.reboots()
	m.run("needs-restarting -r")
	m.run("nmcli connection down 'Wired connection 3'; nmcli connection modify 'Wired connection 1' ipv4.never-default yes; nmcli connection up 'Wired connection 1'")
	assert.Contains(t, m.fails(1, "dnf -y install tmux"), "Couldn't connect")
	m.run(": >/etc/resolv.conf")
	assert.Contains(t, m.fails(1, "dnf -y install tmux"), "Could not resolve host")
	m.run("dnf -y remove make")
	m.fails(127, "make --version")
}

func fields(s string) []string {
	f := strings.Fields(s)
	slices.Sort(f)
	return slices.Compact(f)
}
