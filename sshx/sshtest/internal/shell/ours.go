package shell

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// exitWith is the error that stands for an exit code.
func exitWith(code string) error {
	if n, _ := strconv.Atoi(code); n != 0 {
		return interp.ExitStatus(uint8(n))
	}
	return nil
}

// ours runs the helpers that rewrite and call put into scripts.
func (s *shell) ours(hc interp.HandlerContext, args []string) error {
	status := func(ok bool) error {
		if ok {
			return nil
		}
		return interp.ExitStatus(1)
	}
	switch strings.TrimPrefix(args[0], ourVars) {
	case "end":
		if j := s.job(hc); j != nil {
			s.p.Task.Ended(j)
		}
		return exitWith(args[1])
	case "status":
		return exitWith(args[1])
	case "arith":
		return s.arithmetic(hc, args[1:])
	case "ifs":
		_, err := io.WriteString(hc.Stdout, ifsFields(hc, args[1]))
		return err
	case "count":
		_, err := fmt.Fprint(hc.Stdout, len(args)-1)
		return err
	case "out": // stdout, stderr and exit code of a builtin
		_, _ = io.WriteString(hc.Stderr, args[2])
		if _, err := io.WriteString(hc.Stdout, args[1]); err != nil {
			return interp.ExitStatus(1)
		}
		return exitWith(args[3])
	case "timed":
		text := "\nreal\t0m0.000s\nuser\t0m0.000s\nsys\t0m0.000s\n"
		if args[2] == "-p" {
			text = "real 0.00\nuser 0.00\nsys 0.00\n"
		}
		_, _ = io.WriteString(hc.Stderr, text)
		return exitWith(args[1])
	case "forked":
		pid, _ := strconv.Atoi(args[1])
		s.p.Task.NameJob(pid, args[2])
		return nil
	case "home":
		home := "~" + args[1]
		if u, ok := s.h.Disk.Accounts().User(args[1]); ok {
			home = u.Home
		}
		_, err := io.WriteString(hc.Stdout, home)
		return err
	case "refuse":
		return s.refuse(hc, "shell", args[1])
	case "fail":
		fmt.Fprintf(hc.Stderr, "bash: %s\n", args[2])
		code, _ := strconv.Atoi(args[1])
		return interp.ExitStatus(uint8(code))
	case "command-v", "command-V":
		if err := status(s.describe(hc, args[1:], strings.HasSuffix(args[0], "V"), "")); err == nil || !s.dash {
			return err
		}
		return interp.ExitStatus(127)
	case "hash":
		if slices.Equal(args[1:], []string{"-r"}) {
			return nil
		}
		for _, a := range args[1:] {
			if _, err := s.which(hc, a); err != nil && !interp.IsBuiltin(a) && a != "--function" {
				fmt.Fprintf(hc.Stderr, "bash: hash: %s: not found\n", a)
				return interp.ExitStatus(1)
			}
		}
		return nil
	case "type":
		opt := ""
		rest := args[1:]
		for len(rest) > 0 && strings.HasPrefix(rest[0], "-") && rest[0] != "--function" {
			if opt != "" || !slices.Contains([]string{"-t", "-p", "-P"}, rest[0]) {
				return s.refuse(hc, "type", rest[0])
			}
			opt, rest = rest[0], rest[1:]
		}
		if err := status(s.describe(hc, rest, true, opt)); err == nil || !s.dash {
			return err
		}
		return interp.ExitStatus(127)
	}
	return fmt.Errorf("sshtest: unknown helper %q", args[0])
}

// refuse is Proc.NotSimulated for the shell's own commands, whose stderr may be redirected.
func (s *shell) refuse(hc interp.HandlerContext, command, what string) error {
	p := *s.p
	p.Stderr = hc.Stderr
	return interp.ExitStatus(p.Refuse(command, what))
}

func (s *shell) which(hc interp.HandlerContext, name string) (string, error) {
	p := *s.p
	p.Dir, p.Env = hc.Dir, map[string]string{"PATH": hc.Env.Get("PATH").String()}
	return p.Which(name)
}

// describe says what a command name is, in the words of command -v, or of type if long.
func (s *shell) describe(hc interp.HandlerContext, args []string, long bool, opt string) bool {
	function := len(args) > 0 && args[0] == "--function"
	if function {
		args = args[1:]
	}
	if len(args) == 0 {
		return false
	}
	name := args[0]
	say := func(kind, short, text string) bool {
		switch {
		case opt == "-t":
			fmt.Fprintln(hc.Stdout, kind)
		case opt == "-p" || opt == "-P":
			if kind == "file" {
				fmt.Fprintln(hc.Stdout, short)
			}
		case long:
			fmt.Fprintln(hc.Stdout, text)
		default:
			fmt.Fprintln(hc.Stdout, short)
		}
		return true
	}
	if opt != "-P" {
		switch {
		case function:
			return say("function", name, name+" is a function")
		case syntax.IsKeyword(name):
			return say("keyword", name, name+" is a shell keyword")
		case interp.IsBuiltin(name):
			return say("builtin", name, name+" is a shell builtin")
		}
	}
	file, err := s.which(hc, name)
	if err != nil {
		if long && opt == "" {
			fmt.Fprintf(hc.Stderr, "bash: type: %s: not found\n", name)
		}
		return false
	}
	return say("file", file, name+" is "+file)
}
