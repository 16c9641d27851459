package e2e

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/pool"
)

// A Topology says how the hosts of a set are called and connected. DefaultTopology is the one
// to start from; the zero value is not useful.
type Topology struct {
	Set   string // names the set, and its folder
	Pools int
	Only  []int // the pools to use; empty is all

	// OS is the system of the template, as its os-release has it: ID and major version, such as
	// "rhel9", "rocky9", "debian12" or "ubuntu24". DisOS is that of dis if it is another; then dis
	// has a template and a golden of its own. See Topology.On.
	OS, DisOS  string
	Template   string // name or inventory path
	Datastore  string // "" is the provider's default; linked clones lie where golden does
	DiskGiB    int    // golden's disk is grown to it; 0 keeps the template's
	GoldenName string
	// DisTemplate and DisGolden are those of dis, if DisOS is set.
	DisTemplate, DisGolden string

	// Port groups.
	LabNetwork, PrivateNetwork, ExternalNetwork string
	// Interfaces, as the guest calls the NICs in their order.
	LabIF, TrunkIF, ExtIF string
	VLAN                  int
	VLANPrefix            netip.Prefix // con of pool N has address 2N-1 in it, dis 2N
	LabPrefix             netip.Prefix
	PoolBase              netip.Addr // pool N has the ten lab addresses from PoolBase+10N: con, dis, node, API, apps
	// MACPrefix is 4 bytes; the fifth is the pool, the sixth the NIC. "" is one of 00:50:56:00 to
	// 00:50:56:3f, derived from Set, so that sets on one network have MACs of their own.
	MACPrefix string
	MTU       int

	Domain     string // pool N is pN.Domain
	NameServer netip.Addr
	// OutsideNames says what con's dnsmasq does with names that are not its pool's: "allowed" asks
	// NameServer, "refused" answers no one, so that dis learns nothing from outside by way of
	// names, and con itself asks NameServer besides.
	OutsideNames string
	NTPServer    netip.Addr
	Timezone     string

	AdminUser, TestUser string
	RunnerKey           string // public key that may log in, in authorized_keys form
	// KeyPair is the private key, in OpenSSH's form, that root and AdminUser have on every host;
	// give it the runner's if hosts are to reach what the runner reaches. Empty: golden makes one,
	// for its hosts alone.
	KeyPair []byte
	// Packages are on all hosts; PackagesRemoved are removed from dis. "debian:NAME" is for Debian
	// and what is like it, "rhel:NAME" for RHEL and its like, NAME for both.
	Packages, PackagesRemoved []string
	ProductDir                string   // where the product is: on con, and nowhere else
	WatchPaths                []string // of the files that are facts; see pool.Spec.Facts
	Product                   Product
	Proxy                     string // of the proxy scripts, which nothing loads by itself
	// PullSecret and Credentials are contents of files; empty ones make placeholders.
	PullSecret, Credentials []byte

	// Probes of the internet: an address that answers to everything, over IPv4 and IPv6, a name
	// and a page.
	OutsideAddr, OutsideAddr6 netip.Addr
	OutsideName, InternetURL  string

	// Override is what is otherwise in single pools, by number.
	Override map[int]Override

	RetryPause int // seconds between tries of what a mirror may refuse
	WaitCon    int // seconds that dis waits for con
}

// DefaultTopology returns three pools as the con/dis document has them. RunnerKey has to be set.
func DefaultTopology() Topology {
	return Topology{
		Set: "poolready-e2e", Pools: 3,
		OS: "rhel9", Template: "e2e-template-rhel9", GoldenName: "e2e-golden-rhel9", DiskGiB: 60,
		LabNetwork: "Lab Network", PrivateNetwork: "Private Network", ExternalNetwork: "External Network",
		LabIF: "ens192", TrunkIF: "ens224", ExtIF: "ens256",
		VLAN: 10, VLANPrefix: netip.MustParsePrefix("10.10.20.0/24"),
		LabPrefix: netip.MustParsePrefix("10.0.0.0/20"), PoolBase: netip.MustParseAddr("10.0.2.0"),
		MTU:    1500,
		Domain: "example.com", NameServer: netip.MustParseAddr("10.0.1.8"), OutsideNames: "allowed", NTPServer: netip.MustParseAddr("10.0.1.8"),
		Timezone: "Asia/Singapore", AdminUser: "steve", TestUser: "testy",
		Packages:        strings.Fields("tmux git make podman rsync dnsmasq chrony firewalld rhel:bind-utils debian:bind9-dnsutils debian:curl debian:cloud-guest-utils"),
		PackagesRemoved: strings.Fields("git make jq python3-jinja2 rhel:hostname rhel:python3-pyyaml debian:python3-yaml"),
		WatchPaths:      strings.Fields("/etc /usr/local /opt /srv /var/spool/cron"),
		ProductDir:      "/opt/product", Proxy: "http://10.0.1.8:3128",
		OutsideAddr: netip.MustParseAddr("1.1.1.1"), OutsideAddr6: netip.MustParseAddr("2606:4700:4700::1111"),
		OutsideName: "one.one.one.one", InternetURL: "https://one.one.one.one/",
		RetryPause: 20, WaitCon: 300,
	}
}

