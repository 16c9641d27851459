package lab

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// A unitFile is a service of the user's own, as its unit file describes it. What is not simulated is
// in refused, and keeps it from being started.
type unitFile struct {
	Path, Text  string // as it was read; Text has the drop-ins, too
	Description string
	Type        string // "simple", "exec" or "oneshot"
	Pre, Start  []unitCommand
	Reload      []unitCommand
	User, Dir   string
	Env         map[string]string
	EnvFiles    []string
	Make        []string // directories that are made for it
	Restart     string
	RestartWait time.Duration
	Remain      bool // RemainAfterExit
	Installs    bool // WantedBy=multi-user.target or default.target
	refused     []string
}

// A unitCommand is a line of ExecStart and its kin.
type unitCommand struct {
	Args   []string
	Ignore bool // its failure
}

// unitPath returns the file of a unit: the administrator's goes before the packages'.
func (g *Guest) unitPath(unit string) (string, bool) {
	for _, dir := range []string{etcUnits, "/run/systemd/system/", unitDir, "/lib/systemd/system/"} {
		file := dir + unit + ".service"
		if i, err := g.disk.Stat(file); err == nil && i.Mode().IsRegular() {
			return file, true
		}
	}
	return "", false
}

// readUnit reads a unit's file and its drop-ins.
func (g *Guest) readUnit(unit string) (*unitFile, error) {
	file, ok := g.unitPath(unit)
	if !ok {
		return nil, fmt.Errorf("Unit %s.service not found.", unit)
	}
	files := []string{file}
	for _, dir := range []string{unitDir, etcUnits} {
		dropIns, _ := g.disk.ReadDir(dir + unit + ".service.d")
		for _, d := range dropIns {
			if strings.HasSuffix(d.Name(), ".conf") {
				files = append(files, dir+unit+".service.d/"+d.Name())
			}
		}
	}
	u := &unitFile{Path: file, Type: "simple", Env: map[string]string{}, Restart: "no", RestartWait: 100 * time.Millisecond}
	for _, f := range files {
		text, err := g.disk.ReadFile(f)
		if err != nil {
			return nil, err
		}
		u.Text += "# " + f + "\n" + string(text)
		u.parse(string(text))
	}
	switch {
	case len(u.Start) == 0:
		u.refuse("a unit without ExecStart")
	case len(u.Start) > 1 && u.Type != "oneshot":
		u.refuse("several ExecStart with Type=" + u.Type)
	}
	return u, nil
}

func (u *unitFile) refuse(what string) { u.refused = append(u.refused, what) }

// parse reads the text of a unit file, or of a drop-in.
func (u *unitFile) parse(text string) {
	section := ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = line
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || !u.set(section, strings.TrimSpace(key), strings.TrimSpace(value)) {
				u.refuse(section + " " + line)
			}
		}
	}
}

// unitIgnored are directives that make no difference here: there is nothing to limit, to order or to
// be kept from the service.
var unitIgnored = strings.Fields(`
	[Unit]Documentation [Unit]After [Unit]Before [Unit]StartLimitIntervalSec [Unit]StartLimitBurst
	[Service]SyslogIdentifier [Service]LimitNOFILE [Service]LimitNPROC [Service]TimeoutStartSec [Service]TimeoutStopSec [Service]TimeoutSec
	[Service]NoNewPrivileges [Service]KillMode [Service]KillSignal`)

