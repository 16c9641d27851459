package sshguest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A guest is a running machine.
type guest struct {
	os   *OS
	m    *vspheretest.Machine
	host *sshtest.Host

	mu   sync.Mutex // guards what follows
	hw   vspheretest.Hardware
	away bool // rebooting: not on the network
	dead bool

	reverts int // the VM's when it got its lease, which it has until it boots
}

func (o *OS) newGuest(m *vspheretest.Machine) *guest {
	g := &guest{os: o, m: m, host: sshtest.NewHost(m.Disk.(disk).Disk), hw: m.Hardware, reverts: m.Reverts}
	g.host.Commands = o.Commands
	g.host.Dial = o.srv.DialContext
	g.host.OnNotSimulated = func(r sshtest.Refusal) { m.NotSimulated(&r) }
	g.host.OnPowerOff = g.Shutdown // in order: connections are closed, not cut
	g.host.OnReboot = g.Reboot
	return g
}

const machineID = "/etc/machine-id"

func (g *guest) boot() {
	g.host.Boot()
	if g.id() == "" { // as systemd does
		var id [16]byte
		_, _ = rand.Read(id[:])
		_ = g.host.Disk().WriteFile(machineID, []byte(hex.EncodeToString(id[:])+"\n"), 0o444)
	}
	for i, n := range g.hw.NICs {
		g.host.ShowNIC(fmt.Sprint("eth", i), n.MAC)
	}
}

func (g *guest) id() string {
	id, _ := g.host.Disk().ReadFile(machineID) // without a file there is none
	return strings.TrimSpace(string(id))
}

// Info lists a container bridge first and link-local addresses before the others, as tools do.
func (g *guest) Info() vspheretest.GuestInfo {
	g.mu.Lock()
	c := vspheretest.LANClient{NICs: g.hw.NICs, Reverts: g.reverts, Away: g.away}
	g.mu.Unlock()
	c.Fixed = g.fixed()
	if g.os.LeaseByMachineID {
		c.ID = g.id()
	}
	info := vspheretest.GuestInfo{HostName: "localhost"}
	if b, err := g.host.Disk().ReadFile("/etc/hostname"); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		info.HostName = strings.TrimSpace(string(b))
	}
	if g.os.bridge {
		info.NICs = []vspheretest.GuestNIC{vspheretest.Bridge()}
	}
	info.NICs = append(info.NICs, g.os.lan.NICs(c)...)
	return info
}

// fixed returns the addresses that the machine was customized with, by NIC; zero means DHCP.
func (g *guest) fixed() (addrs []netip.Prefix) {
	b, err := g.host.Disk().ReadFile(customFile)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		p, _ := netip.ParsePrefix(strings.TrimSpace(line)) // zero if it is empty
		addrs = append(addrs, p)
	}
	return addrs
}

// ServeConn is sshd on port 22, what programs listen on, and a refusal elsewhere.
func (g *guest) ServeConn(conn net.Conn, to netip.AddrPort) {
	if to.Port() == 22 {
		g.host.ServeConn(conn)
	} else if !g.host.ServePort(conn, to) {
		_ = conn.Close()
	}
}

func (g *guest) Shutdown() {
	g.host.Halt()
	g.m.PowerOff()
}

// Reboot makes it a vspheretest.Rebooter.
func (g *guest) Reboot() {
	g.mu.Lock()
	g.away = true
	g.mu.Unlock()
	g.host.Halt()
	g.m.Rebooted()
	g.m.AfterBoot(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.dead {
			g.boot()
			g.away, g.reverts = false, g.m.Reverts
		}
	})
}

func (g *guest) HardwareChanged(hw vspheretest.Hardware) {
	g.mu.Lock()
	g.hw = hw
	g.mu.Unlock()
	g.m.Changed()
}

// Kill cuts the power.
func (g *guest) Kill() {
	g.mu.Lock()
	g.dead = true
	g.mu.Unlock()
	g.host.Halt()
}

// memory is what a guest knows beside its disk: the machine's memory, and which lease it has.
type memory struct {
	Host    []byte
	Reverts int
}

// SaveMemory makes it a vspheretest.MemorySaver.
func (g *guest) SaveMemory() (vspheretest.Disk, []byte, error) {
	g.mu.Lock()
	reverts := g.reverts
	g.mu.Unlock()
	d, host, err := g.host.SaveMemory()
	if err != nil {
		return nil, nil, err
	}
	data, err := json.Marshal(memory{host, reverts})
	return disk{d}, data, err
}
