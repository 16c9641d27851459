// Package quickstart is the least that uses poolready: a role of one's own, and a test that leases
// a pool. Copy the directory and put your product where the page is.
//
//	go test -v ./examples/quickstart
//
// It runs on the vCenter of GOVC_URL, and without that on an embedded one; see vcenter_test.go.
package quickstart

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/poolready/poolready/pool"
)

var lab *pool.Set

func TestMain(m *testing.M) {
	pool.Main(m, func(t pool.T) { lab = pool.Ensure(t, spec(t)) })
}

// spec is two pools of one machine each, which has a page.
func spec(t pool.T) pool.Spec {
	provider, ssh, template, expect := vcenter(t)
	return pool.Spec{
		Name: "quickstart", Provider: provider, SSH: ssh, Pools: 2,
		Golden: pool.Golden{Template: template, VM: pool.VM{Name: "quickstart-golden"}, Expect: expect},
		Roles: []pool.Role{{
			Name:   "web",
			VM:     func(n int) pool.VM { return pool.VM{Name: fmt.Sprintf("quickstart-web%d", n)} },
			Steps:  []pool.Step{pool.Script("page", "mkdir -p /srv && echo hello >/srv/page")},
			Checks: []pool.Check{pool.ScriptCheck("page", "hello", "cat /srv/page")},
			Expect: expect, // a guess for the first time; then it is known
		}},
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	web := lab.Acquire(t).Host("web") // ours until the test ends, and then reset
	assert.Equal(t, "hello", web.MustRun(t, "cat", "/srv/page"))
	web.MustRun(t, "rm", "/srv/page")
}
