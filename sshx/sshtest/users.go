package sshtest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

func unknownUserError(name string) error  { return fmt.Errorf("unknown user %q", name) }
func unknownGroupError(name string) error { return fmt.Errorf("unknown group %q", name) }

// An account is a line of /etc/passwd.
type account struct {
	name, gecos, home, shell string
	uid, gid                 int
}

func (a account) String() string {
	return fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", a.name, a.uid, a.gid, a.gecos, a.home, a.shell)
}

// A group is a line of /etc/group.
type group struct {
	name    string
	gid     int
	members []string
}

func (g group) String() string {
	return fmt.Sprintf("%s:x:%d:%s", g.name, g.gid, strings.Join(g.members, ","))
}

// accounts is what /etc/passwd and /etc/group say. Broken lines are skipped, as libc does.
type accounts struct {
	users  []account
	groups []group
}

func (d *Disk) accounts() accounts {
	var a accounts
	passwd, _ := d.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 7 {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil {
			a.users = append(a.users, account{name: f[0], uid: uid, gid: gid, gecos: f[4], home: f[5], shell: f[6]})
		}
	}
	groups, _ := d.ReadFile("/etc/group")
	for line := range strings.Lines(string(groups)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 4 {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil {
			g := group{name: f[0], gid: gid}
			if f[3] != "" {
				g.members = strings.Split(f[3], ",")
			}
			a.groups = append(a.groups, g)
		}
	}
	return a
}

// store writes both files back.
func (a accounts) store(d *Disk) error {
	var u, g strings.Builder
	for _, x := range a.users {
		fmt.Fprintln(&u, x)
	}
	for _, x := range a.groups {
		fmt.Fprintln(&g, x)
	}
	return errors.Join(d.WriteFile("/etc/passwd", []byte(u.String()), 0o644), d.WriteFile("/etc/group", []byte(g.String()), 0o644))
}

func (a accounts) user(name string) (account, bool) {
	i := slices.IndexFunc(a.users, func(u account) bool { return u.name == name })
	if i < 0 {
		return account{}, false
	}
	return a.users[i], true
}

func (a accounts) group(name string) (group, bool) {
	i := slices.IndexFunc(a.groups, func(g group) bool { return g.name == name })
	if i < 0 {
		return group{}, false
	}
	return a.groups[i], true
}

func (a accounts) userName(uid int) string {
	for _, u := range a.users {
		if u.uid == uid {
			return u.name
		}
	}
	return strconv.Itoa(uid)
}

func (a accounts) groupName(gid int) string {
	for _, g := range a.groups {
		if g.gid == gid {
			return g.name
		}
	}
	return strconv.Itoa(gid)
}

func (a accounts) userNamedOrNumbered(s string) (int, bool) {
	if u, ok := a.user(s); ok {
		return u.uid, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

func (a accounts) groupNamedOrNumbered(s string) (int, bool) {
	if g, ok := a.group(s); ok {
		return g.gid, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

// gids returns the groups of a user, the primary one first.
func (a accounts) gids(u account) []int {
	out := []int{u.gid}
	for _, g := range a.groups {
		if slices.Contains(g.members, u.name) && g.gid != u.gid {
			out = append(out, g.gid)
		}
	}
	return out
}

// freeID returns the smallest number from low on that neither a user nor a group has.
func (a accounts) freeID(low int) int {
	for ; ; low++ {
		if !slices.ContainsFunc(a.users, func(u account) bool { return u.uid == low }) &&
			!slices.ContainsFunc(a.groups, func(g group) bool { return g.gid == low }) {
			return low
		}
	}
}

// as returns the disk as the named user may use it; an unknown one may do little.
func (d *Disk) as(name string, umask uint32) view {
	v := view{d: d, uid: 65534, gids: []int{65534}, umask: special(fileModeOf(umask))}
	if name == "root" || name == "" {
		v.uid, v.gids = 0, []int{0}
		return v
	}
	a := d.accounts()
	if u, ok := a.user(name); ok {
		v.uid, v.gids = u.uid, a.gids(u)
	}
	return v
}

// AddUser adds a user with a home directory, a group of its own and /bin/bash, whom keys, in
// authorized_keys form, let in. It does what an image builder does; on a running machine
// scripts have useradd.
func (d *Disk) AddUser(name string, keys ...string) error {
	a := d.accounts()
	u, ok := a.user(name)
	if !ok {
		id := a.freeID(1000)
		u = account{name: name, uid: id, gid: id, home: "/home/" + name, shell: "/bin/bash"}
		a.users = append(a.users, u)
		a.groups = append(a.groups, group{name: name, gid: id})
		if err := a.store(d); err != nil {
			return err
		}
		if err := d.AppendFile("/etc/shadow", []byte(name+":!!:20000:0:99999:7:::\n"), 0); err != nil {
			return err
		}
	}
	ssh := cmp.Or(u.home, "/") + "/.ssh"
	file := ssh + "/authorized_keys"
	var err error
	if _, err2 := d.Stat(u.home); err2 != nil {
		err = errors.Join(d.MkdirAll(u.home, 0o700), d.Chown(u.home, name, strconv.Itoa(u.gid)))
	}
	if len(keys) > 0 {
		err = errors.Join(err, d.MkdirAll(ssh, 0o700))
		for _, k := range keys {
			err = errors.Join(err, d.AppendFile(file, []byte(strings.TrimSpace(k)+"\n"), 0o600))
		}
		err = errors.Join(err, d.Chown(ssh, name, strconv.Itoa(u.gid)), d.Chown(file, name, strconv.Itoa(u.gid)))
	}
	return err
}
