package sshtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// notSimulated is a construct of the shell's language that the machine refuses.
type notSimulated struct {
	what string
	pos  syntax.Pos
}

func (e *notSimulated) Error() string { return fmt.Sprintf("line %d: %s", e.pos.Line(), e.what) }

// rewrite refuses what would reach the host or be wrong in silence, gives $$, $PPID and $! to our
// process table, and has background commands counted.
func rewrite(f *syntax.File) error {
	var bad error
	var back []*syntax.Stmt
	refuse := func(pos syntax.Pos, what string) {
		if bad == nil {
			bad = &notSimulated{what, pos}
		}
	}
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.ProcSubst:
			refuse(n.Pos(), "process substitution")
		case *syntax.CoprocClause:
			refuse(n.Pos(), "coproc")
		case *syntax.UnaryTest:
			switch n.Op {
			case syntax.TsUsrOwn, syntax.TsGrpOwn, syntax.TsModif:
				refuse(n.Pos(), "[[ "+n.Op.String()+" ]]")
			}
		case *syntax.BinaryTest:
			if n.Op == syntax.TsDevIno {
				refuse(n.Pos(), "[[ -ef ]]")
			}
		case *syntax.Redirect:
			checkRedirect(n, refuse)
		case *syntax.ParamExp:
			if n.Param != nil {
				switch n.Param.Value {
				case "$":
					n.Param.Value, n.Short = varPID, false
				case "PPID":
					n.Param.Value, n.Short = varPPID, false
				case "!":
					n.Param.Value, n.Short = varBack, false
				}
			}
		case *syntax.Stmt:
			if n.Coprocess || n.Disown {
				refuse(n.Pos(), "coprocess")
			}
			if n.Background {
				back = append(back, n)
			}
		}
		return bad == nil
	})
	if bad != nil {
		return bad
	}
	for _, st := range back {
		background(st)
	}
	return nil
}

func checkRedirect(n *syntax.Redirect, refuse func(syntax.Pos, string)) {
	if n.N != nil && !slices.Contains([]string{"0", "1", "2"}, n.N.Value) {
		refuse(n.Pos(), "redirection of descriptor "+n.N.Value)
	}
	lit := ""
	if n.Word != nil {
		lit = n.Word.Lit()
	}
	switch n.Op {
	case syntax.RdrClob:
		n.Op = syntax.RdrOut // noclobber is never on
	case syntax.RdrInOut:
		refuse(n.Pos(), "redirection <>")
	case syntax.DplOut:
		if lit != "1" && lit != "2" && lit != "-" {
			refuse(n.Pos(), "redirection >&"+lit)
		}
	case syntax.DplIn:
		if lit != "-" {
			refuse(n.Pos(), "redirection <&"+lit)
		}
	}
}

// background makes "X &" a block that registers a job first and unregisters it after X:
//
//	{ fork O E; { job=$bg; ( X ) && end 0 || end $?; } </dev/null & forked $bg $!; }
//
// O and E say whether X keeps the shell's stdout and stderr.
func background(st *syntax.Stmt) {
	out, err := 1, 1
	for _, r := range st.Redirs {
		to2 := r.N != nil && r.N.Value == "2"
		dup := ""
		if r.Op == syntax.DplOut {
			dup = r.Word.Lit()
		}
		switch {
		case r.Op == syntax.RdrAll || r.Op == syntax.AppAll:
			out, err = 0, 0
		case r.Op == syntax.DplOut && to2 && dup == "1":
			err = out
		case r.Op == syntax.DplOut && !to2 && dup == "2":
			out = err
		case r.Op == syntax.RdrOut || r.Op == syntax.AppOut || dup == "-":
			if to2 {
				err = 0
			} else {
				out = 0
			}
		}
	}
	text := fmt.Sprintf("{ %[1]sfork %d %d; { %[1]sjob=$%[1]sbg; ( : ) && %[1]send 0 || %[1]send $?; } </dev/null & %[1]sforked $%[1]sbg $!; }", ourVars, out, err)
	f, perr := syntax.NewParser().Parse(strings.NewReader(text), "")
	must(perr)
	inner := *st
	inner.Background, inner.Semicolon = false, syntax.Pos{}
	inner.Comments = nil
	syntax.Walk(f, func(n syntax.Node) bool {
		if sub, ok := n.(*syntax.Subshell); ok {
			sub.Stmts = []*syntax.Stmt{&inner}
			return false
		}
		return true
	})
	st.Cmd, st.Background, st.Redirs, st.Negated = f.Stmts[0].Cmd, false, nil, false
}

// sourcedPrefix begins the path under which the shell opens a text of ours.
const sourcedPrefix = "/nonexistent-sshtest\x00"

// again rewrites a text that the interpreter would parse by itself.
func again(text string) (string, error) {
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "eval")
	if err != nil {
		return text, nil //nolint:nilerr // the interpreter will say the same
	}
	if err := rewrite(f); err != nil {
		return "", err
	}
	var buf bytes.Buffer
	if err := syntax.NewPrinter().Print(&buf, f); err != nil {
		return "", err
	}
	return buf.String(), nil
}

