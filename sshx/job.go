package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// A Job is a command that was detached from the connection that started it: it survives the loss
// of connections, a restart of sshd, and the end of this process. It is not stopped by anything
// but Kill and the machine's own end.
//
// Its methods connect again when the connection is lost, as WaitReady does, so they may take as
// long as their context lets them. They may be called from any goroutine; Follow and Wait take
// turns.
type Job struct {
	id, user string
	label    string
	cmd      Cmd
	begun    time.Time

	turn chan struct{} // held by a Follow
	at   int64         // how much of the log was read; guarded by turn, as are:
	out  *sink
	live *redactor // writes to Follow's w; it may hold back what an earlier one has read

	cfg      Config
	dialling chan struct{} // held while connecting

	mu    sync.Mutex // guards what follows
	c     *Client
	mine  bool // c was dialled by the Job
	users int  // calls that may use c: the last one closes it, if it is mine
}

// Detach starts cmd on the machine, in a session of its own, and returns when it has started. Its
// output is merged into a log on the machine. Cmd.Stdin must be nil; Separate and
// WaitDelay do not apply.
//
// Where systemd runs, the job of root, or of a user who lingers (loginctl enable-linger), is in a
// scope of its own, sshx-ID.scope, and Kill reaches all that is in it. So it survives the end of
// login sessions, also with KillUserProcesses=yes, which ends the jobs of other users: detach as
// root there.
//
// The log and what else belongs to the job are in a directory below /var/tmp, which Wait and
// Follow remove when they have seen the job's end. When ctx ends before Detach returns, the job is
// ended: CanceledError.Killed reports whether that is known.
func (c *Client) Detach(ctx context.Context, cmd Cmd) (*Job, error) {
	fail := func(err error) error {
		return fmt.Errorf("sshx: %s: detach %s: %w", c.cfg.Name, c.cfg.label(cmd), c.bare(err))
	}
	if err := cmd.validate(); err != nil {
		return nil, fail(err)
	}
	if err := c.probe(ctx, cmd); err != nil {
		return nil, fail(err)
	}
	if cmd.Stdin != nil {
		return nil, fail(errors.New("Cmd.Stdin is not for detached commands"))
	}
	id := newToken()
	start := cmd
	start.Stdout, start.Stderr, start.Separate = nil, nil, false
	r := &run{c: c, cmd: start, label: c.cfg.label(cmd), pid: make(chan string, 1)}
	r.call = c.call(wire.Detach, cmd)
	r.call.Args = []string{id, wire.Job}
	r.call.Lead = true // also below a ForceCommand that does not exec
	r.input = wire.Header(int64(len(cmd.Script)), cmd.preamble(r.call.User != "", cmd.words())) + cmd.Script
	r.sinks(wire.Marker + wire.Answer(id) + " ")
	s, err := c.open(ctx)
	if err != nil {
		return nil, fail(err)
	}
	defer s.close()
	r.begun = time.Now()
	j := c.job(id, cmd)
	if _, err := r.on(ctx, s); err != nil {
		if ce, ok := errors.AsType[*CanceledError](err); ok { // it may have been detached all the same
			ce.Killed = ce.Killed && j.discard(ctx, c) == nil
		}
		return nil, fail(err)
	}
	return j, nil
}

// Job returns the job with an ID that another process, or an earlier connection, has from
// Detach. User is the Cmd.User it was started with: others do not find it.
func (c *Client) Job(id, user string) *Job {
	return c.job(id, Cmd{Name: "job " + id, User: user})
}

func (c *Client) job(id string, cmd Cmd) *Job {
	j := &Job{id: id, user: cmd.User, label: c.cfg.label(cmd), cmd: cmd, begun: time.Now()}
	j.turn, j.dialling = make(chan struct{}, 1), make(chan struct{}, 1)
	j.c, j.cfg = c, c.pinned()
	j.live = newRedactor(io.Discard, c.cfg.secrets())
	var live *lockedWriter
	if cmd.Stdout != nil {
		live = &lockedWriter{w: cmd.Stdout}
	}
	j.out = newSink("", c.cfg.secrets(), live, nil)
	return j
}

