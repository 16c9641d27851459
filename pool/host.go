package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/sshx"
)

// A Host is a VM that one can talk to over SSH. Its methods may be called from any goroutine,
// and connect as needed; the Set closes the connection.
type Host struct {
	Name string // the VM's name
	Role string // "golden" or Role.Name
	Pool int    // the pool's number; 0 for golden
	VM   VM

	provider Provider
	limits   Limits
	facts    string // Spec.Facts
	set      string
	id       string // in the provider
	// snapshotBoot is the boot ID in its ready snapshot, if that is of the running VM; else "".
	snapshotBoot string
	peers        map[string]*Host
	transcript   *transcript // of the VM, which hosts of its leases share

	use     atomic.Pointer[usage] // of a host that is leased or being made ready; else nil
	dialing chan struct{}         // has room for whoever connects

	mu     sync.Mutex  // guards what follows
	cfg    sshx.Config // but for the address
	addr   netip.Addr
	mac    string // of the NIC SSH goes to, as the hypervisor has it, once it is known
	client *sshx.Client
	drops  int // how often the connection was dropped
}

func newHost(s Spec, role string, pool int, vm VM, id string, keys []string) *Host {
	cfg := s.SSH
	cfg.Name = vm.Name
	if len(keys) > 0 {
		cfg.HostKeys = sshx.HostKeys{Pinned: keys}
	}
	h := &transcript{next: cfg.Observe}
	cfg.Observe = h.add
	return &Host{transcript: h, Name: vm.Name, Role: role, Pool: pool, VM: vm, set: s.Name, provider: s.Provider, limits: s.Limits, facts: s.Facts, id: id, cfg: cfg, dialing: make(chan struct{}, 1)}
}

// A usage is the time in which a host that is leased, or made ready, may be used.
type usage struct {
	ctx   context.Context // ends with the use
	lease *lease.Held
}

// usable returns an error, right before anything is done with the host, if its lease is over.
func (h *Host) usable() error {
	u := h.use.Load()
	if u == nil {
		return nil
	}
	err := context.Cause(u.ctx)
	if err == nil {
		err = u.lease.Check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// bind returns a context that ends when ctx or the use of the host does.
func (h *Host) bind(ctx context.Context) (context.Context, func(), error) {
	u := h.use.Load()
	if err := h.usable(); err != nil || u == nil {
		return ctx, func() {}, err
	}
	ctx, unbind := u.lease.Bind(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(u.ctx, func() { cancel(fmt.Errorf("%s: %w", h.Name, context.Cause(u.ctx))) })
	return ctx, func() { stop(); cancel(nil); unbind() }, nil
}

// blame adds the cause to an error, if the use of the host is over.
func (h *Host) blame(err error) error {
	u := h.use.Load()
	if err == nil || u == nil {
		return err
	}
	if u.ctx.Err() == nil {
		return h.diagnose(u.ctx, err)
	}
	if cause := context.Cause(u.ctx); !errors.Is(err, cause) {
		return fmt.Errorf("%s: %w: %w", h.Name, cause, err)
	}
	return err
}

// diagnoseTime bounds the question what has become of a VM that does not answer.
const diagnoseTime = 10 * time.Second

// diagnose adds to the loss of a connection, or to one that does not come about, what the hypervisor
// says of the VM, if that may be why.
func (h *Host) diagnose(ctx context.Context, err error) error {
	lost := errors.As(err, new(*sshx.DisconnectedError)) || errors.As(err, new(*sshx.DialError)) || errors.As(err, new(*sshx.NotReadyError)) ||
		errors.Is(err, sshx.ErrDead)
	if !lost || errors.As(err, new(*diagnosedError)) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, diagnoseTime)
	defer cancel()
	d, lookErr := h.provider.Diagnose(ctx, h.id)
	if lookErr != nil || d.healthy() {
		return err
	}
	return &diagnosedError{err, d}
}

// A diagnosedError is an error of SSH with what the hypervisor says of the VM.
type diagnosedError struct {
	err error
	d   Diagnosis
}

func (e *diagnosedError) Error() string {
	return fmt.Sprintf("%v; the hypervisor says: %s", e.err, e.d)
}
func (e *diagnosedError) Unwrap() error { return e.err }

// leased returns the host for one lease, which takes the connection over.
func (h *Host) leased(u *usage) *Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &Host{
		Name: h.Name, Role: h.Role, Pool: h.Pool, VM: h.VM, set: h.set, provider: h.provider, limits: h.limits, facts: h.facts, id: h.id, snapshotBoot: h.snapshotBoot,
		transcript: h.transcript, cfg: h.cfg, addr: h.addr, mac: h.mac, client: h.client, dialing: make(chan struct{}, 1),
	}
	l.use.Store(u)
	h.client = nil
	return l
}

// Addr is the address of the first NIC, where SSH answers.
func (h *Host) Addr() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr
}

