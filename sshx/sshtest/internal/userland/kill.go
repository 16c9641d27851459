package userland

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

func cmdKill(_ context.Context, p *machine.Proc) int {
	sig := machine.SIGTERM
	probe := false
	args := p.Args[1:]
	set := func(s string) bool {
		probe = s == "0"
		if sig = machine.SignalNamed(s); sig == nil && !probe {
			p.Fail(1, "%s: invalid signal specification", s)
			return false
		}
		return true
	}
	switch {
	case len(args) > 0 && args[0] == "-l":
		if len(args) == 2 {
			if no, err := strconv.Atoi(args[1]); err == nil {
				if i := slices.IndexFunc(machine.Signals, func(s *machine.Signal) bool { return s.Number == no || s.ExitCode() == no }); i >= 0 {
					fmt.Fprintln(p.Stdout, machine.Signals[i].Name)
					return 0
				}
			} else if s := machine.SignalNamed(args[1]); s != nil {
				fmt.Fprintln(p.Stdout, s.Number)
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
		if err := sendSignal(p, pid, sig, probe); err != nil {
			code = p.Fail(1, "(%d) - %s", pid, disk.Reason(err))
		}
	}
	return code
}

// sendSignal sends sig to a process, or a group if pid is negative.
func sendSignal(p *machine.Proc, pid int, sig *machine.Signal, probe bool) error {
	b := p.Task.Boot
	for _, x := range b.Processes() {
		if x.PID != pid && x.PID != -pid {
			continue
		}
		switch {
		case p.User != "root" && p.User != x.User:
			return syscall.EPERM
		case probe:
			return nil
		case pid < 0:
			return b.KillGroup(-pid, sig, p.User)
		}
		x.Send(sig)
		return nil
	}
	return syscall.ESRCH
}

var cmdPgrep = parsed("-x -f -l -a -u:", func(_ context.Context, p *machine.Proc, o *options) int {
	if p.Name() == "pkill" && o.has("-l", "-a") {
		return p.NotSimulated("-l, -a")
	}
	if len(o.args) != 1 {
		return p.Fail(2, "no matching criteria specified")
	}
	re, err := compileRegexp(o.args[0], true, false, o.has("-x"))
	if err != nil {
		return regexpError(p, err)
	}
	code := 1
	for _, x := range p.Task.Boot.Programs() {
		name := lastOf(strings.Split(x.Args[0], "/"))
		subject := name
		if o.has("-f") {
			subject = strings.Join(x.Args, " ")
		}
		if x.PID == p.PID || o.has("-u") && x.User != o.set["-u"] || !re.MatchString(subject) {
			continue
		}
		code = 0
		switch {
		case p.Name() == "pkill":
			_ = sendSignal(p, x.PID, machine.SIGTERM, false)
		case o.has("-l"):
			fmt.Fprintln(p.Stdout, x.PID, name)
		case o.has("-a"):
			fmt.Fprintln(p.Stdout, x.PID, strings.Join(x.Args, " "))
		default:
			fmt.Fprintln(p.Stdout, x.PID)
		}
	}
	return code
})