// ID names the job on its machine; see Client.Job.
func (j *Job) ID() string { return j.id }

// Wait waits until the job has ended, as Follow does.
func (j *Job) Wait(ctx context.Context) (Result, error) { return j.Follow(ctx, nil) }

// Follow copies the job's log to w, which may be nil, and to Cmd.Stdout as it grows, until the job
// has ended: every byte once, also over several connections, beginning where an earlier Follow of
// the same Job stopped. The Result has what all of them read. An exit code other than 0 is an
// *ExitError; a machine that restarted before the job's end, an *InterruptedError; a job of which
// nothing is known, a *JobLostError. When ctx ends, Follow returns and the job goes on.
func (j *Job) Follow(ctx context.Context, w io.Writer) (Result, error) {
	select {
	case j.turn <- struct{}{}:
	case <-ctx.Done():
		return Result{ExitCode: -1}, j.fail(context.Cause(ctx))
	}
	defer func() { <-j.turn }()
	return j.follow(ctx, w, true)
}

// follow polls until the end. Without reconnect it returns the error of a lost connection.
func (j *Job) follow(ctx context.Context, w io.Writer, reconnect bool) (Result, error) {
	defer j.use()()
	j.live.w = &lockedWriter{w: io.Discard}
	if w != nil {
		j.live.w = &lockedWriter{w: w} // one that fails is no reason not to go on
	}
	wait := pollMin
	for {
		c, err := j.client(ctx, reconnect)
		if err != nil {
			return j.result(-1, true), j.fail(err)
		}
		p, err := j.poll(ctx, c)
		switch {
		case err != nil && ctx.Err() == nil && lostConn(c, err) && reconnect:
			_ = sleep(ctx, pollMin) // it may be the session alone, over and over
			continue
		case err != nil:
			return j.result(-1, true), j.fail(err)
		}
		_, _ = j.out.Write(p.log)
		_, _ = j.live.Write(p.log)
		j.at += int64(len(p.log))
		if j.at < p.size {
			wait = pollMin
			continue
		}
		if p.state != "run" && p.state != "new" {
			_ = j.live.flush()
			_ = j.out.red.flush()
			return j.ended(ctx, c, p)
		}
		if len(p.log) > 0 {
			wait = pollMin
		}
		if err := sleep(ctx, wait); err != nil {
			return j.result(-1, true), j.fail(fmt.Errorf("%w; the job goes on", err))
		}
		wait = min(wait*3/2, pollMax)
	}
}

// A job's end is noticed, and its log shown, at the latest after pollMax.
const (
	pollMin   = 100 * time.Millisecond
	pollMax   = 2 * time.Second
	pollBytes = 256 << 10
)

// A report is the answer to one Poll.
type report struct {
	state string
	code  int
	size  int64
	log   []byte
}

var reportLine = regexp.MustCompile(`(?m)^(new|run|done|reboot|dead|gone) (-|\d+) (\d+)\n`)

func (j *Job) poll(ctx context.Context, c *Client) (report, error) {
	out, err := c.exec(ctx, wire.Poll, j.user, j.id, strconv.FormatInt(j.at, 10), strconv.Itoa(pollBytes))
	if err != nil {
		return report{}, err
	}
	p, ok := parseReport(out)
	if !ok {
		return report{}, fmt.Errorf("the machine answered %q", c.cfg.said(string(out)))
	}
	return p, nil
}

func parseReport(out []byte) (p report, ok bool) {
	m := reportLine.FindSubmatchIndex(out) // what precedes it is unrelated output of the login shell
	if m == nil {
		return report{}, false
	}
	p = report{state: string(out[m[2]:m[3]]), code: -1, log: out[m[1]:]}
	size, err := strconv.ParseInt(string(out[m[6]:m[7]]), 10, 64)
	p.size = size
	if rc := string(out[m[4]:m[5]]); err == nil && rc != "-" {
		p.code, err = strconv.Atoi(rc)
	}
	return p, err == nil
}

