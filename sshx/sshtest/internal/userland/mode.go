package userland

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

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
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
var modeCommands = map[string]machine.Command{
	"ls": cmdLs, "stat": cmdStat, "chmod": cmdChmod, "chown": cmdChown, "chgrp": cmdChown, "readlink": cmdReadlink, "realpath": cmdReadlink,
	"dirname": cmdDirname, "basename": cmdBasename, "find": cmdFind, "tar": cmdTar, "df": cmdDf, "du": cmdDu, "mountpoint": cmdMountpoint,
}

// parseMode applies an octal or symbolic mode to what a file has.
func parseMode(s string, old fs.FileMode, umask uint32) (fs.FileMode, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
		if old.IsDir() && len(s) < 5 { // keeps what it does not mention
			n |= uint64(disk.BitsOf(old) & 0o6000)
		}
		return disk.FileModeOf(uint32(n)), nil
	}
	bits := disk.BitsOf(old)
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
	return disk.FileModeOf(bits), nil
}

func cmdChmod(_ context.Context, p *machine.Proc) int {
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
	o, ok := parse(p, "-R -f --recursive --reference=")
	if !ok {
		return machine.ExitNotSimulated
	}
	v := p.View()
	mode := ""
	if ref, ok := o.set["--reference"]; ok {
		i, err := v.Stat(p.Path(ref))
		if err != nil {
			return p.Fail(1, "failed to get attributes of '%s': %s", ref, disk.Reason(err))
		}
		mode = fmt.Sprintf("%o", disk.BitsOf(i.Mode()))
	} else if len(o.args) > 0 {
		mode, o.args = o.args[0], o.args[1:]
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	code := 0
	for _, name := range o.args {
		err := v.Tree(p.Path(name), o.has("-R", "--recursive"), func(file string) error {
			i, err := v.Lstat(file)
			if err == nil && i.Mode()&fs.ModeSymlink != 0 {
				if o.has("-R", "--recursive") {
					return nil
				}
				i, err = v.Stat(file)
			}
			if err != nil {
				return err
			}
			m, err := parseMode(mode, i.Mode(), p.Umask)
			if err != nil {
				return err
			}
			return v.Chmod(file, m)
		})
		code = max(code, changed(p, o, "permissions", name, err))
	}
	return code
}

// changed reports the change of one file, and returns the exit code.
func changed(p *machine.Proc, o *options, what, name string, err error) int {
	switch {
	case err == nil:
		return 0
	case o.has("-f"):
		return 1
	case disk.IsNotExist(err):
		return p.Fail(1, "cannot access '%s': %s", name, disk.Reason(err))
	default:
		return p.Fail(1, "changing %s of '%s': %s", what, name, disk.Reason(err))
	}
}

var cmdChown = parsed("-R -h -f --recursive --no-dereference --reference=", func(_ context.Context, p *machine.Proc, o *options) int {
	v := p.View()
	uid, gid := -1, -1
	if ref, ok := o.set["--reference"]; ok {
		i, err := v.Stat(p.Path(ref))
		if err != nil {
			return p.Fail(1, "failed to get attributes of '%s': %s", ref, disk.Reason(err))
		}
		uid, gid = i.UID, i.GID
	} else if len(o.args) > 0 {
		owner := o.args[0]
		if user, group, ok := strings.Cut(owner, "."); ok && !strings.Contains(owner, ":") && p.Name() == "chown" {
			if _, known := p.Host.Disk.Accounts().User(owner); !known {
				owner = user + ":" + group // the old spelling, about which newer chowns warn
			}
		}
		user, group, both := strings.Cut(owner, ":")
		if p.Name() == "chgrp" {
			user, group = "", o.args[0]
		}
		if both && group == "" { // "user:" means the user's own group
			if u, ok := p.Host.Disk.Accounts().User(user); ok {
				group = strconv.Itoa(u.GID)
			}
		}
		var err error
		if uid, gid, err = idsOf(p, user, group); err != nil {
			return p.Fail(1, "%v", err)
		}
		o.args = o.args[1:]
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	code := 0
	for _, name := range o.args {
		deep := o.has("-R", "--recursive")
		err := v.Tree(p.Path(name), deep, func(file string) error {
			return v.Chown(file, uid, gid, !deep && !o.has("-h", "--no-dereference"))
		})
		code = max(code, changed(p, o, "ownership", name, err))
	}
	return code
})

var cmdReadlink = parsed("-f -e -n -q --canonicalize", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return missing(p)
	}
	code := 0
	for _, name := range o.args {
		var s string
		var err error
		if p.Name() == "realpath" || o.has("-f", "-e", "--canonicalize") {
			s, err = p.View().Realpath(p.Path(name), o.has("-e"))
		} else {
			s, err = p.View().Readlink(p.Path(name))
		}
		switch {
		case name == "" && p.Name() == "readlink":
			code = 1
		case name == "" || err != nil && p.Name() == "realpath" && !o.has("-q"):
			err = cmp.Or(err, error(syscall.ENOENT))
			code = p.Fail(1, "%s: %s", cmp.Or(name, "''"), disk.Reason(err))
		case err != nil:
			code = 1
		case o.has("-n"):
			fmt.Fprint(p.Stdout, s)
		default:
			fmt.Fprintln(p.Stdout, s)
		}
	}
	return code
})

var cmdDirname = parsed("", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return missing(p)
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
})

var cmdBasename = parsed("-a -s:", func(_ context.Context, p *machine.Proc, o *options) int {
	suffix := o.set["-s"]
	if !o.has("-a", "-s") && len(o.args) == 2 {
		suffix, o.args = o.args[1], o.args[:1]
	}
	switch {
	case len(o.args) == 0:
		return missing(p)
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
})
