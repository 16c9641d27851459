package pool_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// scaleEnv is how many pools TestScale makes; without, it is skipped.
const scaleEnv = "POOLREADY_SCALE"

// A scale measures one run against a vCenter of four hosts in a process of its own.
type scale struct {
	*standing
	spec  pool.Spec
	pools int
	lat   vspheretest.Latency
	table *tabwriter.Writer
	text  strings.Builder
}

// row prints one line of the table: what was measured, how long it took and what it asked for.
func (s *scale) row(what string, took time.Duration, format string, args ...any) {
	fmt.Fprintf(s.table, "%s\t%s\t%s\n", what, took.Round(10*time.Millisecond), fmt.Sprintf(format, args...))
}

func sum(calls map[string]int) (all, waits int) {
	for _, n := range calls {
		all += n
	}
	return all, calls["WaitForUpdatesEx"] + calls["ModifyListView"]
}

func (s *scale) of(d time.Duration) time.Duration { return time.Duration(float64(d) * s.lat.Scale) }

// path is the longest chain of latencies in a build, with the waves that vCenter's own limits make.
func (s *scale) path(c pool.Concurrency) time.Duration {
	l := s.lat
	boot := l.PowerOn + l.Boot
	ready := boot + l.Tools + l.Address + l.GuestShutdown + l.Snapshot
	waves := time.Duration((s.pools + 16*c.Hypervisors - 1) / (16 * c.Hypervisors))
	return s.of(l.Create + l.FullClone + ready + 2*(waves*l.LinkedClone+ready+boot) + l.Create + l.Reconfigure)
}

// TestScale prints how a set of POOLREADY_SCALE pools does, with counts and ratios of one run. Times
// are those of this machine; what is asserted elsewhere are counts.
func TestScale(t *testing.T) {
	text := os.Getenv(scaleEnv)
	if text == "" {
		t.Skip("it measures for minutes; make scale runs it")
	}
	pools, err := strconv.Atoi(text)
	require.NoError(t, err)
	s := &scale{pools: pools, lat: vspheretest.Brisk()}
	if s.lat.Scale = 10; pools > 100 {
		s.lat.Scale = 1 // what is measured then are calls and memory
	}
	s.standing = startLab(t, fmt.Sprint("CHILD_SCALE=", s.lat.Scale))
	s.table = tabwriter.NewWriter(&s.text, 0, 8, 2, ' ', 0)
	s.row("what", 0, "")
	spec, provider, err := s.standing.spec(time.Minute, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, provider.Close(context.WithoutCancel(t.Context()))) }()
	vm := func(role string, nic int) func(int) pool.VM {
		return func(n int) pool.VM {
			return pool.VM{
				Name: fmt.Sprint(role, n), Folder: fmt.Sprint("pool", n),
				NICs: []pool.NIC{{MAC: fmt.Sprintf("00:50:56:%02x:%02x:%02x", nic, n>>8, n&255)}},
			}
		}
	}
	spec.Roles[0].VM, spec.Roles[1].VM, spec.Pools = vm("con", 1), vm("dis", 2), pools
	s.spec = spec

	plan, err := pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	s.calls()
	set, took := s.open(t)
	asked := s.calls()
	all, waits := sum(asked)
	path := s.path(plan.Concurrency)
	s.row(fmt.Sprintf("build of %d pools", pools), took, "%.2f of the critical path (%s); %d calls, %d of them waits, for %d VMs",
		took.Seconds()/path.Seconds(), path, all, waits, 2*pools+1)
	require.NoError(t, set.Close())

	s.calls()
	begun := time.Now()
	_, err = pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	took = time.Since(begun)
	asked = s.calls()
	all, _ = sum(asked)
	s.row(fmt.Sprintf("plan of %d pools", pools), took, "%d calls, %d of them pages", all, asked["ContinueRetrievePropertiesEx"])

	set, took = s.open(t)
	asked = s.calls()
	all, _ = sum(asked)
	s.row(fmt.Sprintf("reuse of %d pools", pools), took, "%d calls, %d of them pages", all, asked["ContinueRetrievePropertiesEx"])
	assert.LessOrEqual(t, all-asked["ContinueRetrievePropertiesEx"], 15)
	s.process(t, "idle runner")

	first := min(pools, 50)
	tests := make([]*fakeT, pools)
	var wg sync.WaitGroup
	acquire := func(from, to int) time.Duration {
		begun := time.Now()
		for i := from; i < to; i++ {
			tests[i] = testOf(t, fmt.Sprint("TestScale", i))
			wg.Go(func() { assert.NotNil(t, tests[i].acquire(set), "%v", tests[i].errs) })
		}
		wg.Wait()
		return time.Since(begun)
	}
	took = acquire(0, first)
	asked = s.calls()
	s.row(fmt.Sprintf("%d first leases at once", first), took, "%.1f writes' time; %d readings, %d writes",
		took.Seconds()/s.of(s.lat.Reconfigure).Seconds(), asked["RetrievePropertiesEx"], asked["ReconfigVM_Task"])
	if pools > first {
		took = acquire(first, pools)
		s.row(fmt.Sprintf("the other %d leases", pools-first), took, "%d readings, %d writes", s.calls()["RetrievePropertiesEx"], pools-first)
	}
	s.process(t, fmt.Sprintf("runner of %d leases", pools))
	for _, ft := range tests[1:] {
		wg.Go(ft.end)
	}
	wg.Wait()

	tests[0].end()
	require.NoError(t, set.Close())
	one := spec
	one.Only = []int{1}
	set, err = pool.Open(t.Context(), one)
	require.NoError(t, err)
	took = turnover(t, set)
	path = s.of(s.lat.Revert + s.lat.PowerOn + s.lat.Boot + s.lat.Tools + s.lat.Address + 3*s.lat.Reconfigure)
	s.row("reset of con and dis, other addresses", took, "%.2f of the critical path (%s)", took.Seconds()/path.Seconds(), path)
	require.NoError(t, set.Close())

	s.calls()
	begun = time.Now()
	removed, err := pool.Destroy(t.Context(), spec)
	require.NoError(t, err)
	asked = s.calls()
	all, waits = sum(asked)
	s.row(fmt.Sprintf("destroy of %d VMs", len(removed)), time.Since(begun), "%.1f calls per VM, without waits", float64(all-waits)/float64(len(removed)))
	require.NoError(t, s.table.Flush())
	t.Logf("a vCenter of 4 hosts, latencies %g times Brisk:\n%s", s.lat.Scale, s.text.String())
}

// process prints what this process, which runs the tests, has of the system.
func (s *scale) process(t *testing.T, what string) {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	s.row(what, 0, "%d MB in use, %d from the system at most, %d goroutines, %d descriptors", (m.HeapInuse+m.StackInuse)>>20, m.Sys>>20, runtime.NumGoroutine(), len(fds))
}

func (s *scale) open(t *testing.T) (*pool.Set, time.Duration) {
	t.Helper()
	begun := time.Now()
	set, err := pool.Open(t.Context(), s.spec)
	require.NoError(t, err)
	return set, time.Since(begun)
}
