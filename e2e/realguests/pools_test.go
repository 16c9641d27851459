package realguests

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/pool"
)

// TestPools is the main job on real guests: golden, con1 and dis1 with every step done twice, and
// then what a real system may do otherwise than a simulated one.
func TestPools(t *testing.T) {
	for _, stack := range strings.Split(*stacks, ",") {
		t.Run(stack, func(t *testing.T) {
			if !*keep {
				t.Parallel()
			}
			s := newSystem(t, stack)
			begun := time.Now()
			s.set = pool.Ensure(t, s.spec)
			t.Logf(
				"golden, con1 and dis1 are ready after %.0fs; the slowest were%s",
				time.Since(begun).Seconds(),
				s.took.slowest(8),
			)
			for _, c := range s.set.Checks() {
				assert.True(t, c.OK(), "%s: %s", c.Host, c)
			}
			t.Run("reused", s.testReused)
			t.Run("air gap", s.testAirGap)
			t.Run("reset", s.testReset)
			t.Run("reboot", s.testReboot)
			t.Run("con is gone", s.testConGone)
			t.Run("idle", s.testIdle)
		})
	}
}

func (s *system) testReused(t *testing.T) {
	set := pool.Ensure(t, s.spec)
	for _, h := range set.Status() {
		assert.True(t, h.Ready, h.Host)
		assert.Equal(t, pool.ActionReuse, h.Action, "%s: %s", h.Host, h.Reason)
	}
}

// testAirGap opens each way out of dis that there can be, and looks whether the checks see it.
func (s *system) testAirGap(t *testing.T) {
	for name, leak := range map[string]struct{ open, close, seen string }{
		"route through con": {
			`ip route add default via "$CON_VLAN_ADDR"`, `ip route del default`, "icmp",
		},
		"route through the lab's gateway": {
			`ip route add default via 10.0.1.1`, `ip route del default`, "tcp443",
		},
		"route to one address": {
			`ip route add "$OUTSIDE_ADDR" via 10.0.1.1`, `ip route del "$OUTSIDE_ADDR"`, "dns-udp",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dis := s.set.Acquire(t).Host(e2e.Dis)
			require.True(t, strings.HasPrefix(s.check(t, dis, "internet"), "open: none\n"))
			s.script(t, dis, leak.open)
			open, _, _ := strings.Cut(s.check(t, dis, "internet"), "\n")
			assert.Contains(t, open, leak.seen)
			s.script(t, dis, leak.close)
			assert.True(t, strings.HasPrefix(s.check(t, dis, "internet"), "open: none\n"))
		})
	}
	t.Run("cable", func(t *testing.T) {
		dis := s.set.Acquire(t).Host(e2e.Dis)
		require.NoError(t, dis.ConnectNIC(t.Context(), 2, true))
		assert.NotEqual(t, pool.NICState{}.String(), s.check(t, dis, "unplugged"))
		s.script(t, dis, `ip link set "$EXT_IF" up
ip addr add 192.168.50.77/24 dev "$EXT_IF"
ip route add default via 192.168.50.1`)
		open, _, _ := strings.Cut(s.check(t, dis, "internet"), "\n")
		assert.Contains(t, open, "icmp tcp80 tcp443")
		assert.NotEqual(t, "none", s.check(t, dis, "default-route"))
		assert.False(t, strings.HasPrefix(s.check(t, dis, "ext-link"), "DOWN"))
	})
	t.Run("IPv6", func(t *testing.T) {
		dis := s.set.Acquire(t).Host(e2e.Dis)
		require.NoError(t, dis.ConnectNIC(t.Context(), 2, true))
		s.script(t, dis, `ip link set "$EXT_IF" up
ip addr add 2001:db8:50::77/64 dev "$EXT_IF" nodad
ip -6 route add default via 2001:db8:50::1`)
		open, _, _ := strings.Cut(s.check(t, dis, "internet"), "\n")
		assert.Contains(t, open, "icmp6 tcp443-6")
	})
}

func (s *system) testReset(t *testing.T) {
	t.Run("dirty", func(t *testing.T) {
		for _, h := range s.set.Acquire(t).Hosts() {
			s.script(
				t,
				h,
				`echo dirt >/etc/dirt
echo "10.0.0.1 dirt" >>/etc/hosts
userdel -r "$TEST_USER"
rm -r /usr/share/perl`,
			)
		}
	})
	for _, h := range s.set.Acquire(t).Hosts() {
		got := s.script(t, h, `ls /etc/dirt 2>/dev/null || true
grep -c dirt /etc/hosts || true
id -un "$TEST_USER"
ls -d /usr/share/perl`)
		assert.Equal(t, "0\ntesty\n/usr/share/perl", got, h.Name)
	}
}

// testReboot reboots both hosts; then every check passes.
func (s *system) testReboot(t *testing.T) {
	p := s.set.Acquire(t)
	for _, h := range p.Hosts() {
		boot := h.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id")
		require.NoError(t, h.Reboot(t.Context()))
		assert.NotEqual(t, boot, h.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id"))
	}
	assert.NoError(t, p.Verify(t.Context()).Err())
}

// testConGone pulls all cables of con: what dis does is over soon all the same.
func (s *system) testConGone(t *testing.T) {
	p := s.set.Acquire(t)
	con, dis := p.Host(e2e.Con), p.Host(e2e.Dis)
	require.NoError(t, con.ConnectNIC(t.Context(), 1, false))
	got := s.script(t, dis, `begun=$(date +%s)
sudo -n -u "$ADMIN_USER" sudo -n true
echo $(($(date +%s) - begun))`)
	assert.Contains(t, []string{"0", "1", "2"}, got, "seconds that sudo took")
	begun := time.Now()
	for _, c := range s.role(e2e.Dis).Checks {
		_, _ = c.Do(t.Context(), dis) // that it ends counts
	}
	t.Logf("the checks of a dis without con took %.0fs", time.Since(begun).Seconds())
	assert.Less(t, time.Since(begun), 3*time.Minute)
	require.NoError(t, con.ConnectNIC(t.Context(), 1, true))
}

func (s *system) testIdle(t *testing.T) {
	p := s.set.Acquire(t)
	p.Watch(t)
	time.Sleep(*idle)
}

// script runs a text on a host, which must end without an error.
func (s *system) script(t *testing.T, h *pool.Host, text string) string {
	t.Helper()
	out, err := h.Script(t.Context(), "set -eu\n"+text+"\n")
	require.NoError(t, err)
	return strings.TrimSpace(out)
}
