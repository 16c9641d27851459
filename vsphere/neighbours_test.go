package vsphere

import (
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
	addr, err := l.p.Address(ctx, one, "00:50:56:04:00:01")
	require.NoError(t, err, "nobody else has it")

	require.NoError(t, l.p.PowerOn(ctx, two))
	_, err = l.p.Address(ctx, two, "00:50:56:04:00:02")
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
	got, err := l.p.Address(ctx, two, "00:50:56:04:00:02")
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
		_, err = l.p.Address(ctx, id, nic.MAC)
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

func TestWhyTwinsHaveOneAddress(t *testing.T) {
	t.Parallel()
	assert.Contains(t, whyTwins("a", "a", "dhcp", "dhcp"), "both have the MAC a")
	assert.Contains(t, whyTwins("a", "b", "dhcp", "dhcp"), "machine-id")
	assert.NotContains(t, whyTwins("a", "b", "dhcp", "dhcp"), "static")
	assert.NotContains(t, whyTwins("a", "b", "dhcp", "manual"), "machine-id")
	assert.Contains(t, whyTwins("a", "b", "", ""), "static")
}
