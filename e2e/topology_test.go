package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func TestTheDefaultTopologyIsThatOfTheDocument(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	require.NoError(t, topology.Validate())
	con2, dis3 := topology.Host(Con, 2), topology.Host(Dis, 3)
	assert.Equal(t, Host{
		Role: Con, OS: "rhel9", Pool: 2, Name: "con2", Lab: netip.MustParseAddr("10.0.2.20"), VLAN: netip.MustParseAddr("10.10.20.3"),
		MACs: []string{"00:50:56:3d:02:01", "00:50:56:3d:02:02", "00:50:56:3d:02:03"},
	}, con2)
	assert.Equal(t, Host{
		Role: Dis, OS: "rhel9", Pool: 3, Name: "dis3", Lab: netip.MustParseAddr("10.0.2.31"), VLAN: netip.MustParseAddr("10.10.20.6"),
		MACs: []string{"00:50:56:3d:03:04", "00:50:56:3d:03:05", "00:50:56:3d:03:06"},
	}, dis3)
	records := map[string]string{}
	for name, a := range topology.Records(1) {
		records[name] = a.String()
	}
	assert.Equal(t, map[string]string{
		"api.sno1.p1.example.com": "10.0.2.12", "*.apps.sno1.p1.example.com": "10.0.2.12",
		"api.compact1.p1.example.com": "10.0.2.13", "*.apps.compact1.p1.example.com": "10.0.2.14",
		"api.standard1.p1.example.com": "10.0.2.13", "*.apps.standard1.p1.example.com": "10.0.2.14",
		"api.sno-vlan1.p1.example.com": "10.10.20.201", "*.apps.sno-vlan1.p1.example.com": "10.10.20.201",
		"api.compact-vlan1.p1.example.com": "10.10.20.211", "*.apps.compact-vlan1.p1.example.com": "10.10.20.221",
		"api.standard-vlan1.p1.example.com": "10.10.20.211", "*.apps.standard-vlan1.p1.example.com": "10.10.20.221",
		"registry.p1.example.com": "10.0.2.10", "con1.example.com": "10.0.2.10", "dis1.example.com": "10.0.2.11",
	}, records)
	vm := topology.VM(dis3)
	lab := netip.MustParsePrefix("10.0.0.0/20")
	assert.Equal(t, "pool3", vm.Folder)
	assert.Equal(t, []pool.NIC{
		{Network: "Lab Network", MAC: "00:50:56:3d:03:04", Subnet: lab, Claims: []string{"10.0.2.31"}},
		{Network: "Private Network", MAC: "00:50:56:3d:03:05", Claims: []string{"VLAN 10: 10.10.20.6"}},
		{Network: "External Network", MAC: "00:50:56:3d:03:06", Unplugged: true},
	}, vm.NICs)
	assert.Empty(t, topology.Warnings())
}

func TestSetsHaveMACsOfTheirOwn(t *testing.T) {
	t.Parallel()
	one, two := DefaultTopology(), DefaultTopology()
	two.Set = "another"
	require.NoError(t, two.Validate())
	assert.Empty(t, two.Warnings())
	assert.NotEqual(t, one.Host(Con, 1).MACs, two.Host(Con, 1).MACs)
	two.MACPrefix = "02:00:00:01"
	assert.Equal(t, "02:00:00:01:01:01", two.Host(Con, 1).MACs[0])
}

func TestFlagsWinOverTheEnvironmentOverTheFileOverDefaults(t *testing.T) {
	t.Parallel()
	src := Source{
		File: "topology.yaml", YAML: []byte("# comment\nmtu: 1400\n\nvlan: 20\ndomain: lab.test\npackages:\n  - git\n  - tmux\n"),
		Env: func(name string) (string, bool) {
			v, ok := map[string]string{"E2E_VLAN": "30", "E2E_DOMAIN": "env.test"}[name]
			return v, ok
		},
		Flags: map[string]string{"domain": "flag.test", "only": "1-2"},
	}
	topology, from, err := LoadTopology(src)
	require.NoError(t, err)
	assert.Equal(t, 1400, topology.MTU)
	assert.Equal(t, 30, topology.VLAN)
	assert.Equal(t, "flag.test", topology.Domain)
	assert.Equal(t, []string{"git", "tmux"}, topology.Packages)
	assert.Equal(t, []int{1, 2}, topology.Only)
	assert.Equal(t, "Asia/Singapore", topology.Timezone)
	assert.Equal(t, Origins{
		"mtu": "topology.yaml:2", "vlan": "E2E_VLAN", "domain": "-set domain", "only": "-pools", "packages": "topology.yaml:6",
	}, from)

	printed := topology.YAML(from)
	again, _, err := LoadTopology(Source{File: "printed", YAML: []byte(printed)})
	require.NoError(t, err, printed)
	assert.Equal(t, topology, again, "what is printed makes the same topology")
	assert.Contains(t, printed, "(topology.yaml:2)")
}

