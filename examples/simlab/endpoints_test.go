package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/cns"
	cnstypes "github.com/vmware/govmomi/cns/types"
	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/lookup"
	lookuptypes "github.com/vmware/govmomi/lookup/types"
	"github.com/vmware/govmomi/pbm"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/ssoadmin"
	ssotypes "github.com/vmware/govmomi/ssoadmin/types"
	"github.com/vmware/govmomi/sts"
	"github.com/vmware/govmomi/vapi/appliance/access/shell"
	"github.com/vmware/govmomi/vapi/cluster"
	"github.com/vmware/govmomi/vapi/library"
	"github.com/vmware/govmomi/vapi/namespace"
	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vslm"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A visitor uses what is served beside vSphere's main API.
type visitor struct {
	*testing.T
	ctx  context.Context
	c    *govmomi.Client
	user *url.Userinfo
}

// endpoints lists what programs do there, which goes the same way on vcsim.
var endpoints = []struct {
	name string
	run  func(v *visitor)
}{
	{"a session of REST", restSession},
	{"tags are attached and found", tagged},
	{"a library has an item", libraries},
	{"a token logs in", tokens},
	{"policies are found by name", policies},
	{"a disk without a VM is made and deleted", disks},
	{"a user is made and found", users},
	{"services are looked up", services},
	{"volumes are listed", volumes},
	{"hosts are kept apart by a module", modules},
	{"namespaces are listed", namespaces},
	{"the appliance's shell is switched", applianceShell},
}

func TestOtherEndpointsAreAsOnVcsim(t *testing.T) {
	t.Parallel()
	for kind, serve := range map[string]func(*testing.T) *url.URL{
		"vcsim": func(t *testing.T) *url.URL {
			m := simulator.VPX()
			require.NoError(t, m.Create())
			t.Cleanup(m.Remove)
			m.Service.RegisterEndpoints = true
			srv := m.Service.NewServer()
			t.Cleanup(srv.Close)
			return srv.URL
		},
		"simlab": func(t *testing.T) *url.URL { return modelServer(t).URL },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			u := serve(t)
			c := dial(t, u)
			for _, e := range endpoints {
				t.Run(e.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
					defer cancel()
					e.run(&visitor{t, ctx, c, u.User})
				})
			}
		})
	}
}

// modelServer starts a Server with vcsim's inventory, for any name and password.
func modelServer(t *testing.T) *vspheretest.Server {
	t.Helper()
	srv := vspheretest.NewUnstartedServer(t)
	srv.Model, srv.Latency, srv.AnyLogin = simulator.VPX(), vspheretest.Fast(), true
	srv.Start()
	return srv
}

