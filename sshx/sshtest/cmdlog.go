package sshtest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// logCommands tell what the machine does and did:
//
//	journalctl [--no-pager] [-o short-precise] [--since=-SECONDSs] [-b]    of Host.Log, and of logger; root's alone
//	dmesg [-T] [--level=LEVEL,...]    of Host.KernelLog; on Debian root's alone
//	ps -e -o pid,ppid,user,args
var logCommands = map[string]Command{"journalctl": cmdJournalctl, "dmesg": cmdDmesg, "ps": cmdPs}

// The journal and the kernel's log are in memory: a boot empties them.
const (
	journalFile = "/run/log/journal"
	kernelFile  = "/run/log/kmsg"
)

// Log adds a line to the machine's journal, as a service does that is called tag.
func (h *Host) Log(tag, text string) { h.addLog(journalFile, tag, text) }

// KernelLog adds a line to the kernel's log, of a level such as "err", and to the journal.
func (h *Host) KernelLog(level, text string) {
	h.addLog(kernelFile, level, text)
	h.addLog(journalFile, "kernel", text)
}

func (h *Host) addLog(file, tag, text string) {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	data, _ := h.disk.ReadFile(file) // there may be none yet
	_ = h.disk.MkdirAll("/run/log", 0o755)
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		data = fmt.Appendf(data, "%d\t%s\t%s\n", h.Clock().UnixMicro(), tag, line)
	}
	_ = h.disk.WriteFile(file, data, fs.FileMode(0o600))
}

// readLog returns the lines of a log since then: time, tag and text.
func (h *Host) readLog(file string, since time.Time) (all []logLine) {
	data, _ := h.disk.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		micro, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil || len(parts) < 3 || time.UnixMicro(micro).Before(since) {
			continue
		}
		all = append(all, logLine{time.UnixMicro(micro), parts[1], parts[2]})
	}
	return all
}

type logLine struct {
	at        time.Time
	tag, text string
}

func cmdJournalctl(_ context.Context, p *Proc) int {
	o, ok := p.options("--no-pager -o: --since= -b")
	if !ok {
		return exitNotSimulated
	}
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
	lines := p.Host.readLog(journalFile, since)
	if len(lines) == 0 {
		fmt.Fprintln(p.Stdout, "-- No entries --")
	}
	name, _ := p.Host.disk.ReadFile("/etc/hostname")
	for _, l := range lines {
		fmt.Fprintf(p.Stdout, "%s %s %s: %s\n", l.at.Format("Jan 02 15:04:05.000000"), strings.TrimSpace(string(name)), l.tag, l.text)
	}
	return 0
}

func cmdDmesg(_ context.Context, p *Proc) int {
	o, ok := p.options("-T --level=")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) > 0 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	if p.User != "root" && p.Host.debian() {
		return p.Fail(1, "read kernel buffer failed: Operation not permitted")
	}
	levels := strings.Split(o.set["--level"], ",")
	for _, l := range p.Host.readLog(kernelFile, time.Time{}) {
		if !o.has("--level") || slices.Contains(levels, l.tag) {
			fmt.Fprintf(p.Stdout, "[%s] %s\n", l.at.Format(time.ANSIC), l.text)
		}
	}
	return 0
}

func cmdPs(_ context.Context, p *Proc) int {
	if !slices.Equal(p.Args[1:], []string{"-e", "-o", "pid,ppid,user,args"}) {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	h := p.Host
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintf(p.Stdout, "%7s %7s %-8s %s\n", "PID", "PPID", "USER", "COMMAND")
	if h.up == nil {
		return 0
	}
	for _, pid := range slices.Sorted(maps.Keys(h.up.pids)) {
		q := h.up.pids[pid]
		fmt.Fprintf(p.Stdout, "%7d %7d %-8s %s\n", pid, 1, q.user, strings.Join(q.args, " "))
	}
	return 0
}
