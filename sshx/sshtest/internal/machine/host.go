package machine

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

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// A Host is a simulated machine: a disk, and what runs on it. What its shell, its commands and its
// sshd do is in packages of their own, which come with Parts.
type Host struct {
	Disk   *disk.Disk
	config Config
	parts  Parts
	ports  ports

	mu     sync.Mutex
	cond   sync.Cond // of mu: running, thawed and halted change
	up     *Boot     // nil while halted
	bootID string
	offset time.Duration // of the clock, since somebody set it or the machine was resumed
	faults Faults

	logMu sync.Mutex // held while a line is added to a log
}

// A Boot is what lasts from Boot to Halt.
type Boot struct {
	Host   *Host
	Ctx    context.Context // ends with the boot
	cancel context.CancelCauseFunc
	Since  time.Time
	asked  sync.Once // for a reboot or power off

	// The rest is guarded by Host.mu.
	running int // commands, connections and goroutines to wait for
	pids    map[int]*Process
	lastPID int
}

// A Config is what a machine's embedder decides. What a func returns, nil too, means what that field of
// sshtest.Host means.
type Config struct {
	Command        func(name string) Command // one of the embedder's, or nil
	Installed      func() func(name string) bool
	OnNotSimulated func() func(r Refusal)
	OnReboot       func() func()
	OnPowerOff     func() func()
	Dial           func() func(ctx context.Context, network, address string) (net.Conn, error)
	Lookup         func() func(ctx context.Context, name string) error
	Bind           func() BindFunc
	Now            func() func() time.Time
	Passwords      func() map[string]string
	Version        func() string
	RootSignals    func() bool
}

// Parts are what a machine is put together of.
type Parts struct {
	// Base returns the command of that name that every machine has, or nil.
	Base func(name string) Command
	// Script runs a shell script, which has the arguments of p.
	Script func(ctx context.Context, p *Proc, file, text string) int
	// SSHD is the machine's sshd.
	SSHD SSHD
}

// An SSHD is started by Boot and Resume.
type SSHD interface {
	Start() error
	Stop()
	RunsIn(b *Boot) bool
	Failed() bool // to start, when somebody tried last
}

// ErrHalted is what cannot be done on a machine that is off.
var ErrHalted = errors.New("sshtest: the machine is off")

// New returns a machine on disk that is not booted. Each field of config is called whenever what it
// returns is needed.
// parts makes the machine's parts.
func New(d *disk.Disk, config Config, parts func(h *Host) Parts) *Host {
	h := &Host{Disk: d, config: config}
	h.cond.L = &h.mu
	h.parts = parts(h)
	return h
}

// SSHD returns the machine's sshd.
func (h *Host) SSHD() SSHD { return h.parts.SSHD }

// Config is what the machine's embedder decides.
func (h *Host) Config() Config { return h.config }

// Boot starts the machine, after halting it if it runs.
func (h *Host) Boot() {
	h.Halt()
	id, f := newUUID(), h.Faults()
	if old := h.BootID(); f.KeepBootID && old != "" {
		id = old
	}
	d := h.Disk
	for _, dir := range []string{"/run", "/proc", "/dev/shm"} {
		list, _ := d.ReadDir(dir)
		for _, e := range list {
			_ = d.RemoveAll(dir + "/" + e.Name())
		}
	}
	_ = d.MkdirAll("/run/lock", 0o755)
	_ = d.WriteFile("/proc/sys/kernel/random/boot_id", []byte(id+"\n"), 0o444)
	_ = d.RemoveAll("/sys/class/net")
	_ = d.WriteFile("/proc/sys/kernel/osrelease", []byte(KernelRelease+"\n"), 0o444)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if _, err := d.Lstat("/dev"); err == nil {
			d.Device(name)
		}
	}
	if f.NewHostKeys {
		_ = d.RemoveHostKeys()
	}
	_ = d.MakeHostKeys()

	b := newBoot(h)
	d.SetUptime(b.Since)
	h.mu.Lock()
	h.up, h.bootID, h.offset = b, id, 0
	h.mu.Unlock()
	_ = h.parts.SSHD.Start()
}

