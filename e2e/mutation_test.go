package e2e

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A fault is something wrong with a host that was ready, and the checks that must notice, as "ROLE
// CHECK": those and no others.
type fault struct {
	name, on string
	script   string
	do       func(r *rig, h Host)
	want     []string
}

const setVLAN = "nmcli connection modify ens224.10 "

var faults = []fault{
	{name: "nothing", on: Con, script: "true"},
	{name: "another release", on: Con, script: `sed -i 's/^VERSION_ID=.*/VERSION_ID="8.10"/' /etc/os-release`, want: []string{"con os"}},
	{name: "another timezone", on: Con, script: "timedatectl set-timezone UTC", want: []string{"con timezone"}},
	{name: "firewalld does not start at boot", on: Dis, script: "systemctl disable firewalld", want: []string{"dis firewalld"}},
	{
		name: "firewalld is stopped", on: Con, script: "systemctl stop firewalld",
		want: []string{"con firewall", "con firewalld", "con forwarding"},
	},
	{name: "masquerading for this boot only", on: Con, script: "firewall-cmd --permanent --remove-masquerade", want: []string{"con firewall"}},
	{name: "masquerading not yet", on: Dis, script: "firewall-cmd --remove-masquerade", want: []string{"dis firewall"}},
	{name: "no forwarding", on: Con, script: "sysctl -w net.ipv4.ip_forward=0", want: []string{"con forwarding", "con ip-forward"}},
	{name: "forwarding for this boot only", on: Dis, script: "rm /etc/sysctl.d/90-poolready.conf; : >/etc/sysctl.d/empty.conf", want: []string{"dis ip-forward"}},
	{name: "a stale port", on: Con, script: "firewall-cmd --permanent --add-port=5000/tcp", want: []string{"con firewall"}},
	{name: "a stale port of this boot", on: Dis, script: "firewall-cmd --add-port=8443/tcp", want: []string{"dis firewall"}},
	{
		name: "no forwarding within the zone", on: Con, script: "firewall-cmd --remove-forward",
		want: []string{"con firewall"},
	},
	{
		name: "the VLAN is not in the zone's file", on: Con, script: "firewall-cmd --permanent --remove-interface=ens224.10",
		want: []string{"con forwarding"},
	},
	{name: "time is not served", on: Con, script: "firewall-cmd --remove-service=ntp", want: []string{"con firewall"}},
	{
		name: "names are not served", on: Con, script: "firewall-cmd --remove-service=dns",
		want: []string{"con firewall", "dis con-names", "dis dns-policy"},
	},
	{name: "chronyd does not start at boot", on: Con, script: "systemctl disable chronyd", want: []string{"con chronyd"}},
	{name: "chronyd is stopped", on: Dis, script: "systemctl stop chronyd", want: []string{"dis chronyd", "dis ntp"}},
	{name: "another time server", on: Dis, script: "sed -i 's/^server .*/server 10.0.1.9 iburst/' /etc/chrony.conf && systemctl restart chronyd", want: []string{"dis ntp"}},
	{name: "time is for this host only", on: Con, script: "sed -i '/^allow/d' /etc/chrony.conf && systemctl restart chronyd", want: []string{"con chrony-allow"}},
	{name: "sshd does not notice dead clients", on: Con, script: "sed -i 's/^ClientAliveInterval.*/ClientAliveInterval 0/' /etc/ssh/sshd_config", want: []string{"con sshd"}},
	{name: "the user has no key", on: Con, script: "rm /home/steve/.ssh/id_ed25519", want: []string{"con keys", "con self-ssh"}},
	{
		name: "the user has a key of its own", on: Con,
		script: "rm /home/steve/.ssh/id_ed25519* && ssh-keygen -q -t ed25519 -N '' -f /home/steve/.ssh/id_ed25519 && chown steve:steve /home/steve/.ssh/id_ed25519",
		want:   []string{"con keys", "con self-ssh"},
	},
	{
		name: "root lets nobody in", on: Con, script: ": >/root/.ssh/authorized_keys",
		want: []string{"con keys", "con self-ssh", "dis con-ssh"},
	},
	{
		name: "sshd denies the user", on: Dis, script: "echo 'DenyUsers steve' >>/etc/ssh/sshd_config && systemctl restart sshd",
		want: []string{"dis self-ssh"},
	},
	{
		name: "host keys are not known", on: Dis, script: ": >/etc/ssh/ssh_known_hosts",
		want: []string{"dis con-ssh", "dis self-ssh", "dis test-user"},
	},
	{name: "the test user may not sudo", on: Con, script: "rm /etc/sudoers.d/90-poolready-testy", want: []string{"con test-user"}},
	{name: "the test user is gone", on: Dis, script: "userdel -r testy", want: []string{"dis test-user"}},
	{name: "no marker", on: Con, script: ": >/etc/environment", want: []string{"con marker"}},
	{name: "credentials that all can read", on: Con, script: "chmod 644 /home/steve/.vmware.conf", want: []string{"con credentials"}},
	{name: "no credentials", on: Dis, script: "rm /root/.vmware.conf", want: []string{"dis credentials"}},
	{name: "no pull secret", on: Con, script: "rm /root/.pull-secret.json", want: []string{"con pull-secret"}},
	{name: "a pull secret", on: Dis, script: "echo secret >/root/.pull-secret.json", want: []string{"dis pull-secret"}},
	{name: "a package is missing", on: Con, script: "dnf -y remove tmux", want: []string{"con packages"}},
	{name: "a package is back", on: Dis, script: "echo 'git 2.43.5-1' >>/var/lib/rpm/packages", want: []string{"dis packages-removed"}},
	{name: "the disk is full", on: Dis, do: func(r *rig, h Host) {
		d := r.guests[h.Name].Host().Disk()
		require.NoError(r.t, d.WriteFile("/var/log/big", make([]byte, 4<<20), 0o600))
		_, used := d.Usage()
		d.SetSize(used * 10 / 9)
	}, want: []string{"dis disk"}},
	{name: "a container of root", on: Con, script: "mkdir -p /var/lib/containers && echo 'c0ffee running web' >/var/lib/containers/containers", want: []string{"con containers"}},
	{
		name: "a container of the user", on: Dis,
		script: "mkdir -p /home/steve/.local/share/containers && echo 'c0ffee running web' >/home/steve/.local/share/containers/containers",
		want:   []string{"dis containers"},
	},
	{name: "another name", on: Con, script: "hostnamectl set-hostname localhost", want: []string{"con hostname", "dis con-ssh"}},
	{name: "another VLAN address", on: Dis, script: setVLAN + "ipv4.addresses 10.10.20.99/24 && nmcli connection up ens224.10", want: []string{"dis vlan-address"}},
	{
		name: "con has another VLAN address", on: Con, script: setVLAN + "ipv4.addresses 10.10.20.99/24 && nmcli connection up ens224.10",
		want: []string{"con dns-records", "con vlan-address", "dis con-names", "dis con-ping", "dis con-ssh", "dis dns-policy"},
	},
	{
		name: "another VLAN", on: Dis, script: setVLAN + "vlan.id 11 && nmcli connection up ens224.10",
		want: []string{"dis con-names", "dis con-ping", "dis con-ssh", "dis dns-policy"},
	},
	{name: "jumbo frames", on: Con, script: "nmcli connection modify ens192 802-3-ethernet.mtu auto && nmcli connection up ens192", want: []string{"con mtu"}},
	{
		name: "NetworkManager writes resolv.conf", on: Dis, script: "rm /etc/NetworkManager/conf.d/90-poolready-dns.conf && systemctl reload NetworkManager",
		want: []string{"dis con-names", "dis dns-manager", "dis resolver"},
	},
	{name: "con asks the lab", on: Con, script: "echo 'nameserver 10.0.1.8' >/etc/resolv.conf", want: []string{"con resolver"}},
	{name: "dis asks the lab", on: Dis, script: "echo 'nameserver 10.0.1.8' >/etc/resolv.conf", want: []string{"dis con-names", "dis resolver"}},
	{name: "products are told to ask the lab", on: Con, script: "nmcli connection modify ens192 ipv4.dns 10.0.1.8", want: []string{"con lab-dns"}},
	{
		name: "con goes out by the lab", on: Con, // which has the better metric if it comes up first
		script: "nmcli connection down ens256 && nmcli connection modify ens192 ipv4.never-default no && nmcli connection up ens192 && nmcli connection up ens256",
		want:   []string{"con default-route", "con forwarding"},
	},
	{name: "the internet's name servers count", on: Con, script: "nmcli connection modify ens256 ipv4.ignore-auto-dns no", want: []string{"con ext-dns"}},
	{name: "con has no internet", on: Con, script: "nmcli connection down ens256", want: []string{"con default-route", "con forwarding", "con internet"}},
	{name: "con has IPv6", on: Con, script: "nmcli connection modify ens256 ipv6.method auto && nmcli connection up ens256", want: []string{"con internet"}},
	{name: "dnsmasq does not start at boot", on: Con, script: "systemctl disable dnsmasq", want: []string{"con dnsmasq"}},
	{
		name: "dnsmasq is stopped", on: Con, script: "systemctl stop dnsmasq",
		want: []string{"con dns-records", "con dns-upstream", "con dnsmasq", "con internet", "dis con-names", "dis dns-policy"},
	},
	{name: "a record is wrong", on: Con, script: "sed -i '/sno1/s/10.0.2.12/10.0.2.13/' /etc/dnsmasq.d/poolready.conf && systemctl restart dnsmasq", want: []string{"con dns-records"}},
	{
		name: "dnsmasq serves the loopback only", on: Con, script: "echo interface=lo >>/etc/dnsmasq.conf && systemctl restart dnsmasq",
		want: []string{"con dns-records", "con internet", "dis con-names", "dis dns-policy"},
	},
	{
		name: "no name server upstream", on: Con, script: "sed -i '/^server=/d' /etc/dnsmasq.d/poolready.conf && systemctl restart dnsmasq",
		want: []string{"con dns-upstream", "con internet", "dis dns-policy"},
	},
	{name: "no product", on: Con, script: "rm -r /opt/product", want: []string{"con product"}},
	{name: "a product", on: Dis, script: "mkdir -p /opt/product && echo 1 >/opt/product/VERSION", want: []string{"dis product"}},
	{name: "no proxy scripts", on: Con, script: "rm /home/steve/.proxy-set.sh", want: []string{"con proxy"}},
	{name: "a proxy in every shell", on: Dis, script: "echo '. ~/.proxy-set.sh' >>/root/.bashrc", want: []string{"dis proxy"}},
	{name: "a way out through con", on: Dis, script: setVLAN + "ipv4.never-default no ipv4.gateway 10.10.20.1 && nmcli connection up ens224.10", want: []string{"dis default-route", "dis internet"}},
	{name: "a way out through the lab", on: Dis, script: "nmcli connection modify ens192 ipv4.never-default no && nmcli connection up ens192", want: []string{"dis default-route", "dis internet"}},
	{name: "the internet NIC is up", on: Dis, script: "ip link set dev ens256 up", want: []string{"dis default-route", "dis ext-link", "dis internet"}},
	{
		name: "the internet NIC is NetworkManager's", on: Dis,
		script: "rm /etc/NetworkManager/conf.d/90-poolready-unmanaged.conf && systemctl restart NetworkManager",
		want:   []string{"dis ext-link"},
	},
	{name: "the registry's port is taken", on: Dis, do: func(r *rig, h Host) {
		r.guests[h.Name].Serve(8443, func(net.Conn) {})
	}, want: []string{"dis port-free"}},
	{name: "golden has a lease of its own", on: Golden, do: func(r *rig, h Host) {
		mac := r.guests[h.Name].MAC(0)
		r.write(h, "/var/lib/dhcp/dhclient.ens192.leases", "lease {\n  option dhcp-client-identifier 1:"+mac+";\n}\n")
	}, want: []string{"golden duid-bound", "golden mac-bound"}},
	{name: "golden has a profile for its own MAC", on: Golden, do: func(r *rig, h Host) {
		r.write(h, "/etc/NetworkManager/system-connections/ens192.nmconnection", "[ethernet]\nmac-address="+strings.ToUpper(r.guests[h.Name].MAC(0))+"\n")
	}, want: []string{"golden mac-bound"}},
	{name: "golden has kept its address", on: Golden, script: `nmcli connection modify ens192 ipv4.addresses "$(ip -4 -o addr show dev ens192 | sed -n -E '1s|.* inet ([0-9.]+)/.*|\1/32|p')"`, want: []string{"golden address-bound"}},
	{name: "golden has a DUID", on: Golden, do: func(r *rig, h Host) {
		r.write(h, "/etc/systemd/networkd.conf", "[DHCPv4]\n#DUIDRawData=\nDUIDRawData=00:00:ab:11\n")
	}, want: []string{"golden duid-bound"}},
	{name: "golden has a name", on: Golden, script: "hostnamectl set-hostname golden", want: []string{"golden name-bound"}},
	{name: "golden's name has an address", on: Golden, script: "echo '127.0.1.1 golden' >>/etc/hosts", want: []string{"golden name-bound"}},
	{name: "golden serves names", on: Golden, script: "systemctl enable --now dnsmasq", want: []string{"golden dnsmasq"}},
	{name: "dis serves names", on: Dis, script: "systemctl start dnsmasq", want: []string{"dis dnsmasq"}},
	{name: "the host's own name is not in its hosts file", on: Dis, script: "sed -i '/# poolready$/d' /etc/hosts", want: []string{"dis hostname"}},
	{name: "golden has a machine id", on: Golden, script: "echo 0123456789abcdef0123456789abcdef >/etc/machine-id", want: []string{"golden machine-id"}},
}

