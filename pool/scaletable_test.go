package pool_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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
func (s *scale) path(pools int, c pool.Concurrency) time.Duration {
	l := s.lat
	boot := l.PowerOn + l.Boot
	ready := boot + l.Tools + l.Address + l.GuestShutdown + l.Snapshot
	waves := time.Duration((pools + 16*c.Hypervisors - 1) / (16 * c.Hypervisors))
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
	s := &scale{lat: vspheretest.Brisk()}
	if s.lat.Scale = 20; pools > 100 {
		s.lat.Scale = 1 // what is measured then are calls and memory
	}
	s.standing = startLab(t, fmt.Sprint("CHILD_SCALE=", s.lat.Scale))
	s.table = tabwriter.NewWriter(&s.text, 0, 8, 2, ' ', 0)
	s.row("what", 0, "")
	spec, provider, err := s.standing.spec(0, nil)
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

	if s.lat.Scale > 1 {
		s.build(t, 3, 1.05)
		_, err := pool.Destroy(t.Context(), s.specOf(3))
		require.NoError(t, err)
	}
	s.build(t, pools, 1.10)

	s.calls()
	begun := time.Now()
	_, err = pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	took := time.Since(begun)
	asked := s.calls()
	all, _ := sum(asked)
	s.row(fmt.Sprintf("plan of %d pools", pools), took, "%d calls, %d of them pages", all, asked["ContinueRetrievePropertiesEx"])

	set, took := s.open(t, spec)
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
	path := s.of(s.lat.Revert + s.lat.PowerOn + s.lat.Boot + s.lat.Tools + s.lat.Address + 3*s.lat.Reconfigure)
	s.row("reset of con and dis, other addresses", took, "%.2f of the critical path (%s)", took.Seconds()/path.Seconds(), path)
	require.NoError(t, set.Close())

	s.calls()
	begun = time.Now()
	removed, err := pool.Destroy(t.Context(), spec)
	require.NoError(t, err)
	asked = s.calls()
	all, waits := sum(asked)
	each := float64(all-waits) / float64(len(removed))
	s.row(fmt.Sprintf("destroy of %d VMs", len(removed)), time.Since(begun), "%.1f calls per VM, without waits", each)
	assert.LessOrEqual(t, each, 6.0)
	require.NoError(t, s.table.Flush())
	t.Logf("a vCenter of 4 hosts, latencies %g times Brisk:\n%s", s.lat.Scale, s.text.String())
}

// process prints what this process, which runs the tests, has of the system.
func (s *scale) process(t *testing.T, what string) {
	t.Helper()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var pages int
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	_, err = fmt.Sscan(string(text), new(int), &pages)
	require.NoError(t, err)
	resident := pages * os.Getpagesize() >> 20
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	s.row(what, 0, "%d MB resident, %d of them in use, %d goroutines, %d descriptors", resident, (m.HeapInuse+m.StackInuse)>>20, runtime.NumGoroutine(), len(fds))
	assert.Less(t, resident, 200, "MB")
	assert.Less(t, len(fds), 300, "descriptors")
}

// build builds so many pools, in at most so many times the critical path where latencies are long.
func (s *scale) build(t *testing.T, pools int, most float64) {
	t.Helper()
	spec := s.specOf(pools)
	plan, err := pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	s.calls()
	set, took := s.open(t, spec)
	all, waits := sum(s.calls())
	path := s.path(pools, plan.Concurrency)
	ratio := took.Seconds() / path.Seconds()
	s.row(fmt.Sprintf("build of %d pools", pools), took, "%.3f of the critical path (%s); %d calls, %d of them waits, for %d VMs",
		ratio, path, all, waits, 2*pools+1)
	if s.lat.Scale > 1 {
		assert.LessOrEqual(t, ratio, most, "%d pools", pools)
	}
	require.NoError(t, set.Close())
}

// specOf is the spec with so many pools.
func (s *scale) specOf(pools int) pool.Spec {
	spec := s.spec
	spec.Pools = pools
	return spec
}

func (s *scale) open(t *testing.T, spec pool.Spec) (*pool.Set, time.Duration) {
	t.Helper()
	begun := time.Now()
	set, err := pool.Open(t.Context(), spec)
	require.NoError(t, err)
	return set, time.Since(begun)
}
