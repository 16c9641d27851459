package vspheretest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	toolsRunning    = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	toolsNotRunning = string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
)

// A running is a VM's guest from power on to power off.
type running struct {
	s    *Server
	vm   *vm
	m    *Machine
	life context.Context // ends when the power goes
	kill context.CancelFunc
	done chan struct{} // closed when the goroutine that tends the guest has ended

	changed  chan struct{} // the guest's state may have changed
	rebooted chan struct{}
	halt     sync.Once

	// Guarded by Server.mu.
	guest Guest // nil until it has booted
}

// startGuest begins the boot of a VM whose power has just come on. The caller has the VM to itself.
func (s *Server) startGuest(ctx *simulator.Context, m *vm) { s.run(s.newGuest(ctx, m)) }

// resumeGuest has the guest of a VM that was reverted go on from memory.
func (s *Server) resumeGuest(ctx *simulator.Context, m *vm, memory []byte) error {
	o, ok := s.OS.(Resumer)
	if !ok {
		return errors.New("the OS is no Resumer")
	}
	r := s.newGuest(ctx, m)
	g, err := o.Resume(r.m, memory)
	if err != nil {
		return err
	}
	r.guest = g
	s.run(r)
	return nil
}

// newGuest returns the guest of a VM, which does not run yet.
func (s *Server) newGuest(ctx *simulator.Context, m *vm) *running {
	hw := s.hardware(m.config(ctx))
	s.mu.Lock()
	disk, reverts := m.disk, m.reverts
	s.mu.Unlock()
	if disk == nil {
		disk = s.OS.Install(hw)
	}
	r := &running{
		s: s, vm: m, done: make(chan struct{}),
		changed: make(chan struct{}, 1), rebooted: make(chan struct{}, 1),
	}
	r.life, r.kill = context.WithCancel(s.life)
	r.m = &Machine{Disk: disk, Hardware: hw, run: r, Reverts: reverts}
	return r
}

// run makes r the guest of its VM.
func (s *Server) run(r *running) {
	s.mu.Lock()
	r.vm.disk, r.vm.guest = r.m.Disk, r
	g, closed := r.guest, s.closed
	if !closed {
		s.work.Go(func() { r.tend(g) })
	}
	s.mu.Unlock()
	if closed {
		close(r.done)
		if g != nil {
			g.Kill()
		}
	}
}

// stopGuest cuts the power of the guest and returns when nothing of it runs.
func (s *Server) stopGuest(m *vm) {
	s.mu.Lock()
	r := m.guest
	m.guest = nil
	s.mu.Unlock()
	if r == nil {
		return
	}
	r.kill()
	<-r.done
	s.lab.cut(r)
	s.mu.Lock()
	g := r.guest
	s.mu.Unlock()
	if g != nil {
		g.Kill()
	}
	s.lab.broadcast()
}

// tend boots the guest, unless it is g, which has been resumed, and shows vCenter what its tools
// say, until the power goes.
func (r *running) tend(g Guest) {
	defer close(r.done)
	s, lat := r.s, r.s.lat
	resumed := g != nil
	if !resumed {
		if sleep(r.life, s.paced(lat.Boot)) != nil {
			return
		}
		g = s.OS.Boot(r.m)
		s.mu.Lock()
		r.guest = g
		s.mu.Unlock()
	}
	s.lab.broadcast()
	s.announce(r, g.Info())

	ctx := s.context(nil)
	for {
		tools, wait := lat.Tools, lat.Address
		if resumed { // the tools run already, and say something at their next poll
			tools, wait, resumed = 0, lat.GuestPoll, false
		}
		if sleep(r.life, s.paced(tools)) != nil {
			return
		}
		r.show(ctx, nil)
		for reboot := false; !reboot; {
			if sleep(r.life, s.paced(wait)) != nil {
				return
			}
			info := g.Info()
			r.show(ctx, &info)
			s.announce(r, info)
			wait = lat.GuestPoll
			select {
			case <-r.changed:
			case <-r.rebooted:
				reboot = true
			case <-r.life.Done():
				return
			}
		}
		s.toolsGone(ctx, r.vm)
		if sleep(r.life, s.paced(lat.Boot)) != nil {
			return
		}
	}
}

// shutdown asks the guest, which has booted, for an orderly end. It does not wait for it.
func (r *running) shutdown() {
	r.halt.Do(func() {
		r.s.goWork(func() {
			r.s.mu.Lock()
			g := r.guest
			r.s.mu.Unlock()
			if sleep(r.life, r.s.paced(r.s.lat.GuestShutdown)) == nil {
				g.Shutdown()
			}
		})
	})
}

