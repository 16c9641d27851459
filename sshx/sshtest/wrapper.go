package sshtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// wrapper runs sshx's own shell texts natively: they juggle processes, of which the interpreter has
// none. ok is false if text is not one of them. p.Args are $0 and what follows it. What each
// does is the contract in package wire; tests run the real texts beside it.
func (h *Host) wrapper(ctx context.Context, p *Proc, text string) (code int, ok bool) {
	switch text {
	case wire.Lead:
		return cmdShell(ctx, p.with(append([]string{"/bin/sh", "-c"}, p.Args...)...)), true
	case wire.Ready:
		fmt.Fprintln(p.Stderr, wire.ReadyLine)
		return cmdShell(ctx, p.with(append([]string{"/bin/sh", "-c"}, p.Args...)...)), true
	case wire.Run, wire.Exec:
		return h.wireRun(ctx, p, text == wire.Exec), true
	case wire.Stop:
		if len(p.Args) > 1 {
			pid, _ := strconv.Atoi(p.Args[1])
			_ = p.task.boot.killGroup(pid, sigTERM, p.User) // it may be gone
		}
		return 0, true
	case wire.Detach:
		return h.wireDetach(ctx, p), true
	case wire.Poll:
		return h.wirePoll(p), true
	case wire.Kill:
		return h.wireKill(p), true
	}
	return 0, false
}

// wireInput reads header, preamble and script.
func wireInput(in *bufio.Reader) (preamble string, script []byte, err error) {
	n, preamble, err := wire.ReadHeader(in)
	if err != nil {
		return "", nil, errors.New("input ended early")
	}
	script, err = wireScript(in, n)
	return preamble, script, err
}

func wireScript(in io.Reader, n int64) ([]byte, error) {
	script := make([]byte, n)
	if _, err := io.ReadFull(in, script); err != nil {
		return nil, errors.New("script ended early")
	}
	return script, nil
}

func wireFail(p *Proc, err error) int {
	fmt.Fprintf(p.Stderr, "sshx: %s\n", reason(err))
	return wire.Failed
}

// wireRun is Run, or with args Exec.
func (h *Host) wireRun(ctx context.Context, p *Proc, args bool) int {
	if len(p.Args) < 3 {
		return wireFail(p, errors.New("too few arguments"))
	}
	token, flags := p.Args[1], p.Args[2]
	in := bufio.NewReader(p.Stdin)
	preamble, words, script := "", p.Args[3:], []byte(nil)
	if !args {
		var err error
		if preamble, script, err = wireInput(in); err != nil {
			return wireFail(p, err)
		}
	}
	q := *p
	if strings.Contains(flags, "m") {
		q.Stderr = q.Stdout
	}
	text := preamble + "\n"
	if strings.Contains(flags, "s") {
		text += fmt.Sprintf("echo '%s%s %d' >&2\n", wire.Marker, wire.Answer(token), p.pid)
	}
	shell := ""
	if args {
		shell = " " + p.Env["SHELL"]
	}
	text += "echo " + wire.Quote(fmt.Sprintf("%s%s %d%s", wire.Marker, wire.Answer(token), p.pid, shell)) + "\n"
	if len(script) > 0 {
		file := path.Join(orDefault(p.Env["TMPDIR"], "/tmp"), "sshx."+token)
		if err := p.writeNew(file, script, 0o600); err != nil {
			return wireFail(p, err)
		}
		defer func() { _ = p.view().remove(p.Path(file)) }()
		text += `exec "$@" ` + wire.Quote(file) + "\n"
		q.death = &death{} // in a subshell, for which the text answers with its exit code
	} else {
		text += `exec "$@"` + "\n"
	}
	q.Stdin = noInput{}
	if strings.Contains(flags, "i") {
		q.Stdin = in
	} else {
		defer watchLiveness(p, in)()
	}
	return h.shell(ctx, &q, source{text: text, name: p.Args[0], params: words})
}

// watchLiveness kills the process group when in ends, or anything comes. The function it returns
// ends that.
func watchLiveness(p *Proc, in *bufio.Reader) (stop func()) {
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := in.ReadByte()
		select {
		case <-over:
		default:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				p.task.kill(sigTERM)
			}
		}
	}()
	return func() {
		close(over)
		if f, ok := p.Stdin.(*os.File); ok {
			_ = f.SetReadDeadline(time.Now())
			<-done
			_ = f.SetReadDeadline(time.Time{})
		}
	}
}

