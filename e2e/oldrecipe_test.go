package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx/sshtest"
)

// TestTheOldRecipeFails does what the recipe once did, and what real machines did not bear: simulated
// ones must not, either.
func TestTheOldRecipeFails(t *testing.T) {
	t.Parallel()
	// old is a script with what it once had, or lacked.
	old := func(t *testing.T, name, now, then string) string {
		text := script("steps", name)
		require.Contains(t, text, now)
		return strings.ReplaceAll(text, now, then)
	}
	// golden boots a template and runs the steps before one.
	golden := func(t *testing.T, topology Topology, before string) (*rig, Host) {
		r := newRig(t, topology)
		h := topology.Host(Golden, 0)
		r.boot(h, nil)
		for _, name := range steps[Golden] {
			if name == before {
				break
			}
			r.step(h, name)
		}
		return r, h
	}
	debian := testTopology().On("debian12", "debian12")

	t.Run("podman starts in the caller's directory", func(t *testing.T) {
		r, con, _ := pair(t, debian)
		_, said, code := r.script(con, old(t, "clean", "\ncd / ", "\ncd /root "))
		assert.Equal(t, 125, code)
		assert.Contains(t, said, "cannot chdir to /root")
	})
	t.Run("the firewall's zone has no interfaces under networkd", func(t *testing.T) {
		r, con, _ := pair(t, debian)
		_, said, code := r.script(con, old(t, "firewall", `"  <interface name=\"$interface\"/>"`, ""))
		require.Zero(t, code, said)
		assert.Contains(t, r.verify(con), "forwarding")
	})
	t.Run("firewalld takes longer than D-Bus waits", func(t *testing.T) {
		r, con, _ := pair(t, debian)
		commands := r.guests[con.Name].Host().Commands
		answers, slow := commands["firewall-cmd"], 0
		commands["firewall-cmd"] = func(ctx context.Context, p *sshtest.Proc) int {
			if slow++; slow == 1 && slices.Contains(p.Args, "--reload") {
				return p.Fail(254, "Error: org.freedesktop.DBus.Error.NoReply: Did not receive a reply.")
			}
			return answers(ctx, p)
		}
		_, said, code := r.script(con, old(t, "firewall", "within 300 reload || true", "firewall-cmd -q --reload"))
		assert.Equal(t, 254, code, said)
		slow = 0
		_, said, code = r.script(con, script("steps", "firewall"))
		assert.Zero(t, code, said)
		assert.Equal(t, 2, slow)
	})
	t.Run("a host's own name needs a name server", func(t *testing.T) {
		r, con, _ := pair(t, debian)
		_, said, code := r.script(con, old(t, "hostname", ` "$HOST_ADDR $HOST_FQDN $HOST_NAME # poolready"`, ""))
		require.Zero(t, code, said)
		assert.Contains(t, r.verify(con), "hostname")
		_, _, code = r.script(con, "systemctl stop dnsmasq")
		require.Zero(t, code)
		_, said, code = r.script(con, "sudo -n true")
		assert.Zero(t, code)
		assert.Contains(t, said, "sudo: unable to resolve host con1: ")

		_, said, code = r.script(con, script("steps", "hostname")+"sudo -n true\n")
		assert.Zero(t, code)
		assert.NotContains(t, said, "unable to resolve")
	})
	t.Run("a wait counts its pauses", func(t *testing.T) {
		r, con, dis := pair(t, debian)
		_, _, code := r.script(con, "systemctl stop dnsmasq")
		require.Zero(t, code)
		// What waits for an answer, or sleeps, takes as long as it says, by a clock of its own.
		disk, tries, up := r.guests[dis.Name].Host().Disk(), 0, 1000
		pass := func(seconds int) {
			up += seconds
			require.NoError(t, disk.WriteFile("/run/uptime", fmt.Appendf(nil, "%d.00 0.00\n", up), 0o644))
		}
		commands := r.guests[dis.Name].Host().Commands
		commands["sleep"] = func(context.Context, *sshtest.Proc) int { pass(1); return 0 }
		commands["dig"] = func(context.Context, *sshtest.Proc) int { tries++; pass(2); return 9 }
		wait := func(text string) (took, tried int) {
			began := up
			tries = 0
			pass(0)
			_, said, code := r.script(dis, "WAIT_CON=30\n"+strings.ReplaceAll(text, "/proc/uptime", "/run/uptime"))
			assert.Equal(t, 1, code)
			assert.Contains(t, said, "con has not answered within 30 s")
			return up - began, tries
		}
		took, tried := wait(script("steps", "wait-con"))
		assert.LessOrEqual(t, took, 30+2)
		assert.Equal(t, 11, tried)
		took, _ = wait(old(t, "wait-con", `if ! within "$WAIT_CON" con_serves; then`,
			"n=0\nuntil con_serves || [ $n -eq $WAIT_CON ]; do sleep 1; n=$((n + 1)); done\nif [ $n -eq $WAIT_CON ]; then"))
		assert.Greater(t, took, 3*30)
	})
	t.Run("a clock that has jumped is left alone", func(t *testing.T) {
		for _, topology := range []Topology{debian, testTopology()} {
			r, con, _ := pair(t, topology)
			host := r.guests[con.Name].Host()
			now := func() time.Duration {
				said, _, code := r.script(con, "date +%s")
				require.Zero(t, code)
				seconds, err := strconv.ParseInt(strings.TrimSpace(said), 10, 64)
				require.NoError(t, err)
				return time.Until(time.Unix(seconds, 0)).Abs()
			}
			_, said, code := r.script(con, "timeout 60 chronyc waitsync 0 0 0 1") // it has measured
			require.Zero(t, code, said)
			host.SetClock(time.Now().Add(time.Hour))
			// The step once restarted chronyd only if it had changed its configuration.
			_, said, code = r.script(con, old(t, "time", `systemctl restart "$unit"`, `[ -z "${changed:-}" ] || systemctl restart "$unit"`))
			require.Zero(t, code, said)
			assert.Greater(t, now(), 50*time.Minute)
			_, said, code = r.script(con, script("steps", "time"))
			require.Zero(t, code, said)
			assert.Less(t, now(), time.Minute)
		}
	})
	t.Run("what comes and goes by itself is a fact", func(t *testing.T) {
		r, con, _ := pair(t, debian)
		facts := script("", "facts")
		for _, what := range []string{"hostnamectl --static", "timedatectl show -p Timezone --value", "sudo -n -u steve ssh -o BatchMode=yes steve@localhost true"} {
			_, said, code := r.script(con, what)
			require.Zero(t, code, said)
		}
		then := strings.Replace(facts, `grep -qE "^($file +static|`, `grep -qE "^($file +none|`, 1)
		require.NotEqual(t, facts, then)
		got, said, code := r.script(con, then)
		require.Zero(t, code, said)
		noise := []string{"systemd-hostnamed.service", "systemd-timedated.service", "user@0.service", "user@1000.service"}
		for _, unit := range noise {
			assert.Contains(t, got, "running\t"+unit)
		}
		got, said, code = r.script(con, facts)
		require.Zero(t, code, said)
		for _, unit := range noise {
			assert.NotContains(t, got, "running\t"+unit)
		}
	})
	t.Run("routes are told by their metrics", func(t *testing.T) {
		r, con, _ := pair(t, testTopology())
		routes := func(text string) (lines []string) {
			got, said, code := r.script(con, text)
			require.Zero(t, code, said)
			for line := range strings.Lines(got) {
				if strings.HasPrefix(line, "route\t") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		facts := script("", "facts")
		then := strings.Replace(facts, "s/ metric [0-9]*//; ", "", 1)
		require.NotEqual(t, facts, then)
		again := func(first, second string) {
			_, said, code := r.script(con, `nmcli connection down "$EXT_IF"; nmcli connection down "$LAB_IF"
nmcli connection up "$`+first+`"; nmcli connection up "$`+second+`"`)
			require.Zero(t, code, said)
		}
		again("EXT_IF", "LAB_IF")
		before, loud := routes(facts), routes(then)
		again("LAB_IF", "EXT_IF")
		assert.ElementsMatch(t, before, routes(facts))
		assert.NotElementsMatch(t, loud, routes(then))
	})
	t.Run("only dpkg's lock is waited for", func(t *testing.T) {
		r, h := golden(t, debian, "packages")
		_, said, _ := r.script(h, old(t, "packages", "within 600 unlocked_apt", "unlocked_apt -o DPkg::Lock::Timeout=600"))
		assert.Contains(t, said, "E: Could not get lock /var/lib/apt/lists/lock")
	})
	t.Run("dnf goes on without its repository", func(t *testing.T) {
		r, h := golden(t, testTopology(), "packages")
		r.lab.Refuse(100)
		_, _, code := r.script(h, old(t, "update", " --setopt='*.skip_if_unavailable=0'", ""))
		assert.Zero(t, code, "nothing says that nothing was updated")
		_, _, code = r.script(h, script("steps", "update"))
		assert.NotZero(t, code)
	})
	t.Run("dnsmasq runs on golden", func(t *testing.T) {
		r, h := golden(t, debian, "grow")
		_, said, code := r.script(h, old(t, "packages", "systemctl disable --now dnsmasq", "systemctl enable --now dnsmasq"))
		require.Zero(t, code, said)
		assert.Contains(t, r.verify(h), "dnsmasq")
	})
	t.Run("a dnsmasq that could not start has failed", func(t *testing.T) {
		r, h := golden(t, debian, "packages")
		r.write(h, "/etc/dnsmasq.d/another.conf", "no such directive\n")
		_, said, code := r.script(h, old(t, "packages", "systemctl reset-failed dnsmasq", ":"))
		require.Zero(t, code, said)
		assert.Contains(t, r.verify(h)["dnsmasq"], "failed disabled")
		_, said, code = r.script(h, script("steps", "packages"))
		require.Zero(t, code, said)
		assert.NotContains(t, r.verify(h), "dnsmasq")
	})
	t.Run("golden loses its address", func(t *testing.T) {
		r := newRig(t, debian)
		h := debian.Host(Golden, 0)
		g := r.boot(h, nil)
		before := g.Info().NICs[0].Addrs
		_, said, code := r.script(h, old(t, "network", `set -- "$@" "Address=$address"`, ":"))
		require.Zero(t, code, said)
		after := g.Info().NICs[0].Addrs
		require.NotEmpty(t, before)
		for _, a := range after {
			assert.NotEqual(t, before[0].Addr(), a.Addr())
		}
	})
}
