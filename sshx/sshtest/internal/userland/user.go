package userland

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
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
var userCommands = map[string]machine.Command{
	"useradd": cmdUseradd, "usermod": cmdUsermod, "userdel": cmdUserdel, "groupadd": cmdGroupadd, "groupdel": cmdGroupdel,
	"passwd": cmdPasswd, "chpasswd": func(_ context.Context, p *machine.Proc) int { return p.NotSimulated("passwords") },
	"id": cmdID, "whoami": cmdWhoami, "logname": cmdWhoami, "groups": cmdGroups, "getent": cmdGetent, "visudo": cmdVisudo,
}

func rootOnly(p *machine.Proc) bool {
	if p.User != "root" {
		p.Fail(1, "Permission denied.")
		return false
	}
	return true
}

// accountCommand is one for root alone, about one account, which its usage calls what.
func accountCommand(spec, what string, f func(p *machine.Proc, o *options) int) machine.Command {
	return parsed(spec, func(_ context.Context, p *machine.Proc, o *options) int {
		if !rootOnly(p) {
			return 1
		}
		if len(o.args) != 1 {
			return p.Fail(2, "usage: %s [options] %s", p.Name(), what)
		}
		return f(p, o)
	})
}

var cmdUseradd = accountCommand("-m -M -r -N -U -s: -d: -u: -g: -G: -c: --create-home --no-create-home --system --shell= --home-dir= --uid= --gid= --groups= --comment= --user-group", "LOGIN", func(p *machine.Proc, o *options) int {
	for long, short := range map[string]string{"--shell": "-s", "--home-dir": "-d", "--uid": "-u", "--gid": "-g", "--groups": "-G", "--comment": "-c", "--system": "-r"} {
		if v, ok := o.set[long]; ok {
			o.set[short] = v
		}
	}
	d, name := p.Host.Disk, o.args[0]
	acc := d.Accounts()
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-.$ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || name[0] == '-' || name[0] >= '0' && name[0] <= '9' {
		return p.Fail(3, "invalid user name '%s': use --badname to ignore", name)
	}
	if _, ok := acc.User(name); ok {
		return p.Fail(9, "user '%s' already exists", name)
	}
	low := 1000
	if o.has("-r") {
		low = 201
	}
	u := disk.Account{Name: name, UID: acc.FreeID(low), Gecos: o.set["-c"], Home: cmp.Or(o.set["-d"], "/home/"+name), Shell: cmp.Or(o.set["-s"], "/bin/bash")}
	if s, ok := o.set["-u"]; ok {
		n, err := strconv.Atoi(s)
		if err != nil {
			return p.Fail(3, "invalid user ID '%s'", s)
		}
		if slices.ContainsFunc(acc.Users, func(u disk.Account) bool { return u.UID == n }) {
			return p.Fail(4, "UID %d is not unique", n)
		}
		u.UID = n
	}
	switch g, given := o.set["-g"]; {
	case given:
		var ok bool
		if u.GID, ok = acc.GroupNamedOrNumbered(g); !ok {
			return p.Fail(6, "group '%s' does not exist", g)
		}
	case o.has("-N"):
		u.GID = 100
	default:
		if _, ok := acc.Group(name); ok {
			return p.Fail(9, "group %s exists - if you want to add this user to that group, use -g.", name)
		}
		u.GID = u.UID
		acc.Groups = append(acc.Groups, disk.Group{Name: name, GID: u.GID})
	}
	acc.Users = append(acc.Users, u)
	if g := o.set["-G"]; g != "" {
		if bad := acc.Join(name, strings.Split(g, ","), false); bad != "" {
			return p.Fail(6, "group '%s' does not exist", bad)
		}
	}
	if err := acc.Store(d); err != nil {
		return p.Fail(1, "%s", disk.Reason(err))
	}
	disk.Must(d.AppendFile("/etc/shadow", []byte(name+":!!:20000:0:99999:7:::\n"), 0))
	if o.has("-M", "--no-create-home") || o.has("-r") && !o.has("-m", "--create-home") {
		return 0
	}
	if _, err := d.Stat(u.Home); err == nil {
		fmt.Fprintf(p.Stderr, "useradd: warning: the home directory %s already exists.\n", u.Home)
		return 0
	}
	if err := d.MkdirAll(u.Home, 0o700); err != nil {
		return p.Fail(12, "cannot create directory %s", u.Home)
	}
	disk.Must(d.Root().Chown(u.Home, u.UID, u.GID, true))
	if list, err := d.ReadDir("/etc/skel"); err == nil {
		for _, e := range list {
			c := copier{v: d.Root(), tree: true, links: true}
			to := u.Home + "/" + e.Name()
			if c.copy("/etc/skel/"+e.Name(), to) == nil {
				_ = d.Root().Tree(to, true, func(f string) error { return d.Root().Chown(f, u.UID, u.GID, false) })
			}
		}
	}
	return 0
})

