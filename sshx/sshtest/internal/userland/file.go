package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
)

// fileCommands make, move and remove files:
//
//	cat [-n -u] [FILE...]
//	cp [-a -d -f -p -r -R -v -n -T] [--preserve[=mode,ownership,timestamps]] [-t DIR] FROM... TO, -v not with -r
//	mv [-f -n -v -T] [-t DIR] FROM... TO
//	rm [-f -r -R -d -v] FILE..., -v not with -r
//	mkdir [-p] [-m MODE] DIR...
//	rmdir [--ignore-fail-on-non-empty] DIR...
//	ln [-s -f -n -T] [-t DIR] TARGET... LINK
//	touch [-c -a -m] [-r FILE] [-d DATE|@SECONDS] FILE...
//	install [-d -D -p -v] [-m MODE] [-o USER] [-g GROUP] FROM... TO
//	mktemp [-d -q -u] [-t] [-p DIR] [TEMPLATE]
//	truncate [-s SIZE] FILE...
//	dd [if=FILE] [of=FILE] [bs=N] [count=N] [status=none] [conv=fsync]
//	shred, sync: sync does nothing; shred is not there
var fileCommands = map[string]machine.Command{
	"cat": cmdCat, "cp": cmdCp, "mv": cmdMv, "rm": cmdRm, "mkdir": cmdMkdir, "rmdir": cmdRmdir, "ln": cmdLn, "touch": cmdTouch,
	"install": cmdInstall, "mktemp": cmdMktemp, "truncate": cmdTruncate, "dd": cmdDd, "sync": cmdSync,
}

