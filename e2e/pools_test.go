package e2e

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
)

// An embedded is a lab on an embedded vCenter.
type embedded struct {
	topology Topology
	server   *vspheretest.Server
}

// newEmbedded starts a vCenter with a template, whose guests live in a lab that knows the
// hosts of the topology.
func newEmbedded(t testing.TB, topology Topology, prepare ...func(*vspheretest.Server)) *embedded {
	t.Helper()
	return newEmbeddedFor(t, nil, topology, prepare...)
}

// newEmbeddedFor is newEmbedded whose templates let in key, or a fresh one.
func newEmbeddedFor(t testing.TB, key ssh.Signer, topology Topology, prepare ...func(*vspheretest.Server)) *embedded {
	t.Helper()
	return newEmbeddedIn(t, key, topology, topology.Reservations(), prepare...)
}

// newEmbeddedIn is newEmbeddedFor in a lab that has reserved these addresses, by MAC.
func newEmbeddedIn(t testing.TB, key ssh.Signer, topology Topology, reserved map[string]netip.Addr, prepare ...func(*vspheretest.Server)) *embedded {
	t.Helper()
	templates := topology.Templates()
	server := e2etest.NewUnstartedServer(t, e2etest.Site{
		Template: templates["rhel"], Debian: templates["debian"],
		LabNetwork: topology.LabNetwork, PrivateNetwork: topology.PrivateNetwork, ExternalNetwork: topology.ExternalNetwork,
		Reserved: reserved, NameServer: topology.NameServer, Key: key,
	})
	server.DescriptionLimit = 512 // no document promises more
	for _, f := range prepare {
		f(server)
	}
	server.Start()
	topology.RunnerKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(server.ClientKey.PublicKey())))
	topology.RetryPause = 0
	return &embedded{topology: topology, server: server}
}

// provider returns a new one, as another process would have.
func (e *embedded) provider(t testing.TB) pool.Provider {
	t.Helper()
	cfg, _ := access.Config(e.server)
	cfg.Datacenter = e.server.Datacenter
	p, err := vsphere.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	return p
}

func (e *embedded) spec(t testing.TB) pool.Spec {
	t.Helper()
	_, login := access.Config(e.server)
	spec := e.topology.Spec(e.provider(t), login)
	spec.Golden.Expect = 10 * time.Second // simulated minutes are short
	for i := range spec.Roles {
		spec.Roles[i].Expect = 10 * time.Second
		if g := spec.Roles[i].Golden; g != nil {
			g.Expect = 10 * time.Second
		}
	}
	return spec
}

// theSpec is that of the vCenter of the environment or, without, of an embedded one, which is
// the second result then.
func theSpec(t *testing.T) (pool.Spec, *embedded) {
	t.Helper()
	if os.Getenv("GOVC_URL") != "" {
		return SpecFromEnv(t, theTopology(t)), nil
	}
	e := newEmbedded(t, theTopology(t))
	return e.spec(t), e
}

// TestPlan prints what TestPools would do, and why. It changes nothing.
func TestPlan(t *testing.T) {
	spec, e := theSpec(t)
	work, err := pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	t.Log(work)
	if e != nil {
		assert.Len(t, work.Items, 1+2*len(theTopology(t).numbers()))
		assert.Empty(t, e.history(t))
	}
}

// TestPools is the main job: from nothing, or from what is there, to pools that are ready.
func TestPools(t *testing.T) {
	spec, e := theSpec(t)
	set := pool.Ensure(t, spec)
	proved(t, spec, set)
	if e == nil {
		return
	}
	t.Run("records are small", func(t *testing.T) {
		inv, err := spec.Provider.Inventory(t.Context(), spec.Name)
		require.NoError(t, err)
		for _, vm := range inv.VMs {
			for _, snap := range vm.Snapshots {
				assert.LessOrEqual(t, len(snap.Record), 512, "%s: %s", vm.Name, snap.Record)
			}
		}
	})
	t.Run("again", func(t *testing.T) {
		before := len(e.server.Requests())
		again := pool.Ensure(t, e.spec(t))
		assert.LessOrEqual(t, len(e.server.Requests())-before, 15, "calls of a run that finds everything ready")
		for _, s := range again.Status() {
			assert.True(t, s.Ready, s.Host)
			assert.Equal(t, pool.ActionReuse, s.Action, "%s: %s", s.Host, s.Reason)
		}
		assert.Empty(t, again.Checks())
	})
}

// proved asserts that a set that has just been built is what it should be.
func proved(t *testing.T, spec pool.Spec, set *pool.Set) {
	for _, c := range set.Checks() {
		assert.True(t, c.OK(), "%s: %s", c.Host, c)
	}
	want := spec.Pools
	if len(spec.Only) > 0 {
		want = len(spec.Only)
	}
	require.Len(t, set.Pools(), want)

	for _, p := range set.Pools() {
		con, dis := p.Host(Con), p.Host(Dis)
		t.Run(con.Name+"+"+dis.Name, func(t *testing.T) {
			assert.Equal(t, con.Name, con.MustRun(t, "hostnamectl", "--static"))
			assert.Equal(t, dis.Name, dis.MustRun(t, "hostnamectl", "--static"))
			got, err := dis.Script(t.Context(), script("checks", "internet"))
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(got, "open: none\n"), got)
		})
	}
}
