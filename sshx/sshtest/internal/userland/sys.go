package userland

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// sysCommands are about the machine:
//
//	date [-u] [-d DATE | -s DATE] [-R] [-I] [+FORMAT]  the zone is that of TZ or /etc/localtime's name, or UTC
//	hostname [-s -f], uname [-a -s -r -n -m -o -v]
//	uptime [-s -p], arch, nproc, logger [-t TAG] [-p PRIO] TEXT... (to /var/log/messages)
//	reboot, poweroff, halt, shutdown [-r -h -P -H] [now|+0] [-f]
//	systemctl: see systemctl.go
var sysCommands = map[string]machine.Command{
	"date": cmdDate, "hostname": cmdHostname, "uname": cmdUname, "arch": cmdUname, "nproc": cmdUname, "uptime": cmdUptime, "logger": cmdLogger,
	"systemctl": cmdSystemctl, "reboot": cmdPower, "poweroff": cmdPower, "halt": cmdPower, "shutdown": cmdPower,
}

// strftime are the conversions of date's formats.
var strftime = map[byte]string{
	'Y': "2006", 'm': "01", 'd': "02", 'H': "15", 'M': "04", 'S': "05", 'F': "2006-01-02", 'T': "15:04:05", 'y': "06", 'b': "Jan", 'B': "January",
	'a': "Mon", 'A': "Monday", 'Z': "MST", 'z': "-0700", 'D': "01/02/06", 'R': "15:04", 'e': "_2", 'I': "03", 'p': "PM", 'j': "002",
}

func zoneOf(p *machine.Proc, utc bool) *time.Location {
	name := p.Env["TZ"]
	if name == "" {
		if to, err := p.Host.Disk.Readlink("/etc/localtime"); err == nil {
			_, name, _ = strings.Cut(to, "zoneinfo/")
		}
	}
	if loc, err := time.LoadLocation(name); err == nil && !utc && name != "Local" { // that would be the host's
		return loc
	}
	return time.UTC
}

var cmdDate = parsed("-u -R -I -d: -s: --utc --date= --set= --iso-8601 --iso-8601= --rfc-3339=", func(_ context.Context, p *machine.Proc, o *options) int {
	if tz := p.Env["TZ"]; strings.ContainsAny(tz, "0123456789") && zoneOf(p, false) == time.UTC {
		return p.NotSimulated("TZ=" + tz)
	}
	t := p.Host.Clock()
	if o.has("-d", "--date") {
		d := cmp.Or(o.set["-d"], o.set["--date"])
		var err error
		if t, err = parseDate(d, t); err != nil {
			return p.NotSimulated("-d " + d)
		}
	}
	if d := cmp.Or(o.set["-s"], o.set["--set"]); d != "" {
		var err error
		if t, err = parseDate(d, t); err != nil {
			return p.NotSimulated("-s " + d)
		}
		if p.User != "root" {
			return p.Fail(1, "cannot set date: Operation not permitted")
		}
		p.Host.SetClock(t)
	}
	t = t.In(zoneOf(p, o.has("-u", "--utc")))
	format := "+%a %b %e %H:%M:%S %Z %Y"
	switch {
	case o.has("-R"):
		format = "+%a, %d %b %Y %H:%M:%S %z"
	case o.set["--iso-8601"] != "" && o.set["--iso-8601"] != "seconds" && o.set["--iso-8601"] != "date":
		return p.NotSimulated("--iso-8601=" + o.set["--iso-8601"])
	case o.has("--rfc-3339") && o.set["--rfc-3339"] != "seconds":
		return p.NotSimulated("--rfc-3339=" + o.set["--rfc-3339"])
	case o.set["--iso-8601"] == "seconds":
		fmt.Fprintln(p.Stdout, t.Format("2006-01-02T15:04:05-07:00"))
		return 0
	case o.has("-I") || o.has("--iso-8601"):
		format = "+%F"
	case o.has("--rfc-3339"):
		fmt.Fprintln(p.Stdout, t.Format("2006-01-02 15:04:05-07:00"))
		return 0
	}
	if len(o.args) > 0 {
		format = o.args[0]
	}
	if !strings.HasPrefix(format, "+") || len(o.args) > 1 {
		return p.NotSimulated(format)
	}
	var b strings.Builder
	for i := 1; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		layout, known := strftime[format[i]]
		switch {
		case known:
			b.WriteString(t.Format(layout))
		case format[i] == 's':
			fmt.Fprint(&b, t.Unix())
		case format[i] == 'N':
			fmt.Fprintf(&b, "%09d", t.Nanosecond())
		case format[i] == 'u':
			fmt.Fprint(&b, (int(t.Weekday())+6)%7+1)
		case format[i] == '%':
			b.WriteByte('%')
		default:
			return p.NotSimulated("%" + string(format[i]))
		}
	}
	fmt.Fprintln(p.Stdout, b.String())
	return 0
})

