package userland

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// logCommands tell what the machine does and did:
//
//	journalctl [--no-pager] [-o short-precise] [--since=-SECONDSs] [-b]    of Host.Log, and of logger; root's alone
//	dmesg [-T] [--level=LEVEL,...]    of Host.KernelLog; on Debian root's alone
var logCommands = map[string]machine.Command{"journalctl": cmdJournalctl, "dmesg": cmdDmesg}

var cmdJournalctl = parsed("--no-pager -o: --since= -b", func(_ context.Context, p *machine.Proc, o *options) int {
	if format, ok := o.set["-o"]; ok && format != "short-precise" || len(o.args) > 0 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if p.User != "root" {
		fmt.Fprintln(p.Stderr, "No journal files were opened due to insufficient permissions.")
		return 1
	}
	var since time.Time
	if s, ok := o.set["--since"]; ok {
		d, err := time.ParseDuration(s)
		if err != nil || d > 0 {
			return p.NotSimulated("--since=" + s)
		}
		since = p.Host.Clock().Add(d)
	}
	lines := p.Host.ReadLog(machine.JournalFile, since)
	if len(lines) == 0 {
		fmt.Fprintln(p.Stdout, "-- No entries --")
	}
	name, _ := p.Host.Disk.ReadFile("/etc/hostname")
	for _, l := range lines {
		fmt.Fprintf(p.Stdout, "%s %s %s: %s\n", l.At.Format("Jan 02 15:04:05.000000"), strings.TrimSpace(string(name)), l.Tag, l.Text)
	}
	return 0
})

var cmdDmesg = parsed("-T --level=", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) > 0 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if p.User != "root" && p.Host.Debian() {
		return p.Fail(1, "read kernel buffer failed: Operation not permitted")
	}
	levels := strings.Split(o.set["--level"], ",")
	for _, l := range p.Host.ReadLog(machine.KernelFile, time.Time{}) {
		if !o.has("--level") || slices.Contains(levels, l.Tag) {
			fmt.Fprintf(p.Stdout, "[%s] %s\n", l.At.Format(time.ANSIC), l.Text)
		}
	}
	return 0
})
