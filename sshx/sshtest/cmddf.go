package sshtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// diskBase is what an operating system takes, which the disk does not really hold.
const diskBase = 2 << 30

func cmdDf(_ context.Context, p *Proc) int {
	o, ok := p.options("-P -k -h -m -T -l --output= --portability")
	if !ok {
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
			switch {
			case err != nil:
			case o.has("-b"):
				sum += i.size
			case i.IsDir() || i.mode.IsRegular():
				sum += (i.size + 4095) >> 12 << 12
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
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) != 1 {
		return p.Fail(1, "bad usage")
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