// call sees every simple command before the interpreter does, and turns aside builtins that would
// ask the host, that the interpreter lacks, or that know fewer options than scripts use.
func (s *shell) call(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	if j := s.job(hc); j != nil && j.ctx.Err() != nil && args[0] != ourVars+"end" {
		return []string{"exit", strconv.Itoa(exitKilled(j.ctx))}, nil
	}
	out, err := s.turn(ctx, hc, args)
	if ns, ok := errors.AsType[*notSimulated](err); ok {
		return []string{ourVars + "refuse", ns.Error()}, nil
	}
	return out, err
}

func (s *shell) turn(ctx context.Context, hc interp.HandlerContext, args []string) ([]string, error) {
	refuse := func(what string) ([]string, error) { return nil, &notSimulated{what, hc.Pos} }
	switch name := args[0]; name {
	case ourVars + "fork":
		holds := args[1] == "1" && s.p.task.isOutput(hc.Stdout) || args[2] == "1" && s.p.task.isOutput(hc.Stderr)
		j := s.p.task.fork(ctx, holds, s.p.Args, s.p.User)
		return []string{"eval", varBack + "=" + strconv.Itoa(j.pid)}, nil
	case "builtin":
		if len(args) > 1 {
			return s.turn(ctx, hc, args[1:])
		}
	case "command":
		return s.turnCommand(args, refuse)
	case "type", "hash":
		return []string{"eval", lookup(ourVars+name, args[1:])}, nil
	case "kill":
		return append([]string{"/bin/kill"}, args[1:]...), nil
	case "ulimit", "jobs", "fg", "bg", "fc", "disown", "suspend", "enable", "bind", "caller", "compgen", "complete", "compopt",
		"history", "newgrp", "logout":
		return refuse(strings.Join(args, " "))
	case "umask":
		return turnUmask(args, refuse)
	case "wait":
		out := []string{"wait"}
		for _, a := range args[1:] {
			if pid, err := strconv.Atoi(a); err == nil {
				a = cmp.Or(s.p.task.jobName(pid), a)
			}
			out = append(out, a)
		}
		return out, nil
	case "trap":
		return turnTrap(args)
	case "eval":
		text, err := again(strings.Join(args[1:], " "))
		return []string{"eval", text}, err
	case ".", "source":
		return s.turnSource(hc, args)
	case "pwd":
		if slices.Contains(args[1:], "-P") {
			real, err := s.view(hc).realpath(hc.Dir, true)
			if err != nil {
				return []string{ourVars + "refuse", "pwd -P: " + reason(err)}, nil
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
		return append([]string{"cd"}, rest...), nil
	case "printf":
		if len(args) > 1 && args[1] == "--" {
			return append([]string{"printf"}, args[2:]...), nil
		}
		if len(args) > 1 && args[1] == "-v" {
			return refuse("printf -v")
		}
	case "test", "[":
		for _, a := range args[1:] {
			if slices.Contains([]string{"-O", "-G", "-N", "-ef"}, a) {
				return refuse(name + " " + a)
			}
		}
	}
	return args, nil
}

// turnCommand takes "command -v", which would look through the host's PATH.
func (s *shell) turnCommand(args []string, refuse func(string) ([]string, error)) ([]string, error) {
	rest := args[1:]
	if len(rest) == 0 {
		return args, nil
	}
	switch rest[0] {
	case "-v", "-V":
		return []string{"eval", lookup(ourVars+"command"+rest[0], rest[1:])}, nil
	case "-p":
		rest = rest[1:]
	case "--":
		rest = rest[1:]
	}
	if len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		return refuse(strings.Join(args, " "))
	}
	if len(rest) > 0 && interp.IsBuiltin(rest[0]) && rest[0] != "command" {
		return rest, nil
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
		q := quoteAll(n)
		known := "declare -f " + q + " >/dev/null 2>&1"
		if !syntax.ValidName(strings.ReplaceAll(n, "-", "_")) {
			known = "false"
		}
		fmt.Fprintf(&b, "if %s; then %s --function %s; else %s %s %s; fi", known, cmd, q, cmd, quoteAll(opts...), q)
	}
	if len(names) == 0 {
		fmt.Fprintf(&b, "%s %s", cmd, quoteAll(opts...))
	}
	return b.String()
}

func quoteAll(words ...string) string {
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

// turnTrap leaves EXIT and ERR to the interpreter. Traps on signals are taken and never run: a
// process of the machine that gets a signal ends.
func turnTrap(args []string) ([]string, error) {
	if len(args) < 3 {
		return args, nil
	}
	rest := args[1:]
	if rest[0] == "--" {
		rest = rest[1:]
	}
	text, err := again(rest[0])
	if err != nil {
		return nil, err
	}
	out := []string{"trap", "--", text}
	for _, sig := range rest[1:] {
		name := strings.TrimPrefix(sig, "SIG")
		no, _ := strconv.Atoi(sig)
		switch {
		case sig == "0":
			out = append(out, "EXIT")
		case slices.ContainsFunc(signals, func(s *signal) bool { return s.name == name || s.no == no }):
		default:
			out = append(out, sig)
		}
	}
	if len(out) == 3 {
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
		if data, err = v.readFile(c); err == nil {
			text, err := again(string(data))
			return append([]string{".", sourcedPrefix + text}, args[2:]...), err
		}
	}
	return []string{ourVars + "nosource", args[1], reason(err)}, nil
}
