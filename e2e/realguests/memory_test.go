package realguests

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// TestSnapshotWithMemory freezes a VM, changes it, and has it go on from the snapshot, as a revert
// of vspheretest does.
func TestSnapshotWithMemory(t *testing.T) {
	if *kind != string(VMs) {
		t.Skip("containers have no memory of their own; run it with -kind vms")
	}
	m := newMachine(t)
	c := m.dial(t, "root", "")
	boot, err := c.BootID(t.Context())
	require.NoError(t, err)
	const mark = `echo kept >/run/mark
(sleep 100000 >/dev/null 2>&1 </dev/null &)`
	run(t, c, sshx.Cmd{Script: mark})
	disk, memory, err := m.guest.(vspheretest.Freezer).Freeze()
	require.NoError(t, err)
	run(t, c, sshx.Cmd{Script: "echo changed >/run/mark; touch /etc/changed; sync; pkill sleep"})
	m.guest.Kill()

	hw := m.hw
	g, err := m.site.Resume(&vspheretest.Machine{Disk: disk, Hardware: hw}, memory)
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
