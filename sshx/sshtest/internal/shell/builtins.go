package shell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// call sees every simple command before the interpreter does, and turns aside builtins that would
// ask the host, that the interpreter lacks, or that know fewer options than scripts use.
func (s *shell) call(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	for i, a := range args {
		if a == emptyField {
			args[i] = ""
		}
	}
	if j := s.job(hc); j != nil && j.Ctx.Err() != nil && args[0] != ourVars+"end" {
		return []string{"exit", strconv.Itoa(machine.ExitKilled(j.Ctx))}, nil
	}
	if text := s.p.Traps.Next(); text != "" {
		return []string{"eval", text + "\n" + QuoteAll(args...)}, nil
	}
	out, err := s.turn(ctx, hc, args)
	if ns, ok := errors.AsType[*NotSimulated](err); ok {
		return []string{ourVars + "refuse", ns.Error()}, nil
	}
	return out, err
}

func (s *shell) turn(ctx context.Context, hc interp.HandlerContext, args []string) ([]string, error) {
	refuse := func(what string) ([]string, error) { return nil, &NotSimulated{what, hc.Pos} }
	if s.dash {
		if out, ok := s.turnDash(hc, args); ok {
			return out, nil
		}
	}
	switch name := args[0]; name {
	case ourVars + "raw": // for the interpreter alone
		return args[1:], nil
	case ourVars + "fork":
		holds := args[1] == "1" && s.p.Task.IsOutput(hc.Stdout) || args[2] == "1" && s.p.Task.IsOutput(hc.Stderr)
		j := s.p.Task.Fork(ctx, s.p, s.p.Args, holds)
		return []string{"eval", varBack + "=" + strconv.Itoa(j.PID)}, nil
	case "builtin":
		if len(args) > 1 {
			return s.turn(ctx, hc, args[1:])
		}
	case "command":
		return s.turnCommand(ctx, hc, args)
	case "type", "hash":
		return []string{"eval", lookup(ourVars+name, args[1:])}, nil
	case "kill":
		return append([]string{"/bin/kill"}, args[1:]...), nil
	case "ulimit", "jobs", "fg", "bg", "fc", "disown", "suspend", "enable", "bind", "caller", "compgen", "complete", "compopt",
		"history", "newgrp", "logout":
		return refuse(strings.Join(args, " "))
	case "test", "[":
		return s.turnTest(hc, args)
	case "shift":
		n := QuoteAll(slices.Concat(args, []string{"1"})[1])
		return []string{"eval", `if [ "$#" -ge ` + n + " ]; then " + ourVars + "raw shift " + n + "; else " + s.orExit("false") + "; fi"}, nil
	case "exit":
		if len(args) > 1 && !isNumber(args[1]) {
			return []string{"eval", ourVars + "fail 2 " + QuoteAll("exit: "+args[1]+": numeric argument required") + "; " + ourVars + "raw exit 2"}, nil
		}
	case "exec":
		if len(args) > 1 {
			s.replaced.Store(s.job(hc) == nil)
			return []string{"eval", "trap - EXIT; " + ourVars + "raw exec " + QuoteAll(args[1:]...)}, nil // nothing is left to run a trap
		}
	case "umask":
		return turnUmask(args, refuse)
	case "wait":
		if slices.Contains(args, "-n") {
			return refuse(strings.Join(args, " "))
		}
		out := []string{"wait"}
		for _, a := range args[1:] {
			if pid, err := strconv.Atoi(a); err == nil {
				if a = s.p.Task.JobName(pid); a == "" {
					return complain(127, fmt.Sprintf("wait: pid %d is not a child of this shell", pid))
				}
			}
			out = append(out, a)
		}
		return out, nil
	case "shopt":
		if slices.Contains(args, "nocasematch") {
			return refuse(strings.Join(args, " "))
		}
	case "trap":
		return s.turnTrap(args)
	case "eval":
		text, err := s.again(strings.Join(args[1:], " "))
		return orFail([]string{"eval", text}, err)
	case ".", "source":
		return s.turnSource(hc, args)
	case "pwd":
		if slices.Contains(args[1:], "-P") {
			real, err := s.view(hc).Realpath(hc.Dir, true)
			if err != nil {
				return []string{ourVars + "refuse", "pwd -P: " + disk.Reason(err)}, nil
			}
			return []string{"printf", "%s\n", real}, nil
		}
	case "cd":
		rest := args[1:]
		for len(rest) > 0 && (rest[0] == "--" || rest[0] == "-L") {
			rest = rest[1:]
		}
		if len(rest) > 0 && rest[0] == "-P" {
			return refuse("cd -P")
		}
		if len(rest) == 1 && rest[0] != "" && rest[0] != "-" {
			v, dir := s.view(hc), abs(hc, rest[0])
			i, err := v.Stat(dir)
			if err == nil && !i.IsDir() {
				err = syscall.ENOTDIR
			}
			if err = cmp.Or(err, v.Access(dir, disk.MayExec)); err != nil {
				code := 1
				if s.dash {
					code = 2
				}
				return complain(code, "cd: "+rest[0]+": "+disk.Reason(err))
			}
		}
		return append([]string{"cd"}, rest...), nil
	case "echo":
		return []string{ourVars + "out", echoText(args[1:], s.dash), "", "0"}, nil
	case "printf":
		rest := args[1:]
		if len(rest) > 2 && rest[0] == "-v" && !s.dash {
			out, _, code, err := printfText(rest[2:], false)
			if err != nil || code != 0 || !syntax.ValidName(rest[1]) {
				return refuse(strings.Join(args, " "))
			}
			return []string{"eval", rest[1] + "=" + QuoteAll(out)}, nil
		}
		if len(rest) > 0 && rest[0] == "--" {
			rest = rest[1:]
		}
		out, errs, code, err := printfText(rest, s.dash)
		if err != nil {
			return refuse(strings.Join(args, " "))
		}
		return []string{ourVars + "out", out, errs, strconv.Itoa(code)}, nil
	case "read":
		return s.turnRead(hc, args)
	}
	return args, nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseInt(s, 10, 64)
	return err == nil
}

