package userland

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
	"github.com/poolready/poolready/sshx/sshtest/internal/sshd"
)

// options is a parsed command line.
type options struct {
	set  map[string]string // by name with dashes: "-n", "--output"; the last one wins
	list [][2]string       // in order
	args []string          // operands
}

func (o *options) has(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { _, ok := o.set[n]; return ok })
}

// parse parses p.Args by spec, a list of what the command knows: "-n" is a flag, "-e:" takes an
// argument, "--long" and "--long=" likewise. Options may stand after operands unless spec begins
// with "+". Everything else is not simulated: ok is false, it has been said, and the command
// returns ExitNotSimulated.
func parse(p *machine.Proc, spec string) (o *options, ok bool) {
	o = &options{set: map[string]string{}}
	known := strings.Fields(spec)
	early := len(known) > 0 && known[0] == "+"
	add := func(name, value string) {
		o.set[name] = value
		o.list = append(o.list, [2]string{name, value})
	}
	args := p.Args[1:]
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			o.args = append(o.args, args...)
			return o, true
		case a == "-" || !strings.HasPrefix(a, "-"):
			o.args = append(o.args, a)
			if early {
				o.args = append(o.args, args...)
				return o, true
			}
		case strings.HasPrefix(a, "--"):
			name, value, given := strings.Cut(a, "=")
			switch {
			case given && slices.Contains(known, name+"="):
			case !given && slices.Contains(known, name):
			case !given && slices.Contains(known, name+"=") && len(args) > 0:
				value, args = args[0], args[1:]
			default:
				p.NotSimulated(a)
				return nil, false
			}
			add(name, value)
		default:
			for rest := a[1:]; rest != ""; {
				name := "-" + rest[:1]
				rest = rest[1:]
				if slices.Contains(known, name) {
					add(name, "")
					continue
				}
				if !slices.Contains(known, name+":") || rest == "" && len(args) == 0 {
					p.NotSimulated(a)
					return nil, false
				}
				value := rest
				if rest == "" {
					value, args = args[0], args[1:]
				}
				add(name, value)
				rest = ""
			}
		}
	}
	return o, true
}

// parsed is the command that parses its arguments by spec, and does f if they are all simulated.
func parsed(spec string, f func(ctx context.Context, p *machine.Proc, o *options) int) machine.Command {
	return func(ctx context.Context, p *machine.Proc) int {
		o, ok := parse(p, spec)
		if !ok {
			return machine.ExitNotSimulated
		}
		return f(ctx, p, o)
	}
}

// missing answers a command line without what real commands, too, insist on.
func missing(p *machine.Proc) int { return p.Fail(1, "missing operand") }

var base map[string]machine.Command

// BaseCommand returns the command of that name that every machine has, or nil, for one of
// Host.Commands that does more.
func BaseCommand(name string) machine.Command { return base[name] }

// BaseCommands returns the names of the commands that every machine has, sorted.
func BaseCommands() []string { return slices.Sorted(maps.Keys(base)) }

func init() { // in init, as commands look up commands
	base = map[string]machine.Command{
		"sh": shell.CmdShell, "bash": shell.CmdShell, "dash": shell.CmdShell,
		"[": shell.CmdBuiltin, "test": shell.CmdBuiltin, "echo": shell.CmdBuiltin, "printf": shell.CmdBuiltin, "pwd": shell.CmdBuiltin,
		"true": func(context.Context, *machine.Proc) int { return 0 }, "false": func(context.Context, *machine.Proc) int { return 1 },
		"sftp-server": sshd.ServeSFTP, "which": cmdWhich, "printenv": cmdPrintenv, "tac": cmdTac,
	}
	for _, name := range lacking {
		base[name] = cmdLacking
	}
	for _, more := range []map[string]machine.Command{fileCommands, modeCommands, textCommands, sysCommands, procCommands, userCommands, sshCommands, logCommands} {
		for name, c := range more {
			base[name] = c
		}
	}
}
