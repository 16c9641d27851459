package sshtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"mvdan.cc/sh/v3/syntax"
)

// A signal ends a process. It is the cause of its context.
type signal struct {
	name string
	no   int
}

func (s *signal) Error() string { return "killed by SIG" + s.name }

var (
	sigHUP  = &signal{"HUP", 1}
	sigINT  = &signal{"INT", 2}
	sigQUIT = &signal{"QUIT", 3}
	sigABRT = &signal{"ABRT", 6}
	sigKILL = &signal{"KILL", 9}
	sigUSR1 = &signal{"USR1", 10}
	sigUSR2 = &signal{"USR2", 12}
	sigPIPE = &signal{"PIPE", 13}
	sigALRM = &signal{"ALRM", 14}
	sigTERM = &signal{"TERM", 15}
	signals = []*signal{sigHUP, sigINT, sigQUIT, sigABRT, sigKILL, sigUSR1, sigUSR2, sigPIPE, sigALRM, sigTERM}
)

// exitCode is what a shell calls a process that the signal ended.
func (s *signal) exitCode() int { return 128 + s.no }

// exitKilled is the exit code of what ended with ctx.
func exitKilled(ctx context.Context) int {
	if s, ok := errors.AsType[*signal](context.Cause(ctx)); ok {
		return s.exitCode()
	}
	return sigKILL.exitCode()
}

// A process is an entry of the process table.
type process struct {
	pid  int
	args []string
	user string
	kill context.CancelCauseFunc
	task *task // its process group
	sigs *traps
}

// send delivers a signal: to a trap, or it ends the process.
func (p *process) send(s *signal) {
	if p.sigs == nil || !p.sigs.take(s) {
		p.kill(s)
	}
}

// traps are what a shell does on signals.
type traps struct {
	mu      sync.Mutex
	texts   map[*signal]string // "" ignores the signal
	pending []string
}

// set sets, or with reset takes back, the trap on a signal.
func (t *traps) set(s *signal, text string, reset bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reset {
		delete(t.texts, s)
		return
	}
	if t.texts == nil {
		t.texts = map[*signal]string{}
	}
	t.texts[s] = text
}

func (t *traps) take(s *signal) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, ok := t.texts[s]
	if !ok || s == sigKILL {
		return false
	}
	if text != "" {
		t.pending = append(t.pending, text)
	}
	return true
}

// next returns what a signal that has come is to run, or "".
func (t *traps) next() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pending) == 0 {
		return ""
	}
	text := t.pending[0]
	t.pending = t.pending[1:]
	return text
}

func (b *boot) register(p *process) int {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	b.lastPID++
	p.pid = b.lastPID
	b.pids[p.pid] = p
	return p.pid
}

func (b *boot) unregister(pid int) {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	delete(b.pids, pid)
	b.h.cond.Broadcast()
}

// processes returns the process table, by pid.
func (b *boot) processes() []*process {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.pids), func(x, y *process) int { return cmp.Compare(x.pid, y.pid) })
}

// A task is what one session, or one call of Host.Run, set going: a process group with its output.
type task struct {
	boot     *boot
	ctx      context.Context // ends when the group is killed
	cancel   context.CancelCauseFunc
	out, err *output
	quiet    func()
	terminal bool // it has one
	service  bool // it was started by Host.Start

	mu       sync.Mutex
	keyboard *os.File     // what the terminal's input is read from
	holds    int          // processes that may still write to out and err
	live     int          // processes
	forks    int          // jobs so far
	jobs     map[int]*job // background jobs, by pid
	files    []io.Closer  // closed at the end, if they still are open
	over     bool         // that end has come
}

// A job is "command &".
type job struct {
	pid    int
	ctx    context.Context
	cancel context.CancelCauseFunc
	holds  bool   // the task's output
	name   string // what the interpreter calls it: "g1"
	once   sync.Once
}

// newTask returns a task with one process, the first, which must call release when it ends. Its
// output is its own, and ends when nobody holds it any more; with quiet it is somebody else's, and
// quiet is called then.
func (b *boot) newTask(out, err *output, quiet func()) *task {
	t := &task{boot: b, out: out, err: err, quiet: quiet, holds: 1, live: 1, jobs: map[int]*job{}}
	t.ctx, t.cancel = context.WithCancelCause(b.ctx)
	context.AfterFunc(t.ctx, func() {
		if quiet == nil {
			t.out.breakOff()
			t.err.breakOff()
		}
		t.closeFiles()
	})
	return t
}

// kill sends a signal to all of the group. It never hurts to do it again.
func (t *task) kill(s *signal) { t.cancel(s) }

// release says that the first process has ended.
func (t *task) release() { t.gone(true) }

// gone says that a process has ended. The output ends with the last that holds it, and the task
// with the last.
func (t *task) gone(holds bool) {
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
		t.out.finish()
		t.err.finish()
	}
	if last {
		t.cancel(nil)
	}
}

func (t *task) closeFiles() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.files {
		_ = f.Close()
	}
	t.files, t.over = nil, true
}

// keep has f closed at the end of the task at the latest.
func (t *task) keep(f io.Closer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		_ = f.Close()
		return
	}
	t.files = append(t.files, f)
}

