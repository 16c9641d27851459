package e2e

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

var serial atomic.Int64

func expand(s string, env map[string]string) string {
	for k, v := range env {
		s = strings.ReplaceAll(s, "${"+k+"}", v)
	}
	return s
}

// built are disks of hosts that are ready, by system and what is special, made by the first test
// that needs them: clones of them are what tests break.
var built = map[string]*onceBuilt{"rhel9": {}, "debian12": {}, "rhel9 refused": {}}

type onceBuilt struct {
	sync.Mutex
	tried   bool
	disks   map[string]vspheretest.Disk
	changed []string // what the second run of a step changed
}

func builtFor(topology Topology) *onceBuilt {
	key := topology.OS
	if topology.OutsideNames != "allowed" {
		key += " " + topology.OutsideNames
	}
	return built[key]
}

func ready(t testing.TB, topology Topology) map[string]vspheretest.Disk {
	notForTheRaceDetector(t)
	b := builtFor(topology)
	b.Lock()
	defer b.Unlock()
	if !b.tried {
		b.tried = true
		b.disks, b.changed = build(t, topology)
	}
	require.NotNil(t, b.disks, "the hosts could not be built: see the first test that failed")
	return b.disks
}

// eachSystem runs a test on hosts of every kind.
func eachSystem(t *testing.T, f func(t *testing.T, topology Topology)) {
	for _, os := range []string{"rhel9", "debian12"} {
		t.Run(os, func(t *testing.T) {
			t.Parallel()
			f(t, testTopology().On(os, os))
		})
	}
}

// build makes golden and all hosts. Every step of the first of a role is run twice, where names of
// the outside are allowed.
func build(t testing.TB, topology Topology) (disks map[string]vspheretest.Disk, changed []string) {
	r := newRig(t, topology)
	configure := func(h Host) {
		if h.Pool > 1 || topology.OutsideNames != "allowed" {
			r.configure(h)
			return
		}
		changed = append(changed, r.configureTwice(h)...)
	}
	golden := r.topology.Host(Golden, 0)
	disks = map[string]vspheretest.Disk{}
	r.boot(golden, nil)
	configure(golden)
	require.Empty(t, r.verify(golden))
	disks[golden.Name] = r.off(golden)
	for _, role := range []string{Con, Dis} {
		for n := 1; n <= r.topology.Pools; n++ {
			h := r.topology.Host(role, n)
			r.boot(h, disks[golden.Name].Clone())
			configure(h)
			require.Empty(t, r.verify(h), h.Name)
		}
	}
	for _, h := range r.topology.Hosts()[1:] {
		disks[h.Name] = r.off(h)
	}
	return disks, changed
}

// pair boots con1 and dis1 as they were when ready, in a lab of their own.
func pair(t testing.TB, topology Topology) (r *rig, con, dis Host) {
	disks := ready(t, topology)
	r = newRig(t, topology)
	con, dis = r.topology.Host(Con, 1), r.topology.Host(Dis, 1)
	r.boot(con, disks[con.Name].Clone())
	r.boot(dis, disks[dis.Name].Clone())
	return r, con, dis
}

func TestEveryScriptIsUsed(t *testing.T) {
	t.Parallel()
	for kind, used := range map[string]func(role, name string) bool{
		"steps": func(role, name string) bool {
			return slices.Contains(testTopology().On("rhel9", "debian12").stepsOf(role), name)
		},
		"checks": func(role, name string) bool {
			return slices.ContainsFunc(checks[role], func(c check) bool { return c.name == name })
		},
	} {
		files, err := fs.ReadDir(scripts, path.Join("scripts", kind))
		require.NoError(t, err)
		for _, f := range files {
			name := strings.TrimSuffix(f.Name(), ".sh")
			assert.True(t, slices.ContainsFunc([]string{Golden, Con, Dis}, func(role string) bool { return used(role, name) }), "%s %s", kind, name)
			text := script(kind, name)
			assert.True(t, strings.HasPrefix(text, "#!/bin/sh\n# "), "%s: first lines are #! and what it is for", name)
			assert.Contains(t, text, "\nset -eu\n", name)
			assert.NotContains(t, text, "<<", "%s: no here documents", name)
		}
	}
}

func TestReadyHostsPassEveryCheckAfterABoot(t *testing.T) {
	t.Parallel()
	eachSystem(t, func(t *testing.T, topology Topology) {
		r, con, dis := pair(t, topology)
		assert.Empty(t, r.verify(con))
		assert.Empty(t, r.verify(dis))
	})
}

func TestDisFailsIfItsConIsDead(t *testing.T) {
	t.Parallel()
	topology := testTopology()
	disks := ready(t, topology)
	for name, fault := range map[string]string{
		"con is off":             "",
		"dnsmasq is stopped":     "systemctl stop dnsmasq",
		"the firewall is closed": "firewall-cmd --remove-service=dns",
		"the VLAN is down":       "nmcli connection down ens224.10",
		"con does not forward":   "sysctl -w net.ipv4.ip_forward=0",
		"con has no way out":     "nmcli connection down ens256",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, topology)
			con, dis := topology.Host(Con, 1), topology.Host(Dis, 1)
			if fault != "" {
				r.boot(con, disks[con.Name].Clone())
				out, code := r.guests[con.Name].Host().Run(t.Context(), fault)
				require.Zero(t, code, out)
			}
			r.boot(dis, disks[topology.GoldenName].Clone())
			for _, s := range steps[Dis] {
				if s == "wait-con" {
					break
				}
				r.step(dis, s)
			}
			_, stderr, code := r.script(dis, script("steps", "wait-con"))
			assert.Equal(t, 1, code)
			assert.Contains(t, stderr, "con has not answered within 1 s")
		})
	}
}

// TestWhatEndsByItselfIsNoFact: D-Bus starts a service for hostnamectl, which ends when idle.
func TestWhatEndsByItselfIsNoFact(t *testing.T) {
	t.Parallel()
	r := newRig(t, testTopology())
	con := r.topology.Host(Con, 1)
	r.boot(con, nil)
	_, _, code := r.script(con, "hostnamectl --static")
	require.Zero(t, code)
	running, _, _ := r.script(con, "systemctl list-units --type=service --state=running --plain --no-legend")
	require.Contains(t, running, "systemd-hostnamed.service")
	facts, stderr, code := r.script(con, script("", "facts"))
	require.Zero(t, code, stderr)
	assert.NotContains(t, facts, "running\tsystemd-hostnamed.service")
	assert.Contains(t, facts, "running\tsshd.service")
	assert.Contains(t, facts, "unit\tsystemd-hostnamed.service\tstatic", "that there is such a unit is one")
}
