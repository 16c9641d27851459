package userland

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
)

// A sudoRule is one line of sudoers: who may run what as whom.
type sudoRule struct {
	who      string // user, %group, #uid or ALL
	runas    []string
	nopasswd bool
	commands []string // ALL, or absolute paths with or without arguments; "!" forbids
}

// sudoers is what /etc/sudoers and the files that it includes say. Defaults are taken; of them
// requiretty and secure_path act. Aliases and netgroups are not simulated.
type sudoers struct {
	rules      []sudoRule
	requireTTY bool
	securePath string
	files      []string // that were read
}

func readSudoers(d *disk.Disk, file string) (*sudoers, error) {
	s := &sudoers{}
	return s, s.read(d, file, 0)
}

func (s *sudoers) read(d *disk.Disk, file string, depth int) error {
	i, err := d.Root().Stat(file)
	switch {
	case err != nil:
		return fmt.Errorf("unable to open %s: %s", file, disk.Reason(err))
	case i.UID != 0:
		return fmt.Errorf("%s is owned by uid %d, should be 0", file, i.UID)
	case i.Mode()&0o002 != 0:
		return fmt.Errorf("%s is world writable", file)
	case i.Mode()&0o020 != 0 && i.GID != 0:
		return fmt.Errorf("%s is owned by gid %d, should be 0", file, i.GID)
	}
	return s.parse(d, file, depth)
}

// parse is read whatever user the file belongs to.
func (s *sudoers) parse(d *disk.Disk, file string, depth int) error {
	data, err := d.ReadFile(file)
	if err != nil {
		return err
	}
	s.files = append(s.files, file)
	text := strings.ReplaceAll(string(data), "\\\n", " ")
	for n, line := range lines(text) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case f[0] == "@includedir" || f[0] == "#includedir":
			if len(f) != 2 || depth > 10 {
				return fmt.Errorf("%s:%d: syntax error", file, n+1)
			}
			list, _ := d.ReadDir(f[1])
			for _, e := range list {
				if name := e.Name(); !strings.Contains(name, ".") && !strings.HasSuffix(name, "~") {
					if err := s.read(d, path.Join(f[1], name), depth+1); err != nil {
						return err
					}
				}
			}
		case f[0] == "@include" || f[0] == "#include":
			if len(f) != 2 || depth > 10 {
				return fmt.Errorf("%s:%d: syntax error", file, n+1)
			}
			if err := s.read(d, f[1], depth+1); err != nil {
				return err
			}
		case line[0] == '#' && !(len(line) > 1 && line[1] >= '0' && line[1] <= '9'):
		case strings.HasPrefix(f[0], "Defaults"):
			s.defaults(strings.TrimSpace(strings.TrimPrefix(line, f[0])))
		default:
			r, err := parseSudoRule(line)
			if err != nil {
				return fmt.Errorf("%s:%d: %w", file, n+1, err)
			}
			s.rules = append(s.rules, r...)
		}
	}
	return nil
}

