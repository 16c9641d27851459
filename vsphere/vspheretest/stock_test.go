package vspheretest_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// stock starts vcsim as it comes, with a VM "template" that is off, in the shape of a site: the
// tests that use it show what a wrong program gets away with there.
func stock(t *testing.T) *site {
	t.Helper()
	m := simulator.VPX()
	m.Machine, m.Host, m.ClusterHost, m.Autostart = 1, 0, 1, false
	s := stockOf(t, m)
	s.must(s.vm("DC0_C0_RP0_VM0").Rename(s.ctx, "template"))
	return s
}

// stockOf starts vcsim with a model.
func stockOf(t *testing.T, m *simulator.Model) *site {
	t.Helper()
	vspheretest.BuildMu.Lock()
	err := m.Create()
	vspheretest.BuildMu.Unlock()
	require.NoError(t, err)
	t.Cleanup(m.Remove)
	om := m.Map().OptionManager()
	om.Setting = slices.DeleteFunc(slices.Clone(om.Setting), func(o types.BaseOptionValue) bool {
		return o.GetOptionValue().Key == "config.vmacore.soap.sessionTimeout" // its goroutines never end
	})
	srv := m.Service.NewServer()
	t.Cleanup(srv.Close)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	c, err := govmomi.NewClient(ctx, srv.URL, true)
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	return modelSite(ctx, t, c)
}