// orFail is a command, or one that fails as builtins do that cannot read their text.
func orFail(args []string, err error) ([]string, error) {
	if _, ok := errors.AsType[*NotSimulated](err); ok || err == nil {
		return args, err
	}
	return complain(2, args[0]+": "+err.Error())
}

// complain is a command that fails as a builtin does.
func complain(code int, text string) ([]string, error) {
	return []string{ourVars + "fail", strconv.Itoa(code), text}, nil
}

// turnTest refuses what would ask the host, answers -t, and rejects what only looks like a number.
func (s *shell) turnTest(hc interp.HandlerContext, args []string) ([]string, error) {
	out, name := slices.Clone(args), args[0]
	for i, a := range args[1:] {
		if slices.Contains([]string{"=", "==", "!="}, args[i]) {
			continue // it is an operand itself
		}
		switch a {
		case "<", ">":
			if len(args) == 4 || len(args) == 5 && name == "[" {
				if i == 1 && (args[1] < args[3]) == (a == "<") && args[1] != args[3] {
					return []string{"true"}, nil
				} else if i == 1 {
					return []string{"false"}, nil
				}
			}
			return nil, &NotSimulated{args[0] + " " + a, hc.Pos}
		case "-O", "-G", "-N", "-ef":
			return nil, &NotSimulated{args[0] + " " + a, hc.Pos}
		case "-t":
			if i+2 < len(args) && slices.Contains([]string{"0", "1", "2"}, args[i+2]) {
				out[i+1], out[i+2] = "-n", map[bool]string{true: "yes"}[s.onTerminal(hc, args[i+2])]
			}
		case "-eq", "-ne", "-lt", "-le", "-gt", "-ge":
			if i == 0 || i+2 >= len(args) {
				continue
			}
			for _, n := range []string{args[i], args[i+2]} {
				if !isNumber(strings.TrimSpace(n)) {
					return complain(2, args[0]+": "+n+": integer expression expected")
				}
			}
		}
	}
	return out, nil
}

// onTerminal reports whether a descriptor, by its number, is the session's terminal.
func (s *shell) onTerminal(hc interp.HandlerContext, fd string) bool {
	t := s.p.Task
	switch fd {
	case "0":
		return t.IsKeyboard(hc.Stdin)
	case "1":
		return t.Terminal && t.IsOutput(hc.Stdout)
	}
	return t.Terminal && fd == "2" && t.IsOutput(hc.Stderr)
}

// turnCommand takes "command -v", which would look through the host's PATH.
func (s *shell) turnCommand(ctx context.Context, hc interp.HandlerContext, args []string) ([]string, error) {
	rest := args[1:]
	if len(rest) == 0 {
		return args, nil
	}
	switch rest[0] {
	case "-v", "-V":
		names := rest[1:]
		if len(names) > 0 && names[0] == "--" {
			names = names[1:]
		}
		return []string{"eval", lookup(ourVars+"command"+rest[0], names)}, nil
	case "-p":
		rest = rest[1:]
	case "--":
		rest = rest[1:]
	}
	if len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		return nil, &NotSimulated{strings.Join(args, " "), hc.Pos}
	}
	if len(rest) > 0 && interp.IsBuiltin(rest[0]) {
		return s.turn(ctx, hc, rest)
	}
	return append([]string{"command"}, rest...), nil
}

