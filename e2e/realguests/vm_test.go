package realguests

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// TestVM shows what VMs have of their own and containers have not: 802.1Q, a clock, hardware that
// reboots, and memory.
func TestVM(t *testing.T) {
	if *kind != string(VMs) {
		t.Skip("containers have the kernel and the clock of this machine, and no memory of their own; run it with -kind vms")
	}
	private := e2e.DefaultTopology().PrivateNetwork
	m := newMachine(t, private, private)
	c := m.dial(t, "root", "")
	t.Run("802.1Q", func(t *testing.T) { m.testVLAN(t, c) })
	t.Run("clock", func(t *testing.T) { m.testClock(t, c) })
	t.Run("reboot", func(t *testing.T) { m.testPower(t, c) })
	t.Run("memory", m.testMemory)
}

// testVLAN has two NICs of the private network, each in a namespace of its own, meet in a VLAN of
// it, and miss each other in two.
func (m *machine) testVLAN(t *testing.T, c *sshx.Client) {
	got := run(t, c, sshx.Cmd{Script: `set -eu
for i in 1 2; do
	ip netns add "side$i"
	in="ip netns exec side$i"
	[ "$i" = 1 ] && nic=ens224 || nic=ens256
	ip link set "$nic" netns "side$i"
	$in ip link set "$nic" up
	for id in 10 "2$i"; do
		$in ip link add link "$nic" name "vlan$id" type vlan id "$id"
		$in ip link set "vlan$id" up
		$in ip addr add "10.10.$id.$i/24" dev "vlan$id"
	done
	$in ip addr add "10.10.21.$i/24" dev "vlan2$i" 2>/dev/null || true
done
ip -n side1 -d -o link show dev vlan10 | grep -o 'vlan protocol 802.1Q id 10'
for to in 10.10.10.2 10.10.21.2; do
	if ip netns exec side1 ping -q -c 3 -i 1 -W 5 "$to" >/dev/null; then echo "$to answers"; else echo "$to does not"; fi
done
ip netns del side1
ip netns del side2`})
	assert.Equal(t, "vlan protocol 802.1Q id 10\n10.10.10.2 answers\n10.10.21.2 does not", got)
}

// testClock has the clock jump, and chronyd, when it is started again, follow the lab's server.
func (m *machine) testClock(t *testing.T, c *sshx.Client) {
	ahead := func() time.Duration {
		seconds, err := strconv.ParseInt(run(t, c, sshx.Cmd{Script: "date +%s"}), 10, 64)
		require.NoError(t, err)
		return time.Until(time.Unix(seconds, 0))
	}
	run(t, c, sshx.Cmd{Script: "systemctl stop chrony; date -s '+1 hour' >/dev/null"})
	require.Greater(t, ahead(), 50*time.Minute)
	run(t, c, sshx.Cmd{Script: `set -eu
printf '%s\n' "server ` + m.site.topology.NTPServer.String() + ` iburst" 'makestep 1.0 3' >/etc/chrony/chrony.conf
systemctl restart chrony
timeout 120 chronyc waitsync 0 0 0 1 >/dev/null`})
	assert.InDelta(t, 0, ahead().Seconds(), 10)
}

// testPower has the VM reboot by itself: its disk is as it was, and its memory is not.
func (m *machine) testPower(t *testing.T, c *sshx.Client) {
	boot, err := c.BootID(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	run(t, c, sshx.Cmd{Script: "echo kept >/etc/mark; sync"})
	next, err := c.Reboot(ctx, sshx.Ready{SystemState: true})
	require.NoError(t, err)
	defer next.Close()
	again, err := next.BootID(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, boot, again)
	assert.Equal(t, "kept", run(t, next, sshx.Cmd{Script: "cat /etc/mark; cat /run/mark 2>/dev/null || true"}))
}

// testMemory saves the VM's memory, changes it, and has it go on from the snapshot, as a revert of
// vspheretest does.
func (m *machine) testMemory(t *testing.T) {
	c := m.dial(t, "root", "")
	boot, err := c.BootID(t.Context())
	require.NoError(t, err)
	const mark = `echo kept >/run/mark
(sleep 100000 >/dev/null 2>&1 </dev/null &)`
	run(t, c, sshx.Cmd{Script: mark})
	disk, memory, err := m.guest.(vspheretest.MemorySaver).SaveMemory()
	require.NoError(t, err)
	run(t, c, sshx.Cmd{Script: "echo changed >/run/mark; touch /etc/changed; sync; pkill sleep"})
	m.guest.Kill()

	g, err := m.site.Resume(&vspheretest.Machine{Disk: disk, Hardware: m.hw}, memory)
	require.NoError(t, err)
	t.Cleanup(g.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	c, err = sshx.WaitReady(ctx, m.cfg, sshx.Ready{})
	require.NoError(t, err)
	defer c.Close()
	again, err := c.BootID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, boot, again, "it has not booted")
	assert.Equal(t, "kept\nunchanged\nsleeps", run(t, c, sshx.Cmd{Script: `cat /run/mark
[ -e /etc/changed ] || echo unchanged
pgrep -x sleep >/dev/null && echo sleeps`}))
}
