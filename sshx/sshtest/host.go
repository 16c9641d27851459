package sshtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
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
	// OnNotSimulated is called for every refusal: whenever a command, the shell or sshd is asked for
	// something that is not simulated here. A script may hide the exit code 64 in a pipe or an
	// "if"; this it cannot hide. It is called on the goroutine that refuses, so it must not wait
	// for the machine. nil ignores refusals; a Server's fails its test.
	OnNotSimulated func(r Refusal)

	// Hooks for whoever embeds the machine in a bigger one (all may be nil). OnReboot and
	// OnPowerOff are called at most once per boot, on a goroutine of their own, so they may
	// call Halt and Boot, which wait for the command that asked.
	OnReboot   func() // a command asked for a reboot; the embedder calls Boot
	OnPowerOff func() // a command asked for power off

	// Dial makes the connections of direct-tcpip channels, so that the machine can be a jump host,
	// and of programs (Proc.DialContext); nil means that it reaches nobody but itself.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Bind reserves the addresses that programs listen on (Proc.Listen) in the network that the
	// machine is plugged into. nil keeps listeners in the machine, where its own programs and
	// direct-tcpip reach them as localhost, and its embedder by ServePort.
	Bind BindFunc
	// Now is what the machine's clock reads after Boot; nil means time.Now. Timers do not follow
	// it.
	Now func() time.Time
	// Passwords, by user, are asked for by sudo -S only. sshd lets in nobody by password.
	Passwords map[string]string
	// Version is what sshd calls itself; "" means OpenSSH_8.7, that of RHEL 9.
	Version string
	// RootSignals makes signal requests reach processes of root, as OpenSSH 9.8 and later do;
	// before, they were ignored without a word.
	RootSignals bool

	disk  *Disk
	ports ports

	mu     sync.Mutex
	cond   sync.Cond // of mu: running, thawed and halted change
	up     *boot     // nil while halted
	bootID string
	offset time.Duration // of the clock, since somebody set it or the machine was resumed
	faults Faults
	failed int // connections that ended without login, for Faults.DropAfter

	logMu sync.Mutex // held while a line is added to a log
}

// A boot is what lasts from Boot to Halt.
type boot struct {
	h      *Host
	ctx    context.Context // ends with the boot
	cancel context.CancelCauseFunc
	since  time.Time
	asked  sync.Once // for a reboot or power off

	// The rest is guarded by Host.mu.
	running int // commands, connections and goroutines to wait for
	conns   map[*guestConn]bool
	pids    map[int]*process
	lastPID int
	sshd    *daemon
	sshdErr error
	waiting int     // connections not logged in yet
	dropped float64 // see MaxStartups
}

var errHalted = errors.New("sshtest: the machine is off")

// NewHost returns a machine on disk that is not booted.
func NewHost(disk *Disk) *Host {
	h := &Host{disk: disk}
	h.cond.L = &h.mu
	return h
}

// Disk returns the machine's disk, for reading and writing at any time.
func (h *Host) Disk() *Disk { return h.disk }

// Boot starts the machine, after halting it if it runs: a new boot id, empty /run, new host
// keys if /etc/ssh has none, and sshd, if its configuration is right.
func (h *Host) Boot() {
	h.Halt()
	id, f := newUUID(), h.Faults()
	if old := h.BootID(); f.KeepBootID && old != "" {
		id = old
	}
	d := h.disk
	for _, dir := range []string{"/run", "/proc", "/dev/shm"} {
		list, _ := d.ReadDir(dir)
		for _, e := range list {
			_ = d.RemoveAll(dir + "/" + e.Name())
		}
	}
	_ = d.MkdirAll("/run/lock", 0o755)
	_ = d.WriteFile("/proc/sys/kernel/random/boot_id", []byte(id+"\n"), 0o444)
	_ = d.RemoveAll("/sys/class/net")
	_ = d.WriteFile("/proc/sys/kernel/osrelease", []byte(kernelRelease+"\n"), 0o444)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if _, err := d.Lstat("/dev"); err == nil {
			d.device(name)
		}
	}
	if f.NewHostKeys {
		_ = d.RemoveHostKeys()
	}
	_ = d.makeHostKeys()

	b := newBoot(h)
	d.setUptime(b.since)
	h.mu.Lock()
	h.up, h.bootID, h.offset = b, id, 0
	h.mu.Unlock()
	_ = h.StartSSHD()
}

