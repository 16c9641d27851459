package sshx

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// shellTimeout is how long the login shell may take over the first command.
const shellTimeout = 30 * time.Second

// readsStdin is what is said of a login shell that does not come to the command.
const readsStdin = "its startup files may read stdin, or start another shell"

var errShell = fmt.Errorf("the login shell ran nothing within %s; %s", shellTimeout, readsStdin)

// probe makes sure, once for each connection and before the first command is sent, that the login
// shell runs what is asked. One whose startup files read stdin would take a command's input, and
// run it at the end of that, which is when it was cancelled.
func (c *Client) probe(ctx context.Context, cmd Cmd) error {
	select {
	case <-c.probed:
		return nil
	default:
	}
	label := c.cfg.label(cmd)
	notStarted := func(err error) error {
		return fmt.Errorf("sshx: %s: run %s: not started: %w", c.cfg.Name, label, c.bare(err))
	}
	select {
	case c.probing <- struct{}{}:
	case <-c.done:
		return notStarted(c.ended("open session"))
	case <-ctx.Done():
		return notStarted(context.Cause(ctx))
	}
	defer func() { <-c.probing }()
	select {
	case <-c.probed:
		return nil // by another caller
	default:
	}
	s, err := c.open(ctx)
	if err != nil {
		return notStarted(err)
	}
	defer s.close()
	r := c.newRun(Cmd{Args: []string{"true"}})
	r.label, r.begun = label, time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, shellTimeout, errShell)
	defer cancel()
	_, err = r.probe(limited, s)
	switch {
	case r.started.Load():
		close(c.probed)
		return nil
	case ctx.Err() != nil:
		return notStarted(fmt.Errorf("%w: no answer of the login shell within %s; %s", context.Cause(ctx), round(time.Since(r.begun)), readsStdin))
	case errors.Is(err, errShell):
		return &StartError{Host: c.cfg.Name, Cmd: label, Code: -1, Text: errShell.Error()}
	}
	return err
}

// probe is on, but for what happens when ctx ends: nothing was sent, and there is nothing to kill.
func (r *run) probe(ctx context.Context, s *session) (Result, error) {
	done := make(chan struct{})
	var res Result
	var err error
	if !r.c.spawn(func() { defer close(done); res, err = r.on(context.WithoutCancel(ctx), s) }) {
		return Result{}, r.c.ended("open session")
	}
	select {
	case <-done:
		return res, err
	case <-ctx.Done():
		s.close()
		return Result{}, context.Cause(ctx)
	}
}
