package sshtest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/userland"
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
	// its memory. Its Command is called again, with what it left in /run and on the disk.
	Resumed bool

	p *machine.Proc
}

// BaseCommand returns the command of that name that every machine has, or nil, for one of
// Host.Commands that does more.
func BaseCommand(name string) Command {
	c := userland.BaseCommand(name)
	if c == nil {
		return nil
	}
	return func(ctx context.Context, p *Proc) int { return c(ctx, p.proc()) }
}

// BaseCommands returns the names of the commands that every machine has, sorted.
func BaseCommands() []string { return userland.BaseCommands() }

// own is c as the machine calls it.
func (h *Host) own(c Command) machine.Command {
	if c == nil {
		return nil
	}
	return func(ctx context.Context, p *machine.Proc) int {
		return c(ctx, &Proc{
			Args: p.Args, Env: p.Env, Dir: p.Dir, User: p.User, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr,
			Host: h, Resumed: p.Resumed, p: p,
		})
	}
}

// proc is what the machine knows of p, as its fields are now. Of a Proc that no machine has made it
// knows little: enough to print, and to make paths.
func (p *Proc) proc() *machine.Proc {
	var q machine.Proc
	if p.p != nil {
		q = *p.p
	} else if p.Host != nil {
		q.Host = p.Host.m
	}
	q.Args, q.Env, q.Dir, q.User, q.Resumed = p.Args, p.Env, p.Dir, p.User, p.Resumed
	q.Stdin, q.Stdout, q.Stderr = p.Stdin, p.Stdout, p.Stderr
	return &q
}

// Run runs another program of the machine with the Proc's user, directory, environment and streams.
// A name without "/" is looked up as a shell does; 127 means that there is none.
func (p *Proc) Run(ctx context.Context, args ...string) int { return p.proc().Run(ctx, args...) }

// Path makes a path absolute, from the Proc's working directory. A slash at its end stays.
func (p *Proc) Path(name string) string { return p.proc().Path(name) }

// Fail prints "name: message" to Stderr and returns code.
func (p *Proc) Fail(code int, format string, args ...any) int {
	return p.proc().Fail(code, "%s", fmt.Sprintf(format, args...))
}

// NotSimulated refuses an argument that the command's simulation does not know: it prints so to
// Stderr, reports it to Host.OnNotSimulated, and returns 64. A simulated command refuses everything
// that it does not understand: it never ignores it.
func (p *Proc) NotSimulated(arg string) int { return p.proc().NotSimulated(arg) }

// ReadFile reads a file with the rights of the Proc's user; name may be relative to Dir.
func (p *Proc) ReadFile(name string) ([]byte, error) { return p.proc().ReadFile(name) }

// WriteFile writes a file with the rights and umask of the Proc's user; name may be relative to
// Dir.
func (p *Proc) WriteFile(name string, data []byte, mode fs.FileMode) error {
	return p.proc().WriteFile(name, data, mode)
}

// Listen listens on a TCP port of the machine, as the operating system lets the Proc's user: network
// is "tcp" or "tcp4", address is ":port" or "address:port" with an address of the machine, and port 0
// means a free one. The listener and all its connections are closed when the program ends, which is
// when its Command returns or ctx ends. Who reaches it is for the network that the machine is
// plugged into; see Host.Bind.
func (p *Proc) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return p.proc().Listen(ctx, network, address)
}

// DialContext connects to a TCP port from the machine, by the names, routes and firewalls that it
// has: those of Host.Dial. A machine without it reaches only itself, as "localhost". The connection is
// closed when the program ends.
func (p *Proc) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return p.proc().DialContext(ctx, network, address)
}
