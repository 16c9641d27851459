package realguests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A vm is a guest under QEMU, with hardware, kernel and clock of its own.
type vm struct {
	site    *Site
	machine *vspheretest.Machine
	name    string
	disk    *vmDisk
	done    chan struct{} // closed when nothing of it runs

	mu   sync.Mutex // guards what follows
	hw   vspheretest.Hardware
	cmd  *exec.Cmd
	nics int // how many were plugged in
	qmp  *monitor
	info vspheretest.GuestInfo
}

var (
	_ vspheretest.MemorySaver = (*vm)(nil)
	_ vspheretest.Resumer     = (*Site)(nil)
)

// qmpLimit is a generous time for what QEMU does at once.
const qmpLimit = time.Minute

// newVM starts a machine, or has one go on from a file of its memory.
func (s *Site) newVM(m *vspheretest.Machine, d *vmDisk, memory string) (*vm, error) {
	v := &vm{
		site:    s,
		machine: m,
		name:    s.unique("vm"),
		disk:    d,
		hw:      m.Hardware,
		done:    make(chan struct{}),
	}
	path, done, err := d.use(m.Hardware.DiskGiB)
	if err != nil {
		close(v.done)
		return v, fmt.Errorf("its disk is lost: %w", err)
	}
	if err := v.start(path, memory); err != nil {
		if v.cmd != nil {
			_ = v.cmd.Process.Kill()
			_ = v.cmd.Wait()
		}
		done()
		close(v.done)
		return v, err
	}
	go func() {
		_ = v.cmd.Wait()
		v.qmp.close()
		done()
		close(v.done)
		m.PowerOff()
	}()
	go v.watch()
	return v, nil
}

func (v *vm) file(name string) string { return filepath.Join(v.site.dir, v.name+"."+name) }