// show makes what the tools say the VM's properties; info is nil while they say only that they run.
func (r *running) show(ctx *simulator.Context, info *GuestInfo) {
	r.vm.publish.Lock()
	defer r.vm.publish.Unlock()
	if r.life.Err() != nil {
		return
	}
	change(ctx, r.vm.obj, func() {
		o := r.vm.obj
		g := deepCopy(o.Guest)
		g.ToolsRunningStatus = toolsRunning
		g.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
		g.ToolsVersionStatus2 = string(types.VirtualMachineToolsVersionStatusGuestToolsUnmanaged)
		g.GuestState = string(types.VirtualMachineGuestStateRunning)
		g.GuestId, g.GuestFullName = o.Config.GuestId, o.Config.GuestFullName
		g.GuestFamily = string(types.VirtualMachineGuestOsFamilyLinuxGuest)
		if info != nil {
			g.HostName = info.HostName
			g.Net, g.IpAddress = guestNet(info.NICs, &o.VirtualMachine)
		}
		o.Guest = g
		o.Summary.Guest = guestSummary(g)
		o.Summary.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGreen
	})
}

// toolsGone shows that the tools do not run. What they said last stays, as on a real vCenter.
func (s *Server) toolsGone(ctx *simulator.Context, m *vm) {
	m.publish.Lock()
	defer m.publish.Unlock()
	change(ctx, m.obj, func() {
		g := deepCopy(m.obj.Guest)
		g.ToolsRunningStatus = toolsNotRunning
		g.ToolsStatus = types.VirtualMachineToolsStatusToolsNotRunning
		g.GuestState = string(types.VirtualMachineGuestStateNotRunning)
		m.obj.Guest = g
		m.obj.Summary.Guest = guestSummary(g)
		m.obj.Summary.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGray
	})
}

// guestNet is guest.net for the interfaces that tools list, and guest.ipAddress, which is the
// first IPv4 address of any of them, be it a container bridge's.
func guestNet(list []GuestNIC, o *mo.VirtualMachine) (net []types.GuestNicInfo, primary string) {
	for _, n := range list {
		info := types.GuestNicInfo{MacAddress: n.MAC, Connected: n.Connected, DeviceConfigId: -1}
		for _, nic := range nics(o.Config) {
			if sameMAC(nic.MacAddress, n.MAC) {
				info.DeviceConfigId = nic.Key
				info.Network = nic.DeviceInfo.GetDescription().Summary
			}
		}
		if len(n.Addrs) > 0 {
			info.IpConfig = &types.NetIpConfigInfo{}
		}
		for _, p := range n.Addrs {
			info.IpAddress = append(info.IpAddress, p.Addr().String())
			info.IpConfig.IpAddress = append(info.IpConfig.IpAddress, types.NetIpConfigInfoIpAddress{
				IpAddress: p.Addr().String(), PrefixLength: int32(p.Bits()), State: string(types.NetIpConfigInfoIpAddressStatusPreferred),
			})
			if primary == "" && n.Connected && p.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() {
				primary = p.Addr().String()
			}
		}
		net = append(net, info)
	}
	return net, primary
}

// guestOff is called when the guest has powered its machine off by itself.
func (s *Server) guestOff(r *running) {
	release, ok := s.hold(r.vm)
	if !ok {
		return
	}
	defer release()
	s.mu.Lock()
	current := r.vm.guest == r
	s.mu.Unlock()
	if current { // else somebody cut the power meanwhile
		s.cutPower(s.context(nil), r.vm)
	}
}

// replug tells the guest what its hardware has become.
func (s *Server) replug(ctx *simulator.Context, m *vm) {
	s.mu.Lock()
	r := m.guest
	var g Guest
	if r != nil {
		g = r.guest
	}
	s.mu.Unlock()
	if g != nil {
		g.HardwareChanged(s.hardware(m.config(ctx)))
		r.m.Changed()
	}
}

// at returns the guest and the NIC on which it has addr now, whatever vCenter knows.
func (r *running) at(addr netip.Addr) (Guest, station, bool) {
	r.s.mu.Lock()
	g := r.guest
	r.s.mu.Unlock()
	if g == nil || r.life.Err() != nil || addr.IsLinkLocalUnicast() {
		return nil, station{}, false
	}
	for _, n := range g.Info().NICs {
		if !n.Connected || !slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			continue
		}
		if st, ok := r.station(n.MAC); ok {
			return g, st, true
		}
	}
	return nil, station{}, false
}

// A station is a NIC as its network knows it.
type station struct {
	mac     string
	network types.ManagedObjectReference
}

// station returns the VM's NIC that has a MAC; there is none for a bridge inside of the guest.
func (r *running) station(mac string) (st station, ok bool) {
	for _, st := range r.stations() {
		if sameMAC(st.mac, mac) {
			return st, true
		}
	}
	return st, false
}

// stations lists the VM's NICs.
func (r *running) stations() (all []station) {
	r.vm.look(r.s.context(nil), func(o *mo.VirtualMachine) {
		if o.Config == nil {
			return
		}
		for _, n := range nics(o.Config) {
			ref, _ := networkOf(n)
			all = append(all, station{strings.ToLower(n.MacAddress), ref})
		}
	})
	return all
}
