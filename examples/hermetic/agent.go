// Package hermetic is a recipe of one's own, a role with steps and checks, and its tests without
// any machine: on an embedded vCenter whose guests know a simulated command of one's own, that of
// the product.
//
//	go test -v ./examples/hermetic
//
// This is the recipe, which runs on real machines as it is; the tests and the command are in
// agent_test.go.
package hermetic

import (
	"fmt"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// Spec is n machines with the agent, cloned from the template.
func Spec(provider pool.Provider, ssh sshx.Config, n int, version string) pool.Spec {
	return pool.Spec{
		Name: "agents", Provider: provider, SSH: ssh, Pools: n,
		Golden: pool.Golden{
			Template: "template", VM: pool.VM{Name: "agent-golden"},
			Steps: []pool.Step{pool.Script("directories", "mkdir -p /etc/agent /var/lib/agent")},
		},
		Roles: []pool.Role{{
			Name: "agent",
			VM: func(n int) pool.VM {
				return pool.VM{Name: fmt.Sprintf("agent%d", n), Env: map[string]string{"VERSION": version}}
			},
			Steps: []pool.Step{
				pool.Script("install", `agentctl install "$VERSION"`),
				pool.Script("enroll", `hostname >/etc/agent/name; agentctl enroll --name-file /etc/agent/name`),
			},
			Checks: []pool.Check{
				pool.ScriptCheck("version", "${VERSION}", "agentctl version"),
				pool.ScriptCheck("status", "enrolled", "agentctl status"),
			},
		}},
	}
}
