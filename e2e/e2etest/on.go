package e2etest

import (
	"context"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
)

// expect is how long making a simulated VM ready takes at most: minutes of a real one are short here.
const expect = 10 * time.Second

// On returns the Spec on a Server that was started: with its Provider, which is closed when the test
// ends, with SSH that logs in to the template, and with an Expect for simulated machines, so that go
// test's default -timeout is enough.
func On(t pool.T, srv *vspheretest.Server, spec pool.Spec) pool.Spec {
	t.Helper()
	cfg, login := access.Config(srv)
	cfg.Datacenter = srv.Datacenter
	provider, err := vsphere.New(cfg)
	if err != nil {
		t.Fatalf("e2etest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := provider.Close(ctx); err != nil {
			t.Errorf("e2etest: %v", err)
		}
	})
	spec.Provider = provider
	spec.SSH = login
	spec.Golden.Expect = expect
	roles := append([]pool.Role(nil), spec.Roles...)
	for i := range roles {
		roles[i].Expect = expect
		if g := roles[i].Golden; g != nil {
			own := *g
			own.Expect = expect
			roles[i].Golden = &own
		}
	}
	spec.Roles = roles
	return spec
}
