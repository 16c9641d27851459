package e2e

import (
	"context"
	"embed"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool"
)

//go:embed scripts
var scripts embed.FS

// sourcing is the line by which a script has what scripts/lib.sh has.
const sourcing = `. "${0%/*}/../lib.sh"` + "\n"

// script returns the text of a step or check, whole: it goes to hosts without any other file.
func script(kind, name string) string {
	return strings.Replace(embeddedText(path.Join("scripts", kind, name+".sh")), sourcing, embeddedText("scripts/lib.sh"), 1)
}

func embeddedText(file string) string {
	text, err := scripts.ReadFile(file)
	if err != nil {
		panic(err) // the lists below name what is embedded; TestEveryScriptIsUsed says so
	}
	return string(text)
}

// A check is a script and what it prints on a host that is right; ${NAME} is of the host's
// environment.
type check struct{ name, want string }

// Steps by role, in order. "secrets" comes with the files that it installs.
var steps = map[string][]string{
	Golden: {"ssh", "network", "packages", "grow", "firewall", "time", "update", "keys", "user", "secrets", "marker", "clean", "identity"},
	Con:    {"ssh", "hostname", "network", "firewall", "dnsmasq", "resolver", "update", "time", "user", "secrets", "marker", "product", "clean"},
	Dis:    {"ssh", "update", "hostname", "network", "firewall", "resolver", "wait-con", "time", "user", "secrets", "marker", "strip", "clean", "cut"},
}

const openAsItShould = "stale ports: none, missing services: none, masquerade: yes, forward: yes"

// Checks that more than one role has.
var (
	everywhere = []check{
		{"os", "${OS}"},
		{"timezone", "${TIMEZONE}"},
		{"firewalld", "active enabled"},
		{"firewall", "now: " + openAsItShould + "\nthen: " + openAsItShould},
		{"ip-forward", "now 1, then 1"},
		{"chronyd", "active enabled"},
		{"ntp", "${NTP_SERVER} via ${LAB_IF}"},
		{"sshd", "clientalivecountmax 5 clientaliveinterval 60 permitrootlogin without-password"},
		{"keys", "same pair, authorized"},
		{"self-ssh", "root\n${ADMIN_USER}"},
		{"test-user", "sudo: root\nssh: ${TEST_USER}"},
		{"marker", "${MARKER}"},
		{"credentials", "root 600\n${ADMIN_USER} 600"},
		{"packages", "none missing"},
		{"disk", "under 80 %"},
		{"containers", "none"},
	}
	conAndDis = []check{
		{"hostname", "now ${HOST_NAME}, then ${HOST_NAME}, at ${HOST_ADDR}"},
		{"vlan-address", "${VLAN_ADDR}"},
		{"mtu", "${LAB_IF}=${MTU} ${TRUNK_IF}=${MTU} ${VLAN_IF}=${MTU} ${EXT_IF}=${MTU}"},
		{"dns-manager", "none"},
		{"resolver", "${RESOLVER}"},
	}
	connected = []check{
		{"default-route", "${EXT_IF}"},
		{"ext-dns", "yes"},
		{"pull-secret", "root 600\n${ADMIN_USER} 600"},
		{"proxy", "root: there, off\n${ADMIN_USER}: there, off"},
		// The positive control of dis's air gap: the same probes get through here.
		{"internet", "open: icmp tcp80 tcp443 dns-udp dns-tcp http-by-name\nclosed: icmp6 tcp443-6 proxy-env"},
	}
)

