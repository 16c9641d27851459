package machine

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// A Signal ends a process. It is the cause of its context.
type Signal struct {
	Name   string
	Number int
}

func (s *Signal) Error() string { return "killed by SIG" + s.Name }

// The signals.
var (
	SIGHUP  = &Signal{"HUP", 1}
	sigINT  = &Signal{"INT", 2}
	sigQUIT = &Signal{"QUIT", 3}
	sigABRT = &Signal{"ABRT", 6}
	SIGKILL = &Signal{"KILL", 9}
	sigUSR1 = &Signal{"USR1", 10}
	sigUSR2 = &Signal{"USR2", 12}
	SIGPIPE = &Signal{"PIPE", 13}
	sigALRM = &Signal{"ALRM", 14}
	SIGTERM = &Signal{"TERM", 15}
	Signals = []*Signal{SIGHUP, sigINT, sigQUIT, sigABRT, SIGKILL, sigUSR1, sigUSR2, SIGPIPE, sigALRM, SIGTERM}
)

// ExitCode is what a shell calls a process that the signal ended.
func (s *Signal) ExitCode() int { return 128 + s.Number }

// ExitKilled is the exit code of what ended with ctx.
func ExitKilled(ctx context.Context) int {
	if s, ok := errors.AsType[*Signal](context.Cause(ctx)); ok {
		return s.ExitCode()
	}
	return SIGKILL.ExitCode()
}

// A Process is an entry of the process table.
type Process struct {
	PID   int
	PPID  int       // 1 if it has none here
	Began time.Time // by the machine's clock
	Job   bool      // "command &": a shell, which really would be the command
	// Replaced is set once the process has called exec: what it called has an entry of its own here.
	Replaced bool
	Args     []string
	User     string
	Kill     context.CancelCauseFunc
	Task     *Task // its process group
	sigs     *Traps
}

// Send delivers a signal: to a trap, or it ends the process.
func (p *Process) Send(s *Signal) {
	if p.sigs == nil || !p.sigs.take(s) {
		p.Kill(s)
	}
}

// Traps are what a shell does on signals.
type Traps struct {
	mu      sync.Mutex
	texts   map[*Signal]string // "" ignores the signal
	pending []string
}

// Set sets, or with reset takes back, the trap on a signal.
func (t *Traps) Set(s *Signal, text string, reset bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reset {
		delete(t.texts, s)
		return
	}
	if t.texts == nil {
		t.texts = map[*Signal]string{}
	}
	t.texts[s] = text
}

func (t *Traps) take(s *Signal) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, ok := t.texts[s]
	if !ok || s == SIGKILL {
		return false
	}
	if text != "" {
		t.pending = append(t.pending, text)
	}
	return true
}

// Next returns what a signal that has come is to run, or "".
func (t *Traps) Next() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return ""
	}
	text := t.pending[0]
	t.pending = t.pending[1:]
	return text
}

// Register adds a process to the table, and returns its number.
func (b *Boot) Register(p *Process) int {
	p.Began = b.Host.Clock()
	p.PPID = cmp.Or(p.PPID, 1)
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	b.lastPID++
	p.PID = b.lastPID
	b.pids[p.PID] = p
	return p.PID
}

// Replace notes that a process has called exec, or, as that was in a subshell, not.
func (b *Boot) Replace(pid int, replaced bool) {
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	if p := b.pids[pid]; p != nil {
		p.Replaced = replaced
	}
}

// Unregister removes a process from the table.
func (b *Boot) Unregister(pid int) {
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	delete(b.pids, pid)
	b.Host.cond.Broadcast()
}

// Processes returns the process table, by pid.
func (b *Boot) Processes() []*Process {
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.pids), func(x, y *Process) int { return cmp.Compare(x.PID, y.PID) })
}

// Programs returns the processes that a machine on which exec replaces them would show.
func (b *Boot) Programs() []*Process {
	all := b.Processes()
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	return slices.DeleteFunc(all, func(p *Process) bool { return p.Replaced })
}

