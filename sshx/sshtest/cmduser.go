package sshtest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// userCommands are about users and groups:
//
//	useradd [-m -M -r -N -U] [-s SHELL] [-d HOME] [-u UID] [-g GROUP] [-G GROUP,...] [-c TEXT] NAME
//	usermod [-a] [-G GROUP,...] [-g GROUP] [-s SHELL] [-d HOME] [-c TEXT] [-L -U] NAME
//	userdel [-r -f] NAME; groupadd [-r -f] [-g GID] NAME; groupdel NAME
//	passwd -l|-u|-d|-S NAME; chpasswd and all else of passwd is refused: sshd takes no passwords
//	id [-u -g -G -n -un -gn] [NAME], whoami, groups [NAME], logname
//	getent passwd|group|shadow|hosts [KEY...]    hosts are those of /etc/hosts
//	visudo -c [-q] [-f FILE]
var userCommands = map[string]Command{
	"useradd": cmdUseradd, "usermod": cmdUsermod, "userdel": cmdUserdel, "groupadd": cmdGroupadd, "groupdel": cmdGroupdel,
	"passwd": cmdPasswd, "chpasswd": func(_ context.Context, p *Proc) int { return p.NotSimulated("passwords") },
	"id": cmdID, "whoami": cmdWhoami, "logname": cmdWhoami, "groups": cmdGroups, "getent": cmdGetent, "visudo": cmdVisudo,
}

func (p *Proc) rootOnly() bool {
	if p.User != "root" {
		p.Fail(1, "Permission denied.")
		return false
	}
	return true
}

func cmdUseradd(_ context.Context, p *Proc) int {
	o, ok := p.options("-m -M -r -N -U -s: -d: -u: -g: -G: -c: --create-home --no-create-home --system --shell= --home-dir= --uid= --gid= --groups= --comment= --user-group")
	if !ok {
		return exitNotSimulated
	}
	if !p.rootOnly() {
		return 1
	}
	if len(o.args) != 1 {
		return p.Fail(2, "usage: useradd [options] LOGIN")
	}
	for long, short := range map[string]string{"--shell": "-s", "--home-dir": "-d", "--uid": "-u", "--gid": "-g", "--groups": "-G", "--comment": "-c", "--system": "-r"} {
		if v, ok := o.set[long]; ok {
			o.set[short] = v
		}
	}
	d, name := p.Host.disk, o.args[0]
	acc := d.accounts()
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-.$ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || name[0] == '-' || name[0] >= '0' && name[0] <= '9' {
		return p.Fail(3, "invalid user name '%s': use --badname to ignore", name)
	}
	if _, ok := acc.user(name); ok {
		return p.Fail(9, "user '%s' already exists", name)
	}
	low := 1000
	if o.has("-r") {
		low = 201
	}
	u := account{name: name, uid: acc.freeID(low), gecos: o.set["-c"], home: orDefault(o.set["-d"], "/home/"+name), shell: orDefault(o.set["-s"], "/bin/bash")}
	if s, ok := o.set["-u"]; ok {
		n, err := strconv.Atoi(s)
		if err != nil {
			return p.Fail(3, "invalid user ID '%s'", s)
		}
		if slices.ContainsFunc(acc.users, func(u account) bool { return u.uid == n }) {
			return p.Fail(4, "UID %d is not unique", n)
		}
		u.uid = n
	}
	switch g, given := o.set["-g"]; {
	case given:
		if u.gid, ok = acc.groupNamedOrNumbered(g); !ok {
			return p.Fail(6, "group '%s' does not exist", g)
		}
	case o.has("-N"):
		u.gid = 100
	default:
		if _, ok := acc.group(name); ok {
			return p.Fail(9, "group %s exists - if you want to add this user to that group, use -g.", name)
		}
		u.gid = u.uid
		acc.groups = append(acc.groups, group{name: name, gid: u.gid})
	}
	acc.users = append(acc.users, u)
	if g := o.set["-G"]; g != "" {
		if bad := acc.join(name, strings.Split(g, ","), false); bad != "" {
			return p.Fail(6, "group '%s' does not exist", bad)
		}
	}
	if err := acc.store(d); err != nil {
		return p.Fail(1, "%s", reason(err))
	}
	must(d.AppendFile("/etc/shadow", []byte(name+":!!:20000:0:99999:7:::\n"), 0))
	if o.has("-M", "--no-create-home") || o.has("-r") && !o.has("-m", "--create-home") {
		return 0
	}
	if _, err := d.Stat(u.home); err == nil {
		fmt.Fprintf(p.Stderr, "useradd: warning: the home directory %s already exists.\n", u.home)
		return 0
	}
	if err := d.MkdirAll(u.home, 0o700); err != nil {
		return p.Fail(12, "cannot create directory %s", u.home)
	}
	must(d.root().chown(u.home, u.uid, u.gid, true))
	if list, err := d.ReadDir("/etc/skel"); err == nil {
		for _, e := range list {
			c := copier{v: d.root(), tree: true, links: true}
			to := u.home + "/" + e.Name()
			if c.copy("/etc/skel/"+e.Name(), to) == nil {
				_ = d.root().tree(to, true, func(f string) error { return d.root().chown(f, u.uid, u.gid, false) })
			}
		}
	}
	return 0
}

