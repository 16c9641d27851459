package vspheretest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/sshtest"
)

// plainOS is the default OS: a machine of package sshtest with root, whose NICs are all on one
// flat network, 10.0.0.0/8, and get their addresses by DHCP.
type plainOS struct {
	s    *Server
	disk *sshtest.Disk // that every VM that is not a clone starts with

	mu     sync.Mutex
	leases map[string]netip.Addr // by network, and what names the NIC there
	last   uint32
}

func newPlainOS(s *Server) (*plainOS, error) {
	key, err := s.sshKey("id_ed25519")
	if err != nil {
		return nil, err
	}
	d := sshtest.NewDisk()
	o := &plainOS{s: s, disk: d, leases: make(map[string]netip.Addr)}
	if err := d.MkdirAll("/root/.ssh", 0o700); err != nil {
		return nil, err
	}
	if err := d.WriteFile("/root/.ssh/authorized_keys", ssh.MarshalAuthorizedKey(key.PublicKey()), 0o600); err != nil {
		return nil, err
	}
	s.ClientKey = key
	return o, o.readHostKeys()
}

// readHostKeys sets Server.HostKeys from the disk that templates start with.
func (o *plainOS) readHostKeys() error {
	o.s.HostKeys = nil
	files, err := o.disk.ReadDir("/etc/ssh")
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), "_key.pub") {
			continue
		}
		line, err := o.disk.ReadFile("/etc/ssh/" + f.Name())
		if err != nil {
			return err
		}
		o.s.HostKeys = append(o.s.HostKeys, strings.TrimSpace(string(line)))
	}
	return nil
}

// plainState is what a plainOS keeps beside its disks.
type plainState struct {
	Disk   []byte
	Leases map[string]netip.Addr
	Last   uint32
}

// Save, Load, SaveDisk and LoadDisk make it a Keeper.
func (o *plainOS) Save() ([]byte, error) {
	disk, err := DumpTree(o.disk)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return json.Marshal(plainState{Disk: disk, Leases: o.leases, Last: o.last})
}

func (o *plainOS) Load(data []byte) error {
	var st plainState
	if err := json.Unmarshal(data, &st); err != nil {
		return err
	}
	disk, err := LoadTree(st.Disk)
	if err != nil {
		return err
	}
	o.disk, o.leases, o.last = disk, st.Leases, st.Last
	return o.readHostKeys()
}

func (o *plainOS) SaveDisk(d Disk) ([]byte, error) { return DumpTree(d.(plainDisk).Disk) }

func (o *plainOS) LoadDisk(data []byte) (Disk, error) {
	d, err := LoadTree(data)
	return plainDisk{d}, err
}

type plainDisk struct{ *sshtest.Disk }

func (d plainDisk) Clone() Disk { return plainDisk{d.Disk.Clone()} }

// Install returns a disk that lets root in with the Server's key, and has the Server's host keys.
func (o *plainOS) Install(Hardware) Disk { return plainDisk{o.disk.Clone()} }

// customFile is where a plain machine keeps the addresses that it was customized with, one NIC a
// line; an empty line means DHCP.
const customFile = "/etc/network/addresses"

// Customize makes it a Customizer.
func (o *plainOS) Customize(disk Disk, c Customization) error {
	d := disk.(plainDisk)
	if c.HostName != "" {
		if err := d.WriteFile("/etc/hostname", []byte(c.HostName+"\n"), 0o644); err != nil {
			return err
		}
	}
	var lines strings.Builder
	for _, n := range c.NICs {
		if n.Addr.IsValid() {
			lines.WriteString(n.Addr.String())
		}
		lines.WriteString("\n")
	}
	if err := d.MkdirAll("/etc/network", 0o755); err != nil {
		return err
	}
	return d.WriteFile(customFile, []byte(lines.String()), 0o644)
}