// lookup is a script that asks the shell about its functions, and us about all else.
func lookup(cmd string, names []string) string {
	var opts []string
	for len(names) > 0 && strings.HasPrefix(names[0], "-") && len(names[0]) > 1 {
		opts, names = append(opts, names[0]), names[1:]
	}
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString("; ")
		}
		q := QuoteAll(n)
		known := "declare -f " + q + " >/dev/null 2>&1"
		if !syntax.ValidName(strings.ReplaceAll(n, "-", "_")) {
			known = "false"
		}
		fmt.Fprintf(&b, "if %s; then %s --function %s; else %s %s %s; fi", known, cmd, q, cmd, QuoteAll(opts...), q)
	}
	if len(names) == 0 {
		fmt.Fprintf(&b, "%s %s", cmd, QuoteAll(opts...))
	}
	return b.String()
}

// QuoteAll returns words as a shell reads them.
func QuoteAll(words ...string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(out, " ")
}

func turnUmask(args []string, refuse func(string) ([]string, error)) ([]string, error) {
	switch {
	case len(args) == 1:
		return []string{"eval", `printf '%04d\n' "$` + varUmask + `"`}, nil
	case len(args) == 2:
		if n, err := strconv.ParseUint(args[1], 8, 32); err == nil && n <= 0o777 {
			return []string{"eval", varUmask + "=" + strconv.FormatUint(n, 8)}, nil
		}
	}
	return refuse(strings.Join(args, " "))
}

// turnTrap leaves EXIT and ERR to the interpreter, and keeps the traps on signals, which call runs
// before the next command. A signal to the whole process group ends the shell all the same.
func (s *shell) turnTrap(args []string) ([]string, error) {
	if len(args) < 3 {
		return args, nil
	}
	rest := args[1:]
	if rest[0] == "--" {
		rest = rest[1:]
	}
	text, err := s.again(rest[0])
	if err != nil {
		return orFail(args, err)
	}
	out := []string{"trap", "--", text}
	if rest[0] == "-" {
		out = []string{"trap", "-"}
	}
	n := len(out)
	for _, name := range rest[1:] {
		switch sig := machine.SignalNamed(name); {
		case name == "0" || name == "EXIT":
			out = append(out, "EXIT")
		case sig != nil:
			s.p.Traps.Set(sig, strings.TrimSpace(text), rest[0] == "-")
		case name == "ERR":
			out = append(out, name)
		case name == "DEBUG" || name == "RETURN":
			return []string{ourVars + "refuse", "trap " + name}, nil
		default:
			return complain(1, "trap: "+name+": invalid signal specification")
		}
	}
	if len(out) == n {
		return []string{"true"}, nil
	}
	return out, nil
}

// turnSource reads a script as the shell's user, so that it is found on our disk and rewritten.
func (s *shell) turnSource(hc interp.HandlerContext, args []string) ([]string, error) {
	if len(args) < 2 {
		return args, nil
	}
	v := s.view(hc)
	candidates := []string{abs(hc, args[1])}
	if !strings.Contains(args[1], "/") {
		for dir := range strings.SplitSeq(hc.Env.Get("PATH").String(), ":") {
			candidates = slices.Insert(candidates, len(candidates)-1, abs(hc, path.Join(dir, args[1])))
		}
	}
	var err error
	for _, c := range candidates {
		var data []byte
		if slices.Contains(Stdins, c) {
			data, err = io.ReadAll(hc.Stdin)
		} else {
			data, err = v.ReadFile(c)
		}
		if err == nil {
			text, err := s.again(string(data))
			return orFail(append([]string{".", sourcedPrefix + text}, args[2:]...), err)
		}
	}
	if s.dash {
		return []string{"eval", ourVars + "fail 2 " + QuoteAll(args[1]+": "+disk.Reason(err)) + "; " + ourVars + "raw exit 2"}, nil
	}
	return complain(1, args[1]+": "+disk.Reason(err))
}

// orExit is what a special builtin does that fails: in dash, it ends the shell.
func (s *shell) orExit(otherwise string) string {
	if s.dash {
		return ourVars + "raw exit 2"
	}
	return otherwise
}
