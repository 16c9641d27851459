package vsphere

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// Two clones of a template with a filled machine-id get one lease: neither may be taken for the
// other.
func TestAnAddressThatAnotherRunningVMReportsIsNotUsed(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	l.os.fixed.Store(true) // all guests have one address
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	one, err := l.p.Clone(ctx, linkedSpec(golden, snap, "con1", "00:50:56:04:00:01"))
	require.NoError(t, err)
	other := linkedSpec(golden, snap, "con2", "00:50:56:04:00:02")
	other.VM.Folder = "pool2"
	two, err := l.p.Clone(ctx, other)
	require.NoError(t, err)

	require.NoError(t, l.p.PowerOn(ctx, one))
	addr, err := l.p.Address(ctx, one, "00:50:56:04:00:01", netip.Addr{})
	require.NoError(t, err, "nobody else has it")

	require.NoError(t, l.p.PowerOn(ctx, two))
	_, err = l.p.Address(ctx, two, "00:50:56:04:00:02", netip.Addr{})
	var twins *twinError
	require.ErrorAs(t, err, &twins)
	assert.Equal(t, addr, twins.addr)
	assert.ErrorContains(t, err, `VM "con2"`)
	assert.ErrorContains(t, err, "/set/con1")
	assert.ErrorContains(t, err, "machine-id")
	assert.Equal(t, permanent, classify(err))

	// As soon as the other one is off, it is con2's alone, whatever vCenter still says of con1.
	_, err = l.p.ShutDown(ctx, one, 0)
	require.NoError(t, err)
	got, err := l.p.Address(ctx, two, "00:50:56:04:00:02", netip.Addr{})
	require.NoError(t, err)
	assert.Equal(t, addr, got)
}

// Networks of their own, as behind a bastion, may use the same addresses.
func TestAnAddressMayBeUsedOnAnotherNetwork(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Networks = []string{"net1", "net2"} })
	l.os.fixed.Store(true)
	ctx := within(t, time.Minute)
	spec := goldenSpec("golden")
	spec.VM.NICs = []pool.NIC{{Network: "net1"}}
	golden, err := l.p.Clone(ctx, spec)
	require.NoError(t, err)
	snap, err := l.p.Snapshot(ctx, golden, "golden-ready", "{}")
	require.NoError(t, err)
	for name, nic := range map[string]pool.NIC{
		"con1": {Network: "net1", MAC: "00:50:56:04:01:01"}, "con2": {Network: "net2", MAC: "00:50:56:04:01:02"},
	} {
		c := linkedSpec(golden, snap, name, nic.MAC)
		c.VM.NICs[0] = nic
		id, err := l.p.Clone(ctx, c)
		require.NoError(t, err)
		require.NoError(t, l.p.PowerOn(ctx, id))
		_, err = l.p.Address(ctx, id, nic.MAC, netip.Addr{})
		require.NoError(t, err)
	}
}

func TestPreflightRefusesStaticMACsThatAreTaken(t *testing.T) {
	t.Parallel()
	const mac = "00:50:56:04:02:01"
	for name, c := range map[string]struct {
		set    string // of the VM that has the MAC
		rename string
		on     bool
		says   string // "" is none
	}{
		"another set's VM":             {set: "other", on: true, says: "/other/con1, which is powered on"},
		"another set's VM that is off": {set: "other", says: "/other/con1, which is powered off"},
		"one that was renamed and runs": {
			set: "set", rename: "con1-old", on: true, says: "/set/con1-old, which is powered on",
		},
		"one that was renamed and is off": {set: "set", rename: "con1-kept"},
		"the one that is replaced":        {set: "set", on: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, vspheretest.Fast())
			ctx := within(t, time.Minute)
			golden, snap := l.golden(t, ctx)
			spec := linkedSpec(golden, snap, "con1", mac)
			before := spec
			before.Set = c.set
			id, err := l.p.Clone(ctx, before)
			require.NoError(t, err)
			if c.rename != "" {
				require.NoError(t, l.p.Rename(ctx, id, c.rename))
			}
			if c.on {
				require.NoError(t, l.p.PowerOn(ctx, id))
			}
			err = l.provider(t).Preflight(ctx, []pool.CloneSpec{spec})
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, `VM "con1": its MAC `+mac)
			require.ErrorContains(t, err, c.says)
		})
	}
}

// What a NIC claims, no VM of another set on its network may have claimed, powered on or not.
func TestClaimsOfAnotherSetAreRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) { s.Networks = []string{"net1", "net2"} })
	ctx := within(t, time.Minute)
	template := goldenSpec("golden")
	template.VM.NICs = []pool.NIC{{Network: "net1"}}
	golden, err := l.p.Clone(ctx, template)
	require.NoError(t, err)
	snap, err := l.p.Snapshot(ctx, golden, "ready", "")
	require.NoError(t, err)
	clone := func(set, network string, mac int, claims ...string) pool.CloneSpec {
		spec := linkedSpec(golden, snap, "con1", "")
		spec.Set = set
		spec.VM.NICs = []pool.NIC{{Network: network, MAC: fmt.Sprintf("00:50:56:04:02:%02x", mac), Claims: claims}}
		return spec
	}
	first := clone("other", "net1", 1, "10.0.2.10", `VLAN 10: "10.10.20.1"`)
	_, err = l.p.Clone(ctx, first)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		spec pool.CloneSpec
		says string // "" is none
	}{
		"one of two":      {clone("set", "net1", 2, "10.0.2.11", `VLAN 10: "10.10.20.1"`), `its VLAN 10: "10.10.20.1" is that of VM /`},
		"both":            {clone("set", "net1", 2, `VLAN 10: "10.10.20.1"`, "10.0.2.10"), `its 10.0.2.10, VLAN 10: "10.10.20.1" are those of VM /`},
		"others":          {clone("set", "net1", 2, "10.0.2.11"), ""},
		"another network": {clone("set", "net2", 2, "10.0.2.10"), ""},
		"the one itself":  {first, ""},
	} {
		err := l.provider(t).Preflight(ctx, []pool.CloneSpec{c.spec})
		if c.says == "" {
			assert.NoError(t, err, name)
			continue
		}
		assert.ErrorContains(t, err, c.says, name)
		assert.ErrorContains(t, err, "/other/con1, which is powered off", name)
	}
}

func TestWhyTwinsHaveOneAddress(t *testing.T) {
	t.Parallel()
	assert.Contains(t, whyTwins("a", "a", "dhcp", "dhcp"), "both have the MAC a")
	assert.Contains(t, whyTwins("a", "b", "dhcp", "dhcp"), "machine-id")
	assert.NotContains(t, whyTwins("a", "b", "dhcp", "dhcp"), "static")
	assert.NotContains(t, whyTwins("a", "b", "dhcp", "manual"), "machine-id")
	assert.Contains(t, whyTwins("a", "b", "", ""), "static")
}