var cmdHostname = parsed("-s -f --fqdn --short", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) > 0 {
		return p.NotSimulated("setting the name; write /etc/hostname")
	}
	name := p.Host.Hostname()
	if o.has("-s", "--short") {
		name, _, _ = strings.Cut(name, ".")
	}
	fmt.Fprintln(p.Stdout, name)
	return 0
})

var cmdUname = parsed("-a -s -r -n -m -o -v -p -i --all", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) > 0 {
		return p.Fail(1, "extra operand '%s'", o.args[0])
	}
	if len(o.list) > 0 && p.Name() != "uname" {
		return p.NotSimulated(o.list[0][0])
	}
	switch p.Name() {
	case "arch":
		fmt.Fprintln(p.Stdout, "x86_64")
		return 0
	case "nproc":
		fmt.Fprintln(p.Stdout, 2)
		return 0
	}
	if len(o.list) == 0 {
		o.set["-s"] = ""
	}
	var out []string
	for _, x := range [][2]string{
		{"-s", "Linux"},
		{"-n", p.Host.Hostname()},
		{"-r", machine.KernelRelease},
		{"-v", "#1 SMP PREEMPT_DYNAMIC"},
		{"-m", "x86_64"},
		{"-p", "x86_64"},
		{"-i", "x86_64"},
		{"-o", "GNU/Linux"},
	} {
		if o.has(x[0], "-a", "--all") {
			out = append(out, x[1])
		}
	}
	fmt.Fprintln(p.Stdout, strings.Join(out, " "))
	return 0
})

var cmdUptime = parsed("-s -p", func(_ context.Context, p *machine.Proc, o *options) int {
	up := time.Since(p.Task.Boot.Since)
	switch {
	case o.has("-s"):
		fmt.Fprintln(p.Stdout, p.Host.Clock().Add(-up).In(zoneOf(p, false)).Format("2006-01-02 15:04:05"))
	case o.has("-p"):
		fmt.Fprintf(p.Stdout, "up %d minutes\n", int(up.Minutes()))
	default:
		fmt.Fprintf(p.Stdout, " %s up %d min,  1 user,  load average: 0.00, 0.00, 0.00\n", p.Host.Clock().In(zoneOf(p, false)).Format("15:04:05"), int(up.Minutes()))
	}
	return 0
})

var cmdLogger = parsed("+ -t: -p: -i -s --tag=", func(ctx context.Context, p *machine.Proc, o *options) int {
	text := strings.Join(o.args, " ")
	if len(o.args) == 0 {
		data, _ := readAll(ctx, p.Stdin)
		text = strings.TrimSpace(string(data))
	}
	host, _, _ := strings.Cut(p.Host.Hostname(), ".")
	p.Host.Log(cmp.Or(cmp.Or(o.set["-t"], o.set["--tag"]), p.User), text)
	for line := range strings.SplitSeq(text, "\n") {
		line = fmt.Sprintf("%s %s %s: %s\n", p.Host.Clock().UTC().Format(time.Stamp), host, cmp.Or(cmp.Or(o.set["-t"], o.set["--tag"]), p.User), line)
		_ = p.Host.Disk.AppendFile("/var/log/messages", []byte(line), 0o600)
		if o.has("-s") {
			_, _ = io.WriteString(p.Stderr, line)
		}
	}
	return 0
})

// cmdPower asks the embedder, and ends at once: a machine takes a while to go down.
func cmdPower(_ context.Context, p *machine.Proc) int {
	if p.User != "root" {
		return p.Fail(1, "Failed to set wall message, ignoring: Interactive authentication required.")
	}
	reboot := p.Name() == "reboot"
	for _, a := range p.Args[1:] {
		switch {
		case p.Name() == "shutdown" && a == "-r":
			reboot = true
		case p.Name() == "shutdown" && slices.Contains([]string{"-h", "-P", "-H", "now", "+0", "0"}, a):
		case a == "-f" || a == "--force":
		default:
			return p.NotSimulated(a)
		}
	}
	if p.Name() == "shutdown" && !slices.ContainsFunc(p.Args, func(a string) bool { return a == "now" || a == "+0" || a == "0" }) {
		return p.NotSimulated("a time other than now")
	}
	if reboot {
		p.Host.Reboot()
	} else {
		p.Host.PowerOff()
	}
	return 0
}