// copyTo copies until the end of r, or that of ctx.
func copyTo(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 32<<10)
	for ctx.Err() == nil {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// input opens an operand, of which "-" is stdin.
// readNamed reads a file, or stdin if its name is "-".
func readNamed(p *machine.Proc, name string) ([]byte, error) {
	f, err := openInput(p, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func openInput(p *machine.Proc, name string) (io.ReadCloser, error) {
	if name == "-" || slices.Contains(shell.Stdins, name) {
		return io.NopCloser(p.Stdin), nil
	}
	f, err := p.View().Open(p.Path(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	if i, err := p.View().Stat(p.Path(name)); err == nil && i.IsDir() {
		_ = f.Close()
		return nil, disk.Fail("read", name, syscall.EISDIR)
	}
	return f, nil
}

var cmdCat = parsed("-n -u", func(ctx context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		o.args = []string{"-"}
	}
	code := 0
	line := 1
	for _, name := range o.args {
		r, err := openInput(p, name)
		if err == nil {
			if o.has("-n") {
				line, err = numberLines(p, r, line)
			} else {
				err = copyTo(ctx, p.Stdout, r)
			}
			_ = r.Close()
		}
		if err != nil {
			code = p.Fail(1, "%s: %s", name, disk.Reason(err))
		}
	}
	return code
})

func numberLines(p *machine.Proc, r io.Reader, line int) (int, error) {
	data, err := io.ReadAll(r)
	for l := range strings.Lines(string(data)) {
		fmt.Fprintf(p.Stdout, "%6d\t%s", line, l)
		line++
	}
	return line, err
}

var cmdRm = parsed("-f -r -R -d -v --force --recursive", func(_ context.Context, p *machine.Proc, o *options) int {
	force, tree := o.has("-f", "--force"), o.has("-r", "-R", "--recursive")
	if len(o.args) == 0 && !force {
		return missing(p)
	}
	if tree && o.has("-v") {
		return p.NotSimulated("-v with -r")
	}
	code := 0
	for _, name := range o.args {
		full := p.Path(name)
		if path.Clean(full) == "/" {
			code = p.Fail(1, "it is dangerous to operate recursively on '/'")
			continue
		}
		if base := path.Base(strings.TrimRight(name, "/")); tree && name != "" && (base == "." || base == "..") {
			code = p.Fail(1, "refusing to remove '.' or '..' directory: skipping '%s'", name)
			continue
		}
		i, err := p.View().Lstat(strings.TrimRight(full, "/"))
		switch {
		case (disk.IsNotExist(err) || errors.Is(err, syscall.ENOTDIR) || name == "") && force:
			continue
		case err != nil:
		case i.IsDir() && !tree && !o.has("-d"):
			err = syscall.EISDIR
		case tree:
			err = p.View().RemoveAll(full)
		default:
			err = p.View().Remove(full)
		}
		if err != nil {
			code = p.Fail(1, "cannot remove '%s': %s", name, disk.Reason(err))
		} else if o.has("-v") {
			fmt.Fprintf(p.Stdout, "removed '%s'\n", name)
		}
	}
	return code
})

var cmdMkdir = parsed("-p -m: --parents --mode=", func(_ context.Context, p *machine.Proc, o *options) int {
	m, given := o.set["-m"]
	if long, ok := o.set["--mode"]; ok {
		m, given = long, true
	}
	if len(o.args) == 0 {
		return missing(p)
	}
	code := 0
	for _, name := range o.args {
		var err error
		_, missing := p.View().Lstat(p.Path(name))
		if o.has("-p", "--parents") && name != "" {
			err = p.View().MkdirAll(p.Path(name), 0o777)
		} else {
			err = p.View().Mkdir(p.Path(name), 0o777)
		}
		if given && err == nil && missing != nil {
			var mode fs.FileMode
			if mode, err = parseMode(m, fs.ModeDir|0o777&^disk.FileModeOf(p.Umask), p.Umask); err == nil {
				err = p.View().Chmod(p.Path(name), mode)
			}
		}
		if err != nil {
			code = p.Fail(1, "cannot create directory '%s': %s", name, disk.Reason(err))
		}
	}
	return code
})

var cmdRmdir = parsed("--ignore-fail-on-non-empty", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return missing(p)
	}
	code := 0
	for _, name := range o.args {
		i, err := p.View().Lstat(p.Path(name))
		if err == nil && !i.IsDir() {
			err = syscall.ENOTDIR
		}
		if err == nil {
			err = p.View().Remove(p.Path(name))
		}
		if errors.Is(err, syscall.ENOTEMPTY) && o.has("--ignore-fail-on-non-empty") {
			continue
		}
		if err != nil {
			code = p.Fail(1, "failed to remove '%s': %s", name, disk.Reason(err))
		}
	}
	return code
})

var cmdLn = parsed("-s -f -n -T --symbolic --force --no-dereference -t:", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 1 && !o.has("-t", "-T") {
		o.args = append(o.args, path.Base(o.args[0]))
	}
	if i, err := p.View().Lstat(p.Path(lastOf(o.args))); err == nil && i.Mode()&fs.ModeSymlink != 0 && o.has("-n", "--no-dereference") {
		o.set["-T"] = ""
	}
	pairs, code := targetsOf(p, o)
	for _, x := range pairs {
		to := p.Path(x[1])
		if to == p.Path(x[0]) && o.has("-f", "--force") {
			code = p.Fail(1, "'%s' and '%s' are the same file", x[0], x[1])
			continue
		}
		if o.has("-f", "--force") {
			if i, err := p.View().Lstat(to); err == nil && !i.IsDir() {
				_ = p.View().Remove(to)
			}
		}
		var err error
		if o.has("-s", "--symbolic") {
			err = p.View().Symlink(x[0], to)
		} else {
			err = p.View().Link(p.Path(x[0]), to)
		}
		if err != nil {
			code = p.Fail(1, "failed to create link '%s': %s", x[1], disk.Reason(err))
		}
	}
	return code
})

func lastOf(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[len(s)-1]
}

var cmdTouch = parsed("-c -a -m -r: -d: --no-create --date= --reference=", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return p.Fail(1, "missing file operand")
	}
	for long, short := range map[string]string{"--reference": "-r", "--date": "-d"} {
		if v, ok := o.set[long]; ok {
			o.set[short] = v
		}
	}
	at := p.Host.Clock()
	if ref, ok := o.set["-r"]; ok {
		i, err := p.View().Stat(p.Path(ref))
		if err != nil {
			return p.Fail(1, "failed to get attributes of '%s': %s", ref, disk.Reason(err))
		}
		at = i.ModTime()
	}
	if d, ok := o.set["-d"]; ok {
		var err error
		if at, err = parseDate(d, p.Host.Clock()); err != nil {
			return p.NotSimulated("-d " + d)
		}
	}
	code := 0
	for _, name := range o.args {
		_, err := p.View().Stat(p.Path(name))
		if disk.IsNotExist(err) {
			if o.has("-c", "--no-create") {
				continue
			}
			var f *disk.File
			if f, err = p.View().Open(p.Path(name), os.O_WRONLY|os.O_CREATE, 0o666); err == nil {
				_ = f.Close()
			}
		}
		if err == nil && (!o.has("-a") || o.has("-m")) { // access times are not kept
			err = p.View().Chtimes(p.Path(name), at)
		}
		if err != nil {
			code = p.Fail(1, "cannot touch '%s': %s", name, disk.Reason(err))
		}
	}
	return code
})

// parseDate understands @SECONDS, RFC 3339 and its parts, "now".
func parseDate(s string, now time.Time) (time.Time, error) {
	if s == "now" {
		return now, nil
	}
	if n, ok := strings.CutPrefix(s, "@"); ok {
		sec, err := strconv.ParseFloat(n, 64)
		whole, part := math.Modf(sec)
		return time.Unix(int64(whole), int64(part*1e9)), err
	}
	var err error
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "2006-01-02 15:04:05 MST"} {
		var t time.Time
		if t, err = time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t, nil
		}
	}
	return now, err
}
