package pool_test

import (
	"context"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func methods(requests []vspheretest.Request) (all []string) {
	for _, q := range requests {
		all = append(all, q.Method)
	}
	return all
}

// reuse returns the calls, and the SSH logins, of a run that finds everything ready.
func reuse(t *testing.T, pools int) (calls []string, logins int) {
	t.Helper()
	r := newRig(t, nil)
	r.open(r.light(pools)).Close()
	n := len(r.Requests())
	again := r.light(pools)
	dials := &countingDialer{Dialer: r.Server}
	again.SSH.Dialer = dials
	set := r.open(again)
	require.Len(t, set.Pools(), pools)
	for _, h := range set.Status() {
		require.Contains(t, h.String(), "reuse", h.Host)
	}
	return methods(r.Requests()[n:]), int(dials.n.Load())
}

func TestReuseCostsOneReadingAndOneLoginPerHost(t *testing.T) {
	t.Parallel()
	few, logins := reuse(t, 3)
	assert.LessOrEqual(t, len(few), 15, "%v", few)
	assert.Equal(t, 6, logins)
	all, logins := reuse(t, many)
	assert.LessOrEqual(t, len(all), 15, "%v", all)
	assert.Equal(t, 2*many, logins)
	// vCenter may answer a large reading in pages; the one reading it stays.
	all = slices.DeleteFunc(all, func(m string) bool { return m == "ContinueRetrievePropertiesEx" })
	assert.Equal(t, few, all, "the calls are the same for 3 and for %d pools", many)
	t.Logf("%d calls: %v", len(few), few)
}

// What is asked of vCenter does not depend on the machine; how many events one wait gathers does.
func TestBuildKeepsItsCallBudget(t *testing.T) {
	r := newRig(t, func(s *vspheretest.Server) { s.Latency = vspheretest.Brisk() })
	r.open(r.spec(3)).Close()
	all := count(methods(r.Requests()))
	t.Logf("%d calls: %v", len(r.Requests()), all)
	waits := all["WaitForUpdatesEx"] + all["ModifyListView"]
	tasks := 0
	for name, n := range all {
		if strings.HasSuffix(name, "_Task") {
			tasks += n
		}
	}
	assert.LessOrEqual(t, len(r.Requests())-waits, 80)
	assert.LessOrEqual(t, waits, 5*tasks/2, "for %d tasks", tasks)
}

// TestBuildTakesLittleLongerThanItsLatencies compares, in one run, the time of a build with the
// longest chain of latencies in it, which no way of building can undercut.
func TestBuildTakesLittleLongerThanItsLatencies(t *testing.T) {
	if raceDetector {
		t.Skip("under the race detector it would measure the race detector")
	}
	l := vspheretest.Brisk()
	l.Scale = 8
	again := l.PowerOn + l.Boot // at the address of before
	ready := again + l.Tools + l.Address + l.GuestShutdown + l.Snapshot
	path := l.Create + // the claim
		l.FullClone + ready + // golden
		2*(l.LinkedClone+ready+again) + // each role: clone, make ready, power on again
		l.Create + l.Reconfigure // the pools are noted, the claim is released
	path = time.Duration(float64(path) * l.Scale)

	ratio := math.Inf(1)
	for try := 0; try < 3 && ratio > 1.1; try++ {
		r := newRig(t, func(s *vspheretest.Server) { s.Latency = l })
		start := time.Now()
		r.open(r.spec(3)).Close()
		took := time.Since(start)
		ratio = min(ratio, took.Seconds()/path.Seconds())
		t.Logf("%s for a critical path of %s: ratio %.3f", took.Round(time.Millisecond), path, took.Seconds()/path.Seconds())
	}
	assert.LessOrEqual(t, ratio, 1.1)
}

func count(names []string) map[string]int {
	n := map[string]int{}
	for _, name := range names {
		n[name]++
	}
	return n
}

type countingDialer struct {
	sshx.Dialer
	n atomic.Int32
}

func (d *countingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.n.Add(1)
	return d.Dialer.DialContext(ctx, network, address)
}
