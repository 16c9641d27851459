package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// TestHostsThatRunWhenReadyLeakNothing dirties what a resumed machine has in memory and on its
// disk.
func TestHostsThatRunWhenReadyLeakNothing(t *testing.T) {
	t.Parallel()
	topology := testTopology()
	topology.Pools = 1
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)
	for i := range spec.Roles {
		spec.Roles[i].Ready = pool.ReadyRunning
	}
	set := pool.Ensure(t, spec)

	const look = `
cat /proc/sys/kernel/random/boot_id
sysctl -n net.ipv4.ip_forward
firewall-cmd --list-services
systemctl is-active chronyd
ip -4 -o addr show
ls /var/dirt /run/dirt 2>/dev/null
grep dirt /etc/hosts
pgrep sleep
true
`
	before := map[string]string{}
	t.Run("dirty", func(t *testing.T) {
		p := set.Acquire(t)
		for _, h := range p.Hosts() {
			out, err := h.Script(t.Context(), look)
			require.NoError(t, err)
			before[h.Name] = out
			_, err = h.Script(t.Context(), `set -e
sysctl -w net.ipv4.ip_forward=$((1 - $(sysctl -n net.ipv4.ip_forward)))
firewall-cmd --add-service=http
systemctl stop chronyd
touch /var/dirt /run/dirt
echo "127.0.0.1 dirt" >> /etc/hosts
(sleep 1000 >/dev/null 2>&1 &)
`)
			require.NoError(t, err)
			out, err = h.Script(t.Context(), look)
			require.NoError(t, err)
			require.NotEqual(t, before[h.Name], out)
		}
	})
	p := set.Acquire(t)
	for _, h := range p.Hosts() {
		out, err := h.Script(t.Context(), look)
		require.NoError(t, err)
		assert.Equal(t, before[h.Name], out, h.Name)
		now, err := time.Parse(time.RFC3339, h.MustRun(t, "date", "-u", "+%FT%TZ"))
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now(), now, 4*time.Second, h.Name)
	}
	got, err := p.Host(Dis).Script(t.Context(), script("checks", "internet"))
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(got, "open: none\n"), got)
	on := 0
	for _, what := range e.history(t) {
		if strings.HasPrefix(what, "cloned") {
			on++
		}
	}
	assert.Equal(t, 3, on, "nothing was built anew")
}