// checks by role.
var checks = map[string][]check{
	Golden: concat(everywhere, connected, []check{
		{"mtu", "${LAB_IF}=${MTU} ${TRUNK_IF}=${MTU} ${EXT_IF}=${MTU}"},
		{"machine-id", "none"},
		{"mac-bound", "none"},
		{"address-bound", "none"},
		{"duid-bound", "none"},
		{"name-bound", "none"},
		{"dnsmasq", "inactive disabled"},
		{"product", "absent"},
	}),
	Con: concat(everywhere, conAndDis, connected, []check{
		{"forwarding", "out by ${EXT_IF}\nnow not in the zone: none\nthen not in the zone: none"},
		{"dnsmasq", "active enabled"},
		{"dns-records", "all answer"},
		{"dns-upstream", "${OUTSIDE_NAMES}"},
		{"lab-dns", "${CON_LAB_ADDR}, automatic ones ignored: yes"},
		{"chrony-allow", "Access allowed"},
		{"product", "installed"},
	}),
	Dis: concat(everywhere, conAndDis, []check{
		{"internet", "open: none\nclosed: icmp tcp80 tcp443 dns-udp dns-tcp http-by-name icmp6 tcp443-6 proxy-env"},
		{"default-route", "none"},
		{"ext-link", "DOWN, addresses: none"},
		{"dnsmasq", "inactive disabled"},
		{"con-ping", "answers"},
		{"con-ssh", "${CON_NAME}\n${CON_NAME}"},
		{"con-names", "${CON_LAB_ADDR}\n${DIS_LAB_ADDR}\n${CON_LAB_ADDR}"},
		{"dns-policy", "${OUTSIDE_NAMES}"},
		{"pull-secret", "root: absent\n${ADMIN_USER}: absent"},
		{"proxy", "root: absent, off\n${ADMIN_USER}: absent, off"},
		{"packages-removed", "none present"},
		{"product", "absent"},
		{"port-free", "free"},
	}),
}

func concat(lists ...[]check) []check {
	var all []check
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func (t Topology) steps(role string) []pool.Step {
	var list []pool.Step
	env := t.env(t.Host(role, 1))
	for _, name := range t.stepsOf(role) {
		s := pool.Script(name, script("steps", name))
		switch name {
		case "product":
			list = append(list, t.Product.steps()...)
			continue
		case "keys":
			s = t.keys(s)
		case "secrets":
			s = t.secrets(s, env, role)
		case "update":
			s = update(s, updates)
		case "introduce":
			s = introduce()
		case "wait-con": // it says itself what it waited for in vain
			s.Timeout = time.Duration(t.WaitCon)*time.Second + 2*time.Minute
		}
		list = append(list, s)
	}
	return list
}

func (t Topology) checks(role string) []pool.Check {
	var list []pool.Check
	for _, c := range checks[role] {
		list = append(list, pool.ScriptCheck(c.name, c.want, script("checks", c.name)))
	}
	switch role {
	case Con:
		list = append(list, t.Product.Checks...)
	case Dis:
		list = append(list, unplugged)
	}
	return list
}

// airGap are the checks that show after every reset, besides the cable (pool.NIC.Unplugged), that
// there is no way out of dis. What they got is the evidence.
func (t Topology) airGap() []pool.Check {
	return slices.DeleteFunc(t.checks(Dis), func(c pool.Check) bool {
		return !slices.Contains([]string{"internet", "default-route", "ext-link", "dns-policy"}, c.Name)
	})
}

// trunkNIC is the one in the private network, in the order of VM.NICs.
const trunkNIC = 1

// extNIC is the one that leads out, in the order of VM.NICs. On dis its cable is pulled in the
// hypervisor: what a guest cut off itself, somebody in the guest can connect again.
const extNIC = 2

// unplugged asks the hypervisor whether the cable is out.
var unplugged = pool.Check{
	Name: "unplugged", Version: "1",
	Want: pool.NICState{}.String(),
	Do: func(ctx context.Context, h *pool.Host) (string, error) {
		l, err := h.NICState(ctx, extNIC)
		return l.String(), err
	},
}

// secrets brings the secret files; empty ones are placeholders.
func (t Topology) secrets(install pool.Step, env map[string]string, role string) pool.Step {
	files := []secretFile{{env["CREDENTIALS"], t.Credentials}}
	if role != Dis {
		files = append(files, secretFile{env["PULL_SECRET"], t.PullSecret})
	}
	for i := range files {
		if len(files[i].data) == 0 {
			files[i].data = []byte("placeholder\n")
		}
	}
	return withFiles(install, files...)
}

// keys brings the key pair, if there is one to bring.
func (t Topology) keys(make pool.Step) pool.Step {
	if len(t.KeyPair) == 0 {
		return make
	}
	return withFiles(make, secretFile{"id_ed25519", t.KeyPair})
}
