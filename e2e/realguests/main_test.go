package realguests

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
)

var (
	kind   = flag.String("kind", string(Containers), "`kind` of guests: containers or vms")
	stacks = flag.String(
		"stacks",
		strings.Join(Stacks, ","),
		"the `list` of stacks to test; see Stacks",
	)
	idle = flag.Duration("idle", time.Minute, "how `long` hosts that nobody uses are watched")
	keep = flag.Bool(
		"keep",
		false,
		"leave the machines of the first stack running, and say how to reach them, until interrupted",
	)
)

// A system is the con/dis system on real guests: one pool.
type system struct {
	site   *Site
	server *vspheretest.Server
	spec   pool.Spec
	set    *pool.Set
	repeat int // how often each step is done: it must be safe to repeat
	took   timings
}

// openSite skips the test where guests cannot run, with a sentence that says why. With
// REALGUESTS_NEEDED in the environment that fails it.
func openSite(t *testing.T, o Options) *Site {
	t.Helper()
	o.Logf = t.Logf
	s, err := Open(t.Context(), o)
	if m, ok := errors.AsType[Missing](err); ok && os.Getenv("REALGUESTS_NEEDED") == "" {
		t.Skip(m)
	}
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func newSystem(t *testing.T, stack string) *system {
	t.Helper()
	topology := e2e.DefaultTopology().On("debian12", "debian12")
	topology.Pools, topology.DiskGiB, topology.RetryPause = 1, 8, 1
	s := &system{site: openSite(t, Options{Kind: Kind(*kind), Topology: topology, Stack: stack})}
	s.server = vspheretest.NewUnstartedServer(nil)
	t.Cleanup(s.server.Close)
	require.NoError(t, s.site.Configure(s.server))
	if *keep {
		*keep = false
		s.server.JumpAddr = "127.0.0.1:0"
		t.Cleanup(func() { s.wait(t) })
	}
	s.server.Start()
	topology.RunnerKey = RunnerKey(s.server.ClientKey)
	cfg, login := access.Config(s.server)
	cfg.Datacenter = s.server.Datacenter
	p, err := vsphere.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	s.spec = topology.Spec(p, login)
	s.spec.Golden.Expect = 4 * time.Minute
	for i := range s.spec.Roles {
		s.spec.Roles[i].Expect = 2 * time.Minute
	}
	s.repeat = 2
	if s.site.kind == VMs {
		s.repeat = 1
		emulated(&s.spec)
	}
	s.took.measure(&s.spec, s.repeat)
	return s
}

// emulated gives a Spec the time that machines under emulation need. Their resets resume a snapshot with
// memory, which is seconds where a boot is minutes.
func emulated(spec *pool.Spec) {
	slow := func(steps []pool.Step, checks []pool.Check) {
		for i := range steps {
			steps[i].Timeout = time.Hour
		}
		for i := range checks {
			checks[i].Timeout = 10 * time.Minute
		}
	}
	spec.Limits.Boot, spec.Limits.Shutdown = 20*time.Minute, 5*time.Minute
	spec.Limits.Checks = 1 // side by side, each would take as long as all, and its own limits with it
	spec.SSH.Timeout, spec.SSH.DeadAfter = 2*time.Minute, 5*time.Minute
	spec.Golden.Expect = time.Hour
	slow(spec.Golden.Steps, spec.Golden.Checks)
	for i := range spec.Roles {
		r := &spec.Roles[i]
		r.Ready, r.Expect = pool.ReadyRunning, 30*time.Minute
		slow(r.Steps, r.Checks)
		slow(nil, r.AfterReset)
	}
}

// wait leaves all as it is until the test is interrupted.
func (s *system) wait(t *testing.T) {
	t.Log("kept until interrupted:")
	if !assert.NoError(t, s.site.Welcome(os.Stdout, s.server)) {
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(c)
	<-c
}

// role is "con" or "dis" as the spec has it.
func (s *system) role(name string) pool.Role {
	i := slices.IndexFunc(s.spec.Roles, func(r pool.Role) bool { return r.Name == name })
	return s.spec.Roles[i]
}

// step does one step of its role on a host.
func (s *system) step(t *testing.T, h *pool.Host, name string) error {
	t.Helper()
	for _, step := range s.role(h.Role).Steps {
		if step.Name == name {
			return step.Do(t.Context(), h)
		}
	}
	require.Fail(t, "unknown step", name)
	return nil
}

// check is what one check of its role finds on a host.
func (s *system) check(t *testing.T, h *pool.Host, name string) string {
	t.Helper()
	for _, c := range s.role(h.Role).Checks {
		if c.Name == name {
			got, err := c.Do(t.Context(), h)
			require.NoError(t, err, name)
			return strings.TrimSpace(got)
		}
	}
	require.Fail(t, "unknown check", name)
	return ""
}
