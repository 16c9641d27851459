package sshx

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// Run runs cmd and waits for it. An exit code other than 0 is an *ExitError; a lost
// connection, after which it is not known whether the command ran, a *DisconnectedError; a command
// that sudo or the machine kept from starting, a *SudoError or *StartError; and one that ended with
// ctx, a *CanceledError. The Result has the output up to then in any case.
//
// When ctx ends, the command's process group gets SIGTERM, and SIGKILL 2 s later; Run returns when
// it is gone, and within 5 s at the latest. If ctx has ended before, nothing is started. Without
// Stdin, the same happens to it when the connection is lost, even if this process was killed.
// Processes that the command put into sessions of their own are not reached. Run is never repeated
// by itself.
func (c *Client) Run(ctx context.Context, cmd Cmd) (Result, error) {
	at := time.Now()
	res, err := c.run(ctx, cmd, false)
	c.observe(at, cmd, res, err)
	return res, err
}

// Output runs a program, as Run does, and returns what it writes to stdout, without the newlines at
// its end. What it writes to stderr is in the error alone.
func (c *Client) Output(ctx context.Context, args ...string) (string, error) {
	res, err := c.Run(ctx, Cmd{Args: args, Separate: true})
	return strings.TrimRight(string(res.Stdout), "\n"), err
}

// runRaw is Run for data: secrets stay in, and the Result's Stdout is empty. Stdout must be set.
func (c *Client) runRaw(ctx context.Context, cmd Cmd) (Result, error) { return c.run(ctx, cmd, true) }

func (c *Client) run(ctx context.Context, cmd Cmd, raw bool) (Result, error) {
	if err := cmd.check(c.cfg); err != nil {
		return Result{}, err
	}
	if err := c.probe(ctx, cmd); err != nil {
		return Result{ExitCode: -1}, err
	}
	r := c.newRun(cmd)
	s, err := c.open(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("sshx: %s: run %s: not started: %w", c.cfg.Name, r.label, c.bare(err))
	}
	defer s.close()
	if raw {
		r.out.raw()
	}
	r.begun = time.Now()
	res, err := r.on(ctx, s)
	_, notStarted := errors.AsType[*StartError](err)
	if notStarted && r.guard != nil { // it may be gone, and its directory
		c.guard.end()
		return c.run(ctx, cmd, raw)
	}
	if notStarted && r.call.Direct {
		c.shell.CompareAndSwap(shellSuits, shellOther)
		if c.shell.Load() == shellOther {
			return c.run(ctx, cmd, raw) // $SHELL was not the login shell; nothing was started, as there is no marker
		}
	}
	return res, err
}

// A run is one command on its way.
type run struct {
	c     *Client
	cmd   Cmd
	label string
	call  wire.Call
	input string // precedes Stdin
	begun time.Time

	out, err *sink
	noise    noise    // what comes as stderr of a merged command
	guard    *session // by which it is ended, or nil
	token    string
	pid      chan string
	asked    bool        // the machine was asked to run it
	taken    bool        // and said that it does
	started  atomic.Bool // the marker was seen
	over     atomic.Bool // further output is dropped
}

// newRun decides how cmd is sent: in the request, which costs one round trip, or on stdin.
func (c *Client) newRun(cmd Cmd) *run {
	token, flags := newToken(), "m"
	r := &run{c: c, cmd: cmd, label: c.cfg.label(cmd), token: token, pid: make(chan string, 1)}
	if cmd.Separate {
		flags = "s"
	}
	if cmd.Stdin != nil {
		flags += "i"
	}
	r.call = c.call(wire.Run, cmd)
	words, script := c.words(cmd)
	direct := !r.call.Lead && (c.shell.Load() == shellProven || c.shell.Load() == shellSuits && cmd.Stdin == nil)
	switch {
	case r.call.User == "" && script == "" && len(cmd.Env) == 0 && cmd.Dir == "" && (direct || plainWords(words)) && short(words):
		r.call.Text = wire.Exec
		r.call.Args = append([]string{token, flags}, words...)
		if cmd.Stdin == nil {
			if s, dir := c.guarded(); s != nil {
				r.guard = s
				r.call.Args = append([]string{token, flags + "g", dir}, words...)
			}
		}
		r.call.Direct = direct
	default:
		r.call.Args = []string{token, flags}
		r.input = wire.Header(int64(len(script)), cmd.preamble(r.call.User != "", words)) + script
	}
	r.sinks(wire.Marker + wire.Answer(token) + " ")
	return r
}

// What is known of the login shell, by the first command, which names it, and one that it ran
// itself.
const (
	shellUnknown = iota
	shellSuits   // to run wire.Exec itself, by its name
	shellProven
	shellOther
)

// learn takes what the marker of a call says of the login shell.
func (c *Client) learn(call wire.Call, shell string) {
	switch {
	case call.Direct:
		c.shell.CompareAndSwap(shellSuits, shellProven)
	case call.Text == wire.Exec && wire.SuitsDirect(shell):
		c.shell.CompareAndSwap(shellUnknown, shellSuits)
	case call.Text == wire.Exec:
		c.shell.CompareAndSwap(shellUnknown, shellOther)
	}
}

