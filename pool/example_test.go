package pool_test

import (
	"context"
	"fmt"
	"log"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// web is a set of two pools, each a server and a client that needs it.
func web(provider pool.Provider, ssh sshx.Config) pool.Spec {
	return pool.Spec{
		Name: "web", Provider: provider, Pools: 2, SSH: ssh,
		Golden: pool.Golden{
			Template: "template", VM: pool.VM{Name: "web-golden", DiskGiB: 40},
			Steps: []pool.Step{pool.Script("user", "useradd -m tester")},
		},
		Roles: []pool.Role{
			{
				Name:   "server",
				VM:     func(n int) pool.VM { return pool.VM{Name: fmt.Sprintf("server%d", n)} },
				Steps:  []pool.Step{pool.Script("page", "echo hello > /srv/page")},
				Checks: []pool.Check{pool.ScriptCheck("page", "hello", "cat /srv/page")},
			},
			{
				Name: "client",
				VM: func(n int) pool.VM {
					return pool.VM{Name: fmt.Sprintf("client%d", n), Env: map[string]string{"SERVER": fmt.Sprintf("server%d", n)}}
				},
				Needs: []pool.Need{{Name: "page", Role: "server", Do: func(ctx context.Context, _, server *pool.Host) error {
					_, err := server.Run(ctx, "test", "-s", "/srv/page")
					return err
				}}},
				Steps: []pool.Step{pool.Script("server", `echo "$SERVER" > /etc/server`)},
			},
		},
	}
}

// A program outside of go test opens a set with Open. Here the vCenter is a simulated one.
func ExampleOpen() {
	vcenter := sshguest.NewUnstartedServer(nil)
	vcenter.Start()
	defer vcenter.Close()
	cfg, login := access.Config(vcenter)
	provider, err := vsphere.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close(context.Background())

	set, err := pool.Open(context.Background(), web(provider, login))
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close()
	for _, p := range set.Pools() {
		out, err := p.Host("client").Run(context.Background(), "cat", "/etc/server")
		fmt.Println(p.Number, out, err)
	}
	// Output:
	// 1 server1 <nil>
	// 2 server2 <nil>
}

// Plan tells what Open would do, and why, without doing it.
func ExamplePlan() {
	vcenter := sshguest.NewUnstartedServer(nil)
	vcenter.Start()
	defer vcenter.Close()
	cfg, login := access.Config(vcenter)
	provider, err := vsphere.New(cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close(context.Background())

	work, err := pool.MakePlan(context.Background(), web(provider, login))
	if err != nil {
		log.Fatal(err)
	}
	for _, item := range work.Items {
		fmt.Println(item)
	}
	// Output:
	// web-golden: clone: does not exist
	// server1: clone: does not exist
	// server2: clone: does not exist
	// client1: clone: does not exist
	// client2: clone: does not exist
}