// writeNew writes a file that must not exist.
func (p *Proc) writeNew(name string, data []byte, mode os.FileMode) error {
	f, err := p.view().open(p.Path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

func (h *Host) wireDetach(_ context.Context, p *Proc) int {
	if len(p.Args) < 3 {
		return wireFail(p, errors.New("too few arguments"))
	}
	id, dir := p.Args[1], wire.JobDir(p.Args[1])
	if _, err := p.which("setsid"); err != nil {
		return wireFail(p, errors.New("setsid: not found"))
	}
	preamble, script, err := wireInput(bufio.NewReader(p.Stdin))
	if err != nil {
		return wireFail(p, err)
	}
	v := p.view()
	v.umask = 0o077
	if err := v.mkdir(dir, 0o777); err != nil {
		return wireFail(p, err)
	}
	if err := v.writeFile(dir+"/boot", []byte(h.BootID()+"\n"), 0o666); err != nil {
		return wireFail(p, err)
	}
	text := preamble + "\nexec \"$@\""
	if len(script) > 0 {
		if err := v.writeFile(dir+"/script", script, 0o666); err != nil {
			return wireFail(p, err)
		}
		text += " " + wire.Quote(dir+"/script")
	}
	log, err := v.open(dir+"/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return wireFail(p, err)
	}
	b := p.task.boot
	if !b.enter() {
		return wire.Failed
	}
	t := b.newTask(newOutput(), newOutput(), nil)
	t.keep(log)
	j := *p
	j.task = t
	j.Stdin, j.Stdout, j.Stderr = noInput{}, log, log
	j.pid = b.register(&process{args: []string{"/bin/sh"}, user: p.User, task: t, kill: t.cancel})
	ticks := max(1, time.Since(b.since).Milliseconds()/10)
	if err := v.writeFile(dir+"/pid", fmt.Appendf(nil, "%d %d\n", j.pid, ticks), 0o666); err != nil {
		b.unregister(j.pid)
		b.leave()
		return wireFail(p, err)
	}
	fmt.Fprintf(p.Stdout, "%s%s %s\n", wire.Marker, wire.Answer(id), dir)
	go func() {
		defer b.leave()
		defer b.unregister(j.pid)
		code := h.shell(t.ctx, &j, source{text: text, name: p.Args[0]})
		if cause := context.Cause(t.ctx); !errors.Is(cause, errHalted) && !errors.Is(cause, sigKILL) {
			_ = v.writeFile(dir+"/rc.tmp", fmt.Appendf(nil, "%d\n", code), 0o666)
			_ = v.rename(dir+"/rc.tmp", dir+"/rc")
		}
		t.release()
	}()
	return 0
}

// wireState is what Poll and Kill make of a job's directory.
func (h *Host) wireState(p *Proc, dir string) (state, rc string, pid int) {
	line := func(name string) string {
		data, _ := p.view().readFile(dir + "/" + name)
		s, _, _ := strings.Cut(string(data), "\n")
		return s
	}
	rc = "-"
	i, err := p.view().stat(dir)
	if err != nil || !i.IsDir() {
		return "gone", rc, 0
	}
	if o, ok := i.Sys().(*Owner); ok && o.User != p.User {
		return "gone", rc, 0
	}
	state = "new"
	if s := line("pid"); s != "" {
		first, _, _ := strings.Cut(s, " ")
		pid, _ = strconv.Atoi(first)
		state = "dead"
		if slices.ContainsFunc(p.task.boot.processes(), func(x *process) bool { return x.pid == pid }) {
			state = "run"
		}
	}
	if line("boot") != h.BootID() {
		state = "reboot"
	}
	if s := line("rc"); s != "" {
		state, rc = "done", s
	}
	return state, rc, pid
}

func (h *Host) wirePoll(p *Proc) int {
	if len(p.Args) < 4 {
		return wireFail(p, errors.New("too few arguments"))
	}
	dir := wire.JobDir(p.Args[1])
	offset, _ := strconv.Atoi(p.Args[2])
	most, _ := strconv.Atoi(p.Args[3])
	state, rc, _ := h.wireState(p, dir)
	log, _ := p.view().readFile(dir + "/log")
	fmt.Fprintf(p.Stdout, "%s %s %d\n", state, rc, len(log))
	if offset < len(log) {
		log = log[offset:]
		_, _ = p.Stdout.Write(log[:min(most, len(log))])
	}
	return 0
}

func (h *Host) wireKill(p *Proc) int {
	if len(p.Args) < 2 {
		return wireFail(p, errors.New("too few arguments"))
	}
	dir := wire.JobDir(p.Args[1])
	state, _, pid := h.wireState(p, dir)
	if state != "run" {
		return 0
	}
	_ = p.task.boot.killGroup(pid, sigTERM, p.User) // it may be gone
	for range 200 {                                 // the job writes its rc, as its shell survives TERM
		if state, _, _ := h.wireState(p, dir); state != "run" {
			break
		}
		if !sleep(p.task.ctx, 10*time.Millisecond) {
			break
		}
	}
	return 0
}

// killGroup sends a signal to the process group of pid, if user may.
func (b *boot) killGroup(pid int, sig *signal, user string) error {
	for _, x := range b.processes() {
		if x.pid == pid {
			if user != "root" && user != x.user {
				return syscall.EPERM
			}
			if x.task != nil {
				x.task.kill(sig)
			} else {
				x.kill(sig)
			}
			return nil
		}
	}
	return syscall.ESRCH
}