// join puts a user into groups, and out of others unless more. It returns the name of a group that
// there is not.
func (a *accounts) join(user string, names []string, more bool) (bad string) {
	for _, n := range names {
		if _, ok := a.group(n); !ok {
			return n
		}
	}
	a.groups = slices.Clone(a.groups)
	for i := range a.groups {
		g := &a.groups[i]
		in := slices.Contains(g.members, user)
		want := slices.Contains(names, g.name)
		switch {
		case want && !in:
			g.members = append(slices.Clone(g.members), user)
		case in && !want && !more:
			g.members = slices.DeleteFunc(slices.Clone(g.members), func(m string) bool { return m == user })
		}
	}
	return ""
}

func cmdUsermod(_ context.Context, p *Proc) int {
	o, ok := p.options("-a -G: -g: -s: -d: -c: -L -U --append --groups= --shell= --lock --unlock -aG:")
	if !ok {
		return exitNotSimulated
	}
	if !p.rootOnly() {
		return 1
	}
	if len(o.args) != 1 {
		return p.Fail(2, "usage: usermod [options] LOGIN")
	}
	acc := p.Host.disk.accounts()
	i := slices.IndexFunc(acc.users, func(u account) bool { return u.name == o.args[0] })
	if i < 0 {
		return p.Fail(6, "user '%s' does not exist", o.args[0])
	}
	u := &acc.users[i]
	for name, field := range map[string]*string{"-s": &u.shell, "--shell": &u.shell, "-d": &u.home, "-c": &u.gecos} {
		if v, ok := o.set[name]; ok {
			*field = v
		}
	}
	if g, ok := o.set["-g"]; ok {
		if u.gid, ok = acc.groupNamedOrNumbered(g); !ok {
			return p.Fail(6, "group '%s' does not exist", g)
		}
	}
	if o.has("-G", "--groups") {
		names := strings.FieldsFunc(orDefault(o.set["-G"], o.set["--groups"]), func(r rune) bool { return r == ',' })
		if bad := acc.join(u.name, names, o.has("-a", "--append")); bad != "" {
			return p.Fail(6, "group '%s' does not exist", bad)
		}
	}
	if err := acc.store(p.Host.disk); err != nil {
		return p.Fail(1, "%s", reason(err))
	}
	switch {
	case o.has("-L", "--lock"):
		p.lockPassword(u.name, true)
	case o.has("-U", "--unlock"):
		p.lockPassword(u.name, false)
	}
	return 0
}

// lockPassword sets or removes the "!" before a password in /etc/shadow.
func (p *Proc) lockPassword(user string, lock bool) {
	data, _ := p.Host.disk.ReadFile("/etc/shadow")
	var b strings.Builder
	for _, l := range lines(string(data)) {
		f := strings.Split(l, ":")
		if f[0] == user && len(f) > 1 {
			f[1] = strings.TrimLeft(f[1], "!")
			if lock {
				f[1] = "!!" + f[1]
			}
		}
		b.WriteString(strings.Join(f, ":") + "\n")
	}
	must(p.Host.disk.WriteFile("/etc/shadow", []byte(b.String()), 0))
}