// Roles of the system.
const (
	Golden = "golden"
	Con    = "con"
	Dis    = "dis"
)

// A Host is one host of the topology.
type Host struct {
	Role string
	OS   string
	Pool int // 0 for golden
	Name string
	MACs []string   // in NIC order; empty for golden, which takes any
	Lab  netip.Addr // invalid for golden
	VLAN netip.Addr // invalid for golden
}

// Host returns the host of a role in a pool.
func (t Topology) Host(role string, n int) Host {
	if role == Golden {
		return Host{Role: Golden, OS: t.OS, Name: t.GoldenName}
	}
	first := 0
	if role == Dis {
		first = 1
	}
	h := Host{
		Role: role, OS: t.os(role), Pool: n, Name: fmt.Sprintf("%s%d", role, n),
		Lab:  offset(t.PoolBase, 10*n+first),
		VLAN: offset(t.VLANPrefix.Masked().Addr(), 2*n-1+first),
	}
	for i := range 3 {
		h.MACs = append(h.MACs, fmt.Sprintf("%s:%02x:%02x", t.macPrefix(), n, 3*first+i+1))
	}
	return t.Override[n].host(h)
}

// macPrefix is MACPrefix, or the one that is derived from Set.
func (t Topology) macPrefix() string {
	if t.MACPrefix != "" {
		return t.MACPrefix
	}
	sum := sha256.Sum256([]byte(t.Set))
	return fmt.Sprintf("00:50:56:%02x", sum[0]&0x3f)
}

// Hosts returns golden, dis's own golden if it has one, and then all hosts of the pools in use,
// role by role.
func (t Topology) Hosts() []Host {
	all := []Host{t.Host(Golden, 0)}
	if t.Mixed() {
		all = append(all, t.disGolden())
	}
	for _, role := range []string{Con, Dis} {
		for _, n := range t.numbers() {
			all = append(all, t.Host(role, n))
		}
	}
	return all
}

// numbers are those of the pools in use.
func (t Topology) numbers() []int {
	if len(t.Only) > 0 {
		return t.Only
	}
	var all []int
	for n := 1; n <= t.Pools; n++ {
		all = append(all, n)
	}
	return all
}

// PoolDomain is the domain of pool n.
func (t Topology) PoolDomain(n int) string {
	return cmp.Or(t.Override[n].Domain, fmt.Sprintf("p%d.%s", n, t.Domain))
}

// FQDN is the host's full name.
func (t Topology) FQDN(h Host) string { return h.Name + "." + t.Domain }

// Reservations are what the lab's DHCP server has to know: lab addresses by MAC, of all pools.
func (t Topology) Reservations() map[string]netip.Addr {
	r := make(map[string]netip.Addr)
	t.Only = nil
	for _, h := range t.Hosts() {
		if len(h.MACs) > 0 {
			r[h.MACs[0]] = h.Lab
		}
	}
	return r
}

// Records are the names that con of pool n serves: exact ones, and "*.NAME" for all below NAME.
func (t Topology) Records(n int) map[string]netip.Addr {
	lab := func(i int) netip.Addr { return offset(t.PoolBase, 10*n+i) }
	vlan := func(i int) netip.Addr { return offset(t.VLANPrefix.Masked().Addr(), 200+10*i+n) }
	domain, r := t.PoolDomain(n), make(map[string]netip.Addr)
	cluster := func(kind string, api, apps netip.Addr) {
		r[fmt.Sprintf("api.%s%d.%s", kind, n, domain)] = api
		r[fmt.Sprintf("*.apps.%s%d.%s", kind, n, domain)] = apps
	}
	node, api, apps := lab(2), lab(3), lab(4)
	cluster("sno", node, node)
	cluster("compact", api, apps)
	cluster("standard", api, apps)
	cluster("sno-vlan", vlan(0), vlan(0))
	cluster("compact-vlan", vlan(1), vlan(2))
	cluster("standard-vlan", vlan(1), vlan(2))
	con, dis := t.Host(Con, n), t.Host(Dis, n)
	r["registry."+domain] = con.Lab
	r[t.FQDN(con)], r[t.FQDN(dis)] = con.Lab, dis.Lab
	return r
}

// VM is the VM of a host, with the environment of its scripts.
func (t Topology) VM(h Host) pool.VM {
	vm := pool.VM{Name: h.Name, Folder: Golden, Datastore: t.Datastore, Env: t.env(h)}
	if h.Role == Golden {
		vm.DiskGiB = t.DiskGiB
	} else {
		o := t.Override[h.Pool]
		vm.Folder = cmp.Or(o.Folder, fmt.Sprintf("pool%d", h.Pool))
		vm.Datastore = cmp.Or(o.Datastore, t.Datastore)
	}
	for i, network := range []string{t.LabNetwork, t.PrivateNetwork, t.ExternalNetwork} {
		nic := pool.NIC{Network: network}
		if i < len(h.MACs) {
			nic.MAC = h.MACs[i]
		}
		switch {
		case i == 0:
			nic.Subnet, nic.Claims = t.LabPrefix, t.claims(h)
		case i == trunkNIC && h.VLAN.IsValid():
			nic.Claims = []string{fmt.Sprintf("VLAN %d: %s", t.VLAN, h.VLAN)}
		}
		nic.Unplugged = h.Role == Dis && i == extNIC
		vm.NICs = append(vm.NICs, nic)
	}
	return vm
}

