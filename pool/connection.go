package pool

import (
	"context"
	"fmt"

	"github.com/poolready/poolready/sshx"
)

// SSH returns the connection to the host, a new one if the last one has ended. Do not close it.
// That of a leased host ends with the lease.
func (h *Host) SSH(ctx context.Context) (*sshx.Client, error) {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return h.connect(ctx, sshx.Ready{})
}

// connect returns the connection that is alive, or waits, as long as a boot may take, until the
// host accepts a login.
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

// dropped counts how often the connection was dropped.
func (h *Host) dropped() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drops
}

// keep makes c the host's connection, unless the use of the host is over, when nobody would
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
	h.client = c
	return nil
}
