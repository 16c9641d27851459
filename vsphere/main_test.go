package vsphere

import (
	"context"
	"flag"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestMain(m *testing.M) {
	// Most tests wait for a vCenter with latencies. -parallel overrides this.
	_ = flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0))))
	goleak.VerifyTestMain(m)
}

// lab is a simulated vCenter and a Provider on it.
type lab struct {
	*vspheretest.Server
	p         *Provider
	os        *plainOS
	cfg       Config
	intervals intervals // of Providers made from now on
}

// quick are the intervals for a vCenter whose operations take milliseconds.
func quick() intervals {
	p := defaultIntervals
	p.gather, p.gap, p.enter = time.Millisecond, time.Millisecond, 50*time.Millisecond
	p.near, p.twins, p.look = 20*time.Millisecond, 500*time.Millisecond, time.Second
	return p
}

// newLab starts a vCenter with the given latencies; change may set its other fields.
func newLab(t *testing.T, latency vspheretest.Latency, change ...func(*vspheretest.Server)) *lab {
	t.Helper()
	srv := vspheretest.NewUnstartedServer(t)
	os := &plainOS{}
	srv.OS = os
	srv.Latency = latency
	for _, f := range change {
		f(srv)
	}
	srv.Start()
	l := &lab{Server: srv, os: os, cfg: configOf(srv), intervals: quick()}
	l.p = l.provider(t)
	return l
}

func configOf(srv *vspheretest.Server) Config {
	return Config{
		URL: srv.URL.Host, Username: srv.Username, Password: srv.Password, CACerts: srv.CAFile,
	}
}

// provider returns a further Provider on the lab, as another process would have.
func (l *lab) provider(t *testing.T) *Provider {
	t.Helper()
	end, err := l.cfg.parse(fieldNames)
	require.NoError(t, err)
	p := newProvider(l.cfg, end, l.intervals)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Logf("close: %v", err)
		}
	})
	return p
}

// within bounds a test's calls.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// goldenSpec is a full clone of the default template.
func goldenSpec(name string) pool.CloneSpec {
	return pool.CloneSpec{
		Set: "set", Source: "template", Template: true, Owner: "set/" + name, Note: "golden",
		VM: pool.VM{Name: name, NICs: []pool.NIC{{MAC: "00:50:56:00:00:01"}}},
	}
}

// linkedSpec is a linked clone.
func linkedSpec(source, snapshot, name, mac string) pool.CloneSpec {
	return pool.CloneSpec{
		Set: "set", Source: source, Snapshot: snapshot, Owner: "set/" + name, Note: name,
		VM: pool.VM{Name: name, NICs: []pool.NIC{{MAC: mac}}},
	}
}

// golden makes a powered-off golden with a snapshot.
func (l *lab) golden(t *testing.T, ctx context.Context) (id, snapshot string) {
	t.Helper()
	id, err := l.p.Clone(ctx, goldenSpec("golden"))
	require.NoError(t, err)
	snapshot, err = l.p.Snapshot(ctx, id, "golden-ready", `{"format":1}`)
	require.NoError(t, err)
	return id, snapshot
}

// counts returns how often each method was called, and the total.
func (l *lab) counts() (map[string]int, int) {
	all := map[string]int{}
	rs := l.Requests()
	for _, r := range rs {
		all[r.Method]++
	}
	return all, len(rs)
}