// claims are the addresses in the lab that are a host's: those of its pool's clusters are con's.
func (t Topology) claims(h Host) (list []string) {
	if !h.Lab.IsValid() {
		return nil
	}
	list = append(list, h.Lab.String())
	if h.Role == Con {
		for i := range 3 {
			list = append(list, offset(t.PoolBase, 10*h.Pool+2+i).String())
		}
	}
	return list
}

// env is what the scripts of a host find in their environment.
func (t Topology) env(h Host) map[string]string {
	vlanIF := fmt.Sprintf("%s.%d", t.TrunkIF, t.VLAN)
	env := map[string]string{
		"SET_NAME": t.Set, "ROLE": h.Role, "POOL": strconv.Itoa(h.Pool), "HOST_NAME": h.Name, "HOST_DOMAIN": t.Domain,
		"RUNNER_KEY": t.RunnerKey, "ADMIN_USER": t.AdminUser, "TEST_USER": t.TestUser,
		"LAB_IF": t.LabIF, "TRUNK_IF": t.TrunkIF, "EXT_IF": t.ExtIF, "VLAN_IF": vlanIF, "VLAN_ID": strconv.Itoa(t.VLAN),
		"MTU": strconv.Itoa(t.MTU), "MTU_IFS": strings.Join([]string{t.LabIF, t.TrunkIF, vlanIF, t.ExtIF}, " "),
		"LAB_NET": t.LabPrefix.String(), "NTP_SERVER": t.NTPServer.String(), "DNS_UPSTREAM": t.NameServer.String(), "TIMEZONE": t.Timezone,
		"OS": h.OS, "PACKAGES": packagesFor(h.OS, t.Packages), "PACKAGES_REMOVED": "", "RETRY_PAUSE": strconv.Itoa(t.RetryPause),
		"FIREWALL_PORTS": "22/tcp", "FIREWALL_SERVICES": "ssh ntp", "REGISTRY_PORT": "8443",
		"MARKER": "POOLREADY_TESTING=1", "PROXY": t.Proxy, "PRODUCT_DIR": t.ProductDir,
		"PULL_SECRET": ".pull-secret.json", "CREDENTIALS": ".vmware.conf", "SECRETS_DIR": "/root/.poolready-secrets",
		"OUTSIDE_ADDR": t.OutsideAddr.String(), "OUTSIDE_ADDR6": t.OutsideAddr6.String(),
		"WATCH_PATHS":  strings.Join(t.WatchPaths, " "),
		"OUTSIDE_NAME": t.OutsideName, "OUTSIDE_NAMES": t.OutsideNames, "INTERNET_URL": t.InternetURL,
	}
	if h.Role == Golden {
		env["MTU_IFS"] = strings.Join([]string{t.LabIF, t.TrunkIF, t.ExtIF}, " ")
		return env
	}
	con, dis := t.Host(Con, h.Pool), t.Host(Dis, h.Pool)
	maps.Copy(env, map[string]string{
		"DOMAIN": t.PoolDomain(h.Pool), "VLAN_ADDR": netip.PrefixFrom(h.VLAN, t.VLANPrefix.Bits()).String(),
		"CON_NAME": con.Name, "DIS_NAME": dis.Name, "CON_FQDN": t.FQDN(con), "DIS_FQDN": t.FQDN(dis),
		"CON_LAB_ADDR": con.Lab.String(), "CON_VLAN_ADDR": con.VLAN.String(),
		"DIS_LAB_ADDR": dis.Lab.String(), "DIS_VLAN_ADDR": dis.VLAN.String(),
		"WAIT_CON": strconv.Itoa(t.WaitCon),
	})
	env["HOST_ADDR"], env["HOST_FQDN"] = h.Lab.String(), t.FQDN(h)
	switch h.Role {
	case Con:
		var records []string
		all := t.Records(h.Pool)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			records = append(records, name+"="+all[name].String())
		}
		env["DNS_RECORDS"] = strings.Join(records, " ")
		env["RESOLVER"] = con.Lab.String()
		if t.OutsideNames == "refused" {
			env["RESOLVER"] += " " + t.NameServer.String()
		}
		env["FIREWALL_SERVICES"] = "ssh dns ntp"
		env["FIREWALL_PORTS"] = strings.Join(append([]string{"22/tcp", "8443/tcp"}, t.Product.Ports...), " ")
	case Dis:
		env["RESOLVER"] = con.VLAN.String()
		env["PACKAGES_REMOVED"] = packagesFor(h.OS, t.PackagesRemoved)
	}
	return env
}

// offset returns the address n after a, an IPv4 address.
func offset(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}
