package realguests

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A container is a guest under systemd-nspawn: real systemd and programs on this machine's kernel
// and clock. Its NICs are in a network namespace, which lives for one boot.
type container struct {
	site    *Site
	machine *vspheretest.Machine
	name    string
	done    chan struct{} // closed when nothing of it runs

	mu     sync.Mutex // guards what follows
	hw     vspheretest.Hardware
	killed bool
	boot   *boot // nil between boots
}

// A boot is a container from power on to reboot or power off.
type boot struct {
	ns    *namespace
	ports []netlink.Link // the other ends of its NICs' cables
	cmd   *exec.Cmd      // of boot.sh
}

// slots are the numbers that a guest's interfaces have in their names, as on vSphere.
var slots = []int{192, 224, 256, 161, 193, 225, 257, 162, 194, 226}

func (s *Site) bootContainer(m *vspheretest.Machine, t *tree) *container {
	c := &container{
		site:    s,
		machine: m,
		name:    s.unique("vm"),
		hw:      m.Hardware,
		done:    make(chan struct{}),
	}
	go c.run(t)
	go c.watch()
	return c
}

// run boots until a boot ends without a reboot.
func (c *container) run(t *tree) {
	defer func() {
		close(c.done)
		c.machine.PowerOff()
	}()
	lower, upper, work, done, err := t.use()
	if err != nil {
		c.site.logf("%s: its disk is lost: %v", c.hw.Name, err)
		return
	}
	defer done()
	for again := true; again; {
		if again, err = c.once(lower, upper, work); err != nil {
			c.site.logf("%s: %v", c.hw.Name, err)
		}
		if again {
			c.machine.Rebooted()
		}
	}
}

// once is one boot. It reports whether the container wants another.
func (c *container) once(lower, upper, work string) (again bool, err error) {
	const restart = 133 // exit code of systemd-nspawn
	cmd, err := c.start(lower, upper, work)
	if err == nil {
		err = cmd.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boot != nil {
		// The kernel takes its time over a namespace: until then its NICs would go on answering.
		for _, port := range c.boot.ports {
			if err := c.site.wire.unplug(port); err != nil {
				c.site.logf("%s: %v", c.hw.Name, err)
			}
		}
		c.boot.ns.close()
		c.boot = nil
	}
	for _, path := range cgroupsOf(c.site.dir) {
		if filepath.Base(path) == c.cgroup() {
			removeCgroup(path)
		}
	}
	if c.killed {
		return false, nil
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() == restart {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("container: %w; see %s", err, c.console())
	}
	return false, nil
}

func (c *container) cgroup() string  { return cgroupPrefix(c.site.dir) + c.name }
func (c *container) console() string { return filepath.Join(c.site.dir, c.name+".console") }

// start powers the machine on, with its cables.
func (c *container) start(lower, upper, work string) (*exec.Cmd, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return nil, errors.New("killed before it was started")
	}
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	c.boot = &boot{ns: ns}
	for i, nic := range c.hw.NICs {
		mac, err := net.ParseMAC(nic.MAC)
		if err != nil {
			return nil, err
		}
		port, err := c.site.wire.plug(nic.Network, ns, fmt.Sprintf("ens%d", slots[i]), mac)
		if err != nil {
			return nil, err
		}
		c.boot.ports = append(c.boot.ports, port)
	}
	if err := c.plug(); err != nil {
		return nil, err
	}
	root := filepath.Join(c.site.dir, "root-"+c.name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	script, err := containerFS.ReadFile("container/boot.sh")
	if err != nil {
		return nil, err
	}
	console, err := os.OpenFile(c.console(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	cmd := exec.CommandContext(c.site.life, "/bin/sh", "-c", string(script), "boot.sh",
		c.name, c.cgroup(), root, lower, upper, work)
	cmd.Dir = c.site.dir // layers are named relative to it: mount takes one page of options
	cmd.Stdout, cmd.Stderr = console, console
	if err := ns.start(cmd, syscall.CLONE_NEWPID|syscall.CLONE_NEWNS); err != nil {
		return nil, err
	}
	c.boot.cmd = cmd
	return cmd, nil
}

// plug sets the cables as the hardware has them, with c.mu held.
func (c *container) plug() error {
	var errs []error
	for i, port := range c.boot.ports {
		if i < len(c.hw.NICs) {
			errs = append(errs, c.site.wire.connect(port, c.hw.NICs[i].Connected))
		}
	}
	return errors.Join(errs...)
}

// watch tells vCenter what changes, as the guest's tools would.
func (c *container) watch() {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		if now := fmt.Sprint(c.Info()); now != last {
			last = now
			c.machine.Changed()
		}
	}
}

// Info implements vspheretest.Guest.
func (c *container) Info() (info vspheretest.GuestInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boot == nil || c.boot.cmd == nil {
		return info
	}
	// The overlay is mounted where boot.sh sees it.
	name, err := os.ReadFile(
		fmt.Sprintf(
			"/proc/%d/root%s/root-%s/etc/hostname",
			c.boot.cmd.Process.Pid,
			c.site.dir,
			c.name,
		),
	)
	if err == nil {
		info.HostName = strings.TrimSpace(string(name))
	}
	links, err := c.boot.ns.LinkList()
	if err != nil {
		return info
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		nic := vspheretest.GuestNIC{MAC: a.HardwareAddr.String(), Connected: true}
		for _, h := range c.hw.NICs {
			if strings.EqualFold(h.MAC, nic.MAC) {
				nic.Connected = h.Connected
			}
		}
		addrs, err := c.boot.ns.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if ip, ok := netip.AddrFromSlice(addr.IP); ok {
				ones, _ := addr.Mask.Size()
				nic.Addrs = append(nic.Addrs, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
		info.NICs = append(info.NICs, nic)
	}
	return info
}

// Shutdown implements vspheretest.Guest.
func (c *container) Shutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boot != nil && c.boot.cmd != nil {
		_ = c.boot.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// HardwareChanged implements vspheretest.Guest.
func (c *container) HardwareChanged(hw vspheretest.Hardware) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hw = hw
	if c.boot != nil {
		if err := c.plug(); err != nil {
			c.site.logf("%s: %v", hw.Name, err)
		}
	}
}

// Kill implements vspheretest.Guest.
func (c *container) Kill() {
	c.mu.Lock()
	c.killed = true
	if c.boot != nil && c.boot.cmd != nil {
		_ = c.boot.cmd.Process.Kill() // and the kernel kills what is in its PID namespace
	}
	c.mu.Unlock()
	<-c.done
}

// ServeConn implements vspheretest.Guest.
func (c *container) ServeConn(conn net.Conn, to netip.AddrPort) { c.site.forward(conn, to, c.done) }