func TestEveryFaultOfATopologyIsReportedWithItsLine(t *testing.T) {
	t.Parallel()
	_, _, err := LoadTopology(Source{
		File: "t.yaml",
		YAML: []byte("mtu: lots\nvlan: 5000\nvlan: 10\nnosuch: 1\nlab-if: [a, [b]]\nname-server: 10.0.1\n"),
		Env: func(name string) (string, bool) {
			return "33:33:00:00", name == "E2E_MAC_PREFIX"
		},
		Flags: map[string]string{"typo": "x", "set": "Not A Name"},
	})
	require.Error(t, err)
	for _, want := range []string{
		`t.yaml:1: mtu: "lots"`, "t.yaml:2: vlan: is 5000", "t.yaml:3: vlan: is set at t.yaml:2 already",
		"t.yaml:4: nosuch: no such key", "t.yaml:5: lab-if: is neither a value nor a list", `t.yaml:6: name-server: "10.0.1" is not an IP address`,
		"E2E_MAC_PREFIX: mac-prefix:", "-set typo: no such key", `-set set: set: "Not A Name"`,
	} {
		assert.Contains(t, err.Error(), want)
	}
	_, _, err = LoadTopology(Source{Flags: map[string]string{"only": "9"}})
	assert.ErrorContains(t, err, "-pools: only: there is no pool 9")
	_, _, err = LoadTopology(Source{File: "t.yaml", YAML: []byte("- a\n- b\n")})
	assert.ErrorContains(t, err, "t.yaml:1: is no mapping")
	_, _, err = LoadTopology(Source{File: "t.yaml", YAML: []byte("a: [\n")})
	assert.ErrorContains(t, err, "t.yaml: yaml: line")
}

func TestAddressesThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, yaml, want string
	}{
		{"too many pools for the VLAN's plan", "pools: 20", "which is that of"},
		{"lab addresses outside of the lab", "pool-base: 10.9.0.0", "t.yaml:1: pool-base: con1 would have 10.9.0.10, which is not in 10.0.0.0/20"},
		{"a VLAN inside of the lab", "vlan-prefix: 10.0.3.0/24", "overlaps lab-prefix"},
		{"a VLAN that is too small", "vlan-prefix: 10.10.20.0/28", "which is not in 10.10.20.0/28"},
		{"the name server's address", "name-server: 10.0.2.11", "dis1 would have 10.0.2.11, which is that of name-server"},
		{"two NICs of one name", "ext-if: ens192", "must have three names"},
		{"a pool that is not there", "only: 2-4", "there is no pool 4: there are 3"},
		{"no pools", "pools: 0", "pools: is 0"},
		{"a long domain", "domain: " + strings.Repeat("abcdefghi.", 24) + "x", "is too long"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := LoadTopology(Source{File: "t.yaml", YAML: []byte(test.yaml)})
			assert.ErrorContains(t, err, test.want)
		})
	}
}

func TestParseNumbers(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"1-2,4": "[1 2 4]", "3": "[3]", "": "[]", "2,1-3": "[1 2 3]"} {
		got, err := pool.ParsePools(in)
		require.NoError(t, err, in)
		assert.Equal(t, want, fmt.Sprint(got))
	}
	for _, in := range []string{"0", "4-1", "a", "1-", "-1", "1-100000"} {
		_, err := pool.ParsePools(in)
		assert.Error(t, err, in)
	}
}
