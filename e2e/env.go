package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
)

// unknownVariables returns an error that names every variable that begins with E2E_ and means
// nothing.
func unknownVariables(environ []string) error {
	known := map[string]bool{
		"E2E_SSH_KEY": true, "E2E_KNOWN_HOSTS": true, "E2E_SSH_JUMP": true, "E2E_SHARE_KEY": true, "E2E_EXPECT": true,
	}
	for _, s := range settings {
		known[variable(s.key)] = true
	}
	for n := 1; n <= mostPools; n++ {
		for _, s := range poolSettings {
			known[variable(s.of(n).key)] = true
		}
	}
	var errs []error
	for _, v := range environ {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "E2E_") && !known[name] {
			errs = append(errs, fmt.Errorf("%s: unknown variable; -print-topology lists the keys, and E2E_KEY is one in capitals", name))
		}
	}
	return errors.Join(errs...)
}

// SpecFromEnv returns the Spec of topology on the vCenter that GOVC_* name, with a connection that
// ends with t. How to log in to the template and to jump hosts is in E2E_SSH_KEY, E2E_KNOWN_HOSTS
// and E2E_SSH_JUMP (see sshx.FromEnv). E2E_SHARE_KEY, if it is not empty, gives the key of
// E2E_SSH_KEY to root and the default user of every host, too. E2E_EXPECT is how long golden, and
// then each VM, takes to be made ready where no record of an earlier build tells, such as 90s.
// Without, half an hour and ten minutes, for which go test needs a -timeout of its own the first
// time. What is missing or wrong is fatal to t.
func SpecFromEnv(t pool.T, topology Topology) pool.Spec {
	t.Helper()
	if err := unknownVariables(os.Environ()); err != nil {
		t.Fatalf("%v", err)
	}
	cfg, err := vsphere.FromEnv()
	if err != nil {
		t.Fatalf("%v", err)
	}
	access, err := sshx.FromEnv("E2E_", t.Logf)
	if err != nil {
		t.Fatalf("GOVC_URL is set: %v", err)
	}
	var expect time.Duration
	if s := os.Getenv("E2E_EXPECT"); s != "" {
		if expect, err = time.ParseDuration(s); err != nil || expect <= 0 {
			t.Fatalf("E2E_EXPECT is %q; it should be a time such as 90s or 10m", s)
		}
	}
	p, err := vsphere.New(cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("%v", err)
		}
	})
	topology.RunnerKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(access.Keys[0].PublicKey())))
	if os.Getenv("E2E_SHARE_KEY") != "" {
		if topology.KeyPair, err = os.ReadFile(os.Getenv("E2E_SSH_KEY")); err != nil {
			t.Fatalf("E2E_SHARE_KEY is set: %v", err)
		}
	}
	spec := topology.Spec(p, access)
	if expect > 0 {
		spec.Golden.Expect = expect
		for i := range spec.Roles {
			spec.Roles[i].Expect = expect
		}
	}
	return spec
}
