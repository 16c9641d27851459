package machine

import (
	"cmp"
	"fmt"
	"io"
	"maps"
)

// A Service is a program that a machine runs without a login, as systemd does.
type Service struct {
	Args    []string
	User    string
	Dir     string
	Env     map[string]string
	Output  io.Writer
	Resumed bool
}

// A RunningService is a Service that was started.
type RunningService struct {
	pid  int
	task *Task
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
	for _, p := range s.task.Boot.Processes() {
		if p.Task == s.task {
			p.Send(SIGTERM)
		}
	}
}

// Kill is Stop with SIGKILL.
func (s *RunningService) Kill() { s.task.Kill(SIGKILL) }

// Start starts a Service.
func (h *Host) Start(s Service) (*RunningService, error) {
	b := h.Booted()
	if b == nil {
		return nil, ErrHalted
	}
	name := cmp.Or(s.User, "root")
	u, ok := h.Disk.Accounts().User(name)
	if !ok {
		return nil, fmt.Errorf("sshtest: no user %q", name)
	}
	if len(s.Args) == 0 {
		return nil, fmt.Errorf("sshtest: a service without a program")
	}
	out := NewOutput()
	t := b.NewTask(out, out, nil)
	t.service = true
	p := t.Login(u)
	for _, k := range []string{"PWD", "MAIL"} {
		delete(p.Env, k)
	}
	maps.Copy(p.Env, s.Env)
	p.Args, p.Dir, p.Resumed = s.Args, cmp.Or(s.Dir, "/"), s.Resumed
	if i, err := h.Disk.As(u.Name, 0).Stat(p.Dir); err != nil || !i.IsDir() {
		t.Release()
		return nil, fmt.Errorf("sshtest: change to directory %s: not there", p.Dir)
	}
	r := &RunningService{task: t, done: make(chan struct{})}
	started := make(chan int, 1)
	p.started = func(pid int) { started <- pid }
	drained := make(chan struct{})
	ok = b.Hand(func() {
		defer close(drained)
		_, _ = io.Copy(orDiscard(s.Output), out)
	})
	ok = ok && b.Hand(func() {
		defer close(r.done)
		r.code = h.Execute(t.Ctx, p)
		select {
		case started <- 0:
		default:
		}
		t.Release()
		<-drained
	})
	if !ok {
		t.Release()
		return nil, ErrHalted
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

// Runnable reports whether a user's program of that name or path is on the machine and may be
// run.
func (h *Host) Runnable(user, program string) bool {
	p := &Proc{Host: h, User: user, Dir: "/", Env: map[string]string{"PATH": DefaultPath}}
	_, err := p.Which(program)
	return err == nil
}
