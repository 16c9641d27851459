package sshtest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

func TestAFrozenMachineGoesOn(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	h := newHost(t, func(h *Host) { h.Now = func() time.Time { return now } })
	h.SetClock(now.Add(time.Hour))
	run := func(h *Host, script string) string {
		out, code := h.Run(t.Context(), script)
		require.Zero(t, code, out)
		return out
	}
	run(h, "echo run >/run/f; echo shm >/dev/shm/f; echo disk >/var/f")
	boot := h.BootID()
	disk, memory, err := h.SaveMemory()
	require.NoError(t, err)
	run(h, "rm /run/f /dev/shm/f /var/f")

	later := NewHost(disk)
	later.Now = func() time.Time { return now.Add(24 * time.Hour) }
	require.NoError(t, later.Resume(memory))
	t.Cleanup(later.Halt)
	assert.Equal(t, boot, later.BootID())
	assert.Equal(t, boot+"\nrun\nshm\ndisk\n", run(later, "cat /proc/sys/kernel/random/boot_id /run/f /dev/shm/f /var/f"))
	assert.Equal(t, "2026-03-04 06:06\n", run(later, "date -u '+%F %H:%M'"), "the clock stood still")
	assert.True(t, later.SSHDRunning())
	assert.Equal(t, "up\n", run(later, "read -r up idle </proc/uptime; case $up in [0-9]*.[0-9][0-9]) echo up ;; esac"))

	later.Boot()
	assert.NotEqual(t, boot, later.BootID())
	assert.Equal(t, "2026-03-05 05:06\ndisk\n", run(later, "date -u '+%F %H:%M'; cat /var/f; ls /run/f /dev/shm/f 2>/dev/null; true"))

	run(later, "sleep 1000 >/dev/null 2>&1 &")
	_, _, err = later.SaveMemory()
	require.ErrorContains(t, err, "sleep 1000")
	require.Error(t, later.Resume([]byte("no memory")))
	later.Halt()
	_, _, err = later.SaveMemory()
	require.ErrorIs(t, err, machine.ErrHalted)
}