// A Task is what one session, or one call of Host.Run, set going: a process group with its output.
type Task struct {
	Boot     *Boot
	Ctx      context.Context // ends when the group is killed
	Cancel   context.CancelCauseFunc
	Out, Err *Output
	quiet    func()
	Terminal bool // it has one
	service  bool // it was started by Host.Start

	mu       sync.Mutex
	keyboard *os.File     // what the terminal's input is read from
	holds    int          // processes that may still write to out and err
	live     int          // processes
	forks    int          // jobs so far
	jobs     map[int]*Job // background jobs, by pid
	files    []io.Closer  // closed at the end, if they still are open
	over     bool         // that end has come
}

// A Job is "command &".
type Job struct {
	PID    int
	Ctx    context.Context
	cancel context.CancelCauseFunc
	holds  bool   // the task's output
	name   string // what the interpreter calls it: "g1"
	once   sync.Once
}

// NewTask returns a task with one process, the first, which must call release when it ends. Its
// output is its own, and ends when nothing holds it open; with quiet it is another's, and
// quiet is called then.
func (b *Boot) NewTask(out, err *Output, quiet func()) *Task {
	t := &Task{Boot: b, Out: out, Err: err, quiet: quiet, holds: 1, live: 1, jobs: map[int]*Job{}}
	t.Ctx, t.Cancel = context.WithCancelCause(b.Ctx)
	context.AfterFunc(t.Ctx, func() {
		if quiet == nil {
			t.Out.BreakOff()
			t.Err.BreakOff()
		}
		t.closeFiles()
	})
	return t
}

// Kill sends a signal to all of the group. It never hurts to do it again.
func (t *Task) Kill(s *Signal) { t.Cancel(s) }

// Release says that the first process has ended.
func (t *Task) Release() { t.gone(true) }

// gone says that a process has ended. The output ends with the last that holds it, and the task
// with the last.
func (t *Task) gone(holds bool) {
	t.mu.Lock()
	t.live--
	if holds {
		t.holds--
	}
	quiet, last := holds && t.holds == 0, t.live == 0
	t.mu.Unlock()
	switch {
	case quiet && t.quiet != nil:
		t.quiet()
	case quiet:
		t.Out.finish()
		t.Err.finish()
	}
	if last {
		t.Cancel(nil)
	}
}

func (t *Task) closeFiles() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.files {
		_ = f.Close()
	}
	t.files, t.over = nil, true
}

// Keep has f closed at the end of the task at the latest.
func (t *Task) Keep(f io.Closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		_ = f.Close()
		return
	}
	t.files = append(t.files, f)
}

// Fork makes a job of p, a shell that runs under ctx: with the shell, should that be killed, it ends.
// holds says that it has the task's output as its own.
func (t *Task) Fork(ctx context.Context, p *Proc, args []string, holds bool) *Job {
	j := &Job{holds: holds}
	j.Ctx, j.cancel = context.WithCancelCause(t.Ctx)
	j.PID = t.Boot.Register(&Process{Job: true, PPID: p.PID, Args: args, User: p.User, Kill: j.cancel, Task: t})
	context.AfterFunc(j.Ctx, func() { t.Boot.Unregister(j.PID) })
	t.mu.Lock()
	t.jobs[j.PID] = j
	t.forks++
	t.live++
	if holds {
		t.holds++
	}
	t.mu.Unlock()
	context.AfterFunc(ctx, func() { t.Ended(j) })
	return j
}

// Child returns a context for a process. done, called at its end, frees what belongs to it, unless
// it has left jobs behind: those live on under the same context.
func (t *Task) Child(parent context.Context) (ctx context.Context, cancel context.CancelCauseFunc, done func()) {
	before := t.forked()
	ctx, cancel = context.WithCancelCause(parent)
	return ctx, cancel, func() {
		if t.forked() == before {
			cancel(nil)
		}
	}
}

func (t *Task) forked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forks
}

// Job returns the background job of that number, or nil.
func (t *Task) Job(pid int) *Job {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.jobs[pid]
}

// NameJob and jobName keep what the interpreter calls a job, for wait.
func (t *Task) NameJob(pid int, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j := t.jobs[pid]; j != nil {
		j.name = name
	}
}

