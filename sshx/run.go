package sshx

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// killGrace is how long a cancelled command is given to be gone: TERM, 2 s, KILL, and the news of it.
const killGrace = 4 * time.Second

// Run runs cmd and waits for it. An exit code other than 0 is an *ExitError; a lost
// connection, after which nobody knows whether the command ran, a *DisconnectedError; a command
// that sudo or the machine kept from starting, a *SudoError or *StartError; and one that ended with ctx, a
// *CanceledError. The Result has the output up to then in any case.
//
// When ctx ends, the command's process group gets SIGTERM, and SIGKILL 2 s later; Run returns when
// it is gone, and within 4 s at the latest. Without Stdin, the same happens to it when the
// connection is lost, even if this process was killed. Processes that the command put into
// sessions of their own are not reached. Run is never repeated by itself.
func (c *Client) Run(ctx context.Context, cmd Cmd) (Result, error) {
	return c.run(ctx, cmd, false)
}

// runRaw is Run for data: secrets stay in, and the Result's Stdout is empty. Stdout must be set.
func (c *Client) runRaw(ctx context.Context, cmd Cmd) (Result, error) { return c.run(ctx, cmd, true) }

func (c *Client) run(ctx context.Context, cmd Cmd, raw bool) (Result, error) {
	if cmd.ExpectDisconnect {
		return c.runDetached(ctx, cmd)
	}
	r, err := c.newRun(cmd)
	if err != nil {
		return Result{}, err
	}
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
	if _, ok := errors.AsType[*StartError](err); ok && r.call.Direct && c.shell.CompareAndSwap(shellSuits, shellOther) {
		return c.run(ctx, cmd, raw) // $SHELL was not the login shell; nothing was started, as there is no marker
	}
	return res, err
}

// bare takes "sshx: host: " off an error that becomes part of another of the same host, and
// secrets out of what the machine said in it.
func (c *Client) bare(err error) error { return c.cfg.redactErr(unhosted(c.cfg.Name, err)) }

func unhosted(host string, err error) error {
	if prefix := "sshx: " + host + ": "; strings.HasPrefix(err.Error(), prefix) {
		return &bareError{err, prefix}
	}
	return err
}

type bareError struct {
	err    error
	prefix string
}

func (e *bareError) Error() string { return strings.TrimPrefix(e.err.Error(), e.prefix) }
func (e *bareError) Unwrap() error { return e.err }

// A run is one command on its way.
type run struct {
	c     *Client
	cmd   Cmd
	label string
	call  wire.Call
	input string // precedes Stdin
	begun time.Time

	out, err *sink
	noise    noise // what comes as stderr of a merged command
	pid      chan string
	up       chan struct{} // closed when the command has started
	read     chan struct{} // closed when a terminal has taken what precedes the command
	started  atomic.Bool
	over     atomic.Bool // nobody wants more output
}

// newRun checks cmd and decides how it is sent.
func (c *Client) newRun(cmd Cmd) (*run, error) {
	r := &run{c: c, cmd: cmd, label: c.cfg.label(cmd), pid: make(chan string, 1), up: make(chan struct{}), read: make(chan struct{})}
	if err := cmd.validate(); err != nil {
		return nil, fmt.Errorf("sshx: %s: run %s: %w", c.cfg.Name, r.label, err)
	}
	token, flags := newToken(), "m"
	if cmd.Separate {
		flags = "s"
	}
	if cmd.Stdin != nil {
		flags += "i"
	}
	text := wire.Run
	if cmd.PTY != nil {
		text, flags = wire.Terminal, ""
	}
	r.call = c.call(text, cmd)
	direct := !r.call.Lead && (c.shell.Load() == shellProven || c.shell.Load() == shellSuits && cmd.Stdin == nil)
	switch {
	case r.call.User == "" && cmd.PTY == nil && cmd.Script == "" && len(cmd.Env) == 0 && cmd.Dir == "" && (direct || plainWords(cmd.Args)) && short(cmd.Args):
		r.call.Text = wire.Exec
		r.call.Args = append([]string{token, flags}, cmd.Args...)
		r.call.Direct = direct
	default:
		r.call.Args = []string{token, flags}
		header := wire.Header
		if cmd.PTY != nil {
			header = wire.TerminalHeader
		}
		r.input = header(int64(len(cmd.Script)), cmd.preamble(r.call.User != "")) + cmd.Script
	}
	r.sinks(wire.Marker + token + " ")
	return r, nil
}

// What is known of the login shell, by the first command that names it, and then by one that it ran itself.
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
		close(r.up)
	}
	secrets := r.c.cfg.secrets()
	r.out = newSink(marker, secrets, out, seen)
	if r.cmd.PTY != nil {
		r.out.read = func() { close(r.read) }
	}
	r.noise.out = r.out
	if r.cmd.Separate {
		r.err = newSink(marker, secrets, errs, nil)
	}
}

func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // not comparable: two writers as far as we can tell
	return a == b
}

