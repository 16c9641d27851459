package userland

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// procCommands run and end programs:
//
//	sh, bash, dash [-e -u -x -f -a -l] [-o OPTION] [-c TEXT [NAME ARG...] | -s [ARG...] | FILE [ARG...]]
//	env [-i] [-u NAME] [NAME=VALUE...] [COMMAND...]
//	sudo: see sudo.go
//	nohup, setsid [-f -w], nice [-n N], stdbuf [-i -o -e MODE]: they run the command; only setsid does more
//	timeout [-s SIGNAL] [-k TIME] [--foreground] TIME COMMAND...
//	sleep SECONDS...[smhd]
//	xargs [-0 -r] [-n N] [-I TEXT] [-P N] [COMMAND...]    -P is taken, one runs at a time
//	kill [-s SIGNAL | -SIGNAL | -l] PID... | -- -PGID
//	pgrep, pkill [-x -f -l -u USER] PATTERN
//	ps: see ps.go
var procCommands = map[string]machine.Command{
	"env": cmdEnv, "sudo": cmdSudo, "nohup": cmdPrefix, "nice": cmdPrefix, "stdbuf": cmdPrefix, "setsid": cmdSetsid, "timeout": cmdTimeout,
	"sleep": cmdSleep, "xargs": cmdXargs, "kill": cmdKill, "pgrep": cmdPgrep, "pkill": cmdPgrep, "ps": cmdPs,
}

var cmdEnv = parsed("+ -i -u: --ignore-environment --unset=", func(ctx context.Context, p *machine.Proc, o *options) int {
	if len(o.args) > 0 && o.args[0] == "-" {
		o.set["-i"], o.args = "", o.args[1:]
	}
	q := *p
	q.Env = maps.Clone(p.Env)
	if o.has("-i", "--ignore-environment") {
		q.Env = map[string]string{}
	}
	for _, x := range o.list {
		if x[0] == "-u" || x[0] == "--unset" {
			delete(q.Env, x[1])
		}
	}
	for len(o.args) > 0 {
		k, v, ok := strings.Cut(o.args[0], "=")
		if !ok {
			break
		}
		q.Env[k] = v
		o.args = o.args[1:]
	}
	if len(o.args) > 0 {
		return q.Run(ctx, o.args...)
	}
	for _, k := range slices.Sorted(maps.Keys(q.Env)) {
		fmt.Fprintf(p.Stdout, "%s=%s\n", k, q.Env[k])
	}
	return 0
})

// cmdPrefix runs the command behind it. What it would change has no meaning here.
func cmdPrefix(ctx context.Context, p *machine.Proc) int {
	spec := map[string]string{"nice": "+ -n:", "stdbuf": "+ -o: -e: -i:", "nohup": "+"}[p.Name()]
	o, ok := parse(p, spec)
	if !ok {
		return machine.ExitNotSimulated
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	return p.Run(ctx, o.args...)
}

// cmdSetsid runs a command in a process group of its own, which no kill of ours reaches.
var cmdSetsid = parsed("+ -f -w --fork --wait", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return p.Fail(1, "no command specified")
	}
	b, parent := p.Task.Boot, p.Task
	j := parent.Fork(context.Background(), p, o.args, parent.IsOutput(p.Stdout) || parent.IsOutput(p.Stderr))
	t := b.NewTask(parent.Out, parent.Err, func() { parent.Ended(j) })
	q := *p
	q.Task = t
	if !o.has("-f", "--fork") {
		defer t.Release()
		return q.Run(t.Ctx, o.args...)
	}
	q.Stdin = machine.NoInput{}
	if !b.Hand(func() { q.Run(t.Ctx, o.args...); t.Release() }) {
		t.Release()
	}
	return 0
})

