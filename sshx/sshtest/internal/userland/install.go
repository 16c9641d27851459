package userland

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

var cmdInstall = parsed("-d -D -p -m: -o: -g: --mode= --owner= --group= --directory -t: -T", func(_ context.Context, p *machine.Proc, o *options) int {
	for long, short := range map[string]string{"--mode": "-m", "--owner": "-o", "--group": "-g"} {
		if v, ok := o.set[long]; ok {
			o.set[short] = v
		}
	}
	mode, err := parseMode(cmp.Or(o.set["-m"], "0755"), 0, 0)
	if err != nil {
		return p.Fail(1, "invalid mode '%s'", o.set["-m"])
	}
	finish := func(name string) error {
		uid, gid, err := idsOf(p, o.set["-o"], o.set["-g"])
		if err != nil {
			return err
		}
		if uid >= 0 || gid >= 0 {
			if err := p.View().Chown(p.Path(name), uid, gid, true); err != nil {
				return err
			}
		}
		return p.View().Chmod(p.Path(name), mode)
	}
	if o.has("-d", "--directory") {
		for _, name := range o.args {
			if err := errors.Join(p.View().MkdirAll(p.Path(name), 0o755), finish(name)); err != nil {
				return p.Fail(1, "cannot create directory '%s': %s", name, disk.Reason(err))
			}
		}
		return 0
	}
	if o.has("-D") && len(o.args) > 0 {
		if err := p.View().MkdirAll(path.Dir(p.Path(lastOf(o.args))), 0o755); err != nil {
			return p.Fail(1, "cannot create directory for '%s': %s", lastOf(o.args), disk.Reason(err))
		}
	}
	pairs, code := targetsOf(p, o)
	for _, x := range pairs {
		if i, err := p.View().Stat(p.Path(x[0])); err == nil {
			if j, err := p.View().Stat(p.Path(x[1])); err == nil && i.Ino == j.Ino {
				code = p.Fail(1, "'%s' and '%s' are the same file", x[0], x[1])
				continue
			}
		}
		var data []byte
		r, err := openInput(p, strings.Replace(x[0], "/dev/stdin", "-", 1))
		if err == nil {
			data, err = io.ReadAll(r)
			_ = r.Close()
		}
		if err == nil {
			_ = p.View().Remove(p.Path(x[1]))
			err = p.View().WriteFile(p.Path(x[1]), data, 0o600)
		}
		if err == nil {
			err = finish(x[1])
		}
		if i, err2 := p.View().Stat(p.Path(x[0])); err == nil && err2 == nil && o.has("-p") {
			err = p.View().Chtimes(p.Path(x[1]), i.ModTime())
		}
		if err != nil {
			code = p.Fail(1, "cannot install '%s' as '%s': %s", x[0], x[1], disk.Reason(err))
		}
	}
	return code
})

// idsOf turns names or numbers into numbers; "" is -1.
func idsOf(p *machine.Proc, user, group string) (uid, gid int, err error) {
	acc := p.Host.Disk.Accounts()
	uid, gid = -1, -1
	var ok bool
	if user != "" {
		if uid, ok = acc.UserNamedOrNumbered(user); !ok {
			return 0, 0, fmt.Errorf("invalid user: '%s'", user)
		}
	}
	if group != "" {
		if gid, ok = acc.GroupNamedOrNumbered(group); !ok {
			return 0, 0, fmt.Errorf("invalid group: '%s'", group)
		}
	}
	return uid, gid, nil
}

var cmdMktemp = parsed("-d -q -u -t -p: --directory --tmpdir --tmpdir= --suffix=", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) > 1 {
		return p.Fail(1, "too many templates")
	}
	dir := cmp.Or(p.Env["TMPDIR"], "/tmp")
	for _, n := range []string{"-p", "--tmpdir"} {
		if d := o.set[n]; d != "" {
			dir = d
		}
	}
	template := path.Join(dir, "tmp.XXXXXXXXXX")
	if len(o.args) > 0 {
		template = o.args[0]
		if o.has("-p", "-t", "--tmpdir") {
			template = strings.TrimSuffix(dir, "/") + "/" + template
		}
	}
	suffix := o.set["--suffix"]
	if i := strings.LastIndexByte(template, 'X'); i >= 0 && suffix == "" && !strings.Contains(template[i:], "/") {
		template, suffix = template[:i+1], template[i+1:]
	}
	stem := strings.TrimRight(template, "X")
	n := len(template) - len(stem)
	if n < 3 {
		return p.Fail(1, "too few X's in template '%s'", template)
	}
	for range 100 {
		name := stem + rand.Text()[:n%26] + strings.Repeat("X", n-n%26) + suffix
		var err error
		if o.has("-d", "--directory") {
			err = p.View().Mkdir(p.Path(name), 0o700)
		} else {
			var f *disk.File
			if f, err = p.View().Open(p.Path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				_ = f.Close()
			}
		}
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			if o.has("-q") {
				return 1
			}
			return p.Fail(1, "failed to create file via template '%s': %s", template, disk.Reason(err))
		}
		if o.has("-u") {
			_ = p.View().Remove(p.Path(name))
		}
		fmt.Fprintln(p.Stdout, name)
		return 0
	}
	return p.Fail(1, "failed to create file via template '%s': File exists", template)
})

