package e2e

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
)

const (
	labFile  = "/etc/systemd/network/05-poolready-ens192.network"
	extFile  = "/etc/systemd/network/05-poolready-ens256.network"
	vlanFile = "/etc/systemd/network/05-poolready-ens224.10"
)

func reconfigure(dev string) string { return " && networkctl reload && networkctl reconfigure " + dev }

// debianFaults are those where Debian is another than RHEL: packages, units, and networkd.
var debianFaults = []fault{
	{name: "nothing", on: Dis, script: "true"},
	{name: "another release", on: Con, script: `sed -i 's/^VERSION_ID=.*/VERSION_ID="11"/' /etc/os-release`, want: []string{"con os"}},
	{name: "chrony does not start at boot", on: Con, script: "systemctl disable chrony", want: []string{"con chronyd"}},
	{name: "chrony is stopped", on: Dis, script: "systemctl stop chrony", want: []string{"dis chronyd", "dis ntp"}},
	{name: "another time server", on: Dis, script: "sed -i 's/^server .*/server 10.0.1.9 iburst/' /etc/chrony/chrony.conf && systemctl restart chrony", want: []string{"dis ntp"}},
	{name: "sshd does not notice dead clients", on: Con, script: "sed -i 's/^ClientAliveInterval.*/ClientAliveInterval 0/' /etc/ssh/sshd_config", want: []string{"con sshd"}},
	{name: "a package is missing", on: Con, script: "apt-get -y remove tmux", want: []string{"con packages"}},
	{
		name: "a package is back", on: Dis, script: `printf 'Package: git\nStatus: install ok installed\nVersion: 1\n\n' >>/var/lib/dpkg/status`,
		want: []string{"dis packages-removed"},
	},
	{name: "another VLAN address", on: Dis, script: "sed -i 's/^Address=.*/Address=10.10.20.99\\/24/' " + vlanFile + ".network" + reconfigure("ens224.10"), want: []string{"dis vlan-address"}},
	{
		name: "another VLAN", on: Dis, script: "sed -i 's/^Id=.*/Id=11/' " + vlanFile + ".netdev", do: restart,
		want: []string{"dis con-names", "dis con-ping", "dis con-ssh", "dis dns-policy"},
	},
	{name: "jumbo frames", on: Con, script: "sed -i 's/^MTUBytes=.*//; s/^UseRoutes=no/&\\nUseMTU=yes/' " + labFile + reconfigure("ens192"), want: []string{"con mtu"}},
	{name: "a DHCP client writes resolv.conf", on: Dis, script: "echo 512 >/run/dhclient.ens192.pid", want: []string{"dis dns-manager"}},
	{
		name: "ifupdown has the lab's NIC back", on: Dis, script: "mv /etc/network/interfaces.poolready-off /etc/network/interfaces", do: restart,
		want: []string{"dis con-names", "dis default-route", "dis dns-manager", "dis internet", "dis mtu", "dis resolver"},
	},
	{name: "con asks the lab", on: Con, script: "echo 'nameserver 10.0.1.8' >/etc/resolv.conf", want: []string{"con resolver"}},
	{name: "products are told to ask the lab", on: Con, script: "sed -i 's/^DNS=.*/DNS=10.0.1.8/' " + labFile + ".d/dns.conf" + reconfigure("ens192"), want: []string{"con lab-dns"}},
	{name: "con goes out by the lab", on: Con, script: "sed -i 's/^UseRoutes=no/UseRoutes=yes/' " + labFile + reconfigure("ens192"), want: []string{"con default-route", "con forwarding"}},
	{name: "the internet's name servers count", on: Con, script: "sed -i '/^UseDNS=no/d' " + extFile + reconfigure("ens256"), want: []string{"con ext-dns"}},
	{
		name: "the VLAN is in no zone", on: Con, script: "firewall-cmd --remove-interface=ens224.10",
		want: []string{"con forwarding"},
	},
	{name: "con has no internet", on: Con, script: "ip link set dev ens256 down", want: []string{"con default-route", "con forwarding", "con internet"}},
	{
		name: "con has IPv6", on: Con, script: "sed -i '/^LinkLocalAddressing=/d; /^IPv6AcceptRA=/d' " + extFile + reconfigure("ens256"),
		want: []string{"con internet"},
	},
	{
		name: "a way out through con", on: Dis,
		script: "printf '[Network]\\nGateway=10.10.20.1\\n' >" + vlanFile + ".network.d/gateway.conf" + reconfigure("ens224.10"),
		want:   []string{"dis default-route", "dis internet"},
	},
	{name: "the internet NIC is up", on: Dis, script: "ip link set dev ens256 up", want: []string{"dis default-route", "dis ext-link", "dis internet"}},
	{
		name: "the internet NIC is networkd's", on: Dis,
		script: "printf '[Match]\\nName=ens256\\n[Network]\\nDHCP=ipv4\\nIPv6AcceptRA=no\\n' >" + extFile, do: restart,
		want: []string{"dis default-route", "dis ext-link", "dis internet"},
	},
}

func TestEveryFaultOfDebianIsNoticedByItsChecks(t *testing.T) {
	noticed := mutate(t, testTopology().On("debian12", "debian12"), debianFaults)
	differs := regexp.MustCompile(`os-release|\$like|installed "|active --quiet NetworkManager`)
	for role, list := range checks {
		for _, c := range list {
			if differs.MatchString(embeddedText("scripts/checks/" + c.name + ".sh")) {
				assert.True(t, noticed[c.name], "no fault of Debian makes check %q of %s fail", c.name, role)
			}
		}
	}
}
