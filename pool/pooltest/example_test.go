package pooltest_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
	"github.com/poolready/poolready/sshx/sshtest"
)

// spec is what is tested: pools of one server, whose page must be what the check wants.
func spec() pool.Spec {
	return pool.Spec{
		Name: "web", Pools: 2,
		Golden: pool.Golden{
			Template: "templates/rhel9", VM: pool.VM{Name: "web-golden"},
			Steps: []pool.Step{pool.Script("packages", "dnf install -y nginx")},
		},
		Roles: []pool.Role{{
			Name: "server",
			VM: func(n int) pool.VM {
				return pool.VM{Name: fmt.Sprint("server", n), Env: map[string]string{"PAGE": fmt.Sprint("page ", n)}}
			},
			Steps:  []pool.Step{pool.Script("page", `echo "$PAGE" > /srv/page`)},
			Checks: []pool.Check{pool.ScriptCheck("page", "${PAGE}", "cat /srv/page")},
		}},
	}
}

// A Spec is tried without a vCenter: its steps and checks run on simulated machines, to which the
// command that they lack is added. In a test, give NewProvider the *testing.T and omit Close.
func Example() {
	provider := pooltest.NewProvider(nil, "templates/rhel9")
	defer provider.Close()
	provider.Commands = map[string]sshtest.Command{
		"dnf": func(_ context.Context, p *sshtest.Proc) int { return 0 },
	}
	s := spec()
	s.Provider, s.SSH = provider, provider.SSH()
	set, err := pool.Open(context.Background(), s)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(set.Pools()), "pools are ready")
	set.Close()

	s.Roles[0].Steps[0] = pool.Script("page", `echo "$PAGE" >> /srv/page`)
	plan, err := pool.MakePlan(context.Background(), s)
	if err != nil {
		log.Fatal(err)
	}
	for _, item := range plan.Items {
		what, _, _ := strings.Cut(item.String(), " since")
		fmt.Println(what)
	}
	// Output:
	// 2 pools are ready
	// web-golden: reuse: ready
	// server1: rebuild: step "page" changed
	// server2: rebuild: step "page" changed
}
