package realguests

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// timings are how long each step took at its first time, and each check. The zero value is ready.
type timings struct {
	mu   sync.Mutex
	took map[string]time.Duration
}

// measure has a Spec's steps and checks measured, and each step done so many times.
func (l *timings) measure(spec *pool.Spec, times int) {
	spec.Golden.Steps, spec.Golden.Checks = l.steps(spec.Golden.Steps, times), l.checks(spec.Golden.Checks)
	for i := range spec.Roles {
		r := &spec.Roles[i]
		r.Steps, r.Checks = l.steps(r.Steps, times), l.checks(r.Checks)
	}
}

func (l *timings) steps(list []pool.Step, times int) []pool.Step {
	list = slices.Clone(list)
	for i, s := range list {
		list[i].Do = func(ctx context.Context, h *pool.Host) error {
			for n := 1; n <= times; n++ {
				begun := time.Now()
				if err := s.Do(ctx, h); err != nil {
					return fmt.Errorf("time %d: %w", n, err)
				}
				l.add("step "+s.Name+" of "+h.Role, begun)
			}
			return nil
		}
	}
	return list
}

func (l *timings) checks(list []pool.Check) []pool.Check {
	list = slices.Clone(list)
	for i, c := range list {
		list[i].Do = func(ctx context.Context, h *pool.Host) (string, error) {
			defer l.add("check "+c.Name+" of "+h.Role, time.Now())
			return c.Do(ctx, h)
		}
	}
	return list
}

func (l *timings) add(what string, begun time.Time) {
	took := time.Since(begun)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.took == nil {
		l.took = map[string]time.Duration{}
	}
	if _, again := l.took[what]; !again {
		l.took[what] = took
	}
}

// beside is a table of the n that took longest, beside what simulated took.
func (l *timings) beside(simulated *timings, n int) string {
	var b strings.Builder
	total := func(l *timings) (sum time.Duration) {
		for _, d := range l.took {
			sum += d
		}
		return sum
	}
	fmt.Fprintf(&b, "\n  real   simulated  on hosts that do up to four checks at once\n")
	line := func(real, simulated time.Duration, what string) {
		fmt.Fprintf(&b, "%7.1fs  %7.3fs  %s\n", real.Seconds(), simulated.Seconds(), what)
	}
	slowest := slices.SortedFunc(maps.Keys(l.took), func(x, y string) int { return cmp.Compare(l.took[y], l.took[x]) })
	for _, what := range slowest[:min(n, len(slowest))] {
		line(l.took[what], simulated.took[what], what)
	}
	line(total(l), total(simulated), fmt.Sprintf("all %d", len(l.took)))
	return b.String()
}

// testTimings builds the same set on simulated guests: they do all that real ones do, and its times
// are told beside theirs.
func (s *system) testTimings(t *testing.T) {
	topology := s.site.topology
	srv := e2etest.NewServer(t, e2etest.Site{
		Debian: topology.Template, Reserved: topology.Reservations(), NameServer: topology.NameServer,
	})
	topology.RunnerKey = sshx.AuthorizedKey(srv.ClientKey.PublicKey())
	topology.RetryPause, topology.DiskGiB = 0, 60 // its template has more than 8
	spec := e2etest.On(t, srv, topology.Spec(nil, sshx.Config{}))
	var simulated timings
	simulated.measure(&spec, s.repeat)
	set, err := pool.Open(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for what := range s.took.took {
		if _, ok := simulated.took[what]; !ok {
			t.Errorf("simulated hosts have no %s", what)
		}
	}
	t.Log(s.took.beside(&simulated, 20))
}
