package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// updates bounds how many hosts update at once, in this process alone: mirrors limit the rate.
var updates = make(gate, 2)

// A gate lets in as many at once as it has capacity.
type gate chan struct{}

// do runs f once there is room, or returns why ctx ended.
func (g gate) do(ctx context.Context, f func() error) error {
	select {
	case g <- struct{}{}:
		defer func() { <-g }()
		return f()
	case <-ctx.Done():
		return fmt.Errorf("wait for other hosts to update: %w", context.Cause(ctx))
	}
}

// update wraps the script that updates a host: one of few at a time, detached from the connection,
// since sshd and the network may restart under it, and with a reboot if the script says that one
// is needed.
func update(step pool.Step, turn gate) pool.Step {
	text := script("steps", "update")
	step.Version += "+reboot"
	step.Timeout = 30 * time.Minute
	step.Do = func(ctx context.Context, h *pool.Host) error {
		var res sshx.Result
		err := turn.do(ctx, func() error {
			job, err := detach(ctx, h, "update", text)
			if err == nil {
				res, err = job.Wait(ctx)
			}
			return err
		})
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(res.Stdout)), "reboot needed") {
			return err
		}
		return h.Reboot(ctx)
	}
	return step
}

// detach starts a script that may take our connection away, or sshd, or the network: it goes on by
// itself, and its Wait follows it over as many connections as it takes.
func detach(ctx context.Context, h *pool.Host, name, text string) (*sshx.Job, error) {
	c, err := h.SSH(ctx)
	if err != nil {
		return nil, err
	}
	return c.Detach(ctx, sshx.Cmd{Name: name, Script: text, Env: h.VM.Env})
}
