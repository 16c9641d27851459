package pool

import (
	"context"
	"fmt"
	"time"

	"github.com/poolready/poolready/sshx"
)

// powerOn powers the host on, waits for the address that the guest reports since, for SSH, and until
// the guest has started.
func (h *Host) powerOn(ctx context.Context, report func(string)) error {
	return h.gates.boot(ctx, func() error { return h.boot(ctx, report) })
}

func (h *Host) boot(ctx context.Context, report func(string)) error {
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

// probe logs in to a host that should be up, at the address that the inventory has for it, or that
// its guest tells.
func (h *Host) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, fmt.Errorf("no login within %s", probeTimeout))
	defer cancel()
	_, err := h.connect(ctx, sshx.Ready{AuthGrace: time.Second}, nil) // it is past starting
	return err
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
	defer h.begin()()
	c, err := h.ssh(ctx)
	if err != nil {
		return err
	}
	dialed, err := h.dial(ctx) // other callers wait for the new connection meanwhile
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
