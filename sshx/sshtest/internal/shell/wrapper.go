package shell

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// wrapper runs sshx's own shell texts natively: they juggle processes, of which the interpreter has
// none. ok is false if text is not one of them. p.Args are $0 and what follows it. What each
// does is the contract in package wire; tests run the real texts beside it.
func wrapper(ctx context.Context, p *machine.Proc, text string) (code int, ok bool) {
	switch text {
	case wire.Lead:
		return CmdShell(ctx, p.With(append([]string{"/bin/sh", "-c"}, p.Args...)...)), true
	case wire.Ready:
		fmt.Fprintln(p.Stderr, wire.ReadyLine)
		return CmdShell(ctx, p.With(append([]string{"/bin/sh", "-c"}, p.Args...)...)), true
	case wire.Run, wire.Exec:
		return wireRun(ctx, p, text == wire.Exec), true
	case wire.Guard:
		return wire.Failed, true // as where there is no /proc: commands are watched one by one
	case wire.Stop:
		if len(p.Args) > 1 {
			pid, _ := strconv.Atoi(p.Args[1])
			_ = p.Task.Boot.KillGroup(pid, machine.SIGTERM, p.User) // it may be gone
		}
		return 0, true
	case wire.Detach:
		return wireDetach(ctx, p), true
	case wire.Poll:
		return wirePoll(p), true
	case wire.Kill:
		return wireKill(p), true
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

func wireFail(p *machine.Proc, err error) int {
	fmt.Fprintf(p.Stderr, "sshx: %s\n", disk.Reason(err))
	return wire.Failed
}

// wireRun is Run, or with args Exec.
func wireRun(ctx context.Context, p *machine.Proc, args bool) int {
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
		text += fmt.Sprintf("echo '%s%s %d' >&2\n", wire.Marker, wire.Answer(token), p.PID)
	}
	shell := ""
	if args {
		shell = " " + p.Env["SHELL"]
	}
	text += "echo " + wire.Quote(fmt.Sprintf("%s%s %d%s", wire.Marker, wire.Answer(token), p.PID, shell)) + "\n"
	if len(script) > 0 {
		file := path.Join(cmp.Or(p.Env["TMPDIR"], "/tmp"), "sshx."+token)
		if err := p.WriteNew(file, script, 0o600); err != nil {
			return wireFail(p, err)
		}
		defer func() { _ = p.View().Remove(p.Path(file)) }()
		text += `exec "$@" ` + wire.Quote(file) + "\n"
		q.Death = &machine.Death{} // in a subshell, for which the text answers with its exit code
	} else {
		text += `exec "$@"` + "\n"
	}
	q.Stdin = machine.NoInput{}
	if strings.Contains(flags, "i") {
		q.Stdin = in
	} else {
		defer watchLiveness(p, in)()
	}
	return runSource(ctx, &q, source{text: text, name: p.Args[0], params: words})
}

// watchLiveness kills the process group when in ends, or anything comes. The function it returns
// ends that.
func watchLiveness(p *machine.Proc, in *bufio.Reader) (stop func()) {
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := in.ReadByte()
		select {
		case <-over:
		default:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				p.Task.Kill(machine.SIGTERM)
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

func wireDetach(_ context.Context, p *machine.Proc) int {
	if len(p.Args) < 3 {
		return wireFail(p, errors.New("too few arguments"))
	}
	id, dir := p.Args[1], wire.JobDir(p.Args[1])
	if _, err := p.Which("setsid"); err != nil {
		return wireFail(p, errors.New("setsid: not found"))
	}
	preamble, script, err := wireInput(bufio.NewReader(p.Stdin))
	if err != nil {
		return wireFail(p, err)
	}
	v := p.View()
	v.Umask = 0o077
	if err := v.Mkdir(dir, 0o777); err != nil {
		return wireFail(p, err)
	}
	if err := v.WriteFile(dir+"/boot", []byte(p.Host.BootID()+"\n"), 0o666); err != nil {
		return wireFail(p, err)
	}
	text := preamble + "\nexec \"$@\""
	if len(script) > 0 {
		if err := v.WriteFile(dir+"/script", script, 0o666); err != nil {
			return wireFail(p, err)
		}
		text += " " + wire.Quote(dir+"/script")
	}
	log, err := v.Open(dir+"/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return wireFail(p, err)
	}
	b := p.Task.Boot
	if !b.Enter() {
		return wire.Failed
	}
	t := b.NewTask(machine.NewOutput(), machine.NewOutput(), nil)
	t.Keep(log)
	j := *p
	j.Task = t
	j.Stdin, j.Stdout, j.Stderr = machine.NoInput{}, log, log
	j.PID = b.Register(&machine.Process{Args: []string{"/bin/sh"}, User: p.User, Task: t, Kill: t.Cancel})
	ticks := max(1, time.Since(b.Since).Milliseconds()/10)
	if err := v.WriteFile(dir+"/pid", fmt.Appendf(nil, "%d %d\n", j.PID, ticks), 0o666); err != nil {
		b.Unregister(j.PID)
		b.Leave()
		return wireFail(p, err)
	}
	fmt.Fprintf(p.Stdout, "%s%s %s\n", wire.Marker, wire.Answer(id), dir)
	go func() {
		defer b.Leave()
		defer b.Unregister(j.PID)
		code := runSource(t.Ctx, &j, source{text: text, name: p.Args[0]})
		if cause := context.Cause(t.Ctx); !errors.Is(cause, machine.ErrHalted) && !errors.Is(cause, machine.SIGKILL) {
			_ = v.WriteFile(dir+"/rc.tmp", fmt.Appendf(nil, "%d\n", code), 0o666)
			_ = v.Rename(dir+"/rc.tmp", dir+"/rc")
		}
		t.Release()
	}()
	return 0
}

// wireState is what Poll and Kill make of a job's directory.
func wireState(p *machine.Proc, dir string) (state, rc string, pid int) {
	line := func(name string) string {
		data, _ := p.View().ReadFile(dir + "/" + name)
		s, _, _ := strings.Cut(string(data), "\n")
		return s
	}
	rc = "-"
	i, err := p.View().Stat(dir)
	if err != nil || !i.IsDir() {
		return "gone", rc, 0
	}
	if o, ok := i.Sys().(*disk.Owner); ok && o.User != p.User {
		return "gone", rc, 0
	}
	state = "new"
	if s := line("pid"); s != "" {
		first, _, _ := strings.Cut(s, " ")
		pid, _ = strconv.Atoi(first)
		state = "dead"
		if slices.ContainsFunc(p.Task.Boot.Processes(), func(x *machine.Process) bool { return x.PID == pid }) {
			state = "run"
		}
	}
	if line("boot") != p.Host.BootID() {
		state = "reboot"
	}
	if s := line("rc"); s != "" {
		state, rc = "done", s
	}
	return state, rc, pid
}

func wirePoll(p *machine.Proc) int {
	if len(p.Args) < 4 {
		return wireFail(p, errors.New("too few arguments"))
	}
	dir := wire.JobDir(p.Args[1])
	offset, _ := strconv.Atoi(p.Args[2])
	most, _ := strconv.Atoi(p.Args[3])
	state, rc, _ := wireState(p, dir)
	log, _ := p.View().ReadFile(dir + "/log")
	fmt.Fprintf(p.Stdout, "%s %s %d\n", state, rc, len(log))
	if offset < len(log) {
		log = log[offset:]
		_, _ = p.Stdout.Write(log[:min(most, len(log))])
	}
	return 0
}

func wireKill(p *machine.Proc) int {
	if len(p.Args) < 2 {
		return wireFail(p, errors.New("too few arguments"))
	}
	dir := wire.JobDir(p.Args[1])
	state, _, pid := wireState(p, dir)
	if state != "run" {
		return 0
	}
	_ = p.Task.Boot.KillGroup(pid, machine.SIGTERM, p.User) // it may be gone
	for range 200 {                                         // the job writes its rc, as its shell survives TERM
		if state, _, _ := wireState(p, dir); state != "run" {
			break
		}
		if !machine.Sleep(p.Task.Ctx, 10*time.Millisecond) {
			break
		}
	}
	return 0
}
