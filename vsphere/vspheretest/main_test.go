package vspheretest_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // vcsim's remarks
	goleak.VerifyTestMain(m)
}

// A site is a Server and what tests do there by hand.
type site struct {
	*testing.T
	srv    *vspheretest.Server
	ctx    context.Context
	c      *govmomi.Client
	finder *find.Finder
	folder *object.Folder
	pool   *object.ResourcePool
}

// start starts a fast Server, configured by set if that is not nil.
func start(t *testing.T, set func(*vspheretest.Server)) *site {
	t.Helper()
	srv := sshguest.NewUnstartedServer(t)
	srv.Latency, srv.Hosts = vspheretest.Fast(), 1
	if set != nil {
		set(srv)
	}
	srv.Start()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	t.Cleanup(cancel)
	s := &site{T: t, srv: srv, ctx: ctx}
	c, err := srv.Client(ctx)
	require.NoError(t, err)
	s.c, s.finder = c, find.NewFinder(c.Client)
	dc, err := s.finder.Datacenter(ctx, srv.Datacenter)
	require.NoError(t, err)
	s.finder.SetDatacenter(dc)
	s.folder, err = s.finder.Folder(ctx, "vm")
	require.NoError(t, err)
	s.pool, err = s.finder.ResourcePool(ctx, srv.Cluster+"/Resources")
	require.NoError(t, err)
	return s
}

// in is the site for one test of several: what it makes goes to a folder of its own.
func (s *site) in(t *testing.T, name string) *site {
	t.Helper()
	sub := *s
	sub.T, sub.ctx = t, t.Context()
	var err error
	sub.folder, err = s.folder.CreateFolder(sub.ctx, name[:min(len(name), 79)])
	require.NoError(t, err)
	return &sub
}

// do waits for a task and returns its result; the error is that of the call or of the task.
func (s *site) do(task *object.Task, err error) (any, error) {
	s.Helper()
	if err != nil {
		return nil, err
	}
	info, err := task.WaitForResult(s.ctx)
	if err != nil {
		return nil, err
	}
	return info.Result, nil
}

// must is do for what has to succeed.
func (s *site) must(task *object.Task, err error) any {
	s.Helper()
	res, err := s.do(task, err)
	require.NoError(s, err)
	return res
}

func (s *site) vm(name string) *object.VirtualMachine {
	s.Helper()
	vm, err := s.finder.VirtualMachine(s.ctx, name)
	require.NoError(s, err)
	return vm
}

// props reads all properties of a VM.
func (s *site) props(vm *object.VirtualMachine) mo.VirtualMachine {
	s.Helper()
	var o mo.VirtualMachine
	require.NoError(s, property.DefaultCollector(s.c.Client).RetrieveOne(s.ctx, vm.Reference(), nil, &o))
	return o
}

// full makes a VM of the template.
func (s *site) full(name string) *object.VirtualMachine {
	s.Helper()
	ref := s.must(s.vm("template").Clone(s.ctx, s.folder, name, types.VirtualMachineCloneSpec{Location: s.here()}))
	return object.NewVirtualMachine(s.c.Client, ref.(types.ManagedObjectReference))
}

// here is the location of clones that have no other.
func (s *site) here() types.VirtualMachineRelocateSpec {
	pool := s.pool.Reference()
	return types.VirtualMachineRelocateSpec{Pool: &pool}
}

func (s *site) snapshot(vm *object.VirtualMachine, name string) types.ManagedObjectReference {
	s.Helper()
	return s.must(vm.CreateSnapshot(s.ctx, name, "", false, false)).(types.ManagedObjectReference)
}

// linked makes a linked clone.
func (s *site) linked(src *object.VirtualMachine, snap types.ManagedObjectReference, name string) *object.VirtualMachine {
	s.Helper()
	loc := s.here()
	loc.DiskMoveType = "createNewChildDiskBacking"
	ref := s.must(src.Clone(s.ctx, s.folder, name, types.VirtualMachineCloneSpec{Location: loc, Snapshot: &snap}))
	return object.NewVirtualMachine(s.c.Client, ref.(types.ManagedObjectReference))
}

// wait waits until the VM's properties are as ok wants, through the property collector.
func (s *site) wait(vm *object.VirtualMachine, paths []string, ok func(map[string]any) bool) {
	s.Helper()
	have := make(map[string]any)
	err := property.Wait(s.ctx, property.DefaultCollector(s.c.Client), vm.Reference(), paths, func(pc []types.PropertyChange) bool {
		for _, c := range pc {
			have[c.Name] = c.Val
		}
		return ok(have)
	})
	require.NoError(s, err)
}

// off waits until the VM is powered off.
func (s *site) off(vm *object.VirtualMachine) {
	s.Helper()
	s.wait(vm, []string{"runtime.powerState"}, func(p map[string]any) bool {
		return p["runtime.powerState"] == types.VirtualMachinePowerStatePoweredOff
	})
}

// address waits for an IPv4 address on the VM's first NIC.
func (s *site) address(vm *object.VirtualMachine) string {
	s.Helper()
	return s.addressOn(vm, object.VirtualDeviceList(s.props(vm).Config.Hardware.Device).
		SelectByType((*types.VirtualEthernetCard)(nil))[0].(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress)
}

// addressOn is address for the NIC with a MAC.
func (s *site) addressOn(vm *object.VirtualMachine, mac string) (addr string) {
	s.Helper()
	s.wait(vm, []string{"guest.toolsRunningStatus", "guest.net"}, func(p map[string]any) bool {
		if p["guest.toolsRunningStatus"] != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
			return false
		}
		addr = addressOf(p["guest.net"], mac)
		return addr != ""
	})
	return addr
}

func addressOf(net any, mac string) string {
	list, _ := net.(types.ArrayOfGuestNicInfo)
	for _, n := range list.GuestNicInfo {
		if n.MacAddress != mac || n.IpConfig == nil {
			continue
		}
		for _, a := range n.IpConfig.IpAddress {
			if a.PrefixLength == 8 {
				return a.IpAddress
			}
		}
	}
	return ""
}

// events returns all events about the object, oldest first.
func (s *site) events(ref types.ManagedObjectReference) []types.BaseEvent {
	s.Helper()
	m := event.NewManager(s.c.Client)
	list, err := m.QueryEvents(s.ctx, types.EventFilterSpec{
		Entity:   &types.EventFilterSpecByEntity{Entity: ref, Recursion: types.EventFilterSpecRecursionOptionSelf},
		MaxCount: 1000,
	})
	require.NoError(s, err)
	event.Sort(list)
	return list
}

func newSessionManager(c *vim25.Client) *session.Manager { return session.NewManager(c) }

// eventName is the event's type as in the API.
func eventName(e types.BaseEvent) string { return fmt.Sprintf("%T", e)[len("*types."):] }

func loginWith(ctx context.Context, c *vim25.Client, req *types.Login) (*types.LoginResponse, error) {
	return methods.Login(ctx, c, req)
}
