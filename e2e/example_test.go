package e2e_test

import (
	"fmt"
	"testing/fstest"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// The product under test takes the place of the placeholder.
func ExampleProduct() {
	files := fstest.MapFS{"mirror/bin/mirror": {Data: []byte("#!/bin/sh\necho 1.2.3\n"), Mode: 0o755}} // or os.DirFS, or an embed.FS

	topology := e2e.DefaultTopology()
	topology.ProductDir = "/opt/mirror"
	topology.Product = e2e.Product{
		Install: []pool.Step{
			pool.Files("mirror files", "/opt", files),
			pool.Script("mirror setup", "#!/bin/sh\nset -eu\nln -sf /opt/mirror/bin/mirror /usr/local/bin/mirror\n"),
		},
		Checks: []pool.Check{pool.ScriptCheck("mirror version", "1.2.3", "#!/bin/sh\nmirror\n")},
	}

	spec := topology.Spec(nil, sshx.Config{}) // with a provider, and keys to log in with
	for _, step := range spec.Roles[0].Steps {
		fmt.Println(step.Name)
	}
	// Output:
	// ssh
	// hostname
	// network
	// firewall
	// dnsmasq
	// resolver
	// update
	// time
	// user
	// secrets
	// marker
	// mirror files
	// mirror setup
	// clean
}