// sinks makes where output goes.
func (r *run) sinks(marker string) {
	var out, errs *lockedWriter
	if r.cmd.Stdout != nil {
		out = &lockedWriter{w: r.cmd.Stdout}
	}
	if r.cmd.Stderr != nil {
		errs = &lockedWriter{w: r.cmd.Stderr}
		if sameWriter(r.cmd.Stdout, r.cmd.Stderr) {
			errs = out
		}
	}
	seen := func(line string) {
		pid, shell, _ := strings.Cut(line, " ")
		r.c.learn(r.call, shell)
		r.started.Store(true)
		r.pid <- pid
	}
	secrets := r.c.cfg.secrets()
	r.out = newSink(marker, secrets, out, seen)
	if r.cmd.Separate {
		r.out.other = true
		r.err = newSink(marker, secrets, errs, nil)
	}
}

func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // not comparable: two writers as far as we can tell
	return a == b
}

// startCommand starts what the run is about, and returns when it may be sent its input.
func (r *run) startCommand(ctx context.Context, s *session) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.asked = true
	if err := s.start(ctx, "exec", r.call.Command()); err != nil {
		return err
	}
	r.taken = true
	return r.c.authorize(ctx, s, r.call.Prompt)
}

// on runs the command in the session.
func (r *run) on(ctx context.Context, s *session) (Result, error) {
	if err := r.startCommand(ctx, s); err != nil {
		_, denied := errors.AsType[*refused](err)
		switch {
		case denied:
			return Result{ExitCode: -1}, r.c.sudoRefused(err, r.call.User, r.label)
		case ctx.Err() != nil && !r.asked:
			return Result{ExitCode: -1}, fmt.Errorf("sshx: %s: run %s: not started: %w", r.c.cfg.Name, r.label, context.Cause(ctx))
		case ctx.Err() != nil && !r.taken:
			return r.cancel(s, r.copyOutput(s), context.Cause(ctx))
		case ctx.Err() != nil: // it sees the end of the session
			return r.canceled(context.Cause(ctx), false)
		case errors.Is(err, errRefused):
			return Result{}, &StartError{Host: r.c.cfg.Name, Cmd: r.label, Text: "the machine refuses to run commands for this user"}
		}
		return r.lost()
	}
	r.c.prepareSpare()
	outDone := r.copyOutput(s)
	inErr := r.copyInput(s)
	for !s.hasExited() {
		select {
		case <-s.exited:
		case <-s.closed:
			if !s.hasExited() {
				r.drain(ctx, outDone)
				return r.lost()
			}
		case err := <-inErr:
			return r.cancel(s, outDone, fmt.Errorf("read stdin: %w", err))
		case <-ctx.Done():
			return r.cancel(s, outDone, context.Cause(ctx))
		}
	}
	cut := !r.drain(ctx, outDone)
	if !r.started.Load() {
		// The streams end a moment before the connection is known to have ended, and then the
		// status may be the command's, or that of what failed to start it.
		_ = sleep(r.c.life, 250*time.Millisecond)
		if cut || r.c.Err() != nil {
			return r.lost()
		}
	}
	return r.finished(s.status, cut)
}

// newToken returns a word that nothing else prints.
func newToken() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

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

// result gathers the output.
func (r *run) result(cut bool) Result {
	r.over.Store(true)
	res := Result{Truncated: cut, Took: time.Since(r.begun)}
	var lost bool
	res.Stdout, lost = r.out.result()
	res.Truncated = res.Truncated || lost
	if r.err != nil {
		res.Stderr, lost = r.err.result()
		res.Truncated = res.Truncated || lost
	}
	return res
}

// ends is the part of the output that errors show.
func (r *run) ends() []byte {
	if r.err != nil {
		if b := r.err.end(); len(bytes.TrimSpace(b)) > 0 {
			return b
		}
	}
	if b := r.out.end(); len(bytes.TrimSpace(b)) > 0 {
		return b
	}
	return []byte(r.c.cfg.Redact(wire.Strip(string(r.noise.bytes()))))
}

// early returns what came in place of the command, without the wrapper, if that is repeated there.
func (r *run) early() string {
	text := r.noise.bytes()
	if r.err != nil {
		text = r.err.noise()
	}
	return r.c.cfg.said(wire.Strip(string(text) + "\n" + string(r.out.noise())))
}

// finished says how a command with an exit status ended.
func (r *run) finished(st exitStatus, cut bool) (Result, error) {
	res := r.result(cut)
	res.ExitCode = st.code
	host := r.c.cfg.Name
	switch {
	case !r.started.Load() && r.call.User != "" && st.code != wire.Failed:
		return res, &SudoError{Host: host, User: r.call.User, Cmd: r.label, Text: r.early()}
	case !r.started.Load():
		return res, &StartError{Host: host, Cmd: r.label, Code: st.code, Text: r.early()}
	case st.code != 0 || st.signal != "":
		return res, &ExitError{Host: host, Cmd: r.label, Code: st.code, Signal: st.signal, Took: res.Took, Output: r.ends()}
	}
	return res, nil
}

// lost says what is known of a command whose session ended without an exit status.
func (r *run) lost() (Result, error) {
	// The channel ends a moment before the connection, whose end has the reason.
	t := time.NewTimer(time.Second)
	defer t.Stop()
	cause := errors.New("the session ended early")
	select {
	case <-r.c.done:
		cause = r.c.Err()
	case <-t.C:
	}
	res := r.result(true)
	res.ExitCode = -1
	return res, &DisconnectedError{Host: r.c.cfg.Name, Cmd: r.label, Started: r.started.Load(), Took: res.Took, Output: r.ends(), Cause: cause}
}
