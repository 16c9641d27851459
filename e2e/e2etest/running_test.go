package e2etest_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx/sshtest"
)

// A pool that is resumed with memory has its own service running, whatever a test did to it.
func TestAServiceOfOnesOwnRunsWhenItsPoolIsResumed(t *testing.T) {
	t.Parallel()
	srv := e2etest.NewServer(t, e2etest.Site{Commands: map[string]sshtest.Command{"pageserver": pageserver}})
	set := pool.Ensure(t, e2etest.On(t, srv, pool.Spec{
		Name: "pages", Pools: 1,
		Golden: pool.Golden{Template: "e2e-template-rhel9", VM: pool.VM{Name: "pages-golden"}},
		Roles: []pool.Role{{
			Name: "page", Ready: pool.ReadyRunning,
			VM: func(n int) pool.VM { return pool.VM{Name: fmt.Sprintf("page%d", n)} },
			Steps: []pool.Step{pool.Script("page", `set -e
printf '[Service]\nExecStart=/usr/bin/pageserver\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/page.service
systemctl daemon-reload
systemctl enable --now page`)},
			Checks: []pool.Check{pool.ScriptCheck("page", "a page of dis", "curl -sf http://localhost/")},
		}},
	}))
	boot := ""
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			h := set.Acquire(t).Host("page")
			assert.Equal(t, "a page of dis", h.MustRun(t, "curl", "-sf", "http://localhost/"))
			id := h.MustRun(t, "cat", "/proc/sys/kernel/random/boot_id")
			if i > 0 {
				assert.Equal(t, boot, id, "it was resumed, not booted")
			}
			boot = id
			_, err := h.Run(t.Context(), "systemctl", "stop", "page")
			require.NoError(t, err)
		})
	}
}
