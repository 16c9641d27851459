package vsphere

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// plainOS is a system that only has guest tools: these tests are about vCenter. It shuts down
// when asked, unless it is stubborn. Every boot has an address of its own, unless they are fixed, or a
// machine that runs has the same MAC.
type plainOS struct {
	stubborn atomic.Bool
	fixed    atomic.Bool
	boots    atomic.Uint32

	mu    sync.Mutex
	byMAC map[string]*plainGuest // that run, by their first NIC
}

type plainDisk struct{}

func (plainDisk) Clone() vspheretest.Disk                      { return plainDisk{} }
func (*plainOS) Install(vspheretest.Hardware) vspheretest.Disk { return plainDisk{} }

func (o *plainOS) Boot(m *vspheretest.Machine) vspheretest.Guest {
	g := &plainGuest{os: o, m: m, hw: m.Hardware, boot: 1}
	if o.fixed.Load() || len(g.hw.NICs) == 0 {
		return g
	}
	g.boot = byte(o.boots.Add(1))
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byMAC == nil {
		o.byMAC = map[string]*plainGuest{}
	}
	mac := g.hw.NICs[0].MAC
	if twin := o.byMAC[mac]; twin != nil {
		g.boot = twin.boot
	} else {
		o.byMAC[mac] = g
	}
	return g
}

// Resume brings back the address.
func (o *plainOS) Resume(m *vspheretest.Machine, memory []byte) (vspheretest.Guest, error) {
	return &plainGuest{os: o, m: m, hw: m.Hardware, boot: memory[0]}, nil
}

func (g *plainGuest) SaveMemory() (vspheretest.Disk, []byte, error) {
	return plainDisk{}, []byte{g.boot}, nil
}

type plainGuest struct {
	os   *plainOS
	m    *vspheretest.Machine
	boot byte

	mu sync.Mutex
	hw vspheretest.Hardware
}

// Info lists a container bridge first and link-local addresses before others, as tools do.
func (g *plainGuest) Info() vspheretest.GuestInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	info := vspheretest.GuestInfo{HostName: "guest", NICs: []vspheretest.GuestNIC{{
		MAC: "02:42:ac:11:00:01", Connected: true, Addrs: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")},
	}}}
	for i, n := range g.hw.NICs {
		info.NICs = append(info.NICs, vspheretest.GuestNIC{MAC: n.MAC, Connected: n.Connected, Addrs: []netip.Prefix{
			netip.MustParsePrefix("fe80::1/64"),
			netip.MustParsePrefix("2001:db8::1/64"),
			netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/16", i, g.boot)),
		}})
	}
	return info
}

func (g *plainGuest) ServeConn(conn net.Conn, _ netip.AddrPort) { conn.Close() }

func (g *plainGuest) Kill() {
	g.os.mu.Lock()
	defer g.os.mu.Unlock()
	for mac, of := range g.os.byMAC {
		if of == g {
			delete(g.os.byMAC, mac)
		}
	}
}

func (g *plainGuest) Shutdown() {
	if !g.os.stubborn.Load() {
		g.m.PowerOff()
	}
}

func (g *plainGuest) HardwareChanged(hw vspheretest.Hardware) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hw = hw
}
