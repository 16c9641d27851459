package sshtest

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
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

// options parses p.Args by spec, a list of what the command knows: "-n" is a flag, "-e:" takes an
// argument, "--long" and "--long=" likewise. Options may stand after operands unless spec begins
// with "+". Everything else is not simulated: ok is false, it has been said, and the command
// returns exitNotSimulated.
func (p *Proc) options(spec string) (o *options, ok bool) {
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

// missing answers a command line without what real commands, too, insist on.
func (p *Proc) missing() int { return p.Fail(1, "missing operand") }

// name is what error messages call the command.
func (p *Proc) name() string { return path.Base(p.Args[0]) }

var base map[string]Command

// BaseCommand returns the command of that name that every machine has, or nil, for one of
// Host.Commands that does more.
func BaseCommand(name string) Command { return base[name] }

// BaseCommands returns the names of the commands that every machine has, sorted.
func BaseCommands() []string { return slices.Sorted(maps.Keys(base)) }

func init() { // in init, as commands look up commands
	base = map[string]Command{
		"sh": cmdShell, "bash": cmdShell, "dash": cmdShell,
		"[": cmdBuiltin, "test": cmdBuiltin, "echo": cmdBuiltin, "printf": cmdBuiltin, "pwd": cmdBuiltin,
		"true": func(context.Context, *Proc) int { return 0 }, "false": func(context.Context, *Proc) int { return 1 },
		"sftp-server": serveSFTP, "which": cmdWhich, "printenv": cmdPrintenv, "tac": cmdTac,
	}
	for _, name := range lacking {
		base[name] = cmdLacking
	}
	for _, more := range []map[string]Command{fileCommands, modeCommands, textCommands, sysCommands, procCommands, userCommands, sshCommands, logCommands} {
		for name, c := range more {
			base[name] = c
		}
	}
}
