package pool

import (
	"context"
	"fmt"
	"net"

	"github.com/poolready/poolready/sshx"
)

// DialContext connects to an address as seen from the host, through its SSH connection: to
// "127.0.0.1:8080" for a service of its own, or to what only it can reach. A Host so is an
// sshx.Dialer, and its DialContext fits an http.Transport. Connections of a lent host end with the
// loan.
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

// Reboot restarts the host and returns when it lets us in again at the same address, with a new
// boot id, no later than after Limits.Boot.
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
	dialed, err := h.dial(ctx) // who wants a connection meanwhile waits for the new one
	if err != nil {
		return err
	}
	defer dialed()
	ctx, cancel := context.WithTimeoutCause(ctx, h.limits.Boot, fmt.Errorf("not up within Limits.Boot (%s)", h.limits.Boot))
	defer cancel()
	drops := h.dropped()
	next, err := c.Reboot(ctx, sshx.Ready{})
	if err != nil {
		return h.blame(err)
	}
	return h.keep(next, drops)
}

// dropped counts how often the connection was dropped.
func (h *Host) dropped() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drops
}

// keep makes c the host's connection, unless the host was given back meanwhile, when nobody would
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
