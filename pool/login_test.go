package pool_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The command that is printed, pasted into a shell, logs in to the machine that it is about.
func TestTheLoginCommandLogsIn(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("no ssh on this machine; install openssh-client")
	}
	r := newRig(t, nil)
	p := r.open(r.spec(1)).Pools()[0]
	for file, h := range map[string]string{"/etc/served": "con", "/etc/used": "dis"} {
		host := p.Host(h)
		look := host.Look()
		assert.Equal(t, look, host.Look(), "the same each time")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", look+" cat "+file).Output()
		require.NoError(t, err, look)
		assert.Contains(t, string(out), host.Name)
	}
}