// set takes a directive, and reports whether it is simulated.
func (u *unitFile) set(section, key, value string) bool {
	add := func(list *[]unitCommand) bool {
		if value == "" {
			*list = nil
			return true
		}
		c, ok := unitWords(value)
		*list = append(*list, c)
		return ok
	}
	switch section + key {
	case "[Unit]Description":
		u.Description = value
	case "[Unit]Wants", "[Unit]Requires":
		return !slices.ContainsFunc(strings.Fields(value), func(w string) bool { return !strings.HasSuffix(w, ".target") })
	case "[Service]Type":
		u.Type = value
		return slices.Contains([]string{"simple", "exec", "oneshot"}, value)
	case "[Service]ExecStart":
		return add(&u.Start)
	case "[Service]ExecStartPre":
		return add(&u.Pre)
	case "[Service]ExecReload":
		return add(&u.Reload)
	case "[Service]User":
		u.User = value
	case "[Service]Group":
		return value == u.User || value == "root" && u.User == ""
	case "[Service]WorkingDirectory":
		u.Dir = value
		return strings.HasPrefix(value, "/")
	case "[Service]Environment":
		c, ok := unitWords(value)
		for _, w := range c.Args {
			k, v, set := strings.Cut(w, "=")
			u.Env[k], ok = v, ok && set
		}
		return ok
	case "[Service]EnvironmentFile":
		u.EnvFiles = append(u.EnvFiles, value)
	case "[Service]StateDirectory", "[Service]RuntimeDirectory", "[Service]LogsDirectory":
		root := map[string]string{"[Service]StateDirectory": "/var/lib", "[Service]RuntimeDirectory": "/run", "[Service]LogsDirectory": "/var/log"}[section+key]
		for _, d := range strings.Fields(value) {
			u.Make = append(u.Make, path.Join(root, d))
		}
	case "[Service]Restart":
		u.Restart = value
		return slices.Contains([]string{"no", "on-failure", "always"}, value)
	case "[Service]RestartSec":
		d, err := time.ParseDuration(value)
		if n, nerr := strconv.ParseFloat(value, 64); nerr == nil {
			d, err = time.Duration(n*float64(time.Second)), nil
		}
		u.RestartWait = d
		return err == nil
	case "[Service]RemainAfterExit":
		u.Remain = slices.Contains([]string{"yes", "true", "1", "on"}, value)
	case "[Service]StandardOutput", "[Service]StandardError":
		return value == "journal" || value == "inherit"
	case "[Install]WantedBy":
		u.Installs = value == "multi-user.target" || value == "default.target"
		return u.Installs
	default:
		return slices.Contains(unitIgnored, section+key)
	}
	return true
}

// unitWords splits a command line as systemd does, and reports whether all of it is simulated.
func unitWords(line string) (c unitCommand, ok bool) {
	line, c.Ignore = strings.CutPrefix(line, "-")
	if line == "" || strings.ContainsAny(line[:1], "@+!:|") || strings.ContainsAny(line, `\%;`) {
		return c, false
	}
	var word strings.Builder
	in, quote := false, byte(0)
	for i := range len(line) {
		switch b := line[i]; {
		case quote != 0 && b == quote:
			quote = 0
		case quote == 0 && (b == '\'' || b == '"'):
			quote, in = b, true
		case quote == 0 && (b == ' ' || b == '\t'):
			if in {
				c.Args = append(c.Args, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteByte(b)
			in = true
		}
	}
	if in {
		c.Args = append(c.Args, word.String())
	}
	return c, quote == 0 && len(c.Args) > 0
}

// environment is that of the service's programs.
func (u *unitFile) environment(d *sshtest.Disk) (map[string]string, error) {
	env := map[string]string{}
	for k, v := range u.Env {
		env[k] = v
	}
	for _, file := range u.EnvFiles {
		file, optional := strings.CutPrefix(file, "-")
		text, err := d.ReadFile(file)
		if err != nil {
			if optional {
				continue
			}
			return nil, fmt.Errorf("Failed to load environment files: No such file or directory")
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if k, v, ok := strings.Cut(line, "="); ok && line[0] != '#' && line[0] != ';' {
				env[strings.TrimSpace(k)] = strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
	}
	return env, nil
}

// expand replaces $NAME, where it is a word, and ${NAME}.
func (c unitCommand) expand(env map[string]string) []string {
	args := c.Args[:1:1]
	for _, a := range c.Args[1:] {
		name, whole := strings.CutPrefix(a, "$")
		switch {
		case whole && name != "" && name[0] != '{':
			args = append(args, strings.Fields(env[name])...)
			continue
		case strings.Contains(a, "${"):
			done := ""
			for {
				before, rest, ok := strings.Cut(a, "${")
				name, after, closed := strings.Cut(rest, "}")
				if !ok || !closed {
					break
				}
				done, a = done+before+env[name], after
			}
			a = done + a
		}
		args = append(args, a)
	}
	return args
}
