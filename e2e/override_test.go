package e2e

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const overridden = `pools: 3
mac-prefix: 00:50:56:01
pool-2:
  datastore: Datastore4-2
  folder: labs/two
  domain: two.lab.test
  con-name: bastion2
  con-macs: [00:50:56:00:00:01, 00:50:56:00:00:02, "00:50:56:00:00:03"]
  con-lab: 10.0.3.20
  dis-vlan: 10.10.20.77
`

func TestOnePoolIsOtherwise(t *testing.T) {
	t.Parallel()
	topology, from, err := LoadTopology(Source{
		File: "t.yaml", YAML: []byte(overridden),
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{"E2E_POOL_2_CON_NAME": "jump2", "E2E_POOL_3_DIS_NAME": "island3", "E2E_POOL_2_FOLDER": "env"}[name]
			return v, ok
		},
		Flags: map[string]string{"pool-2.folder": "flag"},
	})
	require.NoError(t, err)
	con, dis := topology.Host(Con, 2), topology.Host(Dis, 2)
	assert.Equal(t, Host{
		Role: Con, OS: "rhel9", Pool: 2, Name: "jump2", Lab: netip.MustParseAddr("10.0.3.20"), VLAN: netip.MustParseAddr("10.10.20.3"),
		MACs: []string{"00:50:56:00:00:01", "00:50:56:00:00:02", "00:50:56:00:00:03"},
	}, con)
	assert.Equal(t, "dis2 10.10.20.77 10.0.2.21", dis.Name+" "+dis.VLAN.String()+" "+dis.Lab.String())
	assert.Equal(t, "island3", topology.Host(Dis, 3).Name)
	assert.Equal(t, DefaultTopology().Host(Con, 1).Name, topology.Host(Con, 1).Name)
	vm := topology.VM(dis)
	assert.Equal(t, "flag Datastore4-2", vm.Folder+" "+vm.Datastore)
	assert.Equal(t, "10.0.3.20", vm.Env["CON_LAB_ADDR"])
	assert.Equal(t, "two.lab.test", vm.Env["DOMAIN"])
	assert.Contains(t, topology.Records(2), "registry.two.lab.test")
	assert.Equal(t, netip.MustParseAddr("10.0.3.20"), topology.Reservations()["00:50:56:00:00:01"])
	assert.Equal(t, "E2E_POOL_2_CON_NAME", from["pool-2.con-name"])
	assert.Equal(t, "t.yaml:9", from["pool-2.con-lab"])
	assert.Equal(t, "-set pool-2.folder", from["pool-2.folder"])

	printed := topology.YAML(from)
	again, _, err := LoadTopology(Source{File: "printed", YAML: []byte(printed)})
	require.NoError(t, err, printed)
	assert.Equal(t, topology, again, printed)
	assert.Contains(t, printed, "pool-2:\n  datastore: Datastore4-2 # of its VMs (t.yaml:4)\n")
}

func TestWhatCannotBeOtherwise(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, yaml, want string }{
		{"a name of another", "pool-2: {con-name: dis1}", `t.yaml:1: pool-2.con-name: "dis1" is the name of another VM`},
		{"the name of one that comes later", "pool-1:\n  con-name: con2", `t.yaml:2: pool-1.con-name: "con2" is the name of another VM`},
		{"golden's name", "pool-1: {dis-name: e2e-golden-rhel9}", "see golden"},
		{"no host's name", "pool-1: {dis-name: Dis_1}", `pool-1.dis-name: "Dis_1" must be`},
		{"two MACs", "pool-1: {con-macs: [00:50:56:00:00:01, 00:50:56:00:00:02]}", "pool-1.con-macs: are 2, must be 3"},
		{"no MAC", "pool-1: {con-macs: [00:50:56:00:00:01, x, 00:50:56:00:00:02]}", `pool-1.con-macs: "x" is no unicast MAC`},
		{"a MAC twice", "pool-1: {con-macs: [00:50:56:00:00:01, 00:50:56:00:00:01, 00:50:56:00:00:02]}", "00:50:56:00:00:01 of con1 is that of another NIC"},
		{"a MAC that is derived for another", "\npool-1:\n  con-macs: 00:50:56:3d:02:05 00:50:56:00:00:01 00:50:56:00:00:02", "t.yaml:3: pool-1.con-macs: 00:50:56:3d:02:05 of dis2 is that of another NIC"},
		{"an address of another", "pool-2: {con-lab: 10.0.2.10}", "t.yaml:1: pool-2.con-lab: con2 would have 10.0.2.10, which is that of con1"},
		{"the address of one that comes later", "\npool-1:\n  dis-vlan: 10.10.20.3", "t.yaml:3: pool-1.dis-vlan: con2's VLAN interface would have 10.10.20.3, which is that of dis1's"},
		{"an address outside", "pool-2: {con-vlan: 10.9.0.1}", "pool-2.con-vlan: con2's VLAN interface would have 10.9.0.1, which is not in"},
		{"no address", "pool-2: {con-lab: here}", `t.yaml:1: pool-2.con-lab: "here" is not an IP address`},
		{"a folder elsewhere", "pool-2: {folder: ../prod}", `pool-2.folder: "../prod" must be below`},
		{"no domain", "pool-2: {domain: A B}", "pool-2.domain:"},
		{"no such key", "pool-2: {mtu: 9000}", "t.yaml:1: pool-2.mtu: no such key"},
		{"no such pool", "pool-0: {folder: x}", "t.yaml:1: pool-0: no such key"},
		{"twice", "pool-1: {folder: x}\npool-1: {folder: y}", "t.yaml:2: pool-1: is set at t.yaml:1 already"},
		{"no mapping", "pool-1: x", "t.yaml:1: pool-1: no such key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := LoadTopology(Source{File: "t.yaml", YAML: []byte(test.yaml)})
			assert.ErrorContains(t, err, test.want)
		})
	}
	topology, _, err := LoadTopology(Source{YAML: []byte("mac-prefix: 00:50:56:ac\npool-1: {con-macs: [02:00:00:00:00:01, 00:0c:29:00:00:01, 00:50:56:3f:00:02]}")})
	require.NoError(t, err)
	assert.Equal(t, []string{"mac-prefix: 00:50:56:ac:00:00 is " + keptMAC, "pool-1.con-macs: 00:0c:29:00:00:01 is " + keptMAC}, topology.Warnings())
}
