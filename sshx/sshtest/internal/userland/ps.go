package userland

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// psColumns are the columns of ps that are known: those of -o by their names, and what -f shows.
var psColumns = map[string]struct {
	title string
	width int // negative: to the left
	value func(p *machine.Process) string
}{
	"pid":   {"PID", 7, func(p *machine.Process) string { return strconv.Itoa(p.PID) }},
	"ppid":  {"PPID", 7, func(p *machine.Process) string { return strconv.Itoa(p.PPID) }},
	"user":  {"USER", -8, func(p *machine.Process) string { return p.User }},
	"uid":   {"UID", -8, func(p *machine.Process) string { return p.User }}, // that of -f
	"c":     {"C", 2, func(*machine.Process) string { return "0" }},
	"stime": {"STIME", 5, func(p *machine.Process) string { return p.Began.Format("15:04") }},
	"tty":   {"TTY", -8, terminalOf},
	"time":  {"TIME", 8, func(*machine.Process) string { return "00:00:00" }},
	"comm":  {"COMMAND", -15, func(p *machine.Process) string { return path.Base(p.Args[0]) }},
	"cmd":   {"CMD", -27, func(p *machine.Process) string { return strings.Join(p.Args, " ") }},
	"args":  {"COMMAND", -27, func(p *machine.Process) string { return strings.Join(p.Args, " ") }},
}

func terminalOf(p *machine.Process) string {
	if p.Task != nil && p.Task.Terminal {
		return "pts/0"
	}
	return "?"
}

// cmdPs is
//
//	ps -e | -A | ax | -p PID,... | -C NAME | -u USER  [-f | -o COLUMN,... | -o COLUMN=...] [--no-headers]
//
// It shows the programs that run on the machine, of which some are shells. What would have to be
// measured, such as memory, is refused: ps aux is. Nothing takes any time of the processor.
func cmdPs(_ context.Context, p *machine.Proc) int {
	if len(p.Args) == 2 && p.Args[1] == "ax" {
		p.Args[1] = "-e"
	}
	o, ok := parse(p, "-e -A -f -p: -C: -u: -o: --no-headers --pid= --format=")
	if !ok {
		return machine.ExitNotSimulated
	}
	selected := []string{"-e", "-A", "-p", "--pid", "-C", "-u"}
	if len(o.args) > 0 || !o.has(selected...) || o.has("-f") && o.has("-o", "--format") {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	columns := []string{"pid", "tty", "time", "comm"}
	var titles []string
	if o.has("-f") {
		columns = []string{"uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"}
	}
	if o.has("-o", "--format") {
		columns = nil
		for _, x := range o.list {
			if x[0] != "-o" && x[0] != "--format" {
				continue
			}
			for c := range strings.SplitSeq(x[1], ",") {
				name, title, renamed := strings.Cut(c, "=")
				if _, known := psColumns[name]; !known || name == "uid" || name == "c" || title != "" {
					return p.NotSimulated("-o " + c)
				}
				columns = append(columns, name)
				if !renamed {
					titles = append(titles, psColumns[name].title)
				}
			}
		}
		if len(titles) > 0 && len(titles) < len(columns) {
			return p.NotSimulated("-o with some titles")
		}
	}
	line := func(value func(column string) string) {
		var b strings.Builder
		for i, c := range columns {
			width := psColumns[c].width
			if i == len(columns)-1 && width < 0 {
				width = 0
			}
			if i > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%*s", width, value(c))
		}
		fmt.Fprintln(p.Stdout, b.String())
	}
	if (!o.has("-o", "--format") || len(titles) > 0) && !o.has("--no-headers") {
		line(func(c string) string {
			if c == "comm" && !o.has("-o", "--format") {
				return "CMD"
			}
			return psColumns[c].title
		})
	}
	found := false
	for _, q := range p.Task.Boot.Programs() {
		if !o.has("-e", "-A") && !psSelects(o, q) {
			continue
		}
		if q.Job && o.has("-p", "--pid") && slices.ContainsFunc(columns, func(c string) bool { return c == "args" || c == "cmd" || c == "comm" }) {
			return p.NotSimulated("what a background job runs")
		}
		found = true
		line(func(c string) string { return psColumns[c].value(q) })
	}
	if !found {
		return 1
	}
	return 0
}

// psSelects reports whether -p, -C or -u selects a process.
func psSelects(o *options, q *machine.Process) bool {
	for _, x := range o.list {
		list := strings.FieldsFunc(x[1], func(r rune) bool { return r == ',' || r == ' ' })
		switch x[0] {
		case "-p", "--pid":
			if slices.Contains(list, strconv.Itoa(q.PID)) {
				return true
			}
		case "-C":
			if slices.Contains(list, path.Base(q.Args[0])) {
				return true
			}
		case "-u":
			if slices.Contains(list, q.User) {
				return true
			}
		}
	}
	return false
}
