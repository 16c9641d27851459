package realguests

import (
	"maps"
	"strconv"
	"strings"
	"sync"
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
			t.Logf("golden, con1 and dis1 are ready after %.0fs", time.Since(begun).Seconds())
			for _, c := range s.set.Checks() {
				assert.True(t, c.OK(), "%s: %s", c.Host, c)
			}
			t.Run("timings", s.testTimings)
			t.Run("reused", s.testReused)
			t.Run("VLAN", s.testVLAN)
			t.Run("failed", s.testFailed)
			t.Run("air gap", s.testAirGap)
			t.Run("reset", s.testReset)
			t.Run("resumed", s.testResumed)
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

// testVLAN looks at what con and dis reach each other by.
func (s *system) testVLAN(t *testing.T) {
	if s.site.kind == Containers && !s.site.vlans {
		t.Skip("this kernel has no 802.1Q; VMs have one of their own")
	}
	for _, h := range s.set.Acquire(t).Hosts() {
		assert.Contains(t, s.script(t, h, `ip -d -o link show dev "$VLAN_IF"`), "vlan protocol 802.1Q id "+h.VM.Env["VLAN_ID"])
	}
}

// testResumed is a reset of machines with memory: they have not booted, their clock is right, and it
// can be set, as the step does after a jump.
func (s *system) testResumed(t *testing.T) {
	if s.site.kind != VMs {
		t.Skip("containers have neither memory nor a clock of their own")
	}
	boot := map[string]string{}
	t.Run("used", func(t *testing.T) {
		for _, h := range s.set.Acquire(t).Hosts() {
			boot[h.Name] = h.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id")
			s.script(t, h, "echo dirt >/run/dirt; (sleep 100000 >/dev/null 2>&1 </dev/null &)")
		}
	})
	for _, h := range s.set.Acquire(t).Hosts() {
		assert.Equal(t, boot[h.Name], h.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id"), h.Name)
		assert.Equal(t, "clean", s.script(t, h, `[ ! -e /run/dirt ] || echo "a file"
pgrep -x sleep || echo clean`), h.Name)
		assert.InDelta(t, 0, s.clock(t, h).Seconds(), 5, h.Name)
		s.script(t, h, "date -s '+1 hour' >/dev/null")
		require.Greater(t, s.clock(t, h), 50*time.Minute, h.Name)
		require.NoError(t, s.step(t, h, "time"), h.Name)
		assert.InDelta(t, 0, s.clock(t, h).Seconds(), 5, h.Name)
	}
}

// clock is how far a host's clock is ahead, to some seconds.
func (s *system) clock(t *testing.T, h *pool.Host) time.Duration {
	t.Helper()
	seconds, err := strconv.ParseInt(h.MustRun(t, "date", "+%s"), 10, 64)
	require.NoError(t, err)
	return time.Until(time.Unix(seconds, 0))
}

// testConGone pulls all cables of con: what dis does is over soon all the same.
func (s *system) testConGone(t *testing.T) {
	p := s.set.Acquire(t)
	con, dis := p.Host(e2e.Con), p.Host(e2e.Dis)
	sudo := func() time.Duration {
		begun := time.Now()
		s.script(t, dis, `sudo -n -u "$ADMIN_USER" sudo -n true`)
		return time.Since(begun)
	}
	before := sudo()
	for i := range con.VM.NICs {
		require.NoError(t, con.ConnectNIC(t.Context(), i, false))
	}
	assert.Less(t, sudo(), 2*before+2*time.Second, "a lookup without an answer takes 5 s")
	begun := time.Now()
	var g sync.WaitGroup
	places := make(chan struct{}, 4) // as many at once as the engine does
	for _, c := range s.role(e2e.Dis).Checks {
		places <- struct{}{}
		g.Go(func() {
			defer func() { <-places }()
			_, _ = c.Do(t.Context(), dis) // that it ends counts
		})
	}
	g.Wait()
	t.Logf("the checks of a dis without con took %.0fs", time.Since(begun).Seconds())
	assert.Less(t, time.Since(begun), s.limit(3*time.Minute))

	begun = time.Now()
	dis.VM.Env = maps.Clone(dis.VM.Env)
	dis.VM.Env["WAIT_CON"] = "5"
	err := s.step(t, dis, "wait-con")
	require.ErrorContains(t, err, "con has not answered within 5 s")
	assert.Less(t, time.Since(begun), s.limit(30*time.Second), "each try takes up to 2 s")

	begun = time.Now()
	require.NoError(t, dis.Reboot(t.Context()))
	t.Logf("a boot of a dis without con took %.0fs", time.Since(begun).Seconds())
}

// limit is a time for containers, or that for VMs, which may be emulated.
func (s *system) limit(d time.Duration) time.Duration {
	if s.site.kind == VMs {
		d *= 10
	}
	return d
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
