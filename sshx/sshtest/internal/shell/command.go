package shell

import (
	"context"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// CmdShell is sh. The texts of sshx's wrappers are run natively.
func CmdShell(ctx context.Context, p *machine.Proc) int {
	var opts []string
	args := p.Args[1:]
	command, stdin, login := false, false, false
	dash := runsDash(p.Host, p.Name())
flags:
	for len(args) > 0 {
		a := args[0]
		switch {
		case a == "--" || a == "-":
			args = args[1:]
			break flags
		case a == "--login":
			login = true
		case a == "--norc" || a == "--noprofile" || a == "--posix":
		case a == "-o" || a == "+o":
			if len(args) < 2 {
				return p.Fail(2, "%s: option requires an argument", a)
			}
			opts = append(opts, a, args[1])
			args = args[1:]
		case len(a) > 1 && a[0] == '-':
			for _, c := range a[1:] {
				switch c {
				case 'c':
					command = true
				case 's':
					stdin = true
				case 'l':
					login = true
				case 'e', 'u', 'x', 'f', 'a', 'n':
					opts = append(opts, "-"+string(c))
				default:
					return p.NotSimulated(a)
				}
			}
		default:
			break flags
		}
		args = args[1:]
	}
	switch {
	case command:
		if len(args) == 0 {
			return p.Fail(2, "-c: option requires an argument")
		}
		text, name := args[0], p.Args[0]
		args = args[1:]
		q := *p
		q.Args = append([]string{name}, args...)
		if len(args) > 0 {
			q.Args = args
			name, args = args[0], args[1:]
		}
		if code, ok := wrapper(ctx, &q, text); ok {
			return code
		}
		return runSource(ctx, p, source{text: text, name: name, params: args, opts: opts, login: login, dash: dash, posix: p.Name() == "sh"})
	case len(args) > 0 && !stdin:
		file := args[0]
		data, err := p.View().ReadFile(p.Path(file))
		if err != nil && !strings.Contains(file, "/") {
			if found, err2 := p.Which(file); err2 == nil {
				data, err = p.View().ReadFile(found)
			}
		}
		if err != nil {
			code := 126
			if disk.IsNotExist(err) {
				code = 127
			}
			return p.Fail(code, "%s: %s", file, disk.Reason(err))
		}
		return runSource(ctx, p, source{text: string(data), name: file, params: args[1:], opts: opts, login: login, dash: dash, posix: p.Name() == "sh"})
	}
	in, err := p.Task.Reader(p.Stdin)
	if err != nil {
		return p.Fail(2, "%v", err)
	}
	q := *p
	q.Stdin = in
	return runSource(ctx, &q, source{lines: in, name: p.Args[0], params: args, opts: opts, login: login, dash: dash, posix: p.Name() == "sh"})
}

// CmdBuiltin runs what the shell has built in, for sudo, xargs, find and env.
func CmdBuiltin(ctx context.Context, p *machine.Proc) int {
	return runSource(ctx, p, source{text: p.Name() + ` "$@"`, name: p.Args[0], params: p.Args[1:]})
}

// Script runs a script, which has the arguments of p.
func Script(ctx context.Context, p *machine.Proc, file, text string) int {
	return runSource(ctx, p, source{text: text, name: file, params: p.Args[1:]})
}