// JobName returns what NameJob said, or "".
func (t *Task) JobName(pid int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j := t.jobs[pid]; j != nil {
		return j.name
	}
	return ""
}

// Ended is called by a job when it is done.
func (t *Task) Ended(j *Job) {
	j.once.Do(func() {
		t.Boot.Unregister(j.PID)
		j.cancel(nil)
		t.gone(j.holds)
	})
}

// Login returns a process of the task as login sets it up for a user.
func (t *Task) Login(u disk.Account) *Proc {
	home := cmp.Or(u.Home, "/")
	dir := home
	if i, err := t.Boot.Host.Disk.As(u.Name, 0).Stat(home); err != nil || !i.IsDir() {
		dir = "/"
	}
	p := &Proc{
		Host: t.Boot.Host, Task: t, User: u.Name, Dir: dir, Umask: 0o022,
		Stdin: NoInput{}, Stdout: t.Out, Stderr: t.Err,
		Env: map[string]string{
			"HOME": home, "USER": u.Name, "LOGNAME": u.Name, "SHELL": cmp.Or(u.Shell, "/bin/sh"), "PATH": DefaultPath, "PWD": dir,
			"MAIL": "/var/spool/mail/" + u.Name,
		},
	}
	environment, _ := p.Host.Disk.ReadFile("/etc/environment") // pam_env
	for line := range strings.Lines(string(environment)) {
		k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok && syntax.ValidName(k) {
			p.Env[k] = strings.Trim(v, `"'`)
		}
	}
	return p
}

// Reader returns an *os.File, as the interpreter wants its input, that gives what r does. The
// caller closes it; the task does so at its end.
func (t *Task) Reader(r io.Reader) (*os.File, error) {
	if f, ok := r.(*os.File); ok {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t.Keep(pr)
	if _, ok := r.(NoInput); ok {
		_ = pw.Close()
		return pr, nil
	}
	copyAll := func() {
		_, _ = io.Copy(pw, r)
		_ = pw.Close()
		if c, ok := r.(io.Closer); ok {
			_ = c.Close()
		}
	}
	if !t.Boot.Hand(copyAll) {
		_ = pr.Close()
		_ = pw.Close()
		return nil, ErrHalted
	}
	return pr, nil
}

// NoInput is stdin at /dev/null.
type NoInput struct{}

func (NoInput) Read([]byte) (int, error) { return 0, io.EOF }

// IsOutput reports whether w is the task's own output.
func (t *Task) IsOutput(w io.Writer) bool {
	o, ok := w.(*Output)
	return ok && (o == t.Out || o == t.Err)
}

// KillGroup sends a signal to the process group of pid, if user may.
func (b *Boot) KillGroup(pid int, sig *Signal, user string) error {
	for _, x := range b.Processes() {
		if x.PID == pid {
			if user != "root" && user != x.User {
				return syscall.EPERM
			}
			if x.Task != nil {
				x.Task.Kill(sig)
			} else {
				x.Kill(sig)
			}
			return nil
		}
	}
	return syscall.ESRCH
}

// Sleep waits, and reports whether ctx did not end before.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Thaw returns when the machine is not frozen, or its power is cut.
func (b *Boot) Thaw() {
	b.Host.mu.Lock()
	defer b.Host.mu.Unlock()
	for b.Host.faults.Frozen && b.Host.up == b {
		b.Host.cond.Wait()
	}
}

// SignalNamed returns the signal of that name or number, or nil.
func SignalNamed(s string) *Signal {
	s = strings.TrimPrefix(strings.ToUpper(s), "SIG")
	n, _ := strconv.Atoi(s)
	for _, x := range Signals {
		if x.Name == s || x.Number == n {
			return x
		}
	}
	return nil
}

// SetKeyboard says what the terminal's input is read from.
func (t *Task) SetKeyboard(f *os.File) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keyboard = f
}

// IsKeyboard reports whether an input is the task's terminal.
func (t *Task) IsKeyboard(in io.Reader) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Terminal && in == t.keyboard
}
