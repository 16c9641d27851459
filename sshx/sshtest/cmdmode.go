package sshtest

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// modeCommands look at files, and at what is around them:
//
//	ls [-1 -a -A -d -l -n -t -r] [FILE...]
//	stat [-L] -c FORMAT | --printf=FORMAT FILE...     %a %A %u %U %g %G %s %n %F %Y %y %i %h %N
//	chmod [-R -f] MODE FILE..., modes octal or symbolic; --reference=FILE
//	chown, chgrp [-R -h -f] [USER][:GROUP] FILE...; --reference=FILE
//	readlink [-f -e -n] FILE..., realpath [-e -q] FILE...
//	dirname, basename NAME [SUFFIX], basename [-a -s SUFFIX]
//	find, tar: see find.go and tar.go
//	df [-P -k -h -m -T] [--output=FIELD,...] [FILE...]    fields source fstype size used avail pcent target
//	du [-s -h -k -b] [FILE...]
//	mountpoint [-q] DIR; "/" is the only one
//	file is not there
var modeCommands = map[string]Command{
	"ls": cmdLs, "stat": cmdStat, "chmod": cmdChmod, "chown": cmdChown, "chgrp": cmdChown, "readlink": cmdReadlink, "realpath": cmdReadlink,
	"dirname": cmdDirname, "basename": cmdBasename, "find": cmdFind, "tar": cmdTar, "df": cmdDf, "du": cmdDu, "mountpoint": cmdMountpoint,
}

// parseMode applies an octal or symbolic mode to what a file has.
func parseMode(s string, old fs.FileMode, umask uint32) (fs.FileMode, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		if old.IsDir() && len(s) < 5 { // keeps what it does not mention
			n |= uint64(bitsOf(old) & 0o6000)
		}
		return fileModeOf(uint32(n)), nil
	}
	bits := bitsOf(old)
	for clause := range strings.SplitSeq(s, ",") {
		i := strings.IndexAny(clause, "+-=")
		if i < 0 {
			return 0, fmt.Errorf("invalid mode: '%s'", s)
		}
		who := uint32(0)
		for _, c := range clause[:i] {
			switch c {
			case 'u':
				who |= 0o4700
			case 'g':
				who |= 0o2070
			case 'o':
				who |= 0o1007
			case 'a':
				who |= 0o7777
			default:
				return 0, fmt.Errorf("invalid mode: '%s'", s)
			}
		}
		if who == 0 {
			who = 0o7777 &^ umask
		}
		for i < len(clause) {
			op := clause[i]
			j := i + 1
			perm := uint32(0)
			for ; j < len(clause) && strings.IndexByte("+-=", clause[j]) < 0; j++ {
				switch clause[j] {
				case 'r':
					perm |= 0o444
				case 'w':
					perm |= 0o222
				case 'x':
					perm |= 0o111
				case 'X':
					if old.IsDir() || bits&0o111 != 0 {
						perm |= 0o111
					}
				case 's':
					perm |= 0o6000
				case 't':
					perm |= 0o1000
					who |= 0o1000
				case 'u', 'g', 'o':
					if j != i+1 || j+1 < len(clause) && strings.IndexByte("+-=", clause[j+1]) < 0 {
						return 0, fmt.Errorf("invalid mode: '%s'", s)
					}
					perm = bits >> map[byte]uint{'u': 6, 'g': 3, 'o': 0}[clause[j]] & 7 * 0o111
				default:
					return 0, fmt.Errorf("invalid mode: '%s'", s)
				}
			}
			switch perm &= who; op {
			case '+':
				bits |= perm
			case '-':
				bits &^= perm
			case '=':
				bits = bits&^(who&0o777) | perm
			}
			i = j
		}
	}
	return fileModeOf(bits), nil
}

// tree calls f for a path and, if deep, all that is below it, parents first. Links are not followed
// below.
func (v view) tree(p string, deep bool, f func(string) error) error {
	if err := f(p); err != nil {
		return err
	}
	i, err := v.lstat(p)
	if err != nil || !deep || !i.IsDir() {
		return err
	}
	list, err := v.readDir(p)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := v.tree(path.Join(p, e.Name()), true, f); err != nil {
			return err
		}
	}
	return nil
}

func cmdChmod(_ context.Context, p *Proc) int {
	// A mode may begin with "-", as in chmod -x FILE.
	for i, a := range p.Args[1:] {
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "rwxXst") == "" {
			p.Args = slices.Insert(slices.Clone(p.Args), i+1, "--")
			break
		}
	}
	o, ok := p.options("-R -f --recursive --reference=")
	if !ok {
		return exitNotSimulated
	}
	v := p.view()
	mode := ""
	if ref, ok := o.set["--reference"]; ok {
		i, err := v.stat(p.Path(ref))
		if err != nil {
			return p.Fail(1, "failed to get attributes of '%s': %s", ref, reason(err))
		}
		mode = fmt.Sprintf("%o", bitsOf(i.mode))
	} else if len(o.args) > 0 {
		mode, o.args = o.args[0], o.args[1:]
	}
	if len(o.args) == 0 {
		return p.missing()
	}
	code := 0
	for _, name := range o.args {
		err := v.tree(p.Path(name), o.has("-R", "--recursive"), func(file string) error {
			i, err := v.lstat(file)
			if err == nil && i.mode&fs.ModeSymlink != 0 {
				if o.has("-R", "--recursive") {
					return nil
				}
				i, err = v.stat(file)
			}
			if err != nil {
				return err
			}
			m, err := parseMode(mode, i.mode, p.umask)
			if err != nil {
				return err
			}
			return v.chmod(file, m)
		})
		switch {
		case err == nil:
		case o.has("-f"):
			code = 1
		case isNotExist(err):
			code = p.Fail(1, "cannot access '%s': %s", name, reason(err))
		default:
			code = p.Fail(1, "changing permissions of '%s': %s", name, reason(err))
		}
	}
	return code
}