func TestEveryFaultIsNoticedByItsChecks(t *testing.T) {
	noticed := mutate(t, testTopology(), faults)
	noticed[unplugged.Name] = true // see TestDebian: these hosts have no hypervisor
	for role := range checks {
		for _, c := range testTopology().checks(role) {
			assert.True(t, noticed[c.Name], "no fault makes check %q of %s fail", c.Name, role)
		}
	}
}

// mutate breaks ready hosts, in parallel, with each of the faults, asserts that the checks that
// must notice do, and those only, and returns the names of all that have.
func mutate(t *testing.T, topology Topology, faults []fault) map[string]bool {
	disks := ready(t, topology)
	var mu sync.Mutex
	noticed := map[string]bool{}
	t.Run("faults", func(t *testing.T) {
		for _, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, topology)
				hosts := []Host{r.topology.Host(Con, 1), r.topology.Host(Dis, 1)}
				if f.on == Golden {
					hosts = []Host{r.topology.Host(Golden, 0)}
				}
				for _, h := range hosts {
					r.boot(h, disks[h.Name].Clone())
				}
				if f.on == Golden { // its first boot would give it an id
					_, code := r.guests[hosts[0].Name].Host().Run(t.Context(), ": >/etc/machine-id")
					require.Zero(t, code)
				}
				for _, h := range hosts {
					if h.Role == f.on {
						f.happen(r, h)
					}
				}
				var got, why []string
				for _, h := range hosts {
					for name, reason := range r.verify(h) {
						got = append(got, h.Role+" "+name)
						why = append(why, h.Role+" "+name+": "+reason)
					}
				}
				slices.Sort(got)
				assert.Equal(t, f.want, got, strings.Join(why, "\n"))
				mu.Lock()
				defer mu.Unlock()
				for _, c := range got {
					_, name, _ := strings.Cut(c, " ")
					noticed[name] = true
				}
			})
		}
	})
	return noticed
}

// happen breaks a host.
func (f fault) happen(r *rig, h Host) {
	if f.script != "" {
		out, code := r.guests[h.Name].Host().Run(r.t.Context(), f.script)
		require.Zero(r.t, code, out)
	}
	if f.do != nil {
		f.do(r, h)
	}
}

func restart(r *rig, h Host) { r.boot(h, r.off(h)) }
