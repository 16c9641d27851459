package sshtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A Command is a program of a simulated machine. It returns its exit code. It must end when ctx
// does.
type Command func(ctx context.Context, p *Proc) int

// A Proc is one running command.
type Proc struct {
	Args           []string // Args[0] is the name
	Env            map[string]string
	Dir            string // working directory
	User           string // effective user: "root" after sudo
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Host           *Host
	// Resumed reports that the program goes on in a machine that was resumed: a real one would have
	// its memory. Its Command is called anew, with what it left in /run and on the disk.
	Resumed bool

	life    context.Context // of the process
	started func(pid int)   // is told when there is one

	task  *task
	umask uint32
	pid   int
	ppid  int
	death *death // of the process, which several Procs may be
	sigs  *traps // and its traps
}

// A death is what ended a process, if a signal did.
type death struct{ by atomic.Pointer[signal] }

// Run runs another program of the machine with the Proc's user, directory, environment and streams.
// A name without "/" is looked up as a shell does; 127 means that there is none.
func (p *Proc) Run(ctx context.Context, args ...string) int {
	return p.Host.execute(ctx, p.with(args...))
}

// with is p with other arguments.
func (p *Proc) with(args ...string) *Proc {
	c := *p
	c.Args = args
	c.Env = maps.Clone(p.Env)
	return &c
}

// Path makes a path absolute, from the Proc's working directory. A slash at its end stays.
func (p *Proc) Path(name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	if strings.HasSuffix(name, "/") {
		return path.Join(p.Dir, name) + "/"
	}
	return path.Join(p.Dir, name)
}

// Fail prints "name: message" to Stderr and returns code.
func (p *Proc) Fail(code int, format string, args ...any) int {
	fmt.Fprintf(p.Stderr, "%s: %s\n", path.Base(p.Args[0]), fmt.Sprintf(format, args...))
	return code
}

// NotSimulated refuses an argument that the command's simulation does not know: it prints so to
// Stderr, reports it to Host.OnNotSimulated, and returns 64. A simulated command refuses everything
// that it does not understand: it never ignores it.
func (p *Proc) NotSimulated(arg string) int { return p.refuse(path.Base(p.Args[0]), arg) }

func (p *Proc) refuse(command, what string) int {
	r := &Refusal{Command: command, What: what}
	fmt.Fprintln(p.Stderr, r)
	p.Host.refused(r, p.User)
	return exitNotSimulated
}

const exitNotSimulated = 64

// ReadFile reads a file with the rights of the Proc's user; name may be relative to Dir.
func (p *Proc) ReadFile(name string) ([]byte, error) { return p.view().readFile(p.Path(name)) }

// WriteFile writes a file with the rights and umask of the Proc's user; name may be relative to
// Dir.
func (p *Proc) WriteFile(name string, data []byte, mode fs.FileMode) error {
	return p.view().writeFile(p.Path(name), data, mode)
}

// view is the disk as the Proc's user may use it.
func (p *Proc) view() view { return p.Host.disk.as(p.User, p.umask) }

func fileModeOf(bits uint32) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	if bits&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if bits&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if bits&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

func bitsOf(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}

