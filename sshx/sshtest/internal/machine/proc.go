package machine

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

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// A Command is a program of a simulated machine.
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
	// its memory. Its Command is called again, with what it left in /run and on the disk.
	Resumed bool

	life    context.Context // of the process
	started func(pid int)   // is told when there is one

	Task  *Task
	Umask uint32
	PID   int
	PPID  int
	Death *Death // of the process, which several Procs may be
	Traps *Traps // and its traps
}

// A Death is what ended a process, if a signal did.
type Death struct{ By atomic.Pointer[Signal] }

// Run runs another program of the machine with the Proc's user, directory, environment and
// streams.
func (p *Proc) Run(ctx context.Context, args ...string) int {
	return p.Host.Execute(ctx, p.With(args...))
}

// With is p with other arguments.
func (p *Proc) With(args ...string) *Proc {
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

// NotSimulated refuses an argument that the command's simulation does not know.
func (p *Proc) NotSimulated(arg string) int { return p.Refuse(path.Base(p.Args[0]), arg) }

// Refuse is NotSimulated for a command of another name.
func (p *Proc) Refuse(command, what string) int {
	r := &Refusal{Command: command, What: what}
	fmt.Fprintln(p.Stderr, r)
	if p.Host != nil {
		p.Host.Refused(r, p.User)
	}
	return ExitNotSimulated
}

// ExitNotSimulated is the exit code of a refusal.
const ExitNotSimulated = 64

// ReadFile reads a file with the rights of the Proc's user; name may be relative to Dir.
func (p *Proc) ReadFile(name string) ([]byte, error) { return p.View().ReadFile(p.Path(name)) }

// WriteFile writes a file with the rights and umask of the Proc's user.
func (p *Proc) WriteFile(name string, data []byte, mode fs.FileMode) error {
	return p.View().WriteFile(p.Path(name), data, mode)
}

// View is the disk as the Proc's user may use it.
func (p *Proc) View() disk.View { return p.Host.Disk.As(p.User, p.Umask) }

// standard are the directories in which base commands are, though no file shows it.
var standard = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// inSbin are the commands for administrators, which are in /usr/sbin.
var inSbin = strings.Fields("useradd usermod userdel groupadd groupdel visudo sshd reboot poweroff halt shutdown")

// DefaultPath is PATH after a login.
const DefaultPath = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin"

// command returns a command by its name, or nil.
func (h *Host) command(name string) Command {
	c := h.config.Command(name)
	if c == nil {
		c = h.parts.Base(name)
	}
	if installed := h.config.Installed(); c != nil && installed != nil && !installed(name) {
		return nil
	}
	return c
}

// Program returns the command that is at an absolute path, though no file is: base commands and
// those of Host.
func (h *Host) Program(p string) Command {
	dir, name := path.Split(p)
	switch {
	case slices.Contains(standard, strings.TrimSuffix(dir, "/")):
		return h.command(name)
	case name == "sftp-server" && slices.Contains(sftpServers, p):
		return h.command(name)
	}
	return nil
}

// Which finds a program as execvp does: the path of a file, or one where a command is.
func (p *Proc) Which(name string) (string, error) {
	v := p.View()
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
		i, err := v.Stat(c)
		switch {
		case err == nil && i.IsDir():
			denied = syscall.EISDIR
		case err == nil:
			if err := v.Access(c, disk.MayExec); err != nil {
				denied = syscall.EACCES
				continue
			}
			return c, nil
		case p.Host.Program(path.Clean(c)) != nil:
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

// MaxArg is how long one argument can be: MAX_ARG_STRLEN.
const MaxArg = 128 << 10

// Execute runs p.Args, and returns what it ends with. Everything that runs on the machine goes
// through here: it has a pid, can be killed, and is waited for by Halt.
func (h *Host) Execute(ctx context.Context, p *Proc) int {
	b := p.Task.Boot
	p.Death = &Death{}
	if ctx.Err() != nil || !b.Enter() {
		return p.die(ctx)
	}
	defer b.Leave()
	ctx, cancel, done := p.Task.Child(ctx)
	defer done()
	p.PPID = p.PID
	p.Traps = &Traps{}
	p.PID = b.Register(&Process{PPID: p.PPID, Args: p.Args, User: p.User, Kill: cancel, Task: p.Task, sigs: p.Traps})
	if p.started != nil {
		p.started(p.PID)
		p.started = nil
	}
	life, end := context.WithCancel(ctx)
	defer end()
	p.life = life
	defer b.Unregister(p.PID)
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
		p.Stdin = NoInput{}
	}
	code := h.start(ctx, p)
	if ctx.Err() != nil {
		return p.die(ctx)
	}
	return code
}

// die notes what ended p with ctx, and returns the exit code that a shell makes of it.
func (p *Proc) die(ctx context.Context) int {
	if s, ok := errors.AsType[*Signal](context.Cause(ctx)); ok {
		p.Death.By.Store(s)
	}
	return ExitKilled(ctx)
}

func (h *Host) start(ctx context.Context, p *Proc) int {
	file, err := p.Which(p.Args[0])
	for _, a := range p.Args {
		if len(a) >= MaxArg && err == nil {
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
		fmt.Fprintf(p.Stderr, "bash: %s: %s\n", p.Args[0], disk.Reason(err))
		return 126
	}
	if _, err := h.Disk.Stat(file); err != nil {
		return h.Program(file)(ctx, p)
	}
	text, err := p.View().ReadFile(file)
	if err != nil {
		fmt.Fprintf(p.Stderr, "bash: %s: %s\n", p.Args[0], disk.Reason(err))
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
		if c := h.config.Command(path.Base(file)); c != nil {
			return c(ctx, p)
		}
		return p.Refuse(path.Base(file), "the program "+file+", which is compiled: simulate it with a Command of that name")
	}
	if bytes.IndexByte(line, 0) >= 0 {
		fmt.Fprintf(p.Stderr, "bash: %s: cannot execute binary file: Exec format error\n", file)
		return 126
	}
	bang, ok := bytes.CutPrefix(line, []byte("#!"))
	if !ok {
		return h.parts.Script(ctx, p, file, string(text))
	}
	interp := strings.FieldsFunc(string(bang), func(c rune) bool { return c == ' ' || c == '\t' })
	if len(interp) == 0 {
		return h.parts.Script(ctx, p, file, string(text))
	}
	if _, err := p.Which(interp[0]); err != nil || !strings.HasPrefix(interp[0], "/") {
		fmt.Fprintf(p.Stderr, "bash: %s: %s: bad interpreter: No such file or directory\n", file, interp[0])
		return 127
	}
	return p.Run(ctx, slices.Concat(interp, []string{file}, p.Args[1:])...)
}

// HasTerminal reports whether the process has a terminal, as sudo's requiretty wants.
func (p *Proc) HasTerminal() bool { return p.Task != nil && p.Task.Terminal }

// sftpServers is where distributions have the program, all of which run it here.
var sftpServers = []string{
	"/usr/libexec/openssh/sftp-server", "/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server",
}

// Name is what error messages call the command.
func (p *Proc) Name() string { return path.Base(p.Args[0]) }

// WriteNew writes a file that must not exist.
func (p *Proc) WriteNew(name string, data []byte, mode os.FileMode) error {
	f, err := p.View().Open(p.Path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// Provides reports whether a command is one of the base.
func (h *Host) Provides(name string) bool { return h.parts.Base(name) != nil }
