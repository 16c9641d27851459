package lab

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// serviceVerb is systemctl for units of the user's own.
func (g *Guest) serviceVerb(p *sshtest.Proc, verb, unit string, now bool) int {
	file, err := g.readUnit(unit)
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	if len(file.refused) > 0 && verb != "stop" && verb != "disable" {
		return p.NotSimulated(file.Path + ": " + strings.Join(file.refused, "; "))
	}
	g.mu.Lock()
	s := g.services[unit]
	isActive := g.active[unit]
	changed := s != nil && (isActive || g.failed[unit]) && s.file.Text != file.Text
	g.mu.Unlock()
	if changed {
		return p.NotSimulated("the unit file of " + unit + ", which changed since it was started: stop it before it is changed")
	}
	switch verb {
	case "enable":
		if !file.Installs {
			fmt.Fprintf(p.Stderr, "The unit files have no installation config (WantedBy=, RequiredBy=, Also=,\nAlias= settings in the [Install] section, and DefaultInstance= for template\nunits). This means they are not meant to be enabled using systemctl.\n")
		} else {
			for _, line := range g.os.enable(g.disk, unit) {
				fmt.Fprintln(p.Stderr, line)
			}
		}
		if now {
			err = g.startService(unit, false)
		}
	case "disable":
		for _, line := range g.os.disable(g.disk, unit) {
			fmt.Fprintln(p.Stderr, line)
		}
		if now {
			g.stopService(unit)
		}
	case "start":
		err = g.startService(unit, false)
	case "stop":
		g.stopService(unit)
	case "try-restart", "restart":
		if verb == "try-restart" && !isActive {
			return 0
		}
		g.stopService(unit)
		err = g.startService(unit, false)
	case "reload":
		return g.reloadService(p, s, isActive, unit)
	}
	if err != nil {
		return p.Fail(1, "Job for %s.service failed because %v", unit, err)
	}
	return 0
}

// reloadService runs ExecReload.
func (g *Guest) reloadService(p *sshtest.Proc, s *service, isActive bool, unit string) int {
	if !isActive || s == nil {
		return p.Fail(1, "%s.service is not active, cannot reload.", unit)
	}
	if len(s.file.Reload) == 0 {
		return p.Fail(1, "Failed to reload %s.service: Job type reload is not applicable for unit %s.service.", unit, unit)
	}
	env, err := s.file.environment(g.disk)
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	g.mu.Lock()
	if s.run != nil {
		env["MAINPID"] = strconv.Itoa(s.run.PID())
	}
	g.mu.Unlock()
	for _, c := range s.file.Reload {
		r, err := s.program(c, env, false)
		if err != nil {
			return p.Fail(1, "Job for %s.service failed because %v", unit, err)
		}
		<-r.Done()
		if r.Code() != 0 && !c.Ignore {
			return p.Fail(1, "Job for %s.service failed because %v", unit, errControl)
		}
	}
	return 0
}

// resetFailed forgets failures: of all units if none is named.
func (g *Guest) resetFailed(units []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for unit := range g.failed {
		if len(units) == 0 || slices.ContainsFunc(units, func(u string) bool { return g.os.service(u) == unit }) {
			g.failed[unit] = false
			if s := g.services[unit]; s != nil {
				s.starts = nil
			}
		}
	}
}

// unitCat prints unit files.
func (g *Guest) unitCat(p *sshtest.Proc, units []string) int {
	for i, u := range units {
		file, err := g.readUnit(u)
		if err != nil {
			return p.Fail(1, "No files found for %s.service.", u)
		}
		if i > 0 {
			fmt.Fprintln(p.Stdout)
		}
		fmt.Fprint(p.Stdout, file.Text)
	}
	return 0
}

// unitStatus is systemctl status UNIT..., with the lines that are known here, and the unit's last ten
// of the journal. Real ones have more: Tasks, Memory, CPU and CGroup.
func (g *Guest) unitStatus(p *sshtest.Proc, units []string) int {
	if len(units) == 0 {
		return p.NotSimulated("status without units")
	}
	code := 0
	for i, u := range units {
		if i > 0 {
			fmt.Fprintln(p.Stdout)
		}
		code = max(code, g.oneStatus(p, u))
	}
	return code
}