// ShowNIC makes a network interface visible in /sys/class/net, until the machine boots.
func (h *Host) ShowNIC(name, mac string) {
	dir := "/sys/class/net/" + name
	_ = h.disk.MkdirAll(dir, 0o755)
	_ = h.disk.WriteFile(dir+"/address", []byte(strings.ToLower(mac)+"\n"), 0o444)
}

func newBoot(h *Host) *boot {
	b := &boot{h: h, since: time.Now(), conns: map[*guestConn]bool{}, pids: map[int]*process{}, lastPID: 900}
	b.ctx, b.cancel = context.WithCancelCause(context.Background())
	return b
}

// Halt ends every connection and process, as losing power does, and returns when none is left.
// It does nothing to a machine that is off.
func (h *Host) Halt() {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.up
	if b == nil {
		return
	}
	h.up = nil
	b.cancel(errHalted)
	for c := range b.conns {
		_ = c.Conn.Close()
	}
	h.cond.Broadcast()
	for b.running > 0 {
		h.cond.Wait()
	}
}

// BootID is that of /proc/sys/kernel/random/boot_id. It stays readable after Halt.
func (h *Host) BootID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bootID
}

// Running reports whether the machine is on.
func (h *Host) Running() bool { return h.booted() != nil }

func (h *Host) booted() *boot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// enter counts something that Halt must wait for; it reports whether the boot still lasts.
func (b *boot) enter() bool {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	if b.h.up != b {
		return false
	}
	b.running++
	return true
}

func (b *boot) leave() {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	b.running--
	b.h.cond.Broadcast()
}

// hand runs f on a goroutine that Halt waits for, and reports whether it could.
func (b *boot) hand(f func()) bool {
	if !b.enter() {
		return false
	}
	go func() {
		defer b.leave()
		f()
	}()
	return true
}

// ask calls a hook, once per boot.
func (b *boot) ask(hook func()) {
	if hook != nil {
		b.asked.Do(func() { go hook() })
	}
}

// Hostname is what /etc/hostname says.
func (h *Host) Hostname() string {
	data, _ := h.disk.ReadFile("/etc/hostname")
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "localhost"
	}
	return line
}

// Run runs a shell script on the machine as root, without SSH: for tests that look at it or break
// it. It returns what the script printed, stdout and stderr merged, and its exit code: 137 if ctx
// ended or the machine was halted, 255 if it is off. It waits for background jobs that still hold
// the output.
func (h *Host) Run(ctx context.Context, script string) (output string, code int) {
	return h.RunAs(ctx, "root", script)
}

// RunAs is Run as another user, in the environment that sshd would give it.
func (h *Host) RunAs(ctx context.Context, user, script string) (output string, code int) {
	b := h.booted()
	if b == nil || !b.enter() {
		return errHalted.Error() + "\n", 255
	}
	defer b.leave()
	u, ok := h.disk.accounts().user(user)
	if !ok {
		return fmt.Sprintf("sshtest: no user %q\n", user), 255
	}
	out := newOutput()
	t := b.newTask(out, out, nil)
	defer context.AfterFunc(ctx, func() { t.kill(sigKILL) })()
	p := t.login(u)
	p.Args = []string{u.shell, "-c", script}
	var buf bytes.Buffer
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(&buf, t.out)
	}()
	code = h.execute(t.ctx, p)
	t.release()
	<-drained
	return buf.String(), code
}

const kernelRelease = "5.14.0-427.13.1.el9_4.x86_64"

func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