// Peer returns the host of an earlier role in the same pool, for steps and checks that must
// know it. It panics if there is none: the Spec and the step disagree.
func (h *Host) Peer(role string) *Host {
	if p := h.peers[role]; p != nil {
		return p
	}
	panic(fmt.Sprintf("pool: %s has no peer of role %q: Peer knows the earlier roles of its pool", h.Name, role))
}

// Run runs a program with its arguments, which reach it as they are, and returns its output,
// stdout and stderr in order, without white space at the end. An exit code other than 0 is an
// *sshx.ExitError.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	res, err := h.run(ctx, sshx.Cmd{Args: args})
	return strings.TrimRight(string(res.Stdout), " \t\r\n"), err
}

// MustRun is Run, within t's context, for which an error is fatal to t.
func (h *Host) MustRun(t T, args ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), args...)
	if err != nil {
		fatal(t, err, "%v\nlook: %s", err, h.Look())
	}
	return out
}

// Script runs a program for /bin/sh, or for the interpreter that its first line names, with
// VM.Env as its environment and /dev/null as its input, and returns its output like Run.
func (h *Host) Script(ctx context.Context, text string) (string, error) {
	res, err := h.run(ctx, sshx.Cmd{Script: text, Env: h.VM.Env})
	return strings.TrimRight(string(res.Stdout), " \t\r\n"), err
}

// Put writes r to the file dst, whole or not at all. Mode 0 means 0644.
func (h *Host) Put(ctx context.Context, dst string, r io.Reader, mode fs.FileMode) (err error) {
	defer func(ctx context.Context) { err = ofHost(ctx, err) }(ctx)
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return err
	}
	defer done()
	c, err := h.SSH(ctx)
	if err != nil {
		return err
	}
	return h.blame(c.Put(ctx, dst, r, sshx.PutOptions{Mode: mode}))
}

// Get copies the file src to w.
func (h *Host) Get(ctx context.Context, src string, w io.Writer) (err error) {
	defer func(ctx context.Context) { err = ofHost(ctx, err) }(ctx)
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return err
	}
	defer done()
	c, err := h.SSH(ctx)
	if err != nil {
		return err
	}
	return h.blame(c.Get(ctx, src, w, sshx.GetOptions{}))
}

func (h *Host) run(ctx context.Context, cmd sshx.Cmd) (res sshx.Result, err error) {
	defer func(ctx context.Context) { err = ofHost(ctx, err) }(ctx)
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return sshx.Result{}, err
	}
	defer done()
	c, err := h.SSH(ctx)
	if err != nil {
		return sshx.Result{}, err
	}
	res, err = c.Run(ctx, cmd)
	return res, h.blame(err)
}

// DialContext connects to an address as seen from the host, through its SSH connection: to
// "127.0.0.1:8080" for a service of its own, or to what only it can reach. A Host so is an
// sshx.Dialer, and its DialContext fits an http.Transport. Connections of a leased host end with
// the lease.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := h.SSH(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.DialContext(ctx, network, address)
	return conn, h.blame(err)
}

