package sshtest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func cmdKill(_ context.Context, p *Proc) int {
	sig := sigTERM
	probe := false
	args := p.Args[1:]
	set := func(s string) bool {
		probe = s == "0"
		if sig = signalNamed(s); sig == nil && !probe {
			p.Fail(1, "%s: invalid signal specification", s)
			return false
		}
		return true
	}
	switch {
	case len(args) > 0 && args[0] == "-l":
		if len(args) == 2 {
			if no, err := strconv.Atoi(args[1]); err == nil {
				if i := slices.IndexFunc(signals, func(s *signal) bool { return s.no == no || s.exitCode() == no }); i >= 0 {
					fmt.Fprintln(p.Stdout, signals[i].name)
					return 0
				}
			} else if s := signalNamed(args[1]); s != nil {
				fmt.Fprintln(p.Stdout, s.no)
				return 0
			}
		}
		return p.NotSimulated(strings.Join(args, " "))
	case len(args) > 1 && args[0] == "-s":
		if !set(args[1]) {
			return 1
		}
		args = args[2:]
	case len(args) > 1 && strings.HasPrefix(args[0], "-") && args[0] != "--":
		if !set(args[0][1:]) {
			return 1
		}
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return p.Fail(2, "usage: kill [-s sigspec | -signum | -sigspec] pid")
	}
	code := 0
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			code = p.Fail(1, "%s: arguments must be process or job IDs", a)
			continue
		}
		if err := p.signal(pid, sig, probe); err != nil {
			code = p.Fail(1, "(%d) - %s", pid, reason(err))
		}
	}
	return code
}

// signal sends sig to a process, or a group if pid is negative.
func (p *Proc) signal(pid int, sig *signal, probe bool) error {
	b := p.task.boot
	for _, x := range b.processes() {
		if x.pid != pid && x.pid != -pid {
			continue
		}
		switch {
		case p.User != "root" && p.User != x.user:
			return syscall.EPERM
		case probe:
			return nil
		case pid < 0:
			return b.killGroup(-pid, sig, p.User)
		}
		x.send(sig)
		return nil
	}
	return syscall.ESRCH
}

func cmdPgrep(_ context.Context, p *Proc) int {
	o, ok := p.options("-x -f -l -a -u:")
	if !ok {
		return exitNotSimulated
	}
	if p.name() == "pkill" && o.has("-l", "-a") {
		return p.NotSimulated("-l, -a")
	}
	if len(o.args) != 1 {
		return p.Fail(2, "no matching criteria specified")
	}
	re, err := compileRegexp(o.args[0], true, false, o.has("-x"))
	if err != nil {
		return p.regexpError(err)
	}
	code := 1
	for _, x := range p.task.boot.processes() {
		name := lastOf(strings.Split(x.args[0], "/"))
		subject := name
		if o.has("-f") {
			subject = strings.Join(x.args, " ")
		}
		if x.pid == p.pid || o.has("-u") && x.user != o.set["-u"] || !re.MatchString(subject) {
			continue
		}
		code = 0
		switch {
		case p.name() == "pkill":
			_ = p.signal(x.pid, sigTERM, false)
		case o.has("-l"):
			fmt.Fprintln(p.Stdout, x.pid, name)
		case o.has("-a"):
			fmt.Fprintln(p.Stdout, x.pid, strings.Join(x.args, " "))
		default:
			fmt.Fprintln(p.Stdout, x.pid)
		}
	}
	return code
}