// parseSize parses 10, 4k, 1M, 1MiB, 2G, of which each is 1024 times the one before, and 1kB, 1MB,
// 1GB: 1000 times.
func parseSize(s string) (int64, error) {
	t, base := strings.TrimSuffix(s, "iB"), int64(1024)
	if t == s {
		if t = strings.TrimSuffix(s, "B"); t != s {
			base = 1000
		}
	}
	unit := int64(1)
	if t != "" {
		i := strings.IndexByte("kmgt", strings.ToLower(t[len(t)-1:])[0])
		if i < 0 && t != s {
			return 0, strconv.ErrSyntax
		}
		for range i + 1 {
			unit *= base
		}
		if i >= 0 {
			t = t[:len(t)-1]
		}
	}
	n, err := strconv.ParseInt(t, 10, 64)
	return n * unit, err
}

var cmdTruncate = parsed("-s: -c --size= --no-create", func(_ context.Context, p *machine.Proc, o *options) int {
	arg := cmp.Or(o.set["-s"], o.set["--size"])
	size, err := parseSize(arg)
	if err != nil || strings.HasPrefix(arg, "+") || strings.HasPrefix(arg, "-") {
		return p.NotSimulated("-s " + arg)
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	for _, name := range o.args {
		flag := os.O_WRONLY | os.O_CREATE
		if o.has("-c", "--no-create") {
			flag = os.O_WRONLY
		}
		f, err := p.View().Open(p.Path(name), flag, 0o666)
		if disk.IsNotExist(err) && o.has("-c", "--no-create") {
			continue
		}
		if err == nil {
			err = f.Truncate(size)
			_ = f.Close()
		}
		if err != nil {
			return p.Fail(1, "cannot open '%s' for writing: %s", name, disk.Reason(err))
		}
	}
	return 0
})

func cmdDd(ctx context.Context, p *machine.Proc) int {
	in, out, bs, count, quiet := "-", "-", int64(512), int64(-1), false
	for _, a := range p.Args[1:] {
		k, v, _ := strings.Cut(a, "=")
		var err error
		switch k {
		case "if":
			in = v
		case "of":
			out = v
		case "bs":
			bs, err = parseSize(v)
		case "count":
			count, err = parseSize(v)
		case "status":
			if quiet = v == "none"; !quiet {
				return p.NotSimulated(a)
			}
		case "conv":
			if v != "fsync" && v != "fdatasync" {
				return p.NotSimulated(a)
			}
		default:
			return p.NotSimulated(a)
		}
		if err != nil || k == "bs" && bs <= 0 {
			return p.Fail(1, "invalid number: '%s'", v)
		}
	}
	r, err := openInput(p, in)
	if err != nil {
		return p.Fail(1, "failed to open '%s': %s", in, disk.Reason(err))
	}
	defer r.Close()
	w := p.Stdout
	if out != "-" {
		f, err := p.View().Open(p.Path(out), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			return p.Fail(1, "failed to open '%s': %s", out, disk.Reason(err))
		}
		defer f.Close()
		w = f
	}
	n := &countWriter{w: w}
	var src io.Reader = r
	if count >= 0 {
		src = io.LimitReader(r, bs*count)
	}
	if err := copyTo(ctx, n, src); err != nil {
		return p.Fail(1, "error writing '%s': %s", out, disk.Reason(err))
	}
	if !quiet {
		fmt.Fprintf(p.Stderr, "%d bytes copied\n", n.n)
	}
	return 0
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func cmdSync(_ context.Context, p *machine.Proc) int {
	if _, ok := parse(p, "-f -d"); !ok {
		return machine.ExitNotSimulated
	}
	return 0
}
