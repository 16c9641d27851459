package quickstart

import (
	"cmp"
	"context"
	"os"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// vcenter returns a provider, how to log in to the template, the template's name, and how long it
// takes, about, to make one VM ready.
//
// GOVC_URL and its like name the vCenter; then E2E_SSH_KEY, E2E_KNOWN_HOSTS and E2E_SSH_JUMP say
// how to log in, and E2E_TEMPLATE to what. Without GOVC_URL all of it is simulated in this process.
func vcenter(t pool.T) (pool.Provider, sshx.Config, string, time.Duration) {
	t.Helper()
	if os.Getenv("GOVC_URL") == "" {
		cfg, login := access.Config(sshguest.NewServer(t))
		return open(t, cfg), login, "template", time.Second
	}
	cfg, err := vsphere.FromEnv()
	if err != nil {
		t.Fatalf("%v", err)
	}
	login, err := sshx.FromEnv("E2E_", t.Logf)
	if err != nil {
		t.Fatalf("GOVC_URL is set: %v", err)
	}
	return open(t, cfg), login, cmp.Or(os.Getenv("E2E_TEMPLATE"), "e2e-template-rhel9"), time.Minute
}

func open(t pool.T, cfg vsphere.Config) pool.Provider {
	t.Helper()
	p, err := vsphere.New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("%v", err)
		}
	})
	return p
}