func (g *Guest) oneStatus(p *sshtest.Proc, unit string) int {
	file, err := g.readUnit(unit)
	if err != nil {
		return p.Fail(4, "Unit %s.service could not be found.", unit)
	}
	enabled := "disabled"
	if g.enabled(unit) {
		enabled = "enabled"
	} else if !file.Installs && len(file.Start) > 0 {
		enabled = "static"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	service := g.os.service(unit)
	dot, state, code := "○", "inactive (dead)", 3
	var since, more string
	s := g.services[unit]
	switch {
	case g.active[service] && s != nil && s.run == nil:
		dot, state, code = "●", "active (exited)", 0
	case g.active[service]:
		dot, state, code = "●", "active (running)", 0
	case g.failed[service]:
		dot, state = "×", "failed"
		if s != nil {
			state = "failed (Result: " + s.result + ")"
		}
	}
	if s != nil && !s.since.IsZero() {
		since = fmt.Sprintf(" since %s; %s ago", s.since.Format("Mon 2006-01-02 15:04:05 MST"), time.Since(s.since).Round(time.Second))
	}
	switch {
	case s != nil && s.run != nil:
		more = fmt.Sprintf("   Main PID: %d (%s)\n", s.run.PID(), path.Base(s.file.Start[0].Args[0]))
	case s != nil && g.failed[service]:
		more = fmt.Sprintf("   Main PID: (code=exited, status=%d)\n", s.code)
	}
	fmt.Fprintf(p.Stdout, "%s %s.service - %s\n     Loaded: loaded (%s; %s; preset: %s)\n     Active: %s%s\n%s",
		dot, unit, file.Description, file.Path, enabled, g.os.preset(), state, since, more)
	lines := g.journalOf(unit)
	if lines = lines[max(0, len(lines)-10):]; len(lines) > 0 {
		fmt.Fprintln(p.Stdout)
	}
	for _, e := range lines {
		fmt.Fprintln(p.Stdout, e.line(g.host.Hostname()))
	}
	return code
}

// unitShow is systemctl show -p PROPERTY [--value] UNIT, in any order of words.
func (g *Guest) unitShow(p *sshtest.Proc, args []string) int {
	var property, unit string
	value := false
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		long, isLong := strings.CutPrefix(a, "--property=")
		switch {
		case a == "show", a == "--no-pager":
		case a == "--value":
			value = true
		case a == "-p" && len(args) > 0 && property == "":
			property, args = args[0], args[1:]
		case isLong && property == "":
			property = long
		case strings.HasPrefix(a, "-") || unit != "":
			return p.NotSimulated("show " + a)
		default:
			unit = g.resolve(strings.TrimSuffix(a, ".service"))
		}
	}
	service := g.os.service(unit)
	exists, enabled := g.unitExists(unit), g.enabled(unit)
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.services[unit]
	active, sub, pid := "inactive", "dead", 0
	switch {
	case g.active[service] && s != nil && s.run == nil:
		active, sub = "active", "exited"
	case g.active[service]:
		active, sub = "active", "running"
	case g.failed[service]:
		active, sub = "failed", "failed"
	}
	if s != nil && s.run != nil {
		pid = s.run.PID()
	}
	text := ""
	switch {
	case unit == "":
		return p.NotSimulated("show without a unit")
	case property == "ActiveState":
		text = active
	case property == "SubState":
		text = sub
	case property == "MainPID" && (s != nil || active != "active"):
		text = strconv.Itoa(pid)
	case property == "LoadState" && exists:
		text = "loaded"
	case property == "LoadState":
		text = "not-found"
	case property == "UnitFileState" && enabled:
		text = "enabled"
	case property == "UnitFileState" && exists:
		text = "disabled"
	default:
		return p.NotSimulated("show -p " + property)
	}
	if !value {
		text = property + "=" + text
	}
	fmt.Fprintln(p.Stdout, text)
	return 0
}

// preset is what a system does with the units of packages: Debian enables them.
func (o *distro) preset() string {
	if o == debian {
		return "enabled"
	}
	return "disabled"
}

// journalOf returns a unit's lines of the journal. The caller holds mu.
func (g *Guest) journalOf(unit string) (lines []entry) {
	for _, e := range g.journal {
		if e.unit == unit {
			lines = append(lines, e)
		}
	}
	return lines
}

func (e entry) line(host string) string {
	return fmt.Sprintf("%s %s %s[%d]: %s", e.at.Format("Jan 02 15:04:05"), host, e.name, e.pid, e.text)
}

// journalctl knows: -u UNIT [-n N] [-o cat|short] [-b] [-q] [--no-pager], for units of the user's own:
// what the simulation's own would write is not known. Without -u it is sshtest's.
func (g *Guest) journalctl(ctx context.Context, p *sshtest.Proc) int {
	if !slices.Contains(p.Args, "-u") {
		return sshtest.BaseCommand("journalctl")(ctx, p)
	}
	unit, n, cat := "", -1, false
	for args := p.Args[1:]; len(args) > 0; args = args[1:] {
		a := args[0]
		switch {
		case a == "--no-pager", a == "-b", a == "-q":
		case (a == "-u" || a == "-n" || a == "-o") && len(args) > 1:
			v := args[1]
			args = args[1:]
			var err error
			switch {
			case a == "-u":
				unit = strings.TrimSuffix(v, ".service")
			case a == "-n":
				n, err = strconv.Atoi(v)
			case v == "cat" || v == "short":
				cat = v == "cat"
			default:
				err = errors.New("unknown")
			}
			if err != nil {
				return p.NotSimulated(a + " " + v)
			}
		default:
			return p.NotSimulated(a)
		}
	}
	if slices.Contains(bootOrder, g.os.service(unit)) {
		return p.NotSimulated("the journal of anything but a unit of your own")
	}
	if p.User != "root" {
		return p.NotSimulated("the journal as " + p.User)
	}
	g.mu.Lock()
	lines := g.journalOf(unit)
	g.mu.Unlock()
	if n >= 0 {
		lines = lines[max(0, len(lines)-n):]
	}
	if len(lines) == 0 && !cat {
		fmt.Fprintln(p.Stdout, "-- No entries --")
	}
	for _, e := range lines {
		if cat {
			fmt.Fprintln(p.Stdout, e.text)
		} else {
			fmt.Fprintln(p.Stdout, e.line(g.host.Hostname()))
		}
	}
	return 0
}