// fork makes a job of a shell that runs under ctx: with the shell, should that be killed, it ends.
// holds says that it has the task's output as its own.
func (t *task) fork(ctx context.Context, holds bool, args []string, user string) *job {
	j := &job{holds: holds}
	j.ctx, j.cancel = context.WithCancelCause(t.ctx)
	j.pid = t.boot.register(&process{args: args, user: user, kill: j.cancel, task: t})
	context.AfterFunc(j.ctx, func() { t.boot.unregister(j.pid) })
	t.mu.Lock()
	t.jobs[j.pid] = j
	t.forks++
	t.live++
	if holds {
		t.holds++
	}
	t.mu.Unlock()
	context.AfterFunc(ctx, func() { t.ended(j) })
	return j
}

// child returns a context for a process. done, called at its end, frees what belongs to it, unless
// it has left jobs behind: those live on under the same context.
func (t *task) child(parent context.Context) (ctx context.Context, cancel context.CancelCauseFunc, done func()) {
	before := t.forked()
	ctx, cancel = context.WithCancelCause(parent)
	return ctx, cancel, func() {
		if t.forked() == before {
			cancel(nil)
		}
	}
}

func (t *task) forked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.forks
}

func (t *task) job(pid int) *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.jobs[pid]
}

// nameJob and jobName keep what the interpreter calls a job, for wait.
func (t *task) nameJob(pid int, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j := t.jobs[pid]; j != nil {
		j.name = name
	}
}

func (t *task) jobName(pid int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if j := t.jobs[pid]; j != nil {
		return j.name
	}
	return ""
}

// ended is called by a job when it is done.
func (t *task) ended(j *job) {
	j.once.Do(func() {
		t.boot.unregister(j.pid)
		j.cancel(nil)
		t.gone(j.holds)
	})
}

// login returns a process of the task as login sets it up for a user.
func (t *task) login(u account) *Proc {
	home := cmp.Or(u.home, "/")
	dir := home
	if i, err := t.boot.h.disk.as(u.name, 0).stat(home); err != nil || !i.IsDir() {
		dir = "/"
	}
	p := &Proc{
		Host: t.boot.h, task: t, User: u.name, Dir: dir, umask: 0o022,
		Stdin: noInput{}, Stdout: t.out, Stderr: t.err,
		Env: map[string]string{
			"HOME": home, "USER": u.name, "LOGNAME": u.name, "SHELL": cmp.Or(u.shell, "/bin/sh"), "PATH": defaultPath, "PWD": dir,
			"MAIL": "/var/spool/mail/" + u.name,
		},
	}
	environment, _ := p.Host.disk.ReadFile("/etc/environment") // pam_env
	for line := range strings.Lines(string(environment)) {
		k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok && syntax.ValidName(k) {
			p.Env[k] = strings.Trim(v, `"'`)
		}
	}
	return p
}

// reader returns an *os.File, as the interpreter wants its input, that gives what r does. Whoever
// asked closes it; the task does so at its end.
func (t *task) reader(r io.Reader) (*os.File, error) {
	if f, ok := r.(*os.File); ok {
		return f, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t.keep(pr)
	if _, ok := r.(noInput); ok {
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
	if !t.boot.hand(copyAll) {
		_ = pr.Close()
		_ = pw.Close()
		return nil, errHalted
	}
	return pr, nil
}

// noInput is stdin at /dev/null.
type noInput struct{}

func (noInput) Read([]byte) (int, error) { return 0, io.EOF }

// An output is the pipe between a task and whoever reads what it prints.
type output struct {
	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte
	done    bool // nobody writes any more
	broken  bool // nobody reads any more, or the writers were killed
	onEPIPE func()
}

const pipeSize = 64 << 10

func newOutput() *output {
	o := &output{}
	o.cond.L = &o.mu
	return o
}

// Write blocks while the pipe is full. It fails once nobody reads.
func (o *output) Write(b []byte) (int, error) { return o.write(b, true) }

func (o *output) write(b []byte, kills bool) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for len(b) > 0 {
		for len(o.buf) >= pipeSize && !o.broken && !o.done {
			o.cond.Wait()
		}
		if o.broken || o.done {
			if o.onEPIPE != nil && kills {
				o.onEPIPE() // at once: what follows the write is never run
				o.onEPIPE = nil
			}
			return n, fmt.Errorf("write: %w", syscall.EPIPE)
		}
		k := min(len(b), pipeSize-len(o.buf))
		o.buf = append(o.buf, b[:k]...)
		b = b[k:]
		n += k
		o.cond.Broadcast()
	}
	return n, nil
}

// A survivor is an output for a process that dies alone when nobody reads.
type survivor struct{ o *output }

func (s survivor) Write(b []byte) (int, error) { return s.o.write(b, false) }

// Read blocks until there is something, or nobody writes any more.
func (o *output) Read(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) == 0 && !o.done && !o.broken {
		o.cond.Wait()
	}
	if len(o.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, o.buf)
	o.buf = o.buf[:copy(o.buf, o.buf[n:])]
	o.cond.Broadcast()
	return n, nil
}

func (o *output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = true
	o.cond.Broadcast()
}

// breakOff makes writers fail; what was written before can still be read.
func (o *output) breakOff() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken = true
	o.cond.Broadcast()
}
