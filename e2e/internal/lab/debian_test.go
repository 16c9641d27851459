package lab

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// debianMachine starts one as its template is.
func debianMachine(t *testing.T) *machine {
	t.Helper()
	m := boot(t, New(Options{
		Debian: []string{"m1"}, Reserved: map[string]netip.Addr{"00:50:56:00:01:00": netip.MustParseAddr("10.0.2.10")},
	}), 1, nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.aptDaily = false // it has run
	return m
}

func TestAptDailyLocksTheLists(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	m.reboots()
	assert.Contains(t, m.fails(100, "apt-get -o DPkg::Lock::Timeout=600 update"), "E: Could not get lock")
	require.Eventually(t, func() bool {
		_, code := m.host.Run(t.Context(), "apt-get update")
		return code == 0
	}, 10*time.Second, 10*time.Millisecond)
	m.run(`echo 'APT::Periodic::Enable "0";' >/etc/apt/apt.conf.d/90`)
	m.reboots()
	m.run("apt-get update")
}

func TestDebianIsNotSimulatedWhereItIsNot(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	m.run("apt-get update && apt-get -y install dnsmasq bind9-dnsutils podman git tmux rsync make curl firewalld chrony network-manager cloud-guest-utils && systemctl start systemd-networkd")
	for name := range m.commands() {
		if m.installed(name) {
			assert.Contains(t, m.fails(64, name+" --no-such-option with words"), "not simulated", name)
		}
	}
	for _, script := range []string{
		"apt-get full-upgrade", "apt-get -y install", "apt-get -o No::Such=1 update", "dpkg-query -l", "dpkg-query -W -f '${Nothing}' tmux",
		"networkctl list", "networkctl up ens192", "dhclient ens192", "resize2fs /dev/sda9", "dnsmasq --test -k",
	} {
		assert.Contains(t, m.fails(64, script), "not simulated", script)
	}
	for _, script := range []string{"dnf -y install git", "rpm -q git", "needs-restarting -r", "xfs_growfs /"} {
		m.fails(127, script)
	}
	fails := boot(t, New(Options{}), 2, nil)
	for _, script := range []string{"apt-get update", "dpkg-query -W -f x", "networkctl reload", "resize2fs /dev/sda2"} {
		fails.fails(127, script)
	}
}

func TestAptDoesAsItDoes(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	assert.Contains(t, m.fails(100, "apt-get -y install tmux"), "Unable to locate package tmux", "there are no lists yet")
	m.run("apt-get -qq update")
	assert.Contains(t, m.fails(1, "apt-get install tmux"), "Abort", "nobody says yes")
	assert.Contains(t, m.fails(64, "apt-get -y install no-such-package"), "e2etest.Site.Packages")
	m.fails(100, "sudo -n -u nobody apt-get -y install tmux")
	assert.Contains(t, m.fails(100, "apt-get -y remove hostname"), "Essential packages")

	m.run("apt-get -y install chrony git")
	assert.Equal(t, "active", m.run("systemctl is-active chrony"), "Debian's services start when they are installed")
	assert.Equal(t, "inactive", strings.TrimSpace(m.fails(3, "systemctl is-active systemd-timesyncd")), "chrony takes its place")
	m.run("apt-get -y remove git")
	assert.Equal(t, "rc", m.run("dpkg-query -W -f '${db:Status-Abbrev}' git"), "its configuration is left")
	m.fails(127, "git --version")
	m.fails(1, "dpkg-query -W -f x tmux")

	m.run("apt-get -y -o Dpkg::Options::=--force-confold upgrade")
	assert.NotContains(t, m.run(`dpkg-query -W -f '${Package}\n'`), "linux-image-6.1.0-26", "a new kernel is kept back")
	m.run("apt-get -y dist-upgrade")
	assert.Contains(t, m.run(`dpkg-query -W -f '${Package}\n'`), "linux-image-6.1.0-26")
}

func TestAptAsksAboutChangedFiles(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	m.run("apt-get update")
	assert.Contains(t, m.fails(100, "apt-get -y upgrade"), "end of file on stdin at conffile prompt")
	m.run(`echo 'Dpkg::Options:: "--force-confold";' >/etc/apt/apt.conf.d/90 && apt-get -y upgrade`)
	m.run(`echo 'Nobody::Knows "this";' >/etc/apt/apt.conf.d/91`)
	assert.Contains(t, m.fails(64, "apt-get update"), "Nobody::Knows")
}

func TestAptUpdateSucceedsWithoutItsMirror(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	for range 2 {
		m.lab.Refuse(1)
		assert.Contains(t, m.run("apt-get update 2>&1"), "W: Failed to fetch", "unless it is told otherwise")
		m.lab.Refuse(1)
		assert.Contains(t, m.fails(100, "apt-get -o APT::Update::Error-Mode=any update"), "429 Too Many Requests")
	}
	m.run(": >/etc/resolv.conf")
	assert.Contains(t, m.run("apt-get update 2>&1"), "Temporary failure resolving")
	m.fails(100, "apt-get -y install tmux")
}

func TestDebiansUnitsHaveAliases(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	assert.Equal(t, "enabled", m.run("systemctl is-enabled ssh"))
	assert.Equal(t, "alias", m.run("systemctl is-enabled sshd"))
	m.run("systemctl restart sshd && systemctl is-active --quiet sshd")
	assert.Contains(t, m.fails(1, "systemctl enable sshd"), "Refusing to operate on alias name")
	m.run("systemctl disable ssh")
	m.fails(5, "systemctl restart sshd")
	m.run("systemctl restart ssh")
	m.fails(5, "systemctl restart chronyd")
}

func TestIfupdownHasTheNICOfTheInstaller(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	assert.Contains(t, m.run("ip -4 -o addr show dev ens192"), " 10.0.8.0/20", "to the server it is not its MAC")
	assert.Contains(t, m.run("ip -o link show dev ens192"), "mtu 9000", "as the lab's DHCP server says")
	assert.Contains(t, m.run("ip -br link show ens256"), "DOWN", "nobody has it")
	assert.Equal(t, "nameserver 10.0.1.8", m.run("cat /etc/resolv.conf"))
	m.run("apt-get update && apt-get -y install network-manager")
	assert.Contains(t, m.fails(4, "nmcli connection up 'Wired connection 1'"), "strictly unmanaged")
	m.run("nmcli connection up 'Wired connection 2' || nmcli connection up 'Wired connection 3'")
	m.run("test -e /run/dhclient.ens192.pid && dhclient -x -pf /run/dhclient.ens192.pid ens192 && test ! -e /run/dhclient.ens192.pid")
	m.run("echo 'iface ens224 inet6 auto' >>/etc/network/interfaces && echo auto ens224 >>/etc/network/interfaces")
	m.fails(64, "systemctl restart networking")
	assert.Equal(t, "failed", strings.TrimSpace(m.fails(3, "systemctl is-active networking")), "what is not simulated")
}

func TestNetworkdDecidesAddressesAndRoutes(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	file := func(name string, lines ...string) {
		m.run("printf '%s\\n' '" + strings.Join(lines, "' '") + "' >/etc/systemd/network/" + name)
	}
	m.fails(1, "networkctl reload") // it is not running
	file("10-ens192.network", "[Match]", "Name=ens192", "[Network]", "DHCP=ipv4")
	file("20-ens256.network", "[Match]", "Name=ens256", "[Network]", "DHCP=ipv4", "IPv6AcceptRA=no", "[DHCPv4]", "UseRoutes=no", "UseDNS=no")
	m.run("printf 'auto lo\\niface lo inet loopback\\n' >/etc/network/interfaces && systemctl enable --now systemd-networkd")
	assert.Contains(t, m.run("ip -o link show dev ens192"), "mtu 1500", "what the DHCP server says does not count")
	assert.Equal(t, []string{"ens192"}, fields(m.run(`ip route show default | sed -E 's/.* dev ([^ ]+).*/\1/'`)))
	assert.Contains(t, m.run("networkctl status ens192"), "DNS: 10.0.1.8")
	assert.NotContains(t, m.run("networkctl status ens256"), "DNS:")

	file("20-ens256.network", "[Match]", "Name=ens256", "[Link]", "Unmanaged=yes")
	assert.Contains(t, m.run("networkctl status ens256"), "(configured)", "it has not been told")
	m.run("networkctl reload")
	assert.Contains(t, m.run("networkctl status ens256"), "(unmanaged)")
	m.fails(1, "networkctl reconfigure ens256")
	assert.Contains(t, m.run("ip -br addr show ens256"), "192.168.50.", "what it has stays")
	m.run("ip link set dev ens256 down && ip addr flush dev ens256")
	assert.NotContains(t, m.run("ip -br addr show ens256"), "192.168.50.")
	m.reboots()
	assert.Contains(t, m.run("ip -br link show ens256"), "DOWN")
	m.run("ip link set dev ens256 up")
	assert.Contains(t, m.run("ip -6 route show default"), "dev ens256", "the kernel listens to routers")

	m.run("mkdir /etc/systemd/network/10-ens192.network.d")
	file("10-ens192.network.d/x.conf", "[DHCPv4]", "UseRoutes=no")
	m.run("networkctl reload && networkctl reconfigure ens192")
	assert.Empty(t, m.run("ip route show default"))
	file("10-ens192.network.d/x.conf", "[Network]", "NobodyKnows=this")
	assert.Contains(t, m.fails(64, "networkctl reload"), "NobodyKnows")
	m.fails(64, "systemctl restart systemd-networkd")
	assert.Equal(t, "failed", strings.TrimSpace(m.fails(3, "systemctl is-active systemd-networkd")))
}

func TestNetworkdKeepsTheVLANThatItHasMade(t *testing.T) {
	t.Parallel()
	m := debianMachine(t)
	m.run(`cd /etc/systemd/network && printf '[Match]\nName=ens224\n[Network]\nVLAN=ens224.10\n' >1.network &&
printf '[NetDev]\nName=ens224.10\nKind=vlan\n[VLAN]\nId=10\n' >1.netdev && printf '[Match]\nName=ens224.10\n[Network]\nAddress=10.9.0.1/24\nGateway=10.9.0.9\n' >2.network
systemctl enable --now systemd-networkd`)
	vlan := func() int {
		for _, i := range m.node.Config().Interfaces {
			if i.Name == "ens224.10" {
				require.Equal(t, "10.9.0.1/24", i.Addrs[0].String())
				return i.VLAN
			}
		}
		return 0
	}
	assert.Equal(t, 10, vlan())
	assert.Contains(t, m.run("ip route show default"), "via 10.9.0.9 dev ens224.10")
	m.run("sed -i s/Id=10/Id=11/ /etc/systemd/network/1.netdev && networkctl reload && networkctl reconfigure ens224.10")
	assert.Equal(t, 10, vlan(), "networkd changes no netdev that is there")
	m.reboots()
	assert.Equal(t, 11, vlan())
}
