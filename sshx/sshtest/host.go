package sshtest

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
	"github.com/poolready/poolready/sshx/sshtest/internal/sshd"
	"github.com/poolready/poolready/sshx/sshtest/internal/userland"
)

// A Host is a simulated machine: a disk, a shell (mvdan.cc/sh), commands, and an SSH server that
// behaves as OpenSSH does. Users, authorized keys, host keys, sshd_config (PermitRootLogin,
// ClientAlive*, ...) and sudoers are read from the disk.
//
// Set the exported fields before Boot. All methods may be called from any goroutine.
type Host struct {
	// Commands are looked up before the base commands (cat, grep, sed, ...), by name.
	Commands map[string]Command
	// Installed reports whether a command, of Commands or of the base, is on the machine at
	// this moment: a package may have been removed. nil means that all are.
	Installed func(name string) bool
	// OnNotSimulated is called for every refusal: whenever a command, the shell or sshd is given
	// something that is not simulated here. A script may hide the exit code 64 in a pipe or an
	// "if"; this it cannot hide. It is called on the goroutine that refuses, so it must not wait
	// for the machine. nil ignores refusals; a Server's fails its test.
	OnNotSimulated func(r Refusal)

	// Hooks for a simulation that the machine is a part of (all may be nil). OnReboot and
	// OnPowerOff are called at most once per boot, on a goroutine of their own, so they may
	// call Halt and Boot, which wait for the command that asked.
	OnReboot   func() // a command requested a reboot; the embedder calls Boot
	OnPowerOff func() // a command requested power off

	// Dial makes the connections of direct-tcpip channels, so that the machine can be a jump host,
	// and of programs (Proc.DialContext); nil means that it reaches only itself.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Lookup is how sudo finds the machine's own name, at every call, where it was built to do so, as
	// Debian's is. Its error is told on standard error, and sudo goes on. nil means that it does not.
	Lookup func(ctx context.Context, name string) error
	// Bind reserves the addresses that programs listen on (Proc.Listen) in the network that the
	// machine is plugged into. nil keeps listeners in the machine, where its own programs and
	// direct-tcpip reach them as localhost, and its embedder by ServePort.
	Bind BindFunc
	// Now is what the machine's clock reads after Boot; nil means time.Now. Timers do not follow
	// it.
	Now func() time.Time
	// Passwords, by user, are for sudo -S only. sshd accepts no passwords.
	Passwords map[string]string
	// Version is what sshd calls itself; "" means OpenSSH_8.7, that of RHEL 9.
	Version string
	// RootSignals makes signal requests reach processes of root, as OpenSSH 9.8 and later do;
	// before, they were ignored without a word.
	RootSignals bool

	disk *Disk
	m    *machine.Host
	sshd *sshd.Daemon
}

// A BindFunc reserves an address for a program that listens there. serve is called for each
// connection, on a goroutine of its own, and returns when the connection is closed. release frees the
// address.
type BindFunc func(at netip.AddrPort, serve func(net.Conn)) (release func(), err error)

// NewHost returns a machine on disk that is not booted.
func NewHost(disk *Disk) *Host {
	h := &Host{disk: disk}
	h.m = machine.New(disk.d, h.config(), func(m *machine.Host) machine.Parts {
		h.sshd = sshd.New(m)
		return machine.Parts{Base: userland.BaseCommand, Script: shell.Script, SSHD: h.sshd}
	})
	return h
}

// config reads each field when it is needed, and no other: some are set while the machine runs.
func (h *Host) config() machine.Config {
	return machine.Config{
		Command:   func(name string) machine.Command { return h.own(h.Commands[name]) },
		Installed: func() func(string) bool { return h.Installed },
		OnNotSimulated: func() func(machine.Refusal) {
			tell := h.OnNotSimulated
			if tell == nil {
				return nil
			}
			return func(r machine.Refusal) { tell(Refusal(r)) }
		},
		OnReboot:   func() func() { return h.OnReboot },
		OnPowerOff: func() func() { return h.OnPowerOff },
		Dial: func() func(context.Context, string, string) (net.Conn, error) {
			return h.Dial
		},
		Lookup:      func() func(context.Context, string) error { return h.Lookup },
		Bind:        func() machine.BindFunc { return machine.BindFunc(h.Bind) },
		Now:         func() func() time.Time { return h.Now },
		Passwords:   func() map[string]string { return h.Passwords },
		Version:     func() string { return h.Version },
		RootSignals: func() bool { return h.RootSignals },
	}
}

// Disk returns the machine's disk, for reading and writing at any time.
func (h *Host) Disk() *Disk { return h.disk }