// fixed returns the addresses that the machine was customized with, by NIC; zero means DHCP.
func (g *plainGuest) fixed() (addrs []netip.Prefix) {
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

func (o *plainOS) Boot(m *Machine) Guest {
	g := o.newGuest(m)
	g.boot()
	return g
}

// boot starts the machine with the NICs that it has.
func (g *plainGuest) boot() {
	g.host.Boot()
	if id, _ := g.host.Disk().ReadFile(machineID); strings.TrimSpace(string(id)) == "" { // as systemd does
		_ = g.host.Disk().WriteFile(machineID, []byte(randomHex(16)+"\n"), 0o444)
	}
	for i, n := range g.hw.NICs {
		g.host.ShowNIC(fmt.Sprint("eth", i), n.MAC)
	}
}

func (o *plainOS) newGuest(m *Machine) *plainGuest {
	g := &plainGuest{os: o, m: m, host: sshtest.NewHost(m.Disk.(plainDisk).Disk), hw: m.Hardware, reverts: m.reverts}
	g.host.Commands = o.s.Commands
	g.host.Dial = g.dial
	g.host.OnNotSimulated = m.NotSimulated
	g.host.OnPowerOff = g.Shutdown // in order: connections are closed, not cut
	g.host.OnReboot = g.Reboot
	return g
}

// plainMemory is what a plainGuest knows beside its disk: the machine's memory, and which lease it
// has.
type plainMemory struct {
	Host    []byte
	Reverts int
}

// Resume makes it a Resumer.
func (o *plainOS) Resume(m *Machine, memory []byte) (Guest, error) {
	var then plainMemory
	if err := json.Unmarshal(memory, &then); err != nil {
		return nil, err
	}
	g := o.newGuest(m)
	g.reverts = then.Reverts
	return g, g.host.Resume(then.Host)
}

// Freeze makes it a Freezer.
func (g *plainGuest) Freeze() (Disk, []byte, error) {
	g.mu.Lock()
	reverts := g.reverts
	g.mu.Unlock()
	disk, host, err := g.host.Freeze()
	if err != nil {
		return nil, nil, err
	}
	memory, err := json.Marshal(plainMemory{host, reverts})
	return plainDisk{disk}, memory, err
}

const machineID = "/etc/machine-id"

// lease returns the address of the i-th NIC: always the same one, until the VM is reverted, as the
// server may well have given the address to somebody else by then.
func (g *plainGuest) lease(i int, n HardwareNIC, reverts int) netip.Addr {
	key := fmt.Sprint(strings.ToLower(n.MAC), reverts)
	if g.os.s.LeaseByMachineID {
		id, _ := g.host.Disk().ReadFile(machineID)
		key = fmt.Sprint("id-", strings.TrimSpace(string(id)), "-", i)
	}
	o := g.os
	o.mu.Lock()
	defer o.mu.Unlock()
	key = n.Network + " " + key
	a, ok := o.leases[key]
	if !ok {
		o.last++
		n := o.last + 9
		a = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		o.leases[key] = a
	}
	return a
}

// plainGuest is a running machine of plainOS.
type plainGuest struct {
	os   *plainOS
	m    *Machine
	host *sshtest.Host

	mu   sync.Mutex // guards what follows
	hw   Hardware
	away bool // rebooting: not on the network
	dead bool

	reverts int // the VM's when it got its lease, which it has until it boots
}

// Reboot makes it a Rebooter.
func (g *plainGuest) Reboot() {
	g.mu.Lock()
	g.away = true
	g.mu.Unlock()
	g.host.Halt()
	g.m.Rebooted()
	s := g.m.run.s
	s.goWork(func() {
		if sleep(g.m.run.life, s.lat.Boot) != nil {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.dead {
			g.boot()
			g.away, g.reverts = false, g.m.reverts
			s.lab.broadcast()
		}
	})
}

// Info lists a container bridge first and link-local addresses before the others, as tools do.
func (g *plainGuest) Info() GuestInfo {
	g.mu.Lock()
	hw, away, reverts := g.hw, g.away, g.reverts
	g.mu.Unlock()
	info := GuestInfo{HostName: g.hostname()}
	if !g.os.s.modeled() { // programs for vcsim's inventory expect no containers there
		info.NICs = []GuestNIC{{
			MAC: "02:42:ac:11:00:01", Connected: true, Addrs: []netip.Prefix{netip.MustParsePrefix("172.17.0.1/16")},
		}}
	}
	fixed := g.fixed()
	for i, n := range hw.NICs {
		nic := GuestNIC{MAC: n.MAC, Connected: n.Connected}
		if n.Connected && !away {
			nic.Addrs = []netip.Prefix{netip.PrefixFrom(linkLocal(n.MAC), 64)}
			if i < len(fixed) && fixed[i].IsValid() {
				nic.Addrs = append(nic.Addrs, fixed[i])
			} else {
				nic.Addrs = append(nic.Addrs, netip.PrefixFrom(g.lease(i, n, reverts), 8))
			}
		}
		info.NICs = append(info.NICs, nic)
	}
	return info
}

func (g *plainGuest) hostname() string {
	b, err := g.host.Disk().ReadFile("/etc/hostname")
	if name := strings.TrimSpace(string(b)); err == nil && name != "" {
		return name
	}
	return "localhost"
}

// linkLocal is the address that IPv6 makes of a MAC by itself.
func linkLocal(mac string) netip.Addr {
	var a [16]byte
	a[0], a[1], a[11], a[12] = 0xfe, 0x80, 0xff, 0xfe
	if b, err := net.ParseMAC(mac); err == nil && len(b) == 6 {
		copy(a[8:11], b[:3])
		copy(a[13:], b[3:])
		a[8] ^= 2
	}
	return netip.AddrFrom16(a)
}

// ServeConn is sshd on port 22, what programs listen on, and a refusal elsewhere.
func (g *plainGuest) ServeConn(conn net.Conn, to netip.AddrPort) {
	if to.Port() == 22 {
		g.host.ServeConn(conn)
	} else if !g.host.ServePort(conn, to) {
		_ = conn.Close()
	}
}

// dial connects to a machine on the flat network, which has no name server, for a program or as a
// jump host.
func (g *plainGuest) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return g.os.s.DialContext(ctx, network, address)
}

func (g *plainGuest) Shutdown() {
	g.host.Halt()
	g.m.PowerOff()
}

func (g *plainGuest) HardwareChanged(hw Hardware) {
	g.mu.Lock()
	g.hw = hw
	g.mu.Unlock()
	g.m.Changed()
}

func (g *plainGuest) Kill() {
	g.mu.Lock()
	g.dead = true
	g.mu.Unlock()
	g.host.Halt()
}
