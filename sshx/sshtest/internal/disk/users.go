package disk

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

// An Account is a line of /etc/passwd.
type Account struct {
	Name, Gecos, Home, Shell string
	UID, GID                 int
}

func (a Account) String() string {
	return fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", a.Name, a.UID, a.GID, a.Gecos, a.Home, a.Shell)
}

// A Group is a line of /etc/group.
type Group struct {
	Name    string
	GID     int
	Members []string
}

func (g Group) String() string {
	return fmt.Sprintf("%s:x:%d:%s", g.Name, g.GID, strings.Join(g.Members, ","))
}

// Accounts is what /etc/passwd and /etc/group say. Broken lines are skipped, as libc does.
type Accounts struct {
	Users  []Account
	Groups []Group
}

// Accounts reads /etc/passwd and /etc/group.
func (d *Disk) Accounts() Accounts {
	var a Accounts
	passwd, _ := d.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 7 {
			continue
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil {
			a.Users = append(a.Users, Account{Name: f[0], UID: uid, GID: gid, Gecos: f[4], Home: f[5], Shell: f[6]})
		}
	}
	groups, _ := d.ReadFile("/etc/group")
	for line := range strings.Lines(string(groups)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) != 4 {
			continue
		}
		if gid, err := strconv.Atoi(f[2]); err == nil {
			g := Group{Name: f[0], GID: gid}
			if f[3] != "" {
				g.Members = strings.Split(f[3], ",")
			}
			a.Groups = append(a.Groups, g)
		}
	}
	return a
}

// Store writes both files back.
func (a Accounts) Store(d *Disk) error {
	var u, g strings.Builder
	for _, x := range a.Users {
		fmt.Fprintln(&u, x)
	}
	for _, x := range a.Groups {
		fmt.Fprintln(&g, x)
	}
	return errors.Join(d.WriteFile("/etc/passwd", []byte(u.String()), 0o644), d.WriteFile("/etc/group", []byte(g.String()), 0o644))
}

// User returns the user of that name.
func (a Accounts) User(name string) (Account, bool) {
	i := slices.IndexFunc(a.Users, func(u Account) bool { return u.Name == name })
	if i < 0 {
		return Account{}, false
	}
	return a.Users[i], true
}

// Group returns the group of that name.
func (a Accounts) Group(name string) (Group, bool) {
	i := slices.IndexFunc(a.Groups, func(g Group) bool { return g.Name == name })
	if i < 0 {
		return Group{}, false
	}
	return a.Groups[i], true
}

// UserName returns the name of a user, or the number in words.
func (a Accounts) UserName(uid int) string {
	for _, u := range a.Users {
		if u.UID == uid {
			return u.Name
		}
	}
	return strconv.Itoa(uid)
}

// GroupName returns the name of a group, or the number in words.
func (a Accounts) GroupName(gid int) string {
	for _, g := range a.Groups {
		if g.GID == gid {
			return g.Name
		}
	}
	return strconv.Itoa(gid)
}

// UserNamedOrNumbered returns the number of a user.
func (a Accounts) UserNamedOrNumbered(s string) (int, bool) {
	if u, ok := a.User(s); ok {
		return u.UID, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

// GroupNamedOrNumbered returns the number of a group.
func (a Accounts) GroupNamedOrNumbered(s string) (int, bool) {
	if g, ok := a.Group(s); ok {
		return g.GID, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0
}

// GIDs returns the groups of a user, the primary one first.
func (a Accounts) GIDs(u Account) []int {
	out := []int{u.GID}
	for _, g := range a.Groups {
		if slices.Contains(g.Members, u.Name) && g.GID != u.GID {
			out = append(out, g.GID)
		}
	}
	return out
}

// FreeID returns the smallest number from low on that neither a user nor a group has.
func (a Accounts) FreeID(low int) int {
	for ; ; low++ {
		if !slices.ContainsFunc(a.Users, func(u Account) bool { return u.UID == low }) &&
			!slices.ContainsFunc(a.Groups, func(g Group) bool { return g.GID == low }) {
			return low
		}
	}
}

// As returns the disk as the named user may use it; an unknown one may do little.
func (d *Disk) As(name string, umask uint32) View {
	v := View{d: d, UID: 65534, GIDs: []int{65534}, Umask: special(FileModeOf(umask))}
	if name == "root" || name == "" {
		v.UID, v.GIDs = 0, []int{0}
		return v
	}
	a := d.Accounts()
	if u, ok := a.User(name); ok {
		v.UID, v.GIDs = u.UID, a.GIDs(u)
	}
	return v
}

// AddUser adds a user with a home directory, a group of its own and /bin/bash, whom keys, in
// authorized_keys form, let in.
func (d *Disk) AddUser(name string, keys ...string) error {
	a := d.Accounts()
	u, ok := a.User(name)
	if !ok {
		id := a.FreeID(1000)
		u = Account{Name: name, UID: id, GID: id, Home: "/home/" + name, Shell: "/bin/bash"}
		a.Users = append(a.Users, u)
		a.Groups = append(a.Groups, Group{Name: name, GID: id})
		if err := a.Store(d); err != nil {
			return err
		}
		if err := d.AppendFile("/etc/shadow", []byte(name+":!!:20000:0:99999:7:::\n"), 0); err != nil {
			return err
		}
	}
	ssh := cmp.Or(u.Home, "/") + "/.ssh"
	file := ssh + "/authorized_keys"
	var err error
	if _, err2 := d.Stat(u.Home); err2 != nil {
		err = errors.Join(d.MkdirAll(u.Home, 0o700), d.Chown(u.Home, name, strconv.Itoa(u.GID)))
	}
	if len(keys) > 0 {
		err = errors.Join(err, d.MkdirAll(ssh, 0o700))
		for _, k := range keys {
			err = errors.Join(err, d.AppendFile(file, []byte(strings.TrimSpace(k)+"\n"), 0o600))
		}
		err = errors.Join(err, d.Chown(ssh, name, strconv.Itoa(u.GID)), d.Chown(file, name, strconv.Itoa(u.GID)))
	}
	return err
}

// Join puts a user into groups, and out of others unless more. It returns the name of a group that
// there is not.
func (a *Accounts) Join(user string, names []string, more bool) (bad string) {
	for _, n := range names {
		if _, ok := a.Group(n); !ok {
			return n
		}
	}
	a.Groups = slices.Clone(a.Groups)
	for i := range a.Groups {
		g := &a.Groups[i]
		in := slices.Contains(g.Members, user)
		want := slices.Contains(names, g.Name)
		switch {
		case want && !in:
			g.Members = append(slices.Clone(g.Members), user)
		case in && !want && !more:
			g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(m string) bool { return m == user })
		}
	}
	return ""
}