var cmdUsermod = accountCommand("-a -G: -g: -s: -d: -c: -L -U --append --groups= --shell= --lock --unlock -aG:", "LOGIN", func(p *machine.Proc, o *options) int {
	acc := p.Host.Disk.Accounts()
	i := slices.IndexFunc(acc.Users, func(u disk.Account) bool { return u.Name == o.args[0] })
	if i < 0 {
		return p.Fail(6, "user '%s' does not exist", o.args[0])
	}
	u := &acc.Users[i]
	for name, field := range map[string]*string{"-s": &u.Shell, "--shell": &u.Shell, "-d": &u.Home, "-c": &u.Gecos} {
		if v, ok := o.set[name]; ok {
			*field = v
		}
	}
	if g, ok := o.set["-g"]; ok {
		var ok bool
		if u.GID, ok = acc.GroupNamedOrNumbered(g); !ok {
			return p.Fail(6, "group '%s' does not exist", g)
		}
	}
	if o.has("-G", "--groups") {
		names := strings.FieldsFunc(cmp.Or(o.set["-G"], o.set["--groups"]), func(r rune) bool { return r == ',' })
		if bad := acc.Join(u.Name, names, o.has("-a", "--append")); bad != "" {
			return p.Fail(6, "group '%s' does not exist", bad)
		}
	}
	if err := acc.Store(p.Host.Disk); err != nil {
		return p.Fail(1, "%s", disk.Reason(err))
	}
	switch {
	case o.has("-L", "--lock"):
		lockPassword(p, u.Name, true)
	case o.has("-U", "--unlock"):
		lockPassword(p, u.Name, false)
	}
	return 0
})

// lockPassword sets or removes the "!" before a password in /etc/shadow.
func lockPassword(p *machine.Proc, user string, lock bool) {
	data, _ := p.Host.Disk.ReadFile("/etc/shadow")
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
	disk.Must(p.Host.Disk.WriteFile("/etc/shadow", []byte(b.String()), 0))
}

var cmdUserdel = accountCommand("-r -f --remove --force", "LOGIN", func(p *machine.Proc, o *options) int {
	name, d := o.args[0], p.Host.Disk
	acc := d.Accounts()
	u, ok := acc.User(name)
	if !ok {
		return p.Fail(6, "user '%s' does not exist", name)
	}
	acc.Users = slices.DeleteFunc(acc.Users, func(x disk.Account) bool { return x.Name == name })
	acc.Join(name, nil, false)
	acc.Groups = slices.DeleteFunc(acc.Groups, func(g disk.Group) bool { return g.Name == name && len(g.Members) == 0 })
	if err := acc.Store(d); err != nil {
		return p.Fail(1, "%s", disk.Reason(err))
	}
	data, _ := d.ReadFile("/etc/shadow")
	kept := slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(l string) bool { return strings.HasPrefix(l, name+":") })
	disk.Must(d.WriteFile("/etc/shadow", []byte(strings.Join(kept, "")), 0))
	if o.has("-r", "--remove") && u.Home != "/" {
		_ = d.RemoveAll(u.Home)
		_ = d.RemoveAll("/var/spool/mail/" + name)
	}
	return 0
})

var cmdGroupadd = accountCommand("-r -f -g: --system --force --gid=", "GROUP", func(p *machine.Proc, o *options) int {
	acc := p.Host.Disk.Accounts()
	if _, ok := acc.Group(o.args[0]); ok {
		if o.has("-f", "--force") {
			return 0
		}
		return p.Fail(9, "group '%s' already exists", o.args[0])
	}
	low := 1000
	if o.has("-r", "--system") {
		low = 201
	}
	g := disk.Group{Name: o.args[0], GID: acc.FreeID(low)}
	if s := cmp.Or(o.set["-g"], o.set["--gid"]); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return p.Fail(3, "invalid group ID '%s'", s)
		}
		if slices.ContainsFunc(acc.Groups, func(x disk.Group) bool { return x.GID == n }) {
			return p.Fail(4, "GID '%d' already exists", n)
		}
		g.GID = n
	}
	acc.Groups = append(acc.Groups, g)
	disk.Must(acc.Store(p.Host.Disk))
	return 0
})

var cmdGroupdel = parsed("", func(_ context.Context, p *machine.Proc, o *options) int {
	if !rootOnly(p) {
		return 1
	}
	acc := p.Host.Disk.Accounts()
	g, ok := acc.Group(lastOf(o.args))
	if !ok {
		return p.Fail(6, "group '%s' does not exist", lastOf(o.args))
	}
	if i := slices.IndexFunc(acc.Users, func(u disk.Account) bool { return u.GID == g.GID }); i >= 0 {
		return p.Fail(8, "cannot remove the primary group of user '%s'", acc.Users[i].Name)
	}
	acc.Groups = slices.DeleteFunc(acc.Groups, func(x disk.Group) bool { return x.Name == g.Name })
	disk.Must(acc.Store(p.Host.Disk))
	return 0
})