// start runs QEMU, stopped, plugs the cables and lets it go.
func (v *vm) start(disk, memory string) error {
	log, err := os.Create(v.file("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args, files, err := v.hardware(disk)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	v.nics = len(files)
	if memory != "" {
		args = append(args, "-incoming", "exec:cat '"+memory+"'")
	}
	cmd := exec.CommandContext(v.site.life, "qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, files
	if err := v.site.wire.start(cmd, 0); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	v.cmd = cmd
	ctx, cancel := context.WithTimeout(context.Background(), qmpLimit)
	defer cancel()
	if v.qmp, err = dialMonitor(ctx, v.file("qmp"), v.event); err != nil {
		said, _ := os.ReadFile(v.file("log"))
		return fmt.Errorf("%w\n%s", err, said)
	}
	if err := v.qmp.do(qmpLimit, "qmp_capabilities", nil, nil); err != nil {
		return err
	}
	if memory != "" {
		if err := v.migrated(); err != nil {
			return err
		}
	}
	if err := v.plug(); err != nil {
		return err
	}
	return v.qmp.do(qmpLimit, "cont", nil, nil)
}

// hardware are QEMU's arguments, and the files that it has from descriptor 3 on: the NICs' taps.
func (v *vm) hardware(disk string) (args []string, files []*os.File, err error) {
	// Emulated, rep movsb goes byte by byte, a page walk of five levels costs more than one of four, and each
	// access of the kernel to a user's memory ends a translated block with SMAP.
	accel := []string{"-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-erms,-la57,-smap,-smep"}
	if v.site.kvm {
		accel = []string{"-accel", "kvm", "-cpu", "host"}
	}
	const (
		machine = "q35,usb=off,smm=off,hpet=off,vmport=off,graphics=off"
		naming  = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off" // NICs are called by their slots
		kernel  = "root=/dev/sda1 ro console=ttyS0 quiet mitigations=off nokaslr random.trust_cpu=on " +
			"init_on_alloc=0 audit=0 apparmor=0 selinux=0 " +
			"tsc=reliable no_timer_check systemd.show_status=0"
	)
	for _, list := range [][]string{
		accel,
		{"-name", v.hw.Name, "-smp", "1", "-m", "1024", "-machine", machine, "-global", naming},
		{"-nodefaults", "-no-user-config", "-display", "none", "-S", "-serial", "file:" + v.file("console")},
		{"-kernel", v.site.image.file("vmlinux"), "-initrd", v.site.image.file("initrd"), "-append", kernel},
		{"-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-hd,drive=d0,bus=scsi0.0"},
		{"-drive", "file=" + disk + ",if=none,id=d0,cache=unsafe,discard=unmap"},
		{"-device", "vmgenid,guid=auto", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"},
		{"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"},
		{"-chardev", "socket,id=agent,server=on,wait=off,path=" + v.file("agent")},
		{"-qmp", "unix:" + v.file("qmp") + ",server=on,wait=off"},
	} {
		args = append(args, list...)
	}
	for i, nic := range v.hw.NICs {
		f, err := v.site.wire.tap(nic.Network)
		if err != nil {
			return nil, files, err
		}
		files = append(files, f)
		port := fmt.Sprintf("pcie-root-port,id=rp%d,slot=%d,chassis=%d,addr=0x%x", i, slots[i], i+1, 0x10+i)
		// Without ctrl_vlan=off, QEMU 7.2 drops all tagged frames after it has loaded a memory: the guest has set the
		// filter of VLANs before, and loading clears it.
		card := fmt.Sprintf("virtio-net-pci,id=nic%d,netdev=net%d,bus=rp%d,mac=%s,ctrl_vlan=off,romfile=", i, i, i, nic.MAC)
		args = append(args, "-device", port, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, 3+i), "-device", card)
	}
	return args, files, nil
}

// tap makes an interface in a port group whose other end is a file, with which it goes.
func (w *wire) tap(group string) (f *os.File, err error) {
	b := w.bridges[group]
	if b == nil {
		return nil, fmt.Errorf("no port group %q", group)
	}
	w.mu.Lock()
	w.serial++
	name := fmt.Sprintf("tap%d", w.serial)
	w.mu.Unlock()
	err = w.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	})
	if err == nil {
		err = w.join(name, b)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("plug a NIC into port group %q: %w", group, err)
	}
	return f, nil
}

// join makes an interface a port of a bridge, up.
func (w *wire) join(name string, b *netlink.Bridge) error {
	l, err := w.LinkByName(name)
	if err != nil {
		return err
	}
	return errors.Join(w.LinkSetMTU(l, 9000), w.LinkSetMaster(l, b), w.LinkSetUp(l))
}

// plug sets the links as the hardware has them.
func (v *vm) plug() error {
	if v.qmp == nil {
		return nil // it could not be started
	}
	v.mu.Lock()
	hw := v.hw
	v.mu.Unlock()
	var errs []error
	for i, nic := range hw.NICs {
		if i < v.nics {
			errs = append(
				errs,
				v.qmp.do(
					qmpLimit,
					"set_link",
					map[string]any{"name": fmt.Sprintf("nic%d", i), "up": nic.Connected},
					nil,
				),
			)
		}
	}
	return errors.Join(errs...)
}

func (v *vm) event(name string, data json.RawMessage) {
	var e struct{ Guest bool }
	if name == "RESET" && json.Unmarshal(data, &e) == nil && e.Guest {
		v.machine.Rebooted()
	}
}

// watch asks the guest's agent for what VMware's tools tell by themselves.
func (v *vm) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-v.done
		cancel()
	}()
	agent, err := dialMonitor(ctx, v.file("agent"), func(string, json.RawMessage) {})
	if err != nil {
		return
	}
	defer agent.close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-v.done:
			return
		case <-tick.C:
		}
		info, err := ask(agent)
		if err != nil {
			continue // it boots, or is too busy to answer
		}
		v.mu.Lock()
		changed := fmt.Sprint(info) != fmt.Sprint(v.info)
		v.info = info
		v.mu.Unlock()
		if changed {
			v.machine.Changed()
		}
	}
}