func cmdChown(_ context.Context, p *Proc) int {
	o, ok := p.options("-R -h -f --recursive --no-dereference --reference=")
	if !ok {
		return exitNotSimulated
	}
	v := p.view()
	uid, gid := -1, -1
	if ref, ok := o.set["--reference"]; ok {
		i, err := v.stat(p.Path(ref))
		if err != nil {
			return p.Fail(1, "failed to get attributes of '%s': %s", ref, reason(err))
		}
		uid, gid = i.uid, i.gid
	} else if len(o.args) > 0 {
		owner := o.args[0]
		if user, group, ok := strings.Cut(owner, "."); ok && !strings.Contains(owner, ":") && p.name() == "chown" {
			if _, known := p.Host.disk.accounts().user(owner); !known {
				owner = user + ":" + group // the old spelling, about which newer chowns warn
			}
		}
		user, group, both := strings.Cut(owner, ":")
		if p.name() == "chgrp" {
			user, group = "", o.args[0]
		}
		if both && group == "" { // "user:" means the user's own group
			if u, ok := p.Host.disk.accounts().user(user); ok {
				group = strconv.Itoa(u.gid)
			}
		}
		var err error
		if uid, gid, err = p.ids(user, group); err != nil {
			return p.Fail(1, "%v", err)
		}
		o.args = o.args[1:]
	}
	if len(o.args) == 0 {
		return p.missing()
	}
	code := 0
	for _, name := range o.args {
		deep := o.has("-R", "--recursive")
		err := v.tree(p.Path(name), deep, func(file string) error {
			return v.chown(file, uid, gid, !deep && !o.has("-h", "--no-dereference"))
		})
		switch {
		case err == nil:
		case o.has("-f"):
			code = 1
		case isNotExist(err):
			code = p.Fail(1, "cannot access '%s': %s", name, reason(err))
		default:
			code = p.Fail(1, "changing ownership of '%s': %s", name, reason(err))
		}
	}
	return code
}

func cmdReadlink(_ context.Context, p *Proc) int {
	o, ok := p.options("-f -e -n -q --canonicalize")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) == 0 {
		return p.missing()
	}
	code := 0
	for _, name := range o.args {
		var s string
		var err error
		if p.name() == "realpath" || o.has("-f", "-e", "--canonicalize") {
			s, err = p.view().realpath(p.Path(name), o.has("-e"))
		} else {
			s, err = p.view().readlink(p.Path(name))
		}
		switch {
		case name == "" && p.name() == "readlink":
			code = 1
		case name == "" || err != nil && p.name() == "realpath" && !o.has("-q"):
			err = cmp.Or(err, error(syscall.ENOENT))
			code = p.Fail(1, "%s: %s", orDefault(name, "''"), reason(err))
		case err != nil:
			code = 1
		case o.has("-n"):
			fmt.Fprint(p.Stdout, s)
		default:
			fmt.Fprintln(p.Stdout, s)
		}
	}
	return code
}

func cmdDirname(_ context.Context, p *Proc) int {
	o, ok := p.options("")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) == 0 {
		return p.missing()
	}
	for _, a := range o.args {
		dir, rest := ".", strings.TrimRight(a, "/")
		switch i := strings.LastIndexByte(rest, '/'); {
		case i >= 0:
			if dir = strings.TrimRight(rest[:i], "/"); dir == "" {
				dir = "/"
			}
		case rest == "" && a != "":
			dir = "/"
		}
		fmt.Fprintln(p.Stdout, dir)
	}
	return 0
}

func cmdBasename(_ context.Context, p *Proc) int {
	o, ok := p.options("-a -s:")
	if !ok {
		return exitNotSimulated
	}
	suffix := o.set["-s"]
	if !o.has("-a", "-s") && len(o.args) == 2 {
		suffix, o.args = o.args[1], o.args[:1]
	}
	switch {
	case len(o.args) == 0:
		return p.missing()
	case len(o.args) > 1 && !o.has("-a", "-s"):
		return p.Fail(1, "extra operand '%s'", p.Args[len(p.Args)-1])
	}
	for _, a := range o.args {
		b := path.Base(a)
		if a == "" {
			b = ""
		}
		if b != suffix {
			b = strings.TrimSuffix(b, suffix)
		}
		fmt.Fprintln(p.Stdout, b)
	}
	return 0
}
