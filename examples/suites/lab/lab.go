// Package lab is what the suites have in common: one set of con/dis pools, which all packages of
// tests lease from. Each package has
//
//	func TestMain(m *testing.M) { lab.Main(m) }
//
// With GOVC_URL set, packages that go test runs at the same time, as processes, share the pools on
// that vCenter: one of them builds, the others wait and reuse, and each test gets a pool for
// itself. The set is that of package e2e, so what "go test ./e2e -run Pools" has made ready is
// used. Without GOVC_URL each process embeds a vCenter of its own.
package lab

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
)

var set *pool.Set

// Main makes the pools ready, runs the tests, and exits.
func Main(m *testing.M) {
	pool.Main(m, func(t pool.T) { set = pool.Ensure(t, spec(t)) })
}

// Acquire leases a pool until t ends, and returns its hosts.
func Acquire(t *testing.T) (con, dis *pool.Host) {
	t.Helper()
	p := set.Acquire(t)
	return p.Host(e2e.Con), p.Host(e2e.Dis)
}

// spec is the con/dis system, with what E2E_* variables change in its topology.
func spec(t pool.T) pool.Spec {
	t.Helper()
	topology, _, err := e2e.LoadTopology(e2e.Source{Env: os.LookupEnv})
	if err != nil {
		t.Fatalf("%v", err)
	}
	if os.Getenv("GOVC_URL") == "" {
		return embedded(t, topology)
	}
	return e2e.SpecFromEnv(t, topology)
}

// embedded is the system on a vCenter in this process, with two pools.
func embedded(t pool.T, topology e2e.Topology) pool.Spec {
	t.Helper()
	topology.Pools, topology.Only, topology.RetryPause = 2, nil, 0
	srv := e2etest.NewUnstartedServer(t, e2etest.Site{
		Template: topology.Template, LabNetwork: topology.LabNetwork, PrivateNetwork: topology.PrivateNetwork,
		ExternalNetwork: topology.ExternalNetwork, Reserved: topology.Reservations(), NameServer: topology.NameServer,
	})
	srv.Latency = vspheretest.Fast()
	srv.Start()
	cfg, login := access.Config(srv)
	p, err := vsphere.New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = p.Close(context.WithoutCancel(t.Context())) }) // it ends with the process
	topology.RunnerKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(srv.ClientKey.PublicKey())))
	spec := topology.Spec(p, login)
	spec.Golden.Expect = 10 * time.Second // simulated minutes are short
	for i := range spec.Roles {
		spec.Roles[i].Expect = 10 * time.Second
	}
	return spec
}
