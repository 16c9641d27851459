package e2etest_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vm returns a VM and where VMs can be made.
func vm(t *testing.T, srv *vspheretest.Server, path string) (*object.VirtualMachine, *object.Folder, *object.ResourcePool) {
	t.Helper()
	c, err := srv.Client(t.Context())
	require.NoError(t, err)
	f := find.NewFinder(c.Client)
	dc, err := f.Datacenter(t.Context(), srv.Datacenter)
	require.NoError(t, err)
	f.SetDatacenter(dc)
	m, err := f.VirtualMachine(t.Context(), path)
	require.NoError(t, err)
	folder, err := f.Folder(t.Context(), "vm")
	require.NoError(t, err)
	pool, err := f.ResourcePool(t.Context(), srv.Cluster+"/Resources")
	require.NoError(t, err)
	return m, folder, pool
}

// run waits for the VM's address, logs in there as the template lets in, and runs a command.
func run(t *testing.T, srv *vspheretest.Server, m *object.VirtualMachine, addr string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, property.Wait(ctx, property.DefaultCollector(m.Client()), m.Reference(), []string{"guest.ipAddress"},
		func(changes []types.PropertyChange) bool {
			return len(changes) > 0 && changes[0].Val == addr
		}))
	_, login := access.Config(srv)
	login.Name, login.Address = "guest", addr
	c, err := sshx.Dial(ctx, login)
	require.NoError(t, err)
	defer c.Close()
	res, err := c.Run(ctx, sshx.Cmd{Args: args})
	require.NoError(t, err)
	return string(res.Stdout)
}

func TestSiteIsWhatItSaysAndOutlivesTheServer(t *testing.T) {
	t.Parallel()
	key, err := vspheretest.SSHKey("", "")
	require.NoError(t, err)
	const mac, addr = "00:50:56:00:00:01", "10.0.2.10"
	dir := t.TempDir()
	open := func() *vspheretest.Server {
		srv := e2etest.NewUnstartedServer(t, e2etest.Site{
			Template: "images/rhel9", LabNetwork: "lab", Reserved: map[string]netip.Addr{mac: netip.MustParseAddr(addr)}, Key: key,
		})
		srv.Networks = append(srv.Networks, "another")
		srv.StateDir, srv.Latency, srv.Hosts = dir, vspheretest.Fast(), 1
		srv.Start()
		return srv
	}
	srv := open()
	assert.Equal(t, []string{"lab", "Private Network", "External Network", "another"}, srv.Networks)
	assert.Equal(t, key, srv.ClientKey)
	keys := srv.HostKeys
	assert.NotEmpty(t, keys)

	tmpl, folder, pool := vm(t, srv, "/Datacenter/vm/images/rhel9")
	var o mo.VirtualMachine
	require.NoError(t, tmpl.Properties(t.Context(), tmpl.Reference(), []string{"config"}, &o))
	nics := object.VirtualDeviceList(o.Config.Hardware.Device).SelectByType((*types.VirtualEthernetCard)(nil))
	require.Len(t, nics, 1)
	assert.Equal(t, "lab", nics[0].GetVirtualDevice().Backing.(*types.VirtualEthernetCardNetworkBackingInfo).DeviceName)
	card := nics[0].(types.BaseVirtualEthernetCard).GetVirtualEthernetCard()
	card.AddressType, card.MacAddress = string(types.VirtualEthernetCardMacTypeManual), mac
	ref := pool.Reference()
	task, err := tmpl.Clone(t.Context(), folder, "vm1", types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{Pool: &ref}, PowerOn: true,
		Config: &types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{
			&types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: nics[0]},
		}},
	})
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
	m, _, _ := vm(t, srv, "/Datacenter/vm/vm1")
	assert.Empty(t, run(t, srv, m, addr, "hostnamectl", "set-hostname", "con1"))
	srv.Close()

	srv = open()
	assert.Equal(t, keys, srv.HostKeys)
	m, _, _ = vm(t, srv, "/Datacenter/vm/vm1")
	assert.Equal(t, "con1\n", run(t, srv, m, addr, "hostnamectl", "--static"), "it boots again")
}

func TestZeroSite(t *testing.T) {
	t.Parallel()
	srv := e2etest.NewServer(t, e2etest.Site{})
	vm(t, srv, "/Datacenter/vm/e2e-template-rhel9")
	assert.NotNil(t, srv.ClientKey)
	assert.NotEmpty(t, srv.HostKeys)
}
