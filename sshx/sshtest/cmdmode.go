package sshtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// modeCommands look at files, and at what is around them:
//
//	ls [-1 -a -A -d -l -n -t -r] [FILE...]
//	stat [-L] -c FORMAT | --printf=FORMAT FILE...     %a %A %u %U %g %G %s %n %F %Y %y %i %h %N
//	chmod [-R -v -f] MODE FILE..., modes octal or symbolic; --reference=FILE
//	chown, chgrp [-R -h -v] [USER][:GROUP] FILE...; --reference=FILE
//	readlink [-f -e -m -n] FILE..., realpath [-e -m -s] FILE...
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

func cmdLs(_ context.Context, p *Proc) int {
	o, ok := p.options("-1 -a -A -d -l -n -t -r -h -L --color=")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) == 0 {
		o.args = []string{"."}
	}
	v := p.view()
	code := 0
	var files, dirs []string
	for _, name := range o.args {
		i, err := v.lstat(p.Path(name))
		if err == nil && i.mode&fs.ModeSymlink != 0 && !o.has("-l", "-d") {
			i, err = v.stat(p.Path(name))
		}
		switch {
		case err != nil:
			code = p.Fail(2, "cannot access '%s': %s", name, reason(err))
		case i.IsDir() && !o.has("-d"):
			dirs = append(dirs, name)
		default:
			files = append(files, name)
		}
	}
	print := func(dir string, names []string) {
		var infos []*fileInfo
		for _, n := range names {
			if i, err := v.lstat(path.Join(p.Path(dir), n)); err == nil {
				i.name = n
				infos = append(infos, i)
			} else if path.IsAbs(n) {
				if i, err := v.lstat(n); err == nil {
					i.name = n
					infos = append(infos, i)
				}
			}
		}
		if o.has("-t") {
			slices.SortStableFunc(infos, func(a, b *fileInfo) int { return b.mtime.Compare(a.mtime) })
		}
		if o.has("-r") {
			slices.Reverse(infos)
		}
		for _, i := range infos {
			if !o.has("-l", "-n") {
				fmt.Fprintln(p.Stdout, i.name)
				continue
			}
			own := i.owner()
			if o.has("-n") {
				own.User, own.Group = strconv.Itoa(i.uid), strconv.Itoa(i.gid)
			}
			arrow := ""
			if i.mode&fs.ModeSymlink != 0 {
				target, _ := v.readlink(path.Join(p.Path(dir), i.name))
				arrow = " -> " + target
			}
			fmt.Fprintf(p.Stdout, "%s %d %s %s %d %s %s%s\n", modeString(i.mode), i.nlink, own.User, own.Group, i.size, i.mtime.UTC().Format("Jan _2 15:04"), i.name, arrow)
		}
	}
	print(".", files)
	for n, dir := range dirs {
		list, err := v.readDir(p.Path(dir))
		if err != nil {
			code = p.Fail(2, "cannot open directory '%s': %s", dir, reason(err))
			continue
		}
		if len(o.args) > 1 {
			if n > 0 || len(files) > 0 {
				fmt.Fprintln(p.Stdout)
			}
			fmt.Fprintf(p.Stdout, "%s:\n", dir)
		}
		var names []string
		if o.has("-a") {
			names = []string{".", ".."}
		}
		for _, e := range list {
			if o.has("-a", "-A") || !strings.HasPrefix(e.Name(), ".") {
				names = append(names, e.Name())
			}
		}
		print(dir, names)
	}
	return code
}

// modeString is a mode as ls -l shows it.
func modeString(m fs.FileMode) string {
	kind := "-"
	switch {
	case m.IsDir():
		kind = "d"
	case m&fs.ModeSymlink != 0:
		kind = "l"
	case m&fs.ModeCharDevice != 0:
		kind = "c"
	}
	b := []byte(m.Perm().String()[1:])
	for _, s := range []struct {
		bit fs.FileMode
		at  int
		on  byte
	}{{fs.ModeSetuid, 2, 's'}, {fs.ModeSetgid, 5, 's'}, {fs.ModeSticky, 8, 't'}} {
		if m&s.bit != 0 {
			if b[s.at] == 'x' {
				b[s.at] = s.on
			} else {
				b[s.at] = s.on - 'a' + 'A'
			}
		}
	}
	return kind + string(b)
}

