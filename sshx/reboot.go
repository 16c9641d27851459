package sshx

import (
	"context"
	"errors"
	"fmt"
)

// Reboot restarts the machine and returns a new connection to it once it has a new boot id and
// satisfies ready; ready.PreviousBootID is set by Reboot. The Client is closed as soon as the machine
// has taken the request. The login user must be root, or may use sudo, without a password or with
// Config.SudoPassword.
//
// The machine must show one of the host keys that are known, or, if it was trusted on first use,
// the same as now.
func (c *Client) Reboot(ctx context.Context, ready Ready) (*Client, error) {
	fail := func(err error) error {
		return fmt.Errorf("sshx: %s: reboot: %w", c.cfg.Name, c.bare(err))
	}
	old, err := c.BootID(ctx)
	if err != nil {
		return nil, fail(err)
	}
	// Debian's users have no sbin in their PATH.
	_, err = c.Run(ctx, Cmd{Name: "reboot", Script: "PATH=$PATH:/usr/sbin:/sbin\nexec reboot\n", User: "root"})
	if err != nil && !goingDown(err) {
		return nil, fail(err)
	}
	cfg := c.pinned()
	c.Close()
	ready.PreviousBootID = old
	next, err := WaitReady(ctx, cfg, ready)
	if err != nil {
		return nil, fail(err)
	}
	return next, nil
}

// goingDown reports whether err is what a command sees of a machine that is shutting down: the
// connection goes, or everything is killed, sometimes by a shell that tells so with 255.
func goingDown(err error) bool {
	if _, ok := errors.AsType[*DisconnectedError](err); ok {
		return true
	}
	ee, ok := errors.AsType[*ExitError](err)
	return ok && (ee.Signal != "" || ee.Code == 255 || ee.Code == 129 || ee.Code == 137 || ee.Code == 143)
}
