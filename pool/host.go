package pool

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	gates    *gates // of the Spec
	facts    string // Spec.Facts
	set      string
	id       string // in the provider
	// snapshotBoot is the boot ID in its ready snapshot, if that is of the running VM; else "".
	snapshotBoot string
	peers        map[string]*Host
	transcript   *transcript // of the VM, which hosts of its leases share

	use     atomic.Pointer[usage] // of a host that is leased or being made ready; else nil
	dialing chan struct{}         // has room for the one that connects

	mu     sync.Mutex  // guards what follows
	cfg    sshx.Config // but for the address
	addr   netip.Addr
	mac    string // of the NIC SSH goes to, as the hypervisor has it, once it is known
	client *sshx.Client
	drops  int          // how often the connection was dropped
	uses   int          // of the connection, that have not ended
	given  *sshx.Client // what SSH returned, or DialContext uses: it is in use until it is dropped
	hungUp bool         // the connection was ended while it was idle, and none made since
}

func newHost(s Spec, role string, pool int, vm VM, id string, keys []string) *Host {
	cfg := s.SSH
	cfg.Name = vm.Name
	if len(keys) > 0 {
		cfg.HostKeys = sshx.HostKeys{Pinned: keys}
	}
	h := &transcript{next: cfg.Observe}
	cfg.Observe = h.add
	return &Host{transcript: h, Name: vm.Name, Role: role, Pool: pool, VM: vm, set: s.Name, provider: s.Provider, limits: s.Limits, gates: s.gates, facts: s.Facts, id: id, cfg: cfg, dialing: make(chan struct{}, 1)}
}

// redact returns a text without the secrets of Spec.SSH.
func (h *Host) redact(s string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cfg.Redact(s)
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
	l := &Host{
		Name: h.Name, Role: h.Role, Pool: h.Pool, VM: h.VM, set: h.set, provider: h.provider, limits: h.limits, gates: h.gates, facts: h.facts, id: h.id, snapshotBoot: h.snapshotBoot,
		transcript: h.transcript, cfg: h.cfg, addr: h.addr, mac: h.mac, client: h.client, given: h.given, hungUp: h.hungUp, dialing: make(chan struct{}, 1),
	}
	if h.uses > 0 { // which go on
		l.given = h.client
	}
	l.use.Store(u)
	h.client = nil
	h.mu.Unlock()
	h.gates.connections.use(h)
	l.begin()()
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

// probeTimeout is how long a host that should be up may take to accept a login.
const probeTimeout = 30 * time.Second

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
