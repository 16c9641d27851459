package realguests

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
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
		"ifupdown,networkmanager",
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
	slower := time.Duration(1)
	if *kind == string(VMs) {
		slower = 15
	}
	s.spec.Golden.Expect = 4 * time.Minute * slower
	s.spec.Golden.Steps, s.spec.Golden.Checks = s.took.steps(
		s.spec.Golden.Steps,
	), s.took.checks(
		s.spec.Golden.Checks,
	)
	for i := range s.spec.Roles {
		r := &s.spec.Roles[i]
		r.Expect, r.Steps, r.Checks = 2*time.Minute*slower, s.took.steps(
			r.Steps,
		), s.took.checks(
			r.Checks,
		)
	}
	return s
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

// timings are how long steps and checks took. The zero value is ready.
type timings struct {
	mu   sync.Mutex
	took []timing
}

type timing struct {
	what string
	d    time.Duration
}

func (l *timings) add(what string, begun time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, timing{what, time.Since(begun)})
}

// steps are those given, each done twice: a step must be safe to repeat. Under emulation each is
// done once, and may take an hour.
func (l *timings) steps(list []pool.Step) []pool.Step {
	list = slices.Clone(list)
	times := 2
	if *kind == string(VMs) {
		times = 1
	}
	for i, s := range list {
		if *kind == string(VMs) {
			list[i].Timeout = time.Hour
		}
		list[i].Do = func(ctx context.Context, h *pool.Host) error {
			for n := 1; n <= times; n++ {
				begun := time.Now()
				if err := s.Do(ctx, h); err != nil {
					return fmt.Errorf("time %d: %w", n, err)
				}
				l.add(fmt.Sprintf("step %s of %s, time %d", s.Name, h.Name, n), begun)
			}
			return nil
		}
	}
	return list
}

func (l *timings) checks(list []pool.Check) []pool.Check {
	list = slices.Clone(list)
	for i, c := range list {
		if *kind == string(VMs) {
			list[i].Timeout = 10 * time.Minute
		}
		list[i].Do = func(ctx context.Context, h *pool.Host) (string, error) {
			defer l.add("check "+c.Name+" of "+h.Name, time.Now())
			return c.Do(ctx, h)
		}
	}
	return list
}

// slowest are the n that took longest.
func (l *timings) slowest(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.took)
	slices.SortFunc(all, func(a, b timing) int { return int(b.d - a.d) })
	var b strings.Builder
	for _, x := range all[:min(n, len(all))] {
		fmt.Fprintf(&b, "\n%7.1fs  %s", x.d.Seconds(), x.what)
	}
	return b.String()
}
