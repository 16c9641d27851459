package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e/internal/lab"
	"github.com/poolready/poolready/pool"
)

// older makes a package look as if an update for it were there.
func older(topology Topology, name string) string {
	if like(topology.OS) == "debian" {
		return fmt.Sprintf("sed -i '/^Package: %s$/,/^Version:/s/^Version: .*/Version: 0/' /var/lib/dpkg/status", name)
	}
	return fmt.Sprintf("sed -i 's/^%s .*/%s 0/' /var/lib/rpm/packages", name, name)
}

func TestUpdateAsksForARebootOnlyIfOneIsNeeded(t *testing.T) {
	t.Parallel()
	kernel := map[string]string{"rhel9": "kernel", "debian12": "libssl3"}
	eachSystem(t, func(t *testing.T, topology Topology) {
		r, con, _ := pair(t, topology)
		for _, test := range []struct{ name, before, want string }{
			{"nothing to update", "true", "no reboot: nothing has changed"},
			{"a tool", older(topology, "tmux"), "no reboot: nothing that runs has changed"},
			{"what everything runs on", older(topology, kernel[topology.OS]), "reboot needed"},
		} {
			out, code := r.guests[con.Name].Host().Run(t.Context(), test.before)
			require.Zero(t, code, out)
			restart(r, con) // what runs is what was there at its start
			stdout, stderr, code := r.script(con, script("steps", "update"))
			require.Zero(t, code, "%s: %s", test.name, stderr)
			assert.Equal(t, test.want+"\n", stdout, test.name)
		}
		if topology.OS == "debian12" {
			require.NoError(t, r.guests[con.Name].Host().Disk().WriteFile("/run/reboot-required", nil, 0o644))
			stdout, _, _ := r.script(con, script("steps", "update"))
			assert.Equal(t, "reboot needed\n", stdout, "somebody else says so")
		}
	})
}

func TestWhatAMirrorMayRefuseIsTriedThreeTimesWithPauses(t *testing.T) {
	t.Parallel()
	eachSystem(t, func(t *testing.T, topology Topology) {
		topology.RetryPause = 7
		r, con, _ := pair(t, topology)
		disk := r.guests[con.Name].Host().Disk()
		// Pauses are written down instead.
		require.NoError(t, disk.MkdirAll("/usr/local/bin", 0o755))
		require.NoError(t, disk.WriteFile("/usr/local/bin/sleep", []byte("#!/bin/sh\necho \"$1\" >>/run/pauses\n"), 0o755))
		for _, step := range []string{"update", "packages"} {
			for refused, want := range map[int]struct {
				code   int
				pauses string
			}{0: {0, ""}, 2: {0, "7\n7\n"}, 3: {1, "7\n7\n"}} {
				_, code := r.guests[con.Name].Host().Run(t.Context(), ": >/run/pauses; apt-get -y remove tmux || dnf -y remove tmux")
				require.Zero(t, code)
				before := r.lab.Served()
				r.lab.Refuse(refused)
				_, stderr, code := r.script(con, script("steps", step))
				assert.Equal(t, want.code, code, "%s, refused %d times: %s", step, refused, stderr)
				pauses, err := disk.ReadFile("/run/pauses")
				require.NoError(t, err)
				assert.Equal(t, want.pauses, string(pauses), "%s, refused %d times", step, refused)
				assert.Equal(t, want.code == 0, r.lab.Served() > before)
			}
		}
	})
}

// detachedOutlivesItsConnection is a test of a ready set.
func detachedOutlivesItsConnection(t *testing.T, e *embedded, set *pool.Set) {
	h := set.Acquire(t).Host(Con)
	disk := e.server.OS.(*lab.Lab).Guest(h.Name).Host().Disk()
	job, err := detach(t.Context(), h, "job", "#!/bin/sh\nuntil [ -e /run/job-may-end ]; do sleep 0.01; done\necho done\n")
	require.NoError(t, err)
	c, err := h.SSH(t.Context())
	require.NoError(t, err)
	c.Close() // as a restart of sshd or of the network does
	require.NoError(t, disk.WriteFile("/run/job-may-end", nil, 0o644))
	res, err := job.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "done", strings.TrimSpace(string(res.Stdout)))
}
