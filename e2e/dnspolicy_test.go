package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// refusing is a topology whose con answers nobody's questions for names of the outside.
func refusing() Topology {
	topology := testTopology()
	topology.Pools, topology.OutsideNames = 1, "refused"
	return topology
}

const restartDNS = " && systemctl restart dnsmasq"

// refusalFaults are ways in which names of the outside get through all the same, or none do.
var refusalFaults = []fault{
	{name: "nothing", on: Con, script: "true"},
	{
		name: "con asks the lab for others", on: Con, script: "echo server=10.0.1.8 >/etc/dnsmasq.d/other.conf" + restartDNS,
		want: []string{"con dns-upstream", "dis dns-policy"},
	},
	{
		name: "con asks whom its resolv.conf names", on: Con, script: "sed -i /no-resolv/d /etc/dnsmasq.d/poolready.conf" + restartDNS,
		want: []string{"con dns-upstream", "dis dns-policy"},
	},
	{name: "dis is served no names", on: Con, script: "firewall-cmd --remove-service=dns", want: []string{"con firewall", "dis con-names", "dis dns-policy"}},
	{name: "con itself has no names", on: Con, script: "sed -i /10.0.1.8/d /etc/resolv.conf", want: []string{"con internet", "con resolver"}},
}

func TestNamesOfTheOutsideAreRefused(t *testing.T) {
	noticed := mutate(t, refusing(), refusalFaults)
	for _, check := range []string{"dns-policy", "dns-upstream"} {
		assert.True(t, noticed[check], check)
	}
}

func TestRefusalHoldsForEveryAddressAndProtocol(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		topology Topology
		want     string
	}{
		"refused": {refusing(), ""},
		"allowed": {testTopology(), "1.1.1.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, con, dis := pair(t, test.topology)
			for _, server := range []string{con.Lab.String(), con.VLAN.String()} {
				for _, tcp := range []string{"+tcp", "+notcp"} {
					out, code := r.guests[dis.Name].Host().Run(t.Context(), "dig +short "+tcp+" @"+server+" "+test.topology.OutsideName)
					assert.Zero(t, code)
					assert.Equal(t, test.want, out, "%s of %s", tcp, server)
				}
			}
			out, code := r.guests[con.Name].Host().Run(t.Context(), "getent ahostsv4 "+test.topology.OutsideName)
			assert.Zero(t, code, out)
		})
	}
}
