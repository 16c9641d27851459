package vspheretest_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	c, err := govmomi.NewClient(ctx, srv.URL, true)
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	s := &site{T: t, ctx: ctx, c: c, finder: find.NewFinder(c.Client)}
	dc, err := s.finder.DefaultDatacenter(ctx)
	require.NoError(t, err)
	s.finder.SetDatacenter(dc)
	s.folder, err = s.finder.Folder(ctx, "vm")
	require.NoError(t, err)
	s.pool, err = s.finder.ResourcePool(ctx, "DC0_C0/Resources")
	require.NoError(t, err)
	s.must(s.vm("DC0_C0_RP0_VM0").Rename(ctx, "template"))
	return s
}