func fileKind(i *fileInfo) string {
	switch {
	case i.IsDir():
		return "directory"
	case i.mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case i.mode&fs.ModeCharDevice != 0:
		return "character special file"
	case i.size == 0:
		return "regular empty file"
	}
	return "regular file"
}

func cmdStat(_ context.Context, p *Proc) int {
	o, ok := p.options("-L -c: --format= --printf= --dereference")
	if !ok {
		return exitNotSimulated
	}
	format, isPrintf := o.set["--printf"]
	if !isPrintf {
		format = orDefault(o.set["-c"], o.set["--format"]) + "\n"
	} else {
		format = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`).Replace(format)
	}
	if format == "\n" {
		return p.NotSimulated("output without -c")
	}
	code := 0
	for _, name := range o.args {
		i, err := p.view().lstat(p.Path(name))
		if o.has("-L", "--dereference") {
			i, err = p.view().stat(p.Path(name))
		}
		if err != nil {
			code = p.Fail(1, "cannot statx '%s': %s", name, reason(err))
			continue
		}
		text, bad := formatStat(format, name, i)
		if bad != "" {
			return p.NotSimulated(bad)
		}
		fmt.Fprint(p.Stdout, text)
	}
	return code
}

func formatStat(format, name string, i *fileInfo) (text, bad string) {
	var b strings.Builder
	own := i.owner()
	for n := 0; n < len(format); n++ {
		if format[n] != '%' || n+1 == len(format) {
			b.WriteByte(format[n])
			continue
		}
		n++
		switch format[n] {
		case 'a':
			fmt.Fprintf(&b, "%o", bitsOf(i.mode))
		case 'A':
			b.WriteString(modeString(i.mode))
		case 'u':
			fmt.Fprint(&b, own.UID)
		case 'U':
			b.WriteString(own.User)
		case 'g':
			fmt.Fprint(&b, own.GID)
		case 'G':
			b.WriteString(own.Group)
		case 's':
			fmt.Fprint(&b, i.size)
		case 'n':
			b.WriteString(name)
		case 'N':
			b.WriteString("'" + name + "'")
		case 'F':
			b.WriteString(fileKind(i))
		case 'Y', 'X', 'Z':
			fmt.Fprint(&b, i.mtime.Unix())
		case 'y':
			b.WriteString(i.mtime.UTC().Format("2006-01-02 15:04:05.000000000 -0700"))
		case 'i':
			fmt.Fprint(&b, i.ino)
		case 'h':
			fmt.Fprint(&b, i.nlink)
		case '%':
			b.WriteByte('%')
		default:
			return "", "%" + string(format[n])
		}
	}
	return b.String(), ""
}

// parseMode applies an octal or symbolic mode to what a file has.
func parseMode(s string, old fs.FileMode, umask uint32) (fs.FileMode, error) {
	if n, err := strconv.ParseUint(s, 8, 32); err == nil && n <= 0o7777 {
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

// tree calls f for a path and, if deep, all that is below it, parents first. Links are not followed below.
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
		if len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "rwxXst") == "" {
			p.Args = slices.Insert(slices.Clone(p.Args), i+1, "--")
			break
		}
	}
	o, ok := p.options("-R -v -f -c --recursive --reference=")
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
				if o.has("-R") {
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
		if err != nil {
			code = p.Fail(1, "changing permissions of '%s': %s", name, reason(err))
		}
	}
	return code
}

func cmdChown(_ context.Context, p *Proc) int {
	o, ok := p.options("-R -h -v -f -c --recursive --no-dereference --reference=")
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
		user, group, both := strings.Cut(o.args[0], ":")
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
		if err != nil {
			code = p.Fail(1, "changing ownership of '%s': %s", name, reason(err))
		}
	}
	return code
}

func cmdReadlink(_ context.Context, p *Proc) int {
	o, ok := p.options("-f -e -m -n -s -q --canonicalize")
	if !ok {
		return exitNotSimulated
	}
	if o.has("-m", "-s") {
		return p.NotSimulated("-m, -s")
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
		case err != nil && p.name() == "realpath" && !o.has("-q"):
			code = p.Fail(1, "%s: %s", name, reason(err))
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
		if t := strings.TrimRight(a, "/"); t != "" {
			a = t
		}
		fmt.Fprintln(p.Stdout, path.Dir(a))
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
	if len(o.args) == 0 {
		return p.missing()
	}
	for _, a := range o.args {
		b := path.Base(a)
		if b != suffix {
			b = strings.TrimSuffix(b, suffix)
		}
		fmt.Fprintln(p.Stdout, b)
	}
	return 0
}

// diskBase is what an operating system takes, which the disk does not really hold.
const diskBase = 2 << 30

func cmdDf(_ context.Context, p *Proc) int {
	o, ok := p.options("-P -k -h -m -T -l --output= --portability -B:")
	if !ok || o.has("-B") {
		return exitNotSimulated
	}
	if len(o.args) == 0 {
		o.args = []string{"/"}
	}
	size, used := p.Host.disk.Usage()
	used = min(size, used+min(diskBase, size/10))
	unit := int64(1 << 10)
	if o.has("-m", "-h") {
		unit = 1 << 20
	}
	suffix := ""
	if o.has("-h") {
		suffix = "M"
	}
	value := map[string]string{
		"source": "/dev/sda2", "fstype": "xfs", "target": "/",
		"size": fmt.Sprint(size/unit, suffix), "used": fmt.Sprint((used+unit-1)/unit, suffix), "avail": fmt.Sprint((size-used)/unit, suffix),
		"pcent": fmt.Sprintf("%d%%", (used*100+size-1)/max(1, size)),
	}
	title := map[string]string{
		"source": "Filesystem", "fstype": "Type", "size": "1024-blocks", "used": "Used", "avail": "Available", "pcent": "Use%", "target": "Mounted on",
	}
	fields := []string{"source", "size", "used", "avail", "pcent", "target"}
	if o.has("-T") {
		fields = slices.Insert(fields, 1, "fstype")
	}
	if o.has("-P") {
		title["pcent"] = "Capacity"
	}
	if f, ok := o.set["--output"]; ok {
		fields = strings.Split(f, ",")
	}
	var head, row []string
	for _, f := range fields {
		if _, ok := value[f]; !ok {
			return p.NotSimulated("--output=" + f)
		}
		head, row = append(head, title[f]), append(row, value[f])
	}
	code, some := 0, false
	for _, a := range o.args {
		if _, err := p.view().stat(p.Path(a)); err != nil {
			code = p.Fail(1, "%s: %s", a, reason(err))
			continue
		}
		if !some {
			fmt.Fprintln(p.Stdout, strings.Join(head, " "))
		}
		some = true
		fmt.Fprintln(p.Stdout, strings.Join(row, " "))
	}
	return code
}

func cmdDu(_ context.Context, p *Proc) int {
	o, ok := p.options("-s -h -k -b -m")
	if !ok {
		return exitNotSimulated
	}
	if !o.has("-s") {
		return p.NotSimulated("without -s")
	}
	if len(o.args) == 0 {
		o.args = []string{"."}
	}
	code := 0
	v := p.view()
	for _, name := range o.args {
		var sum int64
		err := v.tree(p.Path(name), true, func(f string) error {
			i, err := v.lstat(f)
			if err == nil {
				sum += i.size
			}
			return err
		})
		if err != nil {
			code = p.Fail(1, "cannot access '%s': %s", name, reason(err))
			continue
		}
		switch {
		case o.has("-b"):
		case o.has("-m"):
			sum = (sum + 1<<20 - 1) >> 20
		default:
			sum = (sum + 1<<10 - 1) >> 10
		}
		suffix := ""
		if o.has("-h") {
			suffix = "K"
		}
		fmt.Fprintf(p.Stdout, "%d%s\t%s\n", sum, suffix, name)
	}
	return code
}

func cmdMountpoint(_ context.Context, p *Proc) int {
	o, ok := p.options("-q")
	if !ok || len(o.args) != 1 {
		return exitNotSimulated
	}
	real, err := p.view().realpath(p.Path(o.args[0]), true)
	if err == nil && real != "/" {
		err = errors.New("is not a mountpoint")
	}
	if err != nil {
		if !o.has("-q") {
			fmt.Fprintf(p.Stdout, "%s %s\n", o.args[0], reason(err))
		}
		return 32
	}
	if !o.has("-q") {
		fmt.Fprintf(p.Stdout, "%s is a mountpoint\n", o.args[0])
	}
	return 0
}