// powerOn powers the host on, waits for the address that the guest reports since, for SSH, and until
// the guest has started.
func (h *Host) powerOn(ctx context.Context, report func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, h.limits.Boot, fmt.Errorf("not up within Limits.Boot (%s)", h.limits.Boot))
	defer cancel()
	if err := h.usable(); err != nil {
		return err
	}
	h.drop()
	report("powering on")
	if err := h.provider.PowerOn(ctx, h.id); err != nil {
		return err
	}
	return h.reach(ctx, report)
}

// reach waits for the address that the guest reports, for SSH, and until systemd, where there is
// one, has started all that it starts: sshd lets root in long before.
func (h *Host) reach(ctx context.Context, report func(string)) error {
	report("waiting for its address")
	find := func(ctx context.Context) (string, error) {
		addr, err := h.provider.Address(ctx, h.id, h.VM.mac(), h.VM.subnets()...)
		if err != nil {
			return "", err
		}
		h.setAddr(addr)
		return addr.String(), nil
	}
	if _, err := find(ctx); err != nil {
		return err
	}
	report("waiting for SSH")
	_, err := h.connect(ctx, sshx.Ready{Address: find, SystemState: true, Report: func(state string) { report("SSH: " + state) }})
	return err
}

// probeTimeout is how long a host that should be up may take to accept a login.
const probeTimeout = 30 * time.Second

// probe logs in to a host that should be up, at the address that the inventory has for it, or that
// its guest tells.
func (h *Host) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, fmt.Errorf("no login within %s", probeTimeout))
	defer cancel()
	if !h.Addr().IsValid() {
		return h.reach(ctx, func(string) {})
	}
	_, err := h.connect(ctx, sshx.Ready{AuthGrace: time.Second}) // it is past starting
	return err
}

// pin makes keys the only ones that prove the host, from the next connection on.
func (h *Host) pin(keys []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cfg.HostKeys = sshx.HostKeys{Pinned: keys}
}

func (h *Host) setAddr(addr netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addr = addr
}

// shutDown shuts the host down from inside.
func (h *Host) shutDown(ctx context.Context) (forced bool, err error) {
	if err := h.usable(); err != nil {
		return false, err
	}
	h.drop()
	return h.provider.ShutDown(ctx, h.id, h.limits.Shutdown)
}

// Reboot restarts the host and returns when it accepts a login again at the same address, with a new
// boot id, and has started: systemd, where there is one, says running or degraded. That is no later
// than after Limits.Boot.
func (h *Host) Reboot(ctx context.Context) error {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return err
	}
	defer done()
	c, err := h.SSH(ctx)
	if err != nil {
		return err
	}
	dialed, err := h.dial(ctx) // whoever wants a connection meanwhile waits for the new one
	if err != nil {
		return err
	}
	defer dialed()
	ctx, cancel := context.WithTimeoutCause(ctx, h.limits.Boot, fmt.Errorf("not up within Limits.Boot (%s)", h.limits.Boot))
	defer cancel()
	drops := h.dropped()
	next, err := c.Reboot(ctx, sshx.Ready{SystemState: true})
	if err == nil {
		if err = h.identify(ctx, next); err != nil {
			next.Close()
		}
	}
	if err != nil {
		return h.blame(err)
	}
	return h.keep(next, drops)
}

// mac is that of the NIC SSH goes to; "" is the first one the VM has.
func (vm VM) mac() string {
	if len(vm.NICs) == 0 {
		return ""
	}
	mac, err := net.ParseMAC(vm.NICs[0].MAC)
	if err != nil {
		return "" // none given: validate has looked at the others
	}
	return mac.String()
}

// subnets are those that the address for SSH may lie in; none is any.
func (vm VM) subnets() []netip.Prefix {
	if len(vm.NICs) == 0 || !vm.NICs[0].Subnet.IsValid() {
		return nil
	}
	return []netip.Prefix{vm.NICs[0].Subnet}
}

// poll calls f until it succeeds or ctx ends, and then returns the last error that f had before.
func poll(ctx context.Context, f func(context.Context) error) error {
	var last error
	for wait := 100 * time.Millisecond; ; wait = min(wait*3/2, 5*time.Second) {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it only says that time is over
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: last answer: %w", context.Cause(ctx), last)
		case <-time.After(wait):
		}
	}
}