func cmdUserdel(_ context.Context, p *Proc) int {
	o, ok := p.options("-r -f --remove --force")
	if !ok {
		return exitNotSimulated
	}
	if !p.rootOnly() {
		return 1
	}
	if len(o.args) != 1 {
		return p.Fail(2, "usage: userdel [options] LOGIN")
	}
	name, d := o.args[0], p.Host.disk
	acc := d.accounts()
	u, ok := acc.user(name)
	if !ok {
		return p.Fail(6, "user '%s' does not exist", name)
	}
	acc.users = slices.DeleteFunc(acc.users, func(x account) bool { return x.name == name })
	acc.join(name, nil, false)
	acc.groups = slices.DeleteFunc(acc.groups, func(g group) bool { return g.name == name && len(g.members) == 0 })
	if err := acc.store(d); err != nil {
		return p.Fail(1, "%s", reason(err))
	}
	data, _ := d.ReadFile("/etc/shadow")
	kept := slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(l string) bool { return strings.HasPrefix(l, name+":") })
	must(d.WriteFile("/etc/shadow", []byte(strings.Join(kept, "")), 0))
	if o.has("-r", "--remove") && u.home != "/" {
		_ = d.RemoveAll(u.home)
		_ = d.RemoveAll("/var/spool/mail/" + name)
	}
	return 0
}

func cmdGroupadd(_ context.Context, p *Proc) int {
	o, ok := p.options("-r -f -g: --system --force --gid=")
	if !ok {
		return exitNotSimulated
	}
	if !p.rootOnly() {
		return 1
	}
	if len(o.args) != 1 {
		return p.Fail(2, "usage: groupadd [options] GROUP")
	}
	acc := p.Host.disk.accounts()
	if _, ok := acc.group(o.args[0]); ok {
		if o.has("-f", "--force") {
			return 0
		}
		return p.Fail(9, "group '%s' already exists", o.args[0])
	}
	low := 1000
	if o.has("-r", "--system") {
		low = 201
	}
	g := group{name: o.args[0], gid: acc.freeID(low)}
	if s := orDefault(o.set["-g"], o.set["--gid"]); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return p.Fail(3, "invalid group ID '%s'", s)
		}
		if slices.ContainsFunc(acc.groups, func(x group) bool { return x.gid == n }) {
			return p.Fail(4, "GID '%d' already exists", n)
		}
		g.gid = n
	}
	acc.groups = append(acc.groups, g)
	must(acc.store(p.Host.disk))
	return 0
}

func cmdGroupdel(_ context.Context, p *Proc) int {
	o, ok := p.options("")
	if !ok {
		return exitNotSimulated
	}
	if !p.rootOnly() {
		return 1
	}
	acc := p.Host.disk.accounts()
	g, ok := acc.group(lastOf(o.args))
	if !ok {
		return p.Fail(6, "group '%s' does not exist", lastOf(o.args))
	}
	if i := slices.IndexFunc(acc.users, func(u account) bool { return u.gid == g.gid }); i >= 0 {
		return p.Fail(8, "cannot remove the primary group of user '%s'", acc.users[i].name)
	}
	acc.groups = slices.DeleteFunc(acc.groups, func(x group) bool { return x.name == g.name })
	must(acc.store(p.Host.disk))
	return 0
}

func cmdPasswd(_ context.Context, p *Proc) int {
	o, ok := p.options("-l -u -d -S -f")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) != 1 || !o.has("-l", "-u", "-S", "-d") {
		return p.NotSimulated("setting passwords")
	}
	if !p.rootOnly() {
		return 1
	}
	name := o.args[0]
	if _, ok := p.Host.disk.accounts().user(name); !ok {
		return p.Fail(1, "Unknown user name '%s'.", name)
	}
	switch {
	case o.has("-S"):
		data, _ := p.Host.disk.ReadFile("/etc/shadow")
		state := "PS"
		for _, l := range lines(string(data)) {
			if f := strings.Split(l, ":"); f[0] == name && len(f) > 1 && (f[1] == "" || strings.HasPrefix(f[1], "!") || f[1] == "*") {
				state = "LK"
				if f[1] == "" {
					state = "NP"
				}
			}
		}
		fmt.Fprintf(p.Stdout, "%s %s\n", name, state)
	default:
		p.lockPassword(name, o.has("-l"))
	}
	return 0
}