// Boot starts the machine, after halting it if it runs: a new boot id, empty /run, new host
// keys if /etc/ssh has none, and sshd, if its configuration is right.
func (h *Host) Boot() { h.m.Boot() }

// Halt ends every connection and process, as losing power does, and returns when none is left.
// It does nothing to a machine that is off.
func (h *Host) Halt() { h.m.Halt() }

// Running reports whether the machine is on.
func (h *Host) Running() bool { return h.m.Running() }

// BootID is that of /proc/sys/kernel/random/boot_id. It stays readable after Halt.
func (h *Host) BootID() string { return h.m.BootID() }

// Hostname is what /etc/hostname says.
func (h *Host) Hostname() string { return h.m.Hostname() }

// ShowNIC makes a network interface visible in /sys/class/net, until the machine boots.
func (h *Host) ShowNIC(name, mac string) { h.m.ShowNIC(name, mac) }

// Run runs a shell script on the machine as root, without SSH: for tests that look at it or break
// it. It returns what the script printed, stdout and stderr merged, and its exit code: 137 if ctx
// ended or the machine was halted, 255 if it is off. It waits for background jobs that still hold
// the output.
func (h *Host) Run(ctx context.Context, script string) (output string, code int) {
	return h.m.Run(ctx, script)
}

// RunAs is Run as another user, in the environment that sshd would give it.
func (h *Host) RunAs(ctx context.Context, user, script string) (output string, code int) {
	return h.m.RunAs(ctx, user, script)
}

// Runnable reports whether a user's program of that name or path is on the machine and may be run.
func (h *Host) Runnable(user, program string) bool { return h.m.Runnable(user, program) }

// Reboot asks the embedder for a reboot, as the command does: OnReboot is called on a goroutine of
// its own, unless something was requested since Boot.
func (h *Host) Reboot() { h.m.Reboot() }

// PowerOff is Reboot for OnPowerOff.
func (h *Host) PowerOff() { h.m.PowerOff() }

// Clock is what the machine's clock reads.
func (h *Host) Clock() time.Time { return h.m.Clock() }

// SetClock sets the clock, as date -s does. It is right again after the next Boot.
func (h *Host) SetClock(t time.Time) { h.m.SetClock(t) }

// Log adds a line to the machine's journal, as a service does that is called tag.
func (h *Host) Log(tag, text string) { h.m.Log(tag, text) }

// KernelLog adds a line to the kernel's log, of a level such as "err", and to the journal.
func (h *Host) KernelLog(level, text string) { h.m.KernelLog(level, text) }

// ServePort hands a connection from the machine's network, to an address of the machine, to the
// program that listens there, and returns when it is closed. It reports whether any did. It is for
// machines without Bind.
func (h *Host) ServePort(conn net.Conn, to netip.AddrPort) bool { return h.m.ServePort(conn, to) }

// SaveMemory returns a copy of the disk, /run included, and what the machine knows beside it, of one
// moment: what a hypervisor keeps with a snapshot of the memory. The machine goes on. Programs are
// goroutines here, which cannot be copied: if any but the services of Start still runs after a second,
// SaveMemory fails and names it.
func (h *Host) SaveMemory() (*Disk, []byte, error) {
	d, memory, err := h.m.SaveMemory()
	if err != nil {
		return nil, nil, err
	}
	return &Disk{d}, memory, nil
}

// Resume is Boot for a machine on a disk that SaveMemory returned: it goes on from that moment. Boot
// id, uptime, process ids and /run are as they were, the clock reads what it read then, until
// somebody sets it, and there are no connections. sshd reads its configuration again.
func (h *Host) Resume(memory []byte) error { return h.m.Resume(memory) }

// StartSSHD starts sshd, or starts it again: it reads sshd_config and the host keys again, for
// connections that come from now on. If they are wrong sshd does not run and the error says why,
// as sshd -t would. Boot does this; simulations of systemctl do for start, restart and reload.
func (h *Host) StartSSHD() error { return h.sshd.Start() }

// StopSSHD lets no new connection in. Those that are there stay, as under systemd.
func (h *Host) StopSSHD() { h.sshd.Stop() }

// SSHDRunning reports whether there is somebody to connect to; a network refuses if not.
func (h *Host) SSHDRunning() bool { return h.sshd.Running() }

// DropConnections ends all SSH connections at once, with no word of what becomes of the commands
// on them, which run on.
func (h *Host) DropConnections() { h.sshd.Drop() }

// ServeConn is sshd on one TCP connection, which it closes. It returns when the connection has
// ended: the client hangs up, somebody closes conn, or Halt does. If the machine is off, or sshd
// does not run, that is at once; a network model asks SSHDRunning first, and refuses.
func (h *Host) ServeConn(conn net.Conn) { h.sshd.Serve(conn) }