// ShowNIC makes a network interface visible in /sys/class/net, until the machine boots.
func (h *Host) ShowNIC(name, mac string) {
	dir := "/sys/class/net/" + name
	_ = h.Disk.MkdirAll(dir, 0o755)
	_ = h.Disk.WriteFile(dir+"/address", []byte(strings.ToLower(mac)+"\n"), 0o444)
}

func newBoot(h *Host) *Boot {
	b := &Boot{Host: h, Since: time.Now(), pids: map[int]*Process{}, lastPID: 900}
	b.Ctx, b.cancel = context.WithCancelCause(context.Background())
	return b
}

// Halt ends every connection and process, as losing power does, and returns when none is left.
func (h *Host) Halt() {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.up
	if b == nil {
		return
	}
	h.up = nil
	b.cancel(ErrHalted)
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
func (h *Host) Running() bool { return h.Booted() != nil }

// Booted returns the boot that lasts, or nil.
func (h *Host) Booted() *Boot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// Enter counts something that Halt must wait for; it reports whether the boot still lasts.
func (b *Boot) Enter() bool {
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	if b.Host.up != b {
		return false
	}
	b.running++
	return true
}

// Leave takes back an Enter.
func (b *Boot) Leave() {
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	b.running--
	b.Host.cond.Broadcast()
}

// Hand runs f on a goroutine that Halt waits for, and reports whether it could.
func (b *Boot) Hand(f func()) bool {
	if !b.Enter() {
		return false
	}
	go func() {
		defer b.Leave()
		f()
	}()
	return true
}

// ask calls a hook, once per boot.
func (b *Boot) ask(hook func()) {
	if hook != nil {
		b.asked.Do(func() { go hook() })
	}
}

// Hostname is what /etc/hostname says.
func (h *Host) Hostname() string {
	data, _ := h.Disk.ReadFile("/etc/hostname")
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "localhost"
	}
	return line
}

// Run runs a shell script on the machine as root, without SSH.
func (h *Host) Run(ctx context.Context, script string) (output string, code int) {
	return h.RunAs(ctx, "root", script)
}

// RunAs is Run as another user, in the environment that sshd would give it.
func (h *Host) RunAs(ctx context.Context, user, script string) (output string, code int) {
	b := h.Booted()
	if b == nil || !b.Enter() {
		return ErrHalted.Error() + "\n", 255
	}
	defer b.Leave()
	u, ok := h.Disk.Accounts().User(user)
	if !ok {
		return fmt.Sprintf("sshtest: no user %q\n", user), 255
	}
	out := NewOutput()
	t := b.NewTask(out, out, nil)
	defer context.AfterFunc(ctx, func() { t.Kill(SIGKILL) })()
	p := t.Login(u)
	p.Args = []string{u.Shell, "-c", script}
	var buf bytes.Buffer
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(&buf, t.Out)
	}()
	code = h.Execute(t.Ctx, p)
	t.Release()
	<-drained
	return buf.String(), code
}

// KernelRelease is what uname -r says.
const KernelRelease = "5.14.0-427.13.1.el9_4.x86_64"

func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Reboot asks the embedder for a reboot, as the command does.
func (h *Host) Reboot() {
	if b := h.Booted(); b != nil {
		b.ask(h.config.OnReboot())
	}
}

// PowerOff is Reboot for OnPowerOff.
func (h *Host) PowerOff() {
	if b := h.Booted(); b != nil {
		b.ask(h.config.OnPowerOff())
	}
}

// Debian reports whether the disk has Debian on it, or its like.
func (h *Host) Debian() bool {
	_, err := h.Disk.Stat("/etc/debian_version")
	return err == nil
}

// SetFaults replaces the machine's faults. They outlast Halt and Boot.
func (h *Host) SetFaults(f Faults) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = f
	h.cond.Broadcast()
}

// Faults returns the machine's faults.
func (h *Host) Faults() Faults {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.faults
}
