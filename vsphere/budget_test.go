package vsphere

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// buildPools makes a golden and the VMs of the pools in role batches, as package pool does.
func buildPools(ctx context.Context, p *Provider, pools int) error {
	golden, err := p.Clone(ctx, goldenSpec("golden"))
	if err != nil {
		return err
	}
	snap, err := makeReady(ctx, p, golden, "00:50:56:00:00:01", "golden-ready", false)
	if err != nil {
		return err
	}
	each := func(n int, f func(ctx context.Context, i int) error) error {
		g, ctx := errgroup.WithContext(ctx)
		for i := range n {
			g.Go(func() error { return f(ctx, i) })
		}
		return g.Wait()
	}
	ids := map[string][]string{"con": make([]string, pools), "dis": make([]string, pools)}
	mac := func(role string, i int) string { return fmt.Sprintf("00:50:56:01:%02x:%02x", role[0], i) }
	for _, role := range []string{"con", "dis"} {
		if err := each(pools, func(ctx context.Context, i int) (err error) {
			ids[role][i], err = p.Clone(ctx, linkedSpec(golden, snap, fmt.Sprint(role, i+1), mac(role, i)))
			return err
		}); err != nil {
			return err
		}
	}
	for _, role := range []string{"con", "dis"} {
		if err := each(pools, func(ctx context.Context, i int) error {
			_, err := makeReady(ctx, p, ids[role][i], mac(role, i), "pool-ready", true)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// makeReady is what happens to each VM after its clone.
func makeReady(ctx context.Context, p *Provider, id, mac, snapshot string, on bool) (string, error) {
	raise := func() error {
		if err := p.PowerOn(ctx, id); err != nil {
			return err
		}
		_, err := p.Address(ctx, id, mac, netip.Addr{})
		return err
	}
	if err := raise(); err != nil {
		return "", err
	}
	if err := p.Annotate(ctx, id, snapshot); err != nil {
		return "", err
	}
	if forced, err := p.ShutDown(ctx, id, time.Minute); err != nil || forced {
		return "", fmt.Errorf("forced %t: %w", forced, err)
	}
	snap, err := p.Snapshot(ctx, id, snapshot, "record of "+id)
	if err == nil && on {
		err = raise()
	}
	return snap, err
}

// What is asked of vCenter does not depend on the machine; how many events one wait gathers does.
func TestBuildOfThreePoolsKeepsItsCallBudget(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	l.intervals = defaultIntervals
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	_, err := l.p.Inventory(ctx, "set", "template")
	require.NoError(t, err)
	require.NoError(t, buildPools(ctx, l.p, 3))
	require.NoError(t, l.p.Close(ctx))
	calls, total := l.counts()
	t.Logf("%d SOAP calls: %v", total, calls)
	waits, tasks := calls["WaitForUpdatesEx"]+calls["ModifyListView"], 0
	for name, n := range calls {
		if strings.HasSuffix(name, "_Task") {
			tasks += n
		}
	}
	assert.LessOrEqual(t, total-waits, 75)
	assert.LessOrEqual(t, waits, 2*tasks, "for %d tasks", tasks)
	assert.Equal(t, 7, calls["CloneVM_Task"], "one clone per VM")
	assert.Equal(t, 13, calls["PowerOnVM_Task"])
	assert.Equal(t, 1, calls["CreatePropertyCollector"], "one collector for all waits")
}

func TestInventoryCostsTheSameForAnyNumberOfVMs(t *testing.T) {
	t.Parallel()
	asked := map[int][]string{}
	for _, pools := range []int{3, 60} {
		l := newLab(t, vspheretest.Fast(), func(s *vspheretest.Server) {
			s.Templates = []vspheretest.Template{{Path: "template"}}
			for i := range 1 + 2*pools { // made by others, but that makes no difference to a reading
				s.Templates = append(s.Templates, vspheretest.Template{Path: fmt.Sprint("set/vm", i)})
			}
		})
		ctx := within(t, 3*time.Minute)
		p := l.provider(t)
		inv, err := p.Inventory(ctx, "set", "template")
		require.NoError(t, err)
		require.NoError(t, p.Close(ctx))
		assert.Len(t, inv.VMs, 1+2*pools)
		assert.LessOrEqual(t, len(l.Requests()), 15, "SOAP calls, login and logout included")
		for _, r := range l.Requests() {
			if r.Method != "ContinueRetrievePropertiesEx" { // vCenter cuts long answers into pages
				asked[pools] = append(asked[pools], r.Method)
			}
		}
	}
	assert.Equal(t, asked[3], asked[60])
}

func TestNothingIsAskedWhileNobodyWaits(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	ctx := within(t, time.Minute)
	id, _ := l.golden(t, ctx)
	require.NoError(t, l.p.PowerOn(ctx, id))
	_, err := l.p.Address(ctx, id, "", netip.Addr{})
	require.NoError(t, err)

	_, before := l.counts()
	// The guest's state changes, and nobody here asked.
	other := l.provider(t)
	_, err = other.ShutDown(ctx, id, 0)
	require.NoError(t, err)
	require.NoError(t, other.Close(ctx))
	session := l.Requests()[0].Session
	for _, r := range l.Requests()[before:] {
		if r.Session != "" && r.Session == session {
			assert.Fail(t, "asked while nobody waits", "%s", r.Method)
		}
	}
}

func TestOneLongPollAtATime(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Brisk())
	l.intervals = defaultIntervals
	l.p = l.provider(t)
	ctx := within(t, time.Minute)
	golden, snap := l.golden(t, ctx)
	g, gctx := errgroup.WithContext(ctx)
	for i := range 6 {
		g.Go(func() error {
			id, err := l.p.Clone(gctx, linkedSpec(golden, snap, fmt.Sprint("vm", i), fmt.Sprintf("00:50:56:02:00:%02x", i)))
			if err != nil {
				return err
			}
			if err := l.p.PowerOn(gctx, id); err != nil {
				return err
			}
			_, err = l.p.Address(gctx, id, "", netip.Addr{})
			return err
		})
	}
	require.NoError(t, g.Wait())
	calls, _ := l.counts()
	assert.Equal(t, 1, calls["CreateFilter"])
	assert.Zero(t, calls["CreateContainerView"])
	assert.Less(t, calls["ModifyListView"], 6+6+2, "tasks submitted together are added together")
}
