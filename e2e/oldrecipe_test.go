package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	t.Run("a host's own name needs a name server", func(t *testing.T) {
		r, con, _ := pair(t, debian)
		_, said, code := r.script(con, old(t, "hostname", ` "$HOST_ADDR $HOST_FQDN $HOST_NAME # poolready"`, ""))
		require.Zero(t, code, said)
		assert.Contains(t, r.verify(con), "hostname")
	})
	t.Run("only dpkg's lock is waited for", func(t *testing.T) {
		r, h := golden(t, debian, "packages")
		_, said, code := r.script(h, old(t, "packages", "within 600 unlocked_apt", "unlocked_apt -o DPkg::Lock::Timeout=600"))
		assert.NotZero(t, code)
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