// on runs the command in the session.
func (r *run) on(ctx context.Context, s *session) (Result, error) {
	if err := r.startCommand(ctx, s); err != nil {
		_, denied := errors.AsType[*refused](err)
		switch {
		case denied:
			return Result{ExitCode: -1}, r.c.sudoRefused(err, r.call.User, r.label)
		case ctx.Err() != nil:
			return r.canceled(context.Cause(ctx), false)
		case errors.Is(err, errNoPTY):
			return Result{}, &StartError{Host: r.c.cfg.Name, Cmd: r.label, Text: err.Error()}
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

// drain waits until all output has come, or WaitDelay has passed, or ctx ends. Data is given up
// only when none of it has come for WaitDelay: of a file, much may follow the exit status.
func (r *run) drain(ctx context.Context, outDone <-chan struct{}) bool {
	delay := r.cmd.WaitDelay
	setDefault(&delay, 2*time.Second)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-outDone:
			return true
		case <-timer.C:
			idle := r.out.idle()
			if idle >= delay {
				return false
			}
			timer.Reset(delay - idle)
		case <-ctx.Done():
			return false
		}
	}
}

// copyOutput reads both streams until they end, and tells when both have.
func (r *run) copyOutput(s *session) <-chan struct{} {
	done := make(chan struct{})
	var streams sync.WaitGroup
	streams.Add(2)
	one := func(sk *sink, stream io.Reader) {
		defer streams.Done()
		copyTo(sk, stream, &r.over)
		if !r.over.Load() {
			_ = sk.red.flush()
		}
	}
	other := func() { one(r.err, s.ch.Stderr()) }
	if r.err == nil {
		other = func() { defer streams.Done(); copyTo(&r.noise, s.ch.Stderr(), &r.over) }
	}
	if !r.c.spawn(func() { one(r.out, s.ch) }) {
		streams.Done()
	}
	if !r.c.spawn(other) {
		streams.Done()
	}
	if !r.c.spawn(func() { streams.Wait(); close(done) }) {
		close(done)
	}
	return done
}

// copyInput sends the header and script or Stdin. It tells of the reader's error, if any; that
// the machine takes no more is no error: the command's end says what there is to say.
func (r *run) copyInput(s *session) <-chan error {
	result := make(chan error, 1)
	send := func() {
		if _, err := io.WriteString(s, r.input); err != nil {
			return
		}
		if r.cmd.PTY != nil {
			select {
			case <-r.read:
				_, _ = io.WriteString(s, "\n")
			case <-s.closed:
				return
			}
		}
		if r.cmd.Stdin == nil {
			return
		}
		to := &typed{w: s}
		if r.cmd.PTY != nil {
			select {
			case <-r.up: // the terminal is no longer raw
			case <-s.closed:
				return
			}
		}
		in := &failing{r: r.cmd.Stdin}
		_, _ = io.Copy(struct{ io.Writer }{to}, bufio.NewReaderSize(in, 128<<10))
		switch {
		case in.err != nil:
			result <- in.err
		case r.cmd.PTY != nil:
			to.end()
		default:
			s.closeWrite()
		}
	}
	switch {
	case r.cmd.Stdin != nil:
		go send() // not waited for: nothing but Stdin itself can end its Read
	case r.input != "":
		r.c.spawn(send)
	}
	return result
}

// failing remembers how a reader failed.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

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

// kill ends the command, and reports whether it is known to be gone.
func (r *run) kill(s *session) bool {
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	if r.cmd.Stdin == nil && r.cmd.PTY == nil {
		s.closeWrite()
	} else {
		select {
		case pid := <-r.pid:
			r.stop(ctx, pid, s.exited)
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
	like.Text, like.Args = wire.Stop, []string{pid}
	if like.Prompt != "" {
		like.Prompt = c.prompt()
	}
	like.Lead = like.Lead || like.User != ""
	if err := s.start(ctx, "exec", like.Command()); err != nil {
		return err
	}
	if err := c.authorize(ctx, s, like.Prompt, false); err != nil {
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

// result gathers the output.
func (r *run) result(cut bool) Result {
	r.over.Store(true)
	res := Result{Cut: cut, Took: time.Since(r.begun)}
	var lost bool
	res.Stdout, lost = r.out.result()
	res.Cut = res.Cut || lost
	if r.err != nil {
		res.Stderr, lost = r.err.result()
		res.Cut = res.Cut || lost
	} else if r.started.Load() {
		res.Stdout = append(res.Stdout, r.c.cfg.redact(string(r.noise.late()))...)
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
	return append(r.out.end(), r.c.cfg.redact(string(r.noise.late()))...)
}

// early is what came in place of the command.
func (r *run) early() string {
	text := r.noise.early()
	if r.err != nil {
		text = r.err.noise()
	}
	return r.c.cfg.said(string(append(text, append([]byte("\n"), r.out.noise()...)...)))
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
	return res, &DisconnectedError{Host: r.c.cfg.Name, Cmd: r.label, Ran: r.started.Load(), Took: res.Took, Output: r.ends(), Cause: cause}
}

func (r *run) canceled(cause error, gone bool) (Result, error) {
	res := r.result(true)
	res.ExitCode = -1
	return res, &CanceledError{Host: r.c.cfg.Name, Cmd: r.label, Killed: gone, Took: res.Took, Output: r.ends(), Cause: cause}
}

// noise is what comes as stderr of a command whose stderr is merged into its stdout on the
// machine: messages of those who start it.
type noise struct {
	out *sink

	mu            sync.Mutex
	before, after []byte
}

func (n *noise) Write(p []byte) (int, error) {
	started := n.out.announced()
	n.mu.Lock()
	defer n.mu.Unlock()
	if b := &n.before; started {
		n.after = append(n.after, p...)
		n.after = n.after[max(0, len(n.after)-earlyMax):]
	} else {
		*b = append(*b, p...)
		*b = (*b)[max(0, len(*b)-earlyMax):]
	}
	return len(p), nil
}

func (n *noise) early() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.before)
}

func (n *noise) late() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.after)
}

// newToken returns a word that nothing else prints.
func newToken() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