func cmdID(_ context.Context, p *Proc) int {
	o, ok := p.options("-u -g -G -n -r --user --group --groups --name")
	if !ok {
		return exitNotSimulated
	}
	acc := p.Host.disk.accounts()
	name := p.User
	if len(o.args) > 1 {
		return p.NotSimulated("several users")
	}
	if len(o.args) > 0 {
		name = o.args[0]
	}
	u, ok := acc.user(name)
	if !ok {
		return p.Fail(1, "'%s': no such user", name)
	}
	show := func(id int, name string) string {
		if o.has("-n", "--name") {
			return name
		}
		return strconv.Itoa(id)
	}
	gids := acc.gids(u)
	switch {
	case o.has("-u", "--user"):
		fmt.Fprintln(p.Stdout, show(u.uid, u.name))
	case o.has("-g", "--group"):
		fmt.Fprintln(p.Stdout, show(u.gid, acc.groupName(u.gid)))
	case o.has("-G", "--groups"):
		var out []string
		for _, g := range gids {
			out = append(out, show(g, acc.groupName(g)))
		}
		fmt.Fprintln(p.Stdout, strings.Join(out, " "))
	case o.has("-n", "--name"):
		return p.Fail(1, "cannot print only names or real IDs in default format")
	default:
		var out []string
		for _, g := range gids {
			out = append(out, fmt.Sprintf("%d(%s)", g, acc.groupName(g)))
		}
		fmt.Fprintf(p.Stdout, "uid=%d(%s) gid=%d(%s) groups=%s\n", u.uid, u.name, u.gid, acc.groupName(u.gid), strings.Join(out, ","))
	}
	return 0
}

func cmdWhoami(_ context.Context, p *Proc) int {
	if len(p.Args) > 1 {
		return p.NotSimulated(p.Args[1])
	}
	fmt.Fprintln(p.Stdout, p.User)
	return 0
}

func cmdGroups(_ context.Context, p *Proc) int {
	acc := p.Host.disk.accounts()
	o, ok := p.options("")
	if !ok {
		return exitNotSimulated
	}
	name, prefix := p.User, ""
	if len(o.args) > 0 {
		name, prefix = o.args[0], o.args[0]+" : "
	}
	u, ok := acc.user(name)
	if !ok {
		return p.Fail(1, "'%s': no such user", name)
	}
	var out []string
	for _, g := range acc.gids(u) {
		out = append(out, acc.groupName(g))
	}
	fmt.Fprintln(p.Stdout, prefix+strings.Join(out, " "))
	return 0
}

func cmdGetent(_ context.Context, p *Proc) int {
	if len(p.Args) < 2 {
		return p.Fail(1, "wrong number of arguments")
	}
	keys := p.Args[2:]
	var all [][]string // keys that find a line, and the line last
	acc := p.Host.disk.accounts()
	switch db := p.Args[1]; db {
	case "passwd":
		for _, u := range acc.users {
			all = append(all, []string{u.name, strconv.Itoa(u.uid), u.String()})
		}
	case "group":
		for _, g := range acc.groups {
			all = append(all, []string{g.name, strconv.Itoa(g.gid), g.String()})
		}
	case "shadow", "hosts", "ahosts":
		file := map[string]string{"shadow": "/etc/shadow", "hosts": "/etc/hosts"}[db]
		if file == "" || db == "hosts" && len(keys) == 0 {
			return p.NotSimulated(strings.Join(p.Args[1:], " "))
		}
		data, err := p.ReadFile(file)
		if err != nil {
			return 2
		}
		for _, l := range lines(string(data)) {
			l, _, _ = strings.Cut(l, "#")
			f := strings.FieldsFunc(l, func(r rune) bool { return r == ' ' || r == '\t' || r == ':' && db == "shadow" })
			if len(f) > 0 {
				all = append(all, append(slices.Clone(f), l))
			}
		}
	default:
		return p.NotSimulated(db)
	}
	if len(keys) == 0 {
		for _, x := range all {
			fmt.Fprintln(p.Stdout, lastOf(x))
		}
		return 0
	}
	code := 0
	for _, k := range keys {
		i := slices.IndexFunc(all, func(x []string) bool { return slices.Contains(x[:len(x)-1], k) })
		if i < 0 {
			code = 2
			continue
		}
		fmt.Fprintln(p.Stdout, lastOf(all[i]))
	}
	return code
}

func cmdVisudo(_ context.Context, p *Proc) int {
	o, ok := p.options("-c -q -f: --check --file=")
	if !ok {
		return exitNotSimulated
	}
	if !o.has("-c", "--check") {
		return p.NotSimulated("editing")
	}
	file := orDefault(orDefault(o.set["-f"], o.set["--file"]), "/etc/sudoers")
	if len(o.args) == 1 {
		file = o.args[0]
	}
	if _, err := p.ReadFile(file); err != nil {
		return p.Fail(1, "unable to open %s: %s", file, reason(err))
	}
	if _, err := readSudoers(p.Host.disk, p.Path(file)); err != nil {
		p.Host.refused(err, p.User)
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	if !o.has("-q") {
		fmt.Fprintf(p.Stdout, "%s: parsed OK\n", file)
	}
	return 0
}
