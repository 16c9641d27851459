package sshtest

import (
	"cmp"
	"fmt"
	"io"
	"maps"
)

// A Service is a program that a machine runs though nobody is logged in, as systemd does.
type Service struct {
	// Args are the program, by its path or name, and its arguments.
	Args []string
	// User runs it; "" is root.
	User string
	// Dir is its working directory; "" is /.
	Dir string
	// Env is its environment besides HOME, USER, LOGNAME, SHELL and PATH.
	Env map[string]string
	// Output gets what it prints, stdout and stderr merged; nil discards it. It must not block.
	Output io.Writer
	// Resumed tells the program that it goes on, as Proc.Resumed.
	Resumed bool
}

// A RunningService is a Service that was started.
type RunningService struct {
	pid  int
	task *task
	done chan struct{}
	code int
}

// PID is its process ID.
func (s *RunningService) PID() int { return s.pid }

// Done is closed when the program and all that it started have ended, and their output has been
// written.
func (s *RunningService) Done() <-chan struct{} { return s.done }

// Code is the program's exit code, once Done is closed: 128+N if signal N ended it.
func (s *RunningService) Code() int { return s.code }

// Stop sends SIGTERM to the program and all that it started. It does not wait.
func (s *RunningService) Stop() {
	for _, p := range s.task.boot.processes() {
		if p.task == s.task {
			p.send(sigTERM)
		}
	}
}

// Kill is Stop with SIGKILL.
func (s *RunningService) Kill() { s.task.kill(sigKILL) }

// Start starts a Service. It ends by itself, by Stop or Kill, or when the machine halts. Freeze does
// not mind it, but the memory of a program cannot be kept: whoever resumes the machine starts its
// services again, with Resumed set.
func (h *Host) Start(s Service) (*RunningService, error) {
	b := h.booted()
	if b == nil {
		return nil, errHalted
	}
	name := cmp.Or(s.User, "root")
	u, ok := h.disk.accounts().user(name)
	if !ok {
		return nil, fmt.Errorf("sshtest: no user %q", name)
	}
	if len(s.Args) == 0 {
		return nil, fmt.Errorf("sshtest: a service without a program")
	}
	out := newOutput()
	t := b.newTask(out, out, nil)
	t.service = true
	p := t.login(u)
	for _, k := range []string{"PWD", "MAIL"} {
		delete(p.Env, k)
	}
	maps.Copy(p.Env, s.Env)
	p.Args, p.Dir, p.Resumed = s.Args, cmp.Or(s.Dir, "/"), s.Resumed
	if i, err := h.disk.as(u.name, 0).stat(p.Dir); err != nil || !i.IsDir() {
		t.release()
		return nil, fmt.Errorf("sshtest: change to directory %s: not there", p.Dir)
	}
	r := &RunningService{task: t, done: make(chan struct{})}
	started := make(chan int, 1)
	p.started = func(pid int) { started <- pid }
	drained := make(chan struct{})
	ok = b.hand(func() {
		defer close(drained)
		_, _ = io.Copy(orDiscard(s.Output), out)
	})
	ok = ok && b.hand(func() {
		defer close(r.done)
		r.code = h.execute(t.ctx, p)
		select {
		case started <- 0:
		default:
		}
		t.release()
		<-drained
	})
	if !ok {
		t.release()
		return nil, errHalted
	}
	r.pid = <-started
	return r, nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// Runnable reports whether a user's program of that name or path is on the machine and may be run.
func (h *Host) Runnable(user, program string) bool {
	p := &Proc{Host: h, User: user, Dir: "/", Env: map[string]string{"PATH": defaultPath}}
	_, err := p.which(program)
	return err == nil
}