func parseSeconds(s string) (time.Duration, error) {
	unit := time.Second
	if s != "" {
		switch s[len(s)-1] {
		case 's':
			s = s[:len(s)-1]
		case 'm':
			unit, s = time.Minute, s[:len(s)-1]
		case 'h':
			unit, s = time.Hour, s[:len(s)-1]
		case 'd':
			unit, s = 24*time.Hour, s[:len(s)-1]
		}
	}
	if s == "infinity" || s == "inf" {
		return 1 << 62, nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	return time.Duration(n * float64(unit)), err
}

func cmdSleep(ctx context.Context, p *machine.Proc) int {
	var sum time.Duration
	o, ok := parse(p, "")
	if !ok {
		return machine.ExitNotSimulated
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	for _, a := range o.args {
		d, err := parseSeconds(a)
		if err != nil {
			return p.Fail(1, "invalid time interval '%s'", a)
		}
		sum += d
	}
	machine.Sleep(ctx, sum)
	return 0
}

var cmdTimeout = parsed("+ -s: -k: --signal= --kill-after= --foreground --preserve-status", func(ctx context.Context, p *machine.Proc, o *options) int {
	if len(o.args) < 2 {
		return p.Fail(125, "missing operand")
	}
	d, err := parseSeconds(o.args[0])
	sig := machine.SignalNamed(cmp.Or(cmp.Or(o.set["-s"], o.set["--signal"]), "TERM"))
	if err != nil || sig == nil {
		return p.Fail(125, "invalid time interval '%s'", o.args[0])
	}
	if d == 0 {
		d = 1 << 62
	}
	c, cancel, done := p.Task.Child(ctx)
	defer done()
	defer time.AfterFunc(d, func() { cancel(sig) }).Stop()
	code := p.Run(c, o.args[1:]...)
	if ctx.Err() == nil && c.Err() != nil && !o.has("--preserve-status") {
		if sig == machine.SIGKILL {
			return 137
		}
		return 124
	}
	return code
})

var cmdXargs = parsed("+ -0 -r -n: -I: -P: --null --no-run-if-empty", func(ctx context.Context, p *machine.Proc, o *options) int {
	data, err := readAll(ctx, p.Stdin)
	if err != nil {
		return 1
	}
	var items []string
	switch text := string(data); {
	case o.has("-0", "--null"):
		items = strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
		if text == "" {
			items = nil
		}
	case o.has("-I"):
		for l := range strings.Lines(text) {
			if strings.ContainsAny(l, `\'"`) {
				return p.NotSimulated("quotes with -I")
			}
			if l = strings.TrimLeft(strings.TrimSuffix(l, "\n"), " \t"); l != "" {
				items = append(items, l)
			}
		}
	default:
		if items, err = xargsWords(text); err != nil {
			return p.Fail(1, "%v", err)
		}
	}
	cmd := o.args
	if len(cmd) == 0 {
		cmd = []string{"echo"}
	}
	n := max(1, len(items))
	if s, ok := o.set["-n"]; ok {
		if n, err = strconv.Atoi(s); err != nil || n < 1 {
			return p.Fail(1, "invalid number \"%s\" for -n option", s)
		}
	}
	if len(items) == 0 && (o.has("-r", "--no-run-if-empty") || o.has("-I")) {
		return 0
	}
	batches := [][]string{{}}
	if len(items) > 0 {
		batches = slices.Collect(slices.Chunk(items, n))
	}
	q := *p
	q.Stdin = machine.NoInput{}
	code := 0
	run := func(args []string) bool {
		switch c := q.Run(ctx, args...); {
		case c == 126 || c == 127:
			code = c
			return false
		case c == 255:
			code = 124
			return false
		case c != 0:
			code = 123
		}
		return ctx.Err() == nil
	}
	if mark, ok := o.set["-I"]; ok {
		for _, it := range items {
			args := slices.Clone(cmd)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], mark, it)
			}
			if !run(args) {
				break
			}
		}
		return code
	}
	for _, b := range batches {
		if !run(slices.Concat(cmd, b)) {
			break
		}
	}
	return code
})

// xargsWords splits as xargs does: at blanks, with quotes and backslashes.
func xargsWords(s string) (out []string, err error) {
	var w strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\t', '\n':
			if in {
				out = append(out, w.String())
				w.Reset()
			}
			in = false
		case '\'', '"':
			n := strings.IndexByte(s[i+1:], c)
			if n < 0 || strings.Contains(s[i+1:i+1+n], "\n") {
				return nil, fmt.Errorf("unmatched %c quote", c)
			}
			w.WriteString(s[i+1 : i+1+n])
			i += n + 1
			in = true
		case '\\':
			if i++; i < len(s) {
				w.WriteByte(s[i])
			}
			in = true
		default:
			w.WriteByte(c)
			in = true
		}
	}
	if in {
		out = append(out, w.String())
	}
	return out, nil
}
