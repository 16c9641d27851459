package sshtest

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

func cmdLs(_ context.Context, p *Proc) int {
	o, ok := p.options("-1 -a -A -d -l -n -t -r --color=")
	if !ok {
		return exitNotSimulated
	}
	if when := o.set["--color"]; when != "" && when != "never" && when != "auto" {
		return p.NotSimulated("--color=" + when)
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
	print := func(dir string, names []string, total bool) {
		var infos []*fileInfo
		for _, n := range names {
			full := path.Join(p.Path(dir), n)
			if path.IsAbs(n) {
				full = n
			}
			i, err := v.lstat(full)
			switch {
			case err == nil:
				i.name = n
			case o.has("-l", "-n", "-t"):
				code = max(code, p.Fail(1, "cannot access '%s': %s", n, reason(err)))
				continue
			default: // a name is all that it shows
				i = &fileInfo{name: n}
			}
			infos = append(infos, i)
		}
		if o.has("-t") {
			slices.SortStableFunc(infos, func(a, b *fileInfo) int { return b.mtime.Compare(a.mtime) })
		}
		if o.has("-r") {
			slices.Reverse(infos)
		}
		if !o.has("-l", "-n") {
			for _, i := range infos {
				fmt.Fprintln(p.Stdout, i.name)
			}
			return
		}
		var rows [][]string
		var width [4]int
		blocks := int64(0)
		for _, i := range infos {
			if i.mode&fs.ModeSymlink == 0 {
				blocks += (i.size + 4095) / 4096 * 4
			}
			own := i.owner()
			if o.has("-n") {
				own.User, own.Group = strconv.Itoa(i.uid), strconv.Itoa(i.gid)
			}
			row := []string{strconv.Itoa(i.nlink), own.User, own.Group, strconv.FormatInt(i.size, 10)}
			for k, cell := range row {
				width[k] = max(width[k], len(cell))
			}
			rows = append(rows, row)
		}
		if total {
			fmt.Fprintln(p.Stdout, "total", blocks)
		}
		for n, i := range infos {
			arrow := ""
			if i.mode&fs.ModeSymlink != 0 {
				target, _ := v.readlink(path.Join(p.Path(dir), i.name))
				arrow = " -> " + target
			}
			layout := "Jan _2 15:04"
			if age := p.Host.Clock().Sub(i.mtime); age < 0 || age > 365*24*time.Hour/2 {
				layout = "Jan _2  2006"
			}
			r := rows[n]
			fmt.Fprintf(p.Stdout, "%s %*s %-*s %-*s %*s %s %s%s\n", modeString(i.mode), width[0], r[0], width[1], r[1], width[2], r[2],
				width[3], r[3], i.mtime.In(p.zone(false)).Format(layout), i.name, arrow)
		}
	}
	slices.Sort(files)
	slices.Sort(dirs)
	print(".", files, false)
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
		print(dir, names, true)
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
	if len(o.args) == 0 {
		return p.missing()
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
		link := ""
		if i.mode&fs.ModeSymlink != 0 {
			target, _ := p.view().readlink(p.Path(name))
			link = " -> '" + target + "'"
		}
		text, bad := formatStat(format, name, link, i)
		if bad != "" {
			return p.NotSimulated(bad)
		}
		fmt.Fprint(p.Stdout, text)
	}
	return code
}

func formatStat(format, name, link string, i *fileInfo) (text, bad string) {
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
			b.WriteString("'" + name + "'" + link)
		case 'F':
			b.WriteString(fileKind(i))
		case 'Y':
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
