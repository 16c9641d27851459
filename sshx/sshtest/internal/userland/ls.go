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
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

var cmdLs = parsed("-1 -a -A -d -l -n -t -r --color=", func(_ context.Context, p *machine.Proc, o *options) int {
	if when := o.set["--color"]; when != "" && when != "never" && when != "auto" {
		return p.NotSimulated("--color=" + when)
	}
	if len(o.args) == 0 {
		o.args = []string{"."}
	}
	v := p.View()
	code := 0
	var files, dirs []string
	for _, name := range o.args {
		i, err := v.Lstat(p.Path(name))
		if err == nil && i.Mode()&fs.ModeSymlink != 0 && !o.has("-l", "-d") {
			i, err = v.Stat(p.Path(name))
		}
		switch {
		case err != nil:
			code = p.Fail(2, "cannot access '%s': %s", name, disk.Reason(err))
		case i.IsDir() && !o.has("-d"):
			dirs = append(dirs, name)
		default:
			files = append(files, name)
		}
	}
	print := func(dir string, names []string, total bool) {
		var infos []*disk.FileInfo
		for _, n := range names {
			full := path.Join(p.Path(dir), n)
			if path.IsAbs(n) {
				full = n
			}
			i, err := v.Lstat(full)
			switch {
			case err == nil:
				i = i.As(n)
			case o.has("-l", "-n", "-t"):
				code = max(code, p.Fail(1, "cannot access '%s': %s", n, disk.Reason(err)))
				continue
			default: // a name is all that it shows
				i = (&disk.FileInfo{}).As(n)
			}
			infos = append(infos, i)
		}
		if o.has("-t") {
			slices.SortStableFunc(infos, func(a, b *disk.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
		}
		if o.has("-r") {
			slices.Reverse(infos)
		}
		if !o.has("-l", "-n") {
			for _, i := range infos {
				fmt.Fprintln(p.Stdout, i.Name())
			}
			return
		}
		var rows [][]string
		var width [4]int
		blocks := int64(0)
		for _, i := range infos {
			if i.Mode()&fs.ModeSymlink == 0 {
				blocks += (i.Size() + 4095) / 4096 * 4
			}
			own := i.Owner()
			if o.has("-n") {
				own.User, own.Group = strconv.Itoa(i.UID), strconv.Itoa(i.GID)
			}
			row := []string{strconv.Itoa(i.NLink), own.User, own.Group, strconv.FormatInt(i.Size(), 10)}
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
			if i.Mode()&fs.ModeSymlink != 0 {
				target, _ := v.Readlink(path.Join(p.Path(dir), i.Name()))
				arrow = " -> " + target
			}
			layout := "Jan _2 15:04"
			if age := p.Host.Clock().Sub(i.ModTime()); age < 0 || age > 365*24*time.Hour/2 {
				layout = "Jan _2  2006"
			}
			r := rows[n]
			fmt.Fprintf(p.Stdout, "%s %*s %-*s %-*s %*s %s %s%s\n", modeString(i.Mode()), width[0], r[0], width[1], r[1], width[2], r[2],
				width[3], r[3], i.ModTime().In(zoneOf(p, false)).Format(layout), i.Name(), arrow)
		}
	}
	slices.Sort(files)
	slices.Sort(dirs)
	print(".", files, false)
	for n, dir := range dirs {
		list, err := v.ReadDir(p.Path(dir))
		if err != nil {
			code = p.Fail(2, "cannot open directory '%s': %s", dir, disk.Reason(err))
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
})

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

func fileKind(i *disk.FileInfo) string {
	switch {
	case i.IsDir():
		return "directory"
	case i.Mode()&fs.ModeSymlink != 0:
		return "symbolic link"
	case i.Mode()&fs.ModeCharDevice != 0:
		return "character special file"
	case i.Size() == 0:
		return "regular empty file"
	}
	return "regular file"
}

var cmdStat = parsed("-L -c: --format= --printf= --dereference", func(_ context.Context, p *machine.Proc, o *options) int {
	format, isPrintf := o.set["--printf"]
	if !isPrintf {
		format = cmp.Or(o.set["-c"], o.set["--format"]) + "\n"
	} else {
		format = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\0`, "\x00", `\\`, `\`).Replace(format)
	}
	if format == "\n" {
		return p.NotSimulated("output without -c")
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	code := 0
	for _, name := range o.args {
		i, err := p.View().Lstat(p.Path(name))
		if o.has("-L", "--dereference") {
			i, err = p.View().Stat(p.Path(name))
		}
		if err != nil {
			code = p.Fail(1, "cannot statx '%s': %s", name, disk.Reason(err))
			continue
		}
		link := ""
		if i.Mode()&fs.ModeSymlink != 0 {
			target, _ := p.View().Readlink(p.Path(name))
			link = " -> '" + target + "'"
		}
		text, bad := formatStat(format, name, link, i)
		if bad != "" {
			return p.NotSimulated(bad)
		}
		fmt.Fprint(p.Stdout, text)
	}
	return code
})

func formatStat(format, name, link string, i *disk.FileInfo) (text, bad string) {
	var b strings.Builder
	own := i.Owner()
	for n := 0; n < len(format); n++ {
		if format[n] != '%' || n+1 == len(format) {
			b.WriteByte(format[n])
			continue
		}
		n++
		switch format[n] {
		case 'a':
			fmt.Fprintf(&b, "%o", disk.BitsOf(i.Mode()))
		case 'A':
			b.WriteString(modeString(i.Mode()))
		case 'u':
			fmt.Fprint(&b, own.UID)
		case 'U':
			b.WriteString(own.User)
		case 'g':
			fmt.Fprint(&b, own.GID)
		case 'G':
			b.WriteString(own.Group)
		case 's':
			fmt.Fprint(&b, i.Size())
		case 'n':
			b.WriteString(name)
		case 'N':
			b.WriteString("'" + name + "'" + link)
		case 'F':
			b.WriteString(fileKind(i))
		case 'Y':
			fmt.Fprint(&b, i.ModTime().Unix())
		case 'y':
			b.WriteString(i.ModTime().UTC().Format("2006-01-02 15:04:05.000000000 -0700"))
		case 'i':
			fmt.Fprint(&b, i.Ino)
		case 'h':
			fmt.Fprint(&b, i.NLink)
		case '%':
			b.WriteByte('%')
		default:
			return "", "%" + string(format[n])
		}
	}
	return b.String(), ""
}