func (s *sudoers) defaults(text string) {
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch strings.TrimSpace(key) {
		case "requiretty":
			s.requireTTY = true
		case "!requiretty":
			s.requireTTY = false
		case "secure_path":
			s.securePath = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
}

// unknownTags are tags of a rule that matter and are not simulated.
var unknownTags = strings.Fields("FOLLOW NOFOLLOW INTERCEPT NOINTERCEPT MAIL NOMAIL LOG_SUBCMDS NOLOG_SUBCMDS")

// parseSudoRule parses "who host = (runas) TAG: command, command". A syntax error is what is one to
// sudo, too; all else that it does not know is a Refusal.
func parseSudoRule(line string) ([]sudoRule, error) {
	bad := errors.New("syntax error")
	refuse := func(what string) error { return &machine.Refusal{Command: "sudo", What: what} }
	if i := strings.Index(line, " #"); i >= 0 {
		line = line[:i]
	}
	left, right, ok := strings.Cut(line, "=")
	f := strings.Fields(left)
	switch {
	case !ok || len(f) < 2:
		return nil, bad
	case strings.HasSuffix(f[0], "_Alias"):
		return nil, refuse(f[0])
	case strings.ContainsAny(left, `\"!+`), strings.Contains(right, `\`), len(f) > 2 && strings.Contains(left, ","):
		return nil, refuse("rule " + line)
	case len(f) > 2:
		return nil, bad
	}
	if f[1] != "ALL" {
		return nil, refuse("host " + f[1])
	}
	r := sudoRule{runas: []string{"root"}}
	right = strings.TrimSpace(right)
	if rest, ok := strings.CutPrefix(right, "("); ok {
		who, rest, ok := strings.Cut(rest, ")")
		if !ok {
			return nil, bad
		}
		users, _, _ := strings.Cut(who, ":")
		r.runas = strings.FieldsFunc(users, func(c rune) bool { return c == ',' || c == ' ' })
		right = strings.TrimSpace(rest)
	}
	for {
		tag, rest, ok := strings.Cut(right, ":")
		if !ok || strings.ContainsAny(tag, "/ ,") {
			break
		}
		switch tag {
		case "NOPASSWD":
			r.nopasswd = true
		case "PASSWD":
			r.nopasswd = false
		case "SETENV", "NOSETENV", "EXEC", "NOEXEC", "LOG_INPUT", "LOG_OUTPUT", "NOLOG_INPUT", "NOLOG_OUTPUT":
		default:
			if slices.Contains(unknownTags, tag) || strings.HasPrefix(tag, "sha") {
				return nil, refuse(tag + ":")
			}
			return nil, bad
		}
		right = strings.TrimSpace(rest)
	}
	for c := range strings.SplitSeq(right, ",") {
		c = strings.TrimSpace(c)
		name, _, _ := strings.Cut(strings.TrimPrefix(c, "!"), " ")
		switch {
		case c == "ALL" || strings.HasPrefix(name, "/"):
		case name != "" && strings.ToUpper(name) == name, name == "sudoedit", name == "list", strings.Contains(name, ":"):
			return nil, refuse("command " + name)
		default:
			return nil, bad
		}
		r.commands = append(r.commands, c)
	}
	var out []sudoRule
	for who := range strings.SplitSeq(f[0], ",") {
		r.who = who
		out = append(out, r)
	}
	return out, nil
}

// decide finds the last rule that fits, as sudo does.
func (s *sudoers) decide(acc disk.Accounts, user disk.Account, target, file string, args []string) (allowed, nopasswd bool) {
	var groups []string
	for _, g := range acc.GIDs(user) {
		groups = append(groups, acc.GroupName(g))
	}
	for _, r := range s.rules {
		group, isGroup := strings.CutPrefix(r.who, "%")
		switch {
		case isGroup && !slices.Contains(groups, group):
			continue
		case !isGroup && r.who != "ALL" && r.who != user.Name && r.who != "#"+strconv.Itoa(user.UID):
			continue
		case !slices.Contains(r.runas, "ALL") && !slices.Contains(r.runas, target):
			continue
		}
		for _, c := range r.commands {
			pattern, forbid := strings.CutPrefix(c, "!")
			if pattern == "ALL" || fitsCommand(pattern, file, args) {
				allowed, nopasswd = !forbid, r.nopasswd
			}
		}
	}
	return allowed, nopasswd
}

func fitsCommand(pattern, file string, args []string) bool {
	f := strings.Fields(pattern)
	name := f[0]
	if strings.HasSuffix(name, "/") {
		return path.Dir(file) == strings.TrimSuffix(name, "/")
	}
	same := func(a, b string) bool { // /bin is /usr/bin
		ok, _ := path.Match(strings.Replace(a, "/usr/", "/", 1), strings.Replace(b, "/usr/", "/", 1))
		return ok
	}
	if !same(name, file) {
		return false
	}
	if len(f) == 1 {
		return true
	}
	if len(f) == 2 && f[1] == `""` {
		return len(args) == 0
	}
	ok, _ := path.Match(strings.Join(f[1:], " "), strings.Join(args, " "))
	return ok
}

// cmdSudo is
//
//	sudo [-n] [-H] [-S] [-E] [-k] [-p PROMPT] [-u USER] [-g GROUP is not simulated] [-i | -s] [--] [NAME=VALUE...] COMMAND...
//	sudo [-n] -v
//
// Rules come from /etc/sudoers and /etc/sudoers.d at every call. A password is one of
// Host.Passwords; it is read from stdin with -S, and there is no other way, as there is no
// terminal.
var cmdSudo = parsed("+ -n -H -S -E -k -v -i -s -p: -u: --non-interactive --set-home --stdin --user= --prompt= --preserve-env", func(ctx context.Context, p *machine.Proc, o *options) int {
	if lookup := p.Host.Config().Lookup(); lookup != nil {
		own := p.Host.Hostname()
		if err := lookup(ctx, own); err != nil {
			fmt.Fprintf(p.Stderr, "sudo: unable to resolve host %s: %v\n", own, err)
		}
	}
	target := cmp.Or(cmp.Or(o.set["-u"], o.set["--user"]), "root")
	acc := p.Host.Disk.Accounts()
	if id, ok := strings.CutPrefix(target, "#"); ok {
		n, _ := strconv.Atoi(id)
		target = acc.UserName(n)
	}
	to, ok := acc.User(target)
	if !ok {
		return p.Fail(1, "unknown user %s", target)
	}
	me, ok := acc.User(p.User)
	if !ok {
		return p.Fail(1, "you do not exist in the passwd database")
	}
	rules, err := readSudoers(p.Host.Disk, "/etc/sudoers")
	if err != nil {
		p.Host.Refused(err, p.User)
		return p.Fail(1, "%v\nsudo: no valid sudoers sources found, quitting", err)
	}
	if rules.requireTTY && p.User != "root" && !p.HasTerminal() {
		return p.Fail(1, "sorry, you must have a tty to run sudo")
	}
	q := *p
	q.User, q.Env = target, sudoEnv(p, me, to, rules, o.has("-E", "--preserve-env"))
	for len(o.args) > 0 && !o.has("-v") {
		k, v, isVar := strings.Cut(o.args[0], "=")
		if !isVar || strings.Contains(k, "/") {
			break
		}
		q.Env[k] = v
		o.args = o.args[1:]
	}
	args := o.args
	if o.has("-i", "-s") {
		if o.has("-i") {
			q.Dir = cmp.Or(to.Home, "/")
		}
		line := []string{cmp.Or(to.Shell, "/bin/sh")}
		if o.has("-i") {
			line = append(line, "-l")
		}
		if len(args) > 0 {
			line = append(line, "-c", shell.QuoteAll(args...))
		}
		args = line
	}
	if len(args) == 0 && !o.has("-v") {
		if o.has("-k") {
			return 0
		}
		return p.Fail(1, "usage: sudo [-n] [-u user] command")
	}
	file := ""
	if len(args) > 0 {
		var err error
		if file, err = q.Which(args[0]); err != nil && errors.Is(err, fs.ErrNotExist) {
			file = ""
		}
	}
	allowed, nopasswd := rules.decide(acc, me, target, cmp.Or(file, "/"+lastOf(args)), args[min(1, len(args)):])
	if p.User == "root" {
		nopasswd = true
	}
	if !nopasswd {
		if code := authenticate(p, o); code != 0 {
			return code
		}
	}
	if !allowed {
		if len(args) == 0 {
			return p.Fail(1, "Sorry, user %s may not run sudo on %s.", p.User, p.Host.Hostname())
		}
		fmt.Fprintf(p.Stderr, "Sorry, user %s is not allowed to execute '%s' as %s on %s.\n", p.User, strings.Join(args, " "), target, p.Host.Hostname())
		return 1
	}
	if o.has("-v") {
		return 0
	}
	if file == "" {
		return p.Fail(1, "%s: command not found", args[0])
	}
	q.Args = args
	return p.Host.Execute(ctx, &q)
})

func sudoEnv(p *machine.Proc, me, to disk.Account, rules *sudoers, preserve bool) map[string]string {
	env := map[string]string{"TERM": cmp.Or(p.Env["TERM"], "unknown")}
	if preserve {
		env = maps.Clone(p.Env)
	} else {
		for k, v := range p.Env {
			if k == "LANG" || strings.HasPrefix(k, "LC_") || k == "TZ" && !strings.Contains(v, "/") {
				env[k] = v
			}
		}
	}
	maps.Copy(env, map[string]string{
		"HOME": cmp.Or(to.Home, "/"), "USER": to.Name, "LOGNAME": to.Name, "SHELL": cmp.Or(to.Shell, "/bin/sh"), "MAIL": "/var/mail/" + to.Name,
		"PATH":      cmp.Or(rules.securePath, machine.DefaultPath),
		"SUDO_USER": me.Name, "SUDO_UID": strconv.Itoa(me.UID), "SUDO_GID": strconv.Itoa(me.GID), "SUDO_COMMAND": strings.Join(p.Args[1:], " "),
	})
	return env
}

// authenticate asks for the user's password.
func authenticate(p *machine.Proc, o *options) int {
	switch {
	case o.has("-n", "--non-interactive"):
		return p.Fail(1, "a password is required")
	case !o.has("-S", "--stdin"):
		return p.Fail(1, "a terminal is required to read the password; either use the -S option to read from standard input or configure an askpass helper\nsudo: a password is required")
	}
	prompt, ok := o.set["-p"]
	if !ok {
		prompt, ok = o.set["--prompt"]
	}
	if !ok {
		prompt = fmt.Sprintf("[sudo] password for %s: ", p.User)
	}
	for try := 1; try <= 3; try++ {
		_, _ = io.WriteString(p.Stderr, prompt)
		line, err := readLine(p.Stdin)
		if want, ok := p.Host.Config().Passwords()[p.User]; ok && line == want && (err == nil || line != "") {
			return 0
		}
		if err != nil {
			if try == 1 {
				return p.Fail(1, "no password was provided\nsudo: a password is required")
			}
			return p.Fail(1, "no password was provided\nsudo: %d incorrect password attempts", try-1)
		}
		if try < 3 {
			fmt.Fprintln(p.Stderr, "Sorry, try again.")
		}
	}
	return p.Fail(1, "3 incorrect password attempts")
}

// readLine reads to the end of a line, and no further: what follows is somebody else's.
func readLine(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for {
		n, err := r.Read(b)
		if n > 0 {
			if b[0] == '\n' {
				return string(line), nil
			}
			line = append(line, b[0])
		}
		if err != nil {
			return string(line), err
		}
	}
}
