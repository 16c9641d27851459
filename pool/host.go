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
	id       string // in the provider
	frozen   string // the boot id in its ready snapshot, if that is of the running VM
	peers    map[string]*Host

	use     atomic.Pointer[usage] // of a host that is lent or being made ready; else nil
	dialing chan struct{}         // has room for whoever connects

	mu     sync.Mutex  // guards what follows
	cfg    sshx.Config // but for the address
	addr   netip.Addr
	client *sshx.Client
	drops  int // how often the connection was dropped
}

func newHost(s Spec, role string, pool int, vm VM, id string, keys []string) *Host {
	cfg := s.SSH
	cfg.Name = vm.Name
	if len(keys) > 0 {
		cfg.HostKeys = sshx.HostKeys{Pinned: keys}
	}
	return &Host{Name: vm.Name, Role: role, Pool: pool, VM: vm, provider: s.Provider, limits: s.Limits, facts: s.Facts, id: id, cfg: cfg, dialing: make(chan struct{}, 1)}
}

// A usage is the time in which a host that is lent, or made ready, may be used.
type usage struct {
	ctx   context.Context // ends with the loan
	lease *lease
}

// usable tells, right before anything is done with the host, whether it still is whoever's has it.
func (h *Host) usable() error {
	u := h.use.Load()
	if u == nil {
		return nil
	}
	err := context.Cause(u.ctx)
	if err == nil {
		err = u.lease.check()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return nil
}

// bind returns a context that ends when ctx does, or the loan of the host.
func (h *Host) bind(ctx context.Context) (context.Context, func(), error) {
	u := h.use.Load()
	if err := h.usable(); err != nil || u == nil {
		return ctx, func() {}, err
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, heldKey{}, u.lease))
	stop := context.AfterFunc(u.ctx, func() { cancel(fmt.Errorf("%s: %w", h.Name, context.Cause(u.ctx))) })
	return ctx, func() { stop(); cancel(nil) }, nil
}

// blame adds to an error why it came to be, if the loan of the host is over.
func (h *Host) blame(err error) error {
	u := h.use.Load()
	if err == nil || u == nil || u.ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(u.ctx); !errors.Is(err, cause) {
		return fmt.Errorf("%s: %w: %w", h.Name, cause, err)
	}
	return err
}

// lent returns the host for one loan, which takes the connection over.
func (h *Host) lent(u *usage) *Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := &Host{
		Name: h.Name, Role: h.Role, Pool: h.Pool, VM: h.VM, provider: h.provider, limits: h.limits, facts: h.facts, id: h.id, frozen: h.frozen,
		cfg: h.cfg, addr: h.addr, client: h.client, dialing: make(chan struct{}, 1),
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
		t.Fatalf("%v\nlook: %s", err, h.Look())
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
func (h *Host) Put(ctx context.Context, dst string, r io.Reader, mode fs.FileMode) error {
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
func (h *Host) Get(ctx context.Context, src string, w io.Writer) error {
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

func (h *Host) run(ctx context.Context, cmd sshx.Cmd) (sshx.Result, error) {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return sshx.Result{}, err
	}
	defer done()
	c, err := h.SSH(ctx)
	if err != nil {
		return sshx.Result{}, err
	}
	res, err := c.Run(ctx, cmd)
	return res, h.blame(err)
}

// SSH returns the connection to the host, made anew if the last one has ended. Do not close it.
// That of a lent host ends with the loan.
func (h *Host) SSH(ctx context.Context) (*sshx.Client, error) {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return h.connect(ctx, sshx.Ready{})
}

// connect returns the connection that is alive, or waits, as long as a boot may take, for the
// host to let us in.
func (h *Host) connect(ctx context.Context, ready sshx.Ready) (*sshx.Client, error) {
	done, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if c := h.alive(); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.limits.Boot, fmt.Errorf("not ready for SSH within Limits.Boot (%s)", h.limits.Boot))
	defer cancel()
	h.mu.Lock()
	cfg, drops := h.cfg, h.drops
	cfg.Address = h.addr.String()
	h.mu.Unlock()
	c, err := sshx.WaitReady(ctx, cfg, ready)
	if err != nil {
		return nil, err
	}
	if err := h.keep(c, drops); err != nil {
		return nil, err
	}
	return c, nil
}

// dial makes the caller the one who connects, until done: all others wait for that connection, as
// long as they want to.
func (h *Host) dial(ctx context.Context) (done func(), err error) {
	select {
	case h.dialing <- struct{}{}:
		return func() { <-h.dialing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: connect: %w", h.Name, context.Cause(ctx))
	}
}

// alive returns the connection, unless it has ended.
func (h *Host) alive() *sshx.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil {
		return nil
	}
	select {
	case <-h.client.Done():
		h.client.Close()
		h.client = nil
	default:
	}
	return h.client
}

// raise powers the host on, waits for the address that the guest reports since, and for SSH.
func (h *Host) raise(ctx context.Context, report func(string)) error {
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

// reach waits for the address that the guest reports, and for SSH.
func (h *Host) reach(ctx context.Context, report func(string)) error {
	report("waiting for its address")
	find := func(ctx context.Context) (string, error) {
		addr, err := h.provider.Address(ctx, h.id, h.VM.mac())
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
	_, err := h.connect(ctx, sshx.Ready{Address: find, Report: func(state string) { report("SSH: " + state) }})
	return err
}

// probeTimeout is how long a host that should be up may take to let us in.
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

// lower shuts the host down from inside.
func (h *Host) lower(ctx context.Context) (forced bool, err error) {
	if err := h.usable(); err != nil {
		return false, err
	}
	h.drop()
	return h.provider.ShutDown(ctx, h.id, h.limits.Shutdown)
}

// drop ends the connection, as before anything that takes the machine away under it.
func (h *Host) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops++
	if h.client != nil {
		h.client.Close()
		h.client = nil
	}
}

// Look is a command for a person who wants to look at the host.
func (h *Host) Look() string {
	addr := h.Addr()
	if !addr.IsValid() {
		return fmt.Sprintf("it has no address yet; look at the console of VM %q", h.Name)
	}
	words := []string{"ssh"}
	var jumps []string
	for _, j := range h.cfg.Jump {
		jumps = append(jumps, or(j.User, "root")+"@"+j.Address)
	}
	if len(jumps) > 0 {
		words = append(words, "-J", strings.Join(jumps, ","))
	}
	return strings.Join(append(words, or(h.cfg.User, "root")+"@"+addr.String()), " ")
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
