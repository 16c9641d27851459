package userland

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// diskBase is what an operating system takes, which the disk does not really hold.
const diskBase = 2 << 30

var cmdDf = parsed("-P -k -h -m -T -l --output= --portability", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		o.args = []string{"/"}
	}
	size, used := p.Host.Disk.Usage()
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
		if _, err := p.View().Stat(p.Path(a)); err != nil {
			code = p.Fail(1, "%s: %s", a, disk.Reason(err))
			continue
		}
		if !some {
			fmt.Fprintln(p.Stdout, strings.Join(head, " "))
		}
		some = true
		fmt.Fprintln(p.Stdout, strings.Join(row, " "))
	}
	return code
})

var cmdDu = parsed("-s -h -k -b -m", func(_ context.Context, p *machine.Proc, o *options) int {
	if !o.has("-s") {
		return p.NotSimulated("without -s")
	}
	if len(o.args) == 0 {
		o.args = []string{"."}
	}
	code := 0
	v := p.View()
	for _, name := range o.args {
		var sum int64
		err := v.Tree(p.Path(name), true, func(f string) error {
			i, err := v.Lstat(f)
			switch {
			case err != nil:
			case o.has("-b"):
				sum += i.Size()
			case i.IsDir() || i.Mode().IsRegular():
				sum += (i.Size() + 4095) >> 12 << 12
			}
			return err
		})
		if err != nil {
			code = p.Fail(1, "cannot access '%s': %s", name, disk.Reason(err))
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
})

var cmdMountpoint = parsed("-q", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) != 1 {
		return p.Fail(1, "bad usage")
	}
	real, err := p.View().Realpath(p.Path(o.args[0]), true)
	if err == nil && real != "/" {
		err = errors.New("is not a mountpoint")
	}
	if err != nil {
		if !o.has("-q") {
			fmt.Fprintf(p.Stdout, "%s %s\n", o.args[0], disk.Reason(err))
		}
		return 32
	}
	if !o.has("-q") {
		fmt.Fprintf(p.Stdout, "%s is a mountpoint\n", o.args[0])
	}
	return 0
})