// reason is an error's text as libc writes it, without operation and path.
func reason(err error) string {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		s := no.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

// standard are the directories in which base commands are, though no file shows it.
var standard = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// inSbin are the commands for administrators, which are in /usr/sbin.
var inSbin = strings.Fields("useradd usermod userdel groupadd groupdel visudo sshd reboot poweroff halt shutdown")

const defaultPath = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin"

// command returns a command by its name, or nil.
func (h *Host) command(name string) Command {
	c := h.Commands[name]
	if c == nil {
		c = BaseCommand(name)
	}
	if c != nil && h.Installed != nil && !h.Installed(name) {
		return nil
	}
	return c
}

// program returns the command that is at an absolute path, though no file is: base commands and
// those of Host.
func (h *Host) program(p string) Command {
	dir, name := path.Split(p)
	switch {
	case slices.Contains(standard, strings.TrimSuffix(dir, "/")):
		return h.command(name)
	case name == "sftp-server" && slices.Contains(sftpServers, p):
		return h.command(name)
	}
	return nil
}

// which finds a program as execvp does: the path of a file, or one where a command is.
func (p *Proc) which(name string) (string, error) {
	v := p.view()
	candidates := []string{p.Path(name)}
	if !strings.Contains(name, "/") {
		candidates = nil
		search, ok := p.Env["PATH"]
		if !ok {
			search = "/bin:/usr/bin" // execvp's own
		}
		for dir := range strings.SplitSeq(search, ":") {
			candidates = append(candidates, p.Path(path.Join(dir, name)))
		}
	}
	var denied error
	for _, c := range candidates {
		i, err := v.stat(c)
		switch {
		case err == nil && i.IsDir():
			denied = syscall.EISDIR
		case err == nil:
			if err := v.access(c, mayExec); err != nil {
				denied = syscall.EACCES
				continue
			}
			return c, nil
		case p.Host.program(path.Clean(c)) != nil:
			if !strings.Contains(name, "/") {
				c = "/usr/bin/" + name
				if slices.Contains(inSbin, name) {
					c = "/usr/sbin/" + name
				}
			}
			return c, nil
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", syscall.ENOENT
}

// maxArg is how long one argument can be: MAX_ARG_STRLEN.
const maxArg = 128 << 10

// execute runs p.Args, and returns what it ends with. Everything that runs on the machine goes
// through here: it has a pid, can be killed, and is waited for by Halt.
func (h *Host) execute(ctx context.Context, p *Proc) int {
	b := p.task.boot
	p.death = &death{}
	if ctx.Err() != nil || !b.enter() {
		return p.die(ctx)
	}
	defer b.leave()
	ctx, cancel, done := p.task.child(ctx)
	defer done()
	p.ppid = p.pid
	p.sigs = &traps{}
	p.pid = b.register(&process{args: p.Args, user: p.User, kill: cancel, task: p.task, sigs: p.sigs})
	if p.started != nil {
		p.started(p.pid)
		p.started = nil
	}
	life, end := context.WithCancel(ctx)
	defer end()
	p.life = life
	defer b.unregister(p.pid)
	if f, ok := p.Stdin.(*os.File); ok {
		done := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(done)
			_ = f.SetReadDeadline(time.Now())
		})
		defer func() {
			if !stop() {
				<-done
				_ = f.SetReadDeadline(time.Time{})
			}
		}()
	}
	if p.Stdin == nil {
		p.Stdin = noInput{}
	}
	code := h.start(ctx, p)
	if ctx.Err() != nil {
		return p.die(ctx)
	}
	return code
}

// die notes what ended p with ctx, and returns the exit code that a shell makes of it.
func (p *Proc) die(ctx context.Context) int {
	if s, ok := errors.AsType[*signal](context.Cause(ctx)); ok {
		p.death.by.Store(s)
	}
	return exitKilled(ctx)
}

func (h *Host) start(ctx context.Context, p *Proc) int {
	file, err := p.which(p.Args[0])
	for _, a := range p.Args {
		if len(a) >= maxArg && err == nil {
			err = syscall.E2BIG
		}
	}
	switch {
	case p.Args[0] == "", errors.Is(err, syscall.ENOENT) && !strings.Contains(p.Args[0], "/"):
		fmt.Fprintf(p.Stderr, "bash: %s: command not found\n", p.Args[0])
		return 127
	case errors.Is(err, syscall.ENOENT):
		fmt.Fprintf(p.Stderr, "bash: %s: No such file or directory\n", p.Args[0])
		return 127
	case err != nil:
		fmt.Fprintf(p.Stderr, "bash: %s: %s\n", p.Args[0], reason(err))
		return 126
	}
	if _, err := h.disk.Stat(file); err != nil {
		return h.program(file)(ctx, p)
	}
	text, err := p.view().readFile(file)
	if err != nil {
		fmt.Fprintf(p.Stderr, "bash: %s: %s\n", p.Args[0], reason(err))
		return 126
	}
	if strings.Contains(p.Args[0], "/") {
		file = p.Args[0] // $0 is what the script was called by
	}
	return h.script(ctx, p, file, text)
}

// script runs a program text by the interpreter that its first line names, or the shell.
func (h *Host) script(ctx context.Context, p *Proc, file string, text []byte) int {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if len(text) > 19 && bytes.HasPrefix(text, []byte("\x7fELF")) && text[18] == 62 && text[19] == 0 { // for x86-64
		// A real machine would run it. What it does is for a Command of its name to say.
		if c := h.Commands[path.Base(file)]; c != nil {
			return c(ctx, p)
		}
		return p.refuse(path.Base(file), "the program "+file+", which is compiled: simulate it with a Command of that name")
	}
	if bytes.IndexByte(line, 0) >= 0 {
		fmt.Fprintf(p.Stderr, "bash: %s: cannot execute binary file: Exec format error\n", file)
		return 126
	}
	bang, ok := bytes.CutPrefix(line, []byte("#!"))
	if !ok {
		return h.shell(ctx, p, source{text: string(text), name: file, params: p.Args[1:]})
	}
	interp := strings.FieldsFunc(string(bang), func(c rune) bool { return c == ' ' || c == '\t' })
	if len(interp) == 0 {
		return h.shell(ctx, p, source{text: string(text), name: file, params: p.Args[1:]})
	}
	if _, err := p.which(interp[0]); err != nil || !strings.HasPrefix(interp[0], "/") {
		fmt.Fprintf(p.Stderr, "bash: %s: %s: bad interpreter: No such file or directory\n", file, interp[0])
		return 127
	}
	return p.Run(ctx, slices.Concat(interp, []string{file}, p.Args[1:])...)
}
