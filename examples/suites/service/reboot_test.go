package service

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/examples/suites/lab"
)

func TestDisIsTheSameAfterAReboot(t *testing.T) {
	t.Parallel()
	con, dis := lab.Acquire(t)
	const bootID = "/proc/sys/kernel/random/boot_id"
	before := dis.MustRun(t, "cat", bootID)
	dis.MustRun(t, "sh", "-c", "echo kept >/root/note && echo gone >/run/note")

	require.NoError(t, dis.Reboot(t.Context()))

	assert.NotEqual(t, before, dis.MustRun(t, "cat", bootID))
	assert.Equal(t, "kept", dis.MustRun(t, "cat", "/root/note"))
	_, err := dis.Run(t.Context(), "test", "-e", "/run/note")
	assert.Error(t, err, "what is in memory is gone")
	assert.Equal(t, dis.Name, dis.MustRun(t, "hostnamectl", "--static"))
	dis.MustRun(t, "ping", "-c", "1", con.VM.Env["CON_VLAN_ADDR"])
}