// ask asks a guest's agent for its name and addresses.
func ask(agent *monitor) (info vspheretest.GuestInfo, err error) {
	const limit = 5 * time.Second
	if err := agent.sync(limit); err != nil {
		return info, err
	}
	var name struct {
		HostName string `json:"host-name"`
	}
	if err := agent.do(limit, "guest-get-host-name", nil, &name); err != nil {
		return info, err
	}
	var list []struct {
		Name  string
		MAC   string `json:"hardware-address"`
		Addrs []struct {
			Addr   string `json:"ip-address"`
			Prefix int
		} `json:"ip-addresses"`
	}
	if err := agent.do(limit, "guest-network-get-interfaces", nil, &list); err != nil {
		return info, err
	}
	info.HostName = name.HostName
	for _, i := range list {
		if i.Name == "lo" {
			continue
		}
		nic := vspheretest.GuestNIC{MAC: i.MAC}
		for _, a := range i.Addrs {
			if addr, err := netip.ParseAddr(a.Addr); err == nil {
				nic.Addrs = append(nic.Addrs, netip.PrefixFrom(addr, a.Prefix))
			}
		}
		info.NICs = append(info.NICs, nic)
	}
	return info, nil
}

// Info implements vspheretest.Guest.
func (v *vm) Info() vspheretest.GuestInfo {
	v.mu.Lock()
	defer v.mu.Unlock()
	info := v.info
	info.NICs = nil
	for _, nic := range v.info.NICs {
		nic.Connected = true
		for _, h := range v.hw.NICs {
			if strings.EqualFold(h.MAC, nic.MAC) {
				nic.Connected = h.Connected
			}
		}
		info.NICs = append(info.NICs, nic)
	}
	return info
}

// ServeConn implements vspheretest.Guest.
func (v *vm) ServeConn(conn net.Conn, to netip.AddrPort) { v.site.forward(conn, to, v.done) }

// Shutdown implements vspheretest.Guest.
func (v *vm) Shutdown() {
	if v.qmp == nil {
		return
	}
	if err := v.qmp.do(qmpLimit, "system_powerdown", nil, nil); err != nil {
		v.site.logf("%s: %v", v.hw.Name, err)
	}
}

// HardwareChanged implements vspheretest.Guest.
func (v *vm) HardwareChanged(hw vspheretest.Hardware) {
	v.mu.Lock()
	v.hw = hw
	v.mu.Unlock()
	if err := v.plug(); err != nil {
		v.site.logf("%s: %v", hw.Name, err)
	}
}

// Kill implements vspheretest.Guest.
func (v *vm) Kill() {
	select {
	case <-v.done:
	default:
		_ = v.cmd.Process.Kill()
		<-v.done
	}
}

// SaveMemory implements vspheretest.MemorySaver. The memory is in a file, whose name is what it returns.
func (v *vm) SaveMemory() (vspheretest.Disk, []byte, error) {
	if err := v.qmp.do(qmpLimit, "stop", nil, nil); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err := v.qmp.do(qmpLimit, "cont", nil, nil); err != nil {
			v.site.logf("%s: it does not go on after its snapshot: %v", v.hw.Name, err)
		}
	}()
	file := filepath.Join(v.site.dir, v.site.unique("memory"))
	to := map[string]any{"uri": "exec:cat >'" + file + "'"}
	if err := v.qmp.do(qmpLimit, "migrate", to, nil); err != nil {
		return nil, nil, err
	}
	if err := v.migrated(); err != nil {
		return nil, nil, err
	}
	// Now QEMU has written all that it had, and leaves the disk alone until it goes on.
	c := v.disk.Clone().(*vmDisk)
	return c, []byte(file), c.broken
}

// migrated waits until the memory has been written or read.
func (v *vm) migrated() error {
	deadline := time.Now().Add(5 * time.Minute)
	for {
		var m struct {
			Status string
			Error  string `json:"error-desc"`
		}
		if err := v.qmp.do(qmpLimit, "query-migrate", nil, &m); err != nil {
			return err
		}
		switch {
		case m.Status == "completed":
			return nil
		case m.Status == "failed" || time.Now().After(deadline):
			return fmt.Errorf("memory: %s %s", m.Status, m.Error)
		}
		select {
		case <-v.done:
			return errors.New("memory: the machine has been powered off")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Resume implements vspheretest.Resumer.
func (s *Site) Resume(m *vspheretest.Machine, memory []byte) (vspheretest.Guest, error) {
	d, ok := m.Disk.(*vmDisk)
	if !ok {
		return nil, errors.New("a container has no memory to go on from")
	}
	v, err := s.newVM(m, d, string(memory))
	if err != nil {
		return nil, err
	}
	return v, nil
}
