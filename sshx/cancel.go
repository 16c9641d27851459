package sshx

import (
	"context"
	"strconv"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// killGrace is how long a cancelled command is given to be gone: TERM, 2 s, KILL, and the news.
const killGrace = 4 * time.Second

// lastWords is how long the output of a command that was killed is waited for.
const lastWords = 500 * time.Millisecond

// cancel ends the command, and gathers what it had to say about that.
func (r *run) cancel(s *session, outDone <-chan struct{}, cause error) (Result, error) {
	gone := r.kill(s)
	if gone {
		ctx, cancel := context.WithTimeout(context.Background(), lastWords)
		defer cancel()
		r.drain(ctx, outDone)
	}
	return r.canceled(cause, gone)
}

// kill ends the command, and reports whether it is known to be gone. It is ended by the guard, if it has
// one that can, or by what watches its stdin, unless that is in use, or else from another session.
func (r *run) kill(s *session) bool {
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	if r.cmd.Stdin == nil || !r.taken { // it has not had anything of its stdin yet
		s.closeWrite()
	}
	if r.guard != nil {
		r.guard.cancel(r.token)
		select {
		case <-s.exited:
		case <-s.closed:
		case <-r.guard.closed: // it cannot
		case <-ctx.Done():
		}
	}
	if (r.cmd.Stdin != nil || r.guard != nil) && !s.hasExited() {
		select {
		case pid := <-r.pid:
			r.stop(ctx, pid, s.exited)
		case <-s.exited:
		case <-s.closed:
		case <-ctx.Done():
		}
	}
	select {
	case <-s.exited:
	case <-s.closed:
	case <-ctx.Done():
	}
	return s.hasExited()
}

// stop ends the process group of a command whose stdin is in use for other things. Where there is
// no session to be had for that, MaxSessions being 1, it takes another connection: a signal
// request would be ignored by older servers for root.
func (r *run) stop(ctx context.Context, pid string, exited <-chan struct{}) {
	if r.c.stopGroup(ctx, r.call, pid, exited) == nil || r.c.Err() != nil {
		return
	}
	other, err := Dial(ctx, r.c.pinned())
	if err != nil {
		return
	}
	defer other.Close()
	_ = other.stopGroup(ctx, r.call, pid, exited)
}

// stopGroup ends a process group from another session, which may be one more than the gate
// allows: those that hold it may be the ones to be stopped. It returns when that is done or
// exited is closed; the machine then goes on to kill what is left of the group.
func (c *Client) stopGroup(ctx context.Context, like wire.Call, pid string, exited <-chan struct{}) error {
	if _, err := strconv.Atoi(pid); err != nil {
		return err
	}
	s, err := c.openExtra(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	like.Text, like.Args, like.Direct = wire.Stop, []string{pid}, false
	if like.Prompt != "" {
		like.Prompt = c.prompt()
	}
	like.Lead = like.Lead || like.User != ""
	if err := s.start(ctx, "exec", like.Command()); err != nil {
		return err
	}
	if err := c.authorize(ctx, s, like.Prompt); err != nil {
		return err
	}
	select {
	case <-exited:
	case <-s.exited:
	case <-s.closed:
	case <-ctx.Done():
	}
	return nil
}

func (r *run) canceled(cause error, gone bool) (Result, error) {
	res := r.result(true)
	res.ExitCode = -1
	return res, &CanceledError{Host: r.c.cfg.Name, Cmd: r.label, Killed: gone, Took: res.Took, Output: r.ends(), Cause: cause}
}