// ended makes what the job's end means of the last report.
func (j *Job) ended(ctx context.Context, c *Client, p report) (Result, error) {
	res := j.result(p.code, false)
	host := j.cfg.Name
	switch p.state {
	case "reboot":
		return res, &InterruptedError{Host: host, Cmd: j.label, ID: j.id, Output: j.out.end()}
	case "done":
	default:
		return res, &JobLostError{Host: host, Cmd: j.label, ID: j.id, Gone: p.state == "gone", Output: j.out.end()}
	}
	j.remove(ctx, c)
	if p.code != 0 {
		return res, &ExitError{Host: host, Cmd: j.label, Code: p.code, Took: res.Took, Output: j.out.end()}
	}
	return res, nil
}

// remove removes what is left of the job on the machine.
func (j *Job) remove(ctx context.Context, c *Client) {
	_, _ = c.Run(ctx, Cmd{Args: []string{"rm", "-rf", wire.JobDir(j.id)}, User: j.user})
}

// discard ends a job whose caller is gone, ctx having ended, and removes it.
func (j *Job) discard(ctx context.Context, c *Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
	defer cancel()
	if _, err := c.exec(ctx, wire.Kill, j.user, j.id); err != nil {
		return err
	}
	j.remove(ctx, c)
	return nil
}

func (j *Job) result(code int, cut bool) Result {
	out, lost := j.out.result()
	return Result{Stdout: out, Truncated: cut || lost, ExitCode: code, Took: time.Since(j.begun)}
}

// Kill ends the job's process group, with SIGTERM and, 2 s later, SIGKILL. A job that has ended
// is no error.
func (j *Job) Kill(ctx context.Context) error {
	defer j.use()()
	for {
		c, err := j.client(ctx, true)
		if err == nil {
			_, err = c.exec(ctx, wire.Kill, j.user, j.id)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() == nil && c != nil && lostConn(c, err):
			_ = sleep(ctx, pollMin)
		default:
			return fmt.Errorf("sshx: %s: kill job %s: %w", j.cfg.Name, j.id, j.cfg.redactErr(unhosted(j.cfg.Name, err)))
		}
	}
}

func (j *Job) fail(err error) error {
	return fmt.Errorf("sshx: %s: follow %s: %w", j.cfg.Name, j.label, j.cfg.redactErr(unhosted(j.cfg.Name, err)))
}

// use begins a call that may use the connection; the function it returns ends it.
func (j *Job) use() (done func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.users++
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		if j.users--; j.users == 0 && j.mine {
			j.c.Close()
		}
	}
}

// client returns a connection that lives.
func (j *Job) client(ctx context.Context, reconnect bool) (*Client, error) {
	if c := j.current(); c.Err() == nil {
		return c, nil
	} else if !reconnect {
		return nil, c.ended("follow")
	}
	select {
	case j.dialling <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-j.dialling }()
	if c := j.current(); c.Err() == nil {
		return c, nil // another call has connected
	}
	c, err := WaitReady(ctx, j.cfg, Ready{})
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.mine {
		j.c.Close()
	}
	j.c, j.mine = c, true
	return c, nil
}

func (j *Job) current() *Client {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.c
}

// lostConn reports whether err came of the end of c.
func lostConn(c *Client, err error) bool {
	_, lost := errors.AsType[*DisconnectedError](err)
	return lost || c.Err() != nil
}

// helper is what errors call the texts that ask about jobs.
const helper = "helper"

// exec runs one of the wire texts that announce nothing, and returns its stdout.
func (c *Client) exec(ctx context.Context, text, user string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := Cmd{User: user, Separate: true, Stdout: &out}
	r := &run{c: c, cmd: cmd, label: helper, call: c.call(text, cmd), pid: make(chan string, 1)}
	r.call.Args = args
	r.sinks("")
	r.out.raw()
	r.started.Store(true)
	s, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	r.begun = time.Now()
	_, err = r.on(ctx, s)
	r.out.live.mu.Lock() // later output is dropped
	defer r.out.live.mu.Unlock()
	if ee, ok := errors.AsType[*ExitError](err); ok && user != "" && out.Len() == 0 {
		return nil, &SudoError{Host: c.cfg.Name, User: user, Cmd: helper, Text: c.cfg.said(string(ee.Output))}
	}
	return bytes.Clone(out.Bytes()), err
}
