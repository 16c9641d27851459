package vspheretest

import (
	"cmp"
	"encoding/json"
	"net"
	"net/netip"
	"sync"
)

// bareOS is the default OS: machines on a LAN that boot, have tools, and refuse every connection.
type bareOS struct {
	s   *Server
	lan LAN
}

// A bareDisk holds what a machine was customized with.
type bareDisk struct {
	HostName string
	Fixed    []netip.Prefix // never written to
}

func (d *bareDisk) Clone() Disk {
	c := *d
	return &c
}

func (o *bareOS) Install(Hardware) Disk { return &bareDisk{} }

func (o *bareOS) Boot(m *Machine) Guest {
	return &bareGuest{os: o, m: m, hw: m.Hardware, reverts: m.Reverts}
}

// Customize makes it a Customizer.
func (o *bareOS) Customize(disk Disk, c Customization) error {
	d := disk.(*bareDisk)
	d.HostName = cmp.Or(c.HostName, d.HostName)
	d.Fixed = nil
	for _, n := range c.NICs {
		d.Fixed = append(d.Fixed, n.Addr)
	}
	return nil
}

// Resume makes it a Resumer. Such a machine's memory is which lease it has.
func (o *bareOS) Resume(m *Machine, memory []byte) (Guest, error) {
	g := &bareGuest{os: o, m: m, hw: m.Hardware}
	return g, json.Unmarshal(memory, &g.reverts)
}

// Save, Load, SaveDisk and LoadDisk make it a StateSaver.
func (o *bareOS) Save() ([]byte, error) { return json.Marshal(&o.lan) }

func (o *bareOS) Load(data []byte) error { return json.Unmarshal(data, &o.lan) }

func (o *bareOS) SaveDisk(d Disk) ([]byte, error) { return json.Marshal(d) }

func (o *bareOS) LoadDisk(data []byte) (Disk, error) {
	d := new(bareDisk)
	return d, json.Unmarshal(data, d)
}

// A bareGuest is a running machine of bareOS.
type bareGuest struct {
	os *bareOS
	m  *Machine

	mu      sync.Mutex // guards what follows
	hw      Hardware
	reverts int // the VM's when it got its lease, which it has until it boots
	away    bool
}

func (g *bareGuest) Info() GuestInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.m.Disk.(*bareDisk)
	info := GuestInfo{HostName: cmp.Or(d.HostName, "localhost")}
	if !g.os.s.modeled() { // programs for vcsim's inventory expect no containers
		info.NICs = []GuestNIC{Bridge()}
	}
	info.NICs = append(info.NICs, g.os.lan.NICs(LANClient{NICs: g.hw.NICs, Reverts: g.reverts, Fixed: d.Fixed, Away: g.away})...)
	return info
}

func (g *bareGuest) ServeConn(conn net.Conn, _ netip.AddrPort) { _ = conn.Close() }

func (g *bareGuest) Shutdown() { g.m.PowerOff() }

// Reboot makes it a Rebooter.
func (g *bareGuest) Reboot() {
	g.mu.Lock()
	g.away = true
	g.mu.Unlock()
	g.m.Rebooted()
	g.m.AfterBoot(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.away, g.reverts = false, g.m.Reverts
	})
}

func (g *bareGuest) HardwareChanged(hw Hardware) {
	g.mu.Lock()
	g.hw = hw
	g.mu.Unlock()
	g.m.Changed()
}

// SaveMemory makes it a MemorySaver.
func (g *bareGuest) SaveMemory() (Disk, []byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	memory, err := json.Marshal(g.reverts)
	return g.m.Disk.Clone(), memory, err
}

func (g *bareGuest) Kill() {}
