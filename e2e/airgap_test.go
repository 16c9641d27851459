package e2e

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// airtight is what the probes of a host without internet say.
const airtight = "open: none\nclosed: icmp tcp80 tcp443 dns-udp dns-tcp http-by-name icmp6 tcp443-6 proxy-env"

// testAirGap shows that the air gap is in the hypervisor, and comes back with a reset. set has one
// pool.
func (e *embedded) testAirGap(t *testing.T, set *pool.Set) {
	probes := func(h *pool.Host) string {
		t.Helper()
		out, err := h.Script(t.Context(), script("checks", "internet"))
		require.NoError(t, err)
		return out
	}
	t.Run("root on dis cannot get out", func(t *testing.T) {
		p := set.Acquire(t)
		dis := p.Host(Dis)
		link, err := dis.NICState(t.Context(), extNIC)
		require.NoError(t, err)
		assert.Equal(t, pool.NICState{}, link)

		// Everything that root can do about it.
		_, err = dis.Script(t.Context(), `#!/bin/sh
rm /etc/NetworkManager/conf.d/90-poolready-unmanaged.conf
systemctl reload NetworkManager
ip link set dev "$EXT_IF" up
nmcli connection modify "$EXT_IF" connection.autoconnect yes ipv4.method auto ipv6.method auto
nmcli connection up "$EXT_IF" && exit 1
exit 0`)
		require.NoError(t, err)
		assert.Equal(t, airtight, probes(dis))
		assert.NotEqual(t, airtight, probes(p.Host(Con)), "the probes find a way out where there is one")
	})
	t.Run("somebody plugs it in", func(t *testing.T) {
		dis := set.Acquire(t).Host(Dis)
		e.plugIn(t, dis.Name, dis.VM.NICs[extNIC].MAC)
		link, err := dis.NICState(t.Context(), extNIC)
		require.NoError(t, err)
		assert.True(t, link.Connected)
		assert.Equal(t, airtight, probes(dis), "the guest's own cut still holds")
		_, err = dis.Script(t.Context(), "#!/bin/sh\nip link set dev \"$EXT_IF\" up\n")
		require.NoError(t, err)
		assert.Contains(t, probes(dis), "open: icmp6 tcp443-6\n", "a leak is found")
	})
	t.Run("the next test has the air gap again", func(t *testing.T) {
		dis := set.Acquire(t).Host(Dis)
		link, err := dis.NICState(t.Context(), extNIC)
		require.NoError(t, err)
		assert.Equal(t, pool.NICState{}, link)
		assert.Equal(t, airtight, probes(dis))
	})
}

// plugIn connects a NIC by hand.
func (e *embedded) plugIn(t *testing.T, name, mac string) {
	t.Helper()
	vm := e.vm(t, name)
	devices, err := vm.Device(t.Context())
	require.NoError(t, err)
	cards := devices.Select(func(d types.BaseVirtualDevice) bool {
		c, ok := d.(types.BaseVirtualEthernetCard)
		return ok && c.GetVirtualEthernetCard().MacAddress == mac
	})
	require.Len(t, cards, 1)
	cards[0].GetVirtualDevice().Connectable = &types.VirtualDeviceConnectInfo{Connected: true, StartConnected: true, AllowGuestControl: true}
	require.NoError(t, vm.EditDevice(t.Context(), cards[0]))
}
