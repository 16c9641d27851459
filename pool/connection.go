package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx"
)

// SSH returns the connection to the host, a new one if the last one has ended. Do not close it.
// That of a leased host ends with the lease.
func (h *Host) SSH(ctx context.Context) (*sshx.Client, error) {
	defer h.begin()()
	c, err := h.ssh(ctx)
	if err == nil {
		h.give(c)
	}
	return c, err
}

// ssh returns the connection to the host, which the caller is using.
func (h *Host) ssh(ctx context.Context) (*sshx.Client, error) {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if lost, idle := h.lost(); lost && h.use.Load() != nil {
		// It is not powered on again, so there is nothing to wait for. One that was idle may answer all the
		// same, unless it is off: vCenter does not reach every host of whose VMs nothing is wrong.
		err := h.diagnose(ctx, fmt.Errorf("%s: no connection: %w", h.Name, sshx.ErrDead))
		if d, ok := errors.AsType[*diagnosedError](err); ok && (!idle || !d.d.On) {
			return nil, err
		}
	}
	c, err := h.connect(ctx, sshx.Ready{}, nil)
	return c, h.blame(err)
}

// begin begins a use of the host's connection, and returns what ends it: between uses it may be ended.
func (h *Host) begin() (end func()) {
	h.mu.Lock()
	h.uses++
	h.mu.Unlock()
	h.gates.connections.use(h)
	return func() {
		h.mu.Lock()
		h.uses--
		idle := h.idle()
		h.mu.Unlock()
		if idle {
			h.gates.connections.rest(h)
		}
	}
}

// give notes that c, if it is still the host's connection, is in use until it is dropped.
func (h *Host) give(c *sshx.Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c == h.client {
		h.given = c
	}
}

// idle reports, under h.mu, whether there is a connection that is not in use.
func (h *Host) idle() bool { return h.client != nil && h.client != h.given && h.uses == 0 }

// hangUp ends the connection if it is not in use.
func (h *Host) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle() {
		h.client.Close()
		h.client, h.hungUp = nil, true
	}
}

// lost reports whether there was a connection, which has ended by itself or was ended while it was idle.
func (h *Host) lost() (lost, idle bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.client == nil {
		return h.hungUp, h.hungUp
	}
	select {
	case <-h.client.Done():
		return true, false
	default:
		return false, false
	}
}

// connect returns the connection that is alive, or waits, as long as a boot may take, until the
// host accepts a login. f, if not nil, finds where it is; without, a host that has no address is
// looked for first.
func (h *Host) connect(ctx context.Context, ready sshx.Ready, f *finder) (*sshx.Client, error) {
	defer h.begin()()
	if f == nil && !h.Addr().IsValid() {
		booting, cancel := h.whileBooting(ctx)
		defer cancel()
		if err := h.reach(booting, func(string) {}); err != nil {
			return nil, err
		}
	}
	done, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if c := h.alive(); c != nil {
		return c, nil
	}
	ctx, cancel := h.whileBooting(ctx)
	defer cancel()
	h.mu.Lock()
	cfg, drops := h.cfg, h.drops
	cfg.Address = h.addr.String()
	h.mu.Unlock()
	c, err := h.login(ctx, cfg, ready, f)
	if err != nil {
		return nil, err
	}
	if err := h.keep(c, drops); err != nil {
		return nil, err
	}
	return c, nil
}

// whileBooting returns a context that ends when a boot would have taken too long.
func (h *Host) whileBooting(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, h.limits.Boot, fmt.Errorf("not ready for SSH within Limits.Boot (%s)", h.limits.Boot))
}

// login waits until the host accepts a login and has proved which machine it is. With f, another
// machine at its address is no failure yet: the address may be one of before.
func (h *Host) login(ctx context.Context, cfg sshx.Config, ready sshx.Ready, f *finder) (*sshx.Client, error) {
	var wrong error // what the last machine was that was not this one
	for pause := firstPoll; ; pause = min(pause*3/2, lastPoll) {
		c, err := sshx.WaitReady(ctx, cfg, ready)
		if err == nil {
			if err = h.identify(ctx, c); err == nil {
				return c, nil
			}
			c.Close()
		}
		if wrong != nil && ctx.Err() != nil {
			return nil, fmt.Errorf("%w; before: %w", err, wrong)
		}
		if f == nil || !another(err, f.guessed()) {
			return nil, err
		}
		wrong = err
		if f.wrong() {
			continue
		}
		select {
		case <-f.moved:
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// another reports whether an error says that another machine is at an address: one with the host's
// keys, as a clone has, or any if the address was only guessed.
func another(err error, guessed bool) bool {
	return errors.As(err, new(*identityError)) ||
		guessed && (errors.As(err, new(*sshx.HostKeyError)) || errors.As(err, new(*sshx.AuthError)))
}

// identityScript prints the MACs of the machine's network interfaces, also those that a bond hides.
const identityScript = `cat /sys/class/net/*/address /sys/class/net/*/bonding_slave/perm_hwaddr 2>/dev/null || true
`

// identify proves that c leads to this VM: the guest there has the NIC that the hypervisor says the
// VM has. All clones of a golden have its host keys, so these do not tell them apart.
func (h *Host) identify(ctx context.Context, c *sshx.Client) error {
	mac, err := h.loginMAC(ctx)
	if err != nil || mac == "" {
		return err
	}
	res, err := c.Run(ctx, sshx.Cmd{Name: "identify", Script: identityScript})
	if err != nil {
		return err
	}
	has := strings.Fields(strings.ToLower(string(res.Stdout)))
	if slices.Contains(has, mac) {
		return nil
	}
	return &identityError{host: h.Name, addr: h.Addr(), want: mac, has: has}
}

// loginMAC is that of the NIC SSH goes to, in lower case, as the hypervisor has it; "" if it does
// not say.
func (h *Host) loginMAC(ctx context.Context) (string, error) {
	if mac := h.VM.mac(); mac != "" {
		return mac, nil
	}
	h.mu.Lock()
	mac := h.mac
	h.mu.Unlock()
	if mac != "" {
		return mac, nil
	}
	inv, err := h.provider.Inventory(ctx, h.set)
	if err != nil {
		return "", err
	}
	for _, vm := range inv.VMs {
		if vm.ID == h.id && len(vm.MACs) > 0 {
			mac = vm.MACs[0]
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mac = mac
	return mac, nil
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

// drop ends the connection, as before anything that takes the machine away under it.
func (h *Host) drop() {
	h.gates.connections.use(h)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drops++
	if h.client != nil {
		h.client.Close()
		h.client = nil
	}
}

// dropped counts how often the connection was dropped.
func (h *Host) dropped() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drops
}

// keep makes c the host's connection, unless the use of the host is over, when nothing would
// close it, or the connection was dropped since drops was counted: c then leads to a machine that
// has been taken away.
func (h *Host) keep(c *sshx.Client, drops int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if u := h.use.Load(); u != nil && u.ctx.Err() != nil {
		c.Close()
		return fmt.Errorf("%s: %w", h.Name, context.Cause(u.ctx))
	}
	if h.drops != drops {
		c.Close()
		return fmt.Errorf("%s: the connection was dropped while it was being made", h.Name)
	}
	h.client, h.hungUp = c, false
	return nil
}
