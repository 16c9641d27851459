package e2e

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// state is all of a host that its steps decide: its disk, and what runs.
func (r *rig) state(h Host) map[string]string {
	r.t.Helper()
	host := r.guests[h.Name].Host()
	all := tree(r.t, host.Disk())
	out, code := host.Run(r.t.Context(), "ip -br addr; (ip route; ip -6 route) | sed 's/ metric [0-9]*//'; sysctl -n net.ipv4.ip_forward; ss -Hltn; ss -Hlun; cat /proc/sys/kernel/random/boot_id")
	require.Zero(r.t, code, out)
	all["what runs"] = out
	return all
}

// configureTwice runs every step of a host's role twice, and returns what the second runs changed.
func (r *rig) configureTwice(h Host) (changed []string) {
	r.t.Helper()
	for _, name := range steps[h.Role] {
		r.step(h, name)
		before := r.state(h)
		if r.step(h, name) {
			changed = append(changed, fmt.Sprintf("%s: step %s: rebooted again", h.Name, name))
		}
		changed = append(changed, difference(h.Name+": step "+name, before, r.state(h))...)
	}
	return changed
}

// difference names what is in one state and not, or otherwise, in the other.
func difference(who string, before, after map[string]string) (list []string) {
	keys := maps.Clone(before)
	maps.Copy(keys, after)
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if before[k] != after[k] {
			list = append(list, fmt.Sprintf("%s: %s: %.300q became %.300q", who, k, before[k], after[k]))
		}
	}
	return list
}

func TestAStepRunTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	eachSystem(t, func(t *testing.T, topology Topology) {
		ready(t, topology)
		assert.Empty(t, builtFor(topology).changed)
	})
}

func TestAllStepsRunAgainChangeNothing(t *testing.T) {
	t.Parallel()
	eachSystem(t, func(t *testing.T, topology Topology) {
		r, con, dis := pair(t, topology)
		for _, h := range []Host{con, dis} {
			before := r.state(h)
			if h.Role == Dis {
				r.configure(h, "update") // it has no internet any more
			} else {
				r.configure(h)
			}
			assert.Empty(t, difference(h.Name, before, r.state(h)))
		}
	})
}

// TestDifferenceFindsChanges shows that the tests above can fail.
func TestDifferenceFindsChanges(t *testing.T) {
	t.Parallel()
	r, con, _ := pair(t, testTopology())
	for script, want := range map[string]string{
		"echo x >>/etc/environment":   "/etc/environment: ",
		"chmod 600 /etc/environment":  "/etc/environment: ",
		"systemctl stop dnsmasq":      "what runs: ",
		"rm /etc/ssh/ssh_known_hosts": "/etc/ssh/ssh_known_hosts: ",
	} {
		before := r.state(con)
		out, code := r.guests[con.Name].Host().Run(t.Context(), script)
		require.Zero(t, code, out)
		got := difference("con1", before, r.state(con))
		require.Len(t, got, 1, script)
		assert.Contains(t, got[0], "con1: "+want)
	}
}