var cmdPasswd = parsed("-l -u -d -S -f", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) != 1 || !o.has("-l", "-u", "-S", "-d") {
		return p.NotSimulated("setting passwords")
	}
	if !rootOnly(p) {
		return 1
	}
	name := o.args[0]
	if _, ok := p.Host.Disk.Accounts().User(name); !ok {
		return p.Fail(1, "Unknown user name '%s'.", name)
	}
	switch {
	case o.has("-S"):
		data, _ := p.Host.Disk.ReadFile("/etc/shadow")
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
		lockPassword(p, name, o.has("-l"))
	}
	return 0
})

var cmdID = parsed("-u -g -G -n -r --user --group --groups --name", func(_ context.Context, p *machine.Proc, o *options) int {
	acc := p.Host.Disk.Accounts()
	name := p.User
	if len(o.args) > 1 {
		return p.NotSimulated("several users")
	}
	if len(o.args) > 0 {
		name = o.args[0]
	}
	u, ok := acc.User(name)
	if !ok {
		return p.Fail(1, "'%s': no such user", name)
	}
	show := func(id int, name string) string {
		if o.has("-n", "--name") {
			return name
		}
		return strconv.Itoa(id)
	}
	gids := acc.GIDs(u)
	switch {
	case o.has("-u", "--user"):
		fmt.Fprintln(p.Stdout, show(u.UID, u.Name))
	case o.has("-g", "--group"):
		fmt.Fprintln(p.Stdout, show(u.GID, acc.GroupName(u.GID)))
	case o.has("-G", "--groups"):
		var out []string
		for _, g := range gids {
			out = append(out, show(g, acc.GroupName(g)))
		}
		fmt.Fprintln(p.Stdout, strings.Join(out, " "))
	case o.has("-n", "--name"):
		return p.Fail(1, "cannot print only names or real IDs in default format")
	default:
		var out []string
		for _, g := range gids {
			out = append(out, fmt.Sprintf("%d(%s)", g, acc.GroupName(g)))
		}
		fmt.Fprintf(p.Stdout, "uid=%d(%s) gid=%d(%s) groups=%s\n", u.UID, u.Name, u.GID, acc.GroupName(u.GID), strings.Join(out, ","))
	}
	return 0
})

func cmdWhoami(_ context.Context, p *machine.Proc) int {
	if len(p.Args) > 1 {
		return p.NotSimulated(p.Args[1])
	}
	fmt.Fprintln(p.Stdout, p.User)
	return 0
}

func cmdGroups(_ context.Context, p *machine.Proc) int {
	acc := p.Host.Disk.Accounts()
	o, ok := parse(p, "")
	if !ok {
		return machine.ExitNotSimulated
	}
	name, prefix := p.User, ""
	if len(o.args) > 0 {
		name, prefix = o.args[0], o.args[0]+" : "
	}
	u, ok := acc.User(name)
	if !ok {
		return p.Fail(1, "'%s': no such user", name)
	}
	var out []string
	for _, g := range acc.GIDs(u) {
		out = append(out, acc.GroupName(g))
	}
	fmt.Fprintln(p.Stdout, prefix+strings.Join(out, " "))
	return 0
}

func cmdGetent(_ context.Context, p *machine.Proc) int {
	if len(p.Args) < 2 {
		return p.Fail(1, "wrong number of arguments")
	}
	keys := p.Args[2:]
	var all [][]string // keys that find a line, and the line last
	acc := p.Host.Disk.Accounts()
	switch db := p.Args[1]; db {
	case "passwd":
		for _, u := range acc.Users {
			all = append(all, []string{u.Name, strconv.Itoa(u.UID), u.String()})
		}
	case "group":
		for _, g := range acc.Groups {
			all = append(all, []string{g.Name, strconv.Itoa(g.GID), g.String()})
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

var cmdVisudo = parsed("-c -q -f: --check --file=", func(_ context.Context, p *machine.Proc, o *options) int {
	if !o.has("-c", "--check") {
		return p.NotSimulated("editing")
	}
	file := cmp.Or(cmp.Or(o.set["-f"], o.set["--file"]), "/etc/sudoers")
	if len(o.args) == 1 {
		file = o.args[0]
	}
	if _, err := p.ReadFile(file); err != nil {
		return p.Fail(1, "unable to open %s: %s", file, disk.Reason(err))
	}
	read := &sudoers{}
	check := read.read
	if o.has("-f", "--file") || len(o.args) == 1 { // wherever it is to go, it need not be root's yet
		check = read.parse
	}
	if err := check(p.Host.Disk, p.Path(file), 0); err != nil {
		if r, ok := errors.AsType[*machine.Refusal](err); ok {
			return p.Refuse(r.Command, r.What)
		}
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	if !o.has("-q") {
		for _, f := range read.files {
			fmt.Fprintf(p.Stdout, "%s: parsed OK\n", f)
		}
	}
	return 0
})