// dial logs in to a vCenter, with whatever certificate.
func dial(t *testing.T, u *url.URL) *govmomi.Client {
	t.Helper()
	c, err := govmomi.NewClient(t.Context(), u, true)
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// rest returns a client that is logged in.
func (v *visitor) rest() *rest.Client {
	v.Helper()
	c := rest.NewClient(v.c.Client)
	require.NoError(v, c.Login(v.ctx, v.user))
	v.Cleanup(func() { assert.NoError(v, c.Logout(context.WithoutCancel(v.ctx))) })
	return c
}

// at returns the reference of an object of the inventory.
func (v *visitor) at(path string) types.ManagedObjectReference {
	v.Helper()
	list, err := find.NewFinder(v.c.Client).ManagedObjectList(v.ctx, path)
	require.NoError(v, err)
	require.Len(v, list, 1)
	return list[0].Object.Reference()
}

func restSession(v *visitor) {
	c := rest.NewClient(v.c.Client)
	_, err := tags.NewManager(c).ListTags(v.ctx)
	require.Error(v, err, "before the login")
	require.NoError(v, c.Login(v.ctx, v.user))
	s, err := c.Session(v.ctx)
	require.NoError(v, err)
	assert.Equal(v, v.user.Username(), s.User)
	require.NoError(v, c.Logout(v.ctx))
	s, err = c.Session(v.ctx)
	require.NoError(v, err)
	assert.Nil(v, s)
}

func tagged(v *visitor) {
	m := tags.NewManager(v.rest())
	category, err := m.CreateCategory(v.ctx, &tags.Category{Name: "owner", Cardinality: "SINGLE"})
	require.NoError(v, err)
	_, err = m.CreateCategory(v.ctx, &tags.Category{Name: "owner", Cardinality: "SINGLE"})
	require.Error(v, err, "a name is taken once")
	tag, err := m.CreateTag(v.ctx, &tags.Tag{CategoryID: category, Name: "us"})
	require.NoError(v, err)
	vm := v.at("/DC0/vm/DC0_C0_RP0_VM0")
	require.NoError(v, m.AttachTag(v.ctx, tag, vm))
	found, err := m.ListAttachedObjects(v.ctx, "us")
	require.NoError(v, err)
	require.Len(v, found, 1)
	assert.Equal(v, vm, found[0].Reference())
	require.NoError(v, m.DetachTag(v.ctx, tag, vm))
	attached, err := m.GetAttachedTags(v.ctx, vm)
	require.NoError(v, err)
	assert.Empty(v, attached)
}

func libraries(v *visitor) {
	m := library.NewManager(v.rest())
	id, err := m.CreateLibrary(v.ctx, library.Library{Name: "images", Type: "LOCAL", Storage: []library.StorageBacking{
		{DatastoreID: v.at("/DC0/datastore/LocalDS_0").Value, Type: "DATASTORE"},
	}})
	require.NoError(v, err)
	item, err := m.CreateLibraryItem(v.ctx, library.Item{Name: "rhel9", LibraryID: id, Type: library.ItemTypeISO})
	require.NoError(v, err)
	update, err := m.CreateLibraryItemUpdateSession(v.ctx, library.Session{LibraryItemID: item})
	require.NoError(v, err)
	file, err := m.AddLibraryItemFile(v.ctx, update, library.UpdateFile{Name: "rhel9.iso", SourceType: "PUSH", Size: 3})
	require.NoError(v, err)
	u, err := url.Parse(file.UploadEndpoint.URI)
	require.NoError(v, err)
	require.NoError(v, m.Client.Upload(v.ctx, strings.NewReader("iso"), u, &soap.Upload{Method: http.MethodPut, ContentLength: 3}))
	require.NoError(v, m.CompleteLibraryItemUpdateSession(v.ctx, update))
	files, err := m.ListLibraryItemFiles(v.ctx, item)
	require.NoError(v, err)
	require.Len(v, files, 1)
	assert.Equal(v, "rhel9.iso", files[0].Name)
	require.NoError(v, m.DeleteLibrary(v.ctx, &library.Library{ID: id, Type: "LOCAL"}))
}

func tokens(v *visitor) {
	c, err := sts.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	signer, err := c.Issue(v.ctx, sts.TokenRequest{Userinfo: v.user})
	require.NoError(v, err)
	other, err := vim25.NewClient(v.ctx, soap.NewClient(v.c.URL(), true))
	require.NoError(v, err)
	defer other.CloseIdleConnections()
	m := session.NewManager(other)
	require.NoError(v, m.LoginByToken(other.WithHeader(v.ctx, soap.Header{Security: signer})))
	s, err := m.UserSession(v.ctx)
	require.NoError(v, err)
	assert.NotEmpty(v, s.UserName)
	require.NoError(v, m.Logout(v.ctx))
}

func policies(v *visitor) {
	c, err := pbm.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	id, err := c.ProfileIDByName(v.ctx, "vSAN Default Storage Policy")
	require.NoError(v, err)
	all, err := c.RetrieveContent(v.ctx, []pbmtypes.PbmProfileId{{UniqueId: id}})
	require.NoError(v, err)
	require.Len(v, all, 1)
	assert.Equal(v, "vSAN Default Storage Policy", all[0].GetPbmProfile().Name)
	_, err = c.ProfileIDByName(v.ctx, "none")
	assert.Error(v, err)
}

func disks(v *visitor) {
	c, err := vslm.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	m := vslm.NewGlobalObjectManager(c)
	task, err := m.CreateDisk(v.ctx, types.VslmCreateSpec{
		Name: "data", CapacityInMB: 10, BackingSpec: &types.VslmCreateSpecDiskFileBackingSpec{
			VslmCreateSpecBackingSpec: types.VslmCreateSpecBackingSpec{Datastore: v.at("/DC0/datastore/LocalDS_0")},
		},
	})
	require.NoError(v, err)
	made, err := task.Wait(v.ctx, time.Minute)
	require.NoError(v, err)
	id := made.(types.VStorageObject).Config.Id
	disk, err := m.Retrieve(v.ctx, id)
	require.NoError(v, err)
	assert.Equal(v, "data", disk.Config.Name)
	task, err = m.Delete(v.ctx, id)
	require.NoError(v, err)
	_, err = task.Wait(v.ctx, time.Minute)
	require.NoError(v, err)
	_, err = m.Retrieve(v.ctx, id)
	assert.Error(v, err)
}

func users(v *visitor) {
	c, err := ssoadmin.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	token, err := sts.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	signer, err := token.Issue(v.ctx, sts.TokenRequest{Userinfo: v.user})
	require.NoError(v, err)
	require.NoError(v, c.Login(c.WithHeader(v.ctx, soap.Header{Security: signer})))
	require.NoError(v, c.CreatePersonUser(v.ctx, "tester", ssotypes.AdminPersonDetails{FirstName: "T"}, "secret"))
	u, err := c.FindUser(v.ctx, "tester")
	require.NoError(v, err)
	require.NotNil(v, u)
	assert.Equal(v, "tester", u.Id.Name)
	require.NoError(v, c.DeletePrincipal(v.ctx, "tester"))
	require.NoError(v, c.Logout(v.ctx))
}

func services(v *visitor) {
	c, err := lookup.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	all, err := c.List(v.ctx, &lookuptypes.LookupServiceRegistrationFilter{})
	require.NoError(v, err)
	assert.NotEmpty(v, all)
	site, err := c.SiteID(v.ctx)
	require.NoError(v, err)
	assert.NotEmpty(v, site)
}

func volumes(v *visitor) {
	c, err := cns.NewClient(v.ctx, v.c.Client)
	require.NoError(v, err)
	res, err := c.QueryVolume(v.ctx, &cnstypes.CnsQueryFilter{})
	require.NoError(v, err)
	assert.NotNil(v, res)
}

func modules(v *visitor) {
	m := cluster.NewManager(v.rest())
	id, err := m.CreateModule(v.ctx, v.at("/DC0/host/DC0_C0"))
	require.NoError(v, err)
	vm := v.at("/DC0/vm/DC0_C0_RP0_VM0")
	ok, err := m.AddModuleMembers(v.ctx, id, vm)
	require.NoError(v, err)
	assert.True(v, ok)
	members, err := m.ListModuleMembers(v.ctx, id)
	require.NoError(v, err)
	assert.Equal(v, []types.ManagedObjectReference{vm}, members)
	require.NoError(v, m.DeleteModule(v.ctx, id))
}

func namespaces(v *visitor) {
	m := namespace.NewManager(v.rest())
	require.NoError(v, m.CreateVmClass(v.ctx, namespace.VirtualMachineClassCreateSpec{Id: "small", CpuCount: 2, MemoryMb: 2048}))
	got, err := m.GetVmClass(v.ctx, "small")
	require.NoError(v, err)
	assert.EqualValues(v, 2, got.CpuCount)
	require.NoError(v, m.DeleteVmClass(v.ctx, "small"))
}

func applianceShell(v *visitor) {
	m := shell.NewManager(v.rest())
	require.NoError(v, m.Set(v.ctx, shell.Access{Enabled: true, Timeout: 60}))
	got, err := m.Get(v.ctx)
	require.NoError(v, err)
	assert.True(v, got.Enabled)
}

// A wrong password opens none of them, and faults and outages are theirs, too.
func TestOtherEndpointsHaveTheServersLoginAndFaults(t *testing.T) {
	t.Parallel()
	srv := vspheretest.NewUnstartedServer(t)
	srv.Model, srv.Latency = simulator.VPX(), vspheretest.Fast()
	srv.Username, srv.Password = "me", "secret"
	srv.Start()
	v := &visitor{ctx: t.Context(), c: dial(t, srv.URL), user: srv.URL.User}
	wrong := url.UserPassword("me", "wrong")

	assert.Error(t, rest.NewClient(v.c.Client).Login(v.ctx, wrong))
	token, err := sts.NewClient(v.ctx, v.c.Client)
	require.NoError(t, err)
	_, err = token.Issue(v.ctx, sts.TokenRequest{Userinfo: wrong})
	require.ErrorContains(t, err, "Invalid credentials")
	_, err = token.Issue(v.ctx, sts.TokenRequest{Userinfo: v.user})
	require.NoError(t, err)

	c := rest.NewClient(v.c.Client)
	require.NoError(t, c.Login(v.ctx, v.user))
	all := tags.NewManager(c)
	_, err = all.ListTags(v.ctx)
	require.NoError(t, err)
	met := srv.Inject(vspheretest.Fault{Method: "GET /rest/com/vmware/cis/tagging/tag", Effect: vspheretest.Status(http.StatusServiceUnavailable)})
	_, err = all.ListTags(v.ctx)
	require.ErrorContains(t, err, "503")
	assert.Equal(t, 1, met.Hits())
	disks, err := vslm.NewClient(v.ctx, v.c.Client)
	require.NoError(t, err)
	objects := vslm.NewGlobalObjectManager(disks)
	_, err = objects.List(v.ctx)
	require.NoError(t, err)

	srv.Restart(0)
	_, err = all.ListTags(v.ctx)
	require.ErrorContains(t, err, "401", "its session has ended with the service")
	_, err = objects.List(v.ctx)
	require.True(t, fault.Is(err, &types.NotAuthenticated{}), "%v", err)
	require.NoError(t, c.Login(v.ctx, v.user))
	_, err = all.ListTags(v.ctx)
	require.NoError(t, err)
	var login bool
	for _, r := range srv.Requests() {
		login = login || r.Method == "POST /rest/com/vmware/cis/session"
	}
	assert.True(t, login, "they are among the requests")
}
