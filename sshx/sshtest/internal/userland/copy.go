package userland

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// targetsOf finds where each of several sources goes: to a directory, or to a name. -t and -T are
// known.
func targetsOf(p *machine.Proc, o *options) (pairs [][2]string, code int) {
	from, to := o.args, ""
	if dir, ok := o.set["-t"]; ok {
		to = dir
	} else if len(from) > 0 {
		from, to = from[:len(from)-1], from[len(from)-1]
	}
	if len(from) == 0 {
		if to == "" {
			return nil, p.Fail(1, "missing file operand")
		}
		return nil, p.Fail(1, "missing destination file operand after '%s'", to)
	}
	i, err := p.View().Stat(p.Path(to))
	if err == nil && i.IsDir() && !o.has("-T") {
		for _, f := range from {
			pairs = append(pairs, [2]string{f, path.Join(to, path.Base(f))})
		}
		return pairs, 0
	}
	if len(from) > 1 && o.has("-T") {
		return nil, p.Fail(1, "extra operand '%s'", to)
	}
	if len(from) > 1 || o.has("-t") {
		return nil, p.Fail(1, "target '%s' is not a directory", to)
	}
	return [][2]string{{from[0], to}}, 0
}

var cmdCp = parsed("-a -d -f -p -r -R -v -n -T -t: --preserve --preserve= --force --recursive", func(_ context.Context, p *machine.Proc, o *options) int {
	tree := o.has("-a", "-r", "-R", "--recursive")
	if what := o.set["--preserve"]; what != "" && what != "all" && what != "mode,ownership,timestamps" {
		return p.NotSimulated("--preserve=" + what)
	}
	if tree && o.has("-v") {
		return p.NotSimulated("-v with -r")
	}
	pairs, code := targetsOf(p, o)
	for _, x := range pairs {
		if o.has("-n") {
			if _, err := p.View().Lstat(p.Path(x[1])); err == nil {
				continue
			}
		}
		c := copier{v: p.View(), tree: tree, keep: o.has("-a", "-p", "--preserve"), links: tree || o.has("-d"), force: o.has("-f", "--force")}
		if err := c.copy(p.Path(x[0]), p.Path(x[1])); err != nil {
			code = failedCopy(p, "copy", x, err)
		} else if o.has("-v") {
			fmt.Fprintf(p.Stdout, "'%s' -> '%s'\n", x[0], x[1])
		}
	}
	return code
})

// failedCopy says why cp or mv could not do its work.
func failedCopy(p *machine.Proc, verb string, x [2]string, err error) int {
	_, missing := p.View().Lstat(p.Path(x[0]))
	switch {
	case missing != nil:
		return p.Fail(1, "cannot stat '%s': %s", x[0], disk.Reason(missing))
	case errors.Is(err, errSame):
		return p.Fail(1, "'%s' and '%s' are the same file", x[0], x[1])
	case errors.Is(err, errOmitted):
		return p.Fail(1, "-r not specified; omitting directory '%s'", x[0])
	}
	return p.Fail(1, "cannot %s '%s' to '%s': %s", verb, x[0], x[1], disk.Reason(err))
}

var (
	errSame    = errors.New("they are the same file")
	errOmitted = errors.New("it is a directory")
)

// A copier copies files and trees.
type copier struct {
	v     disk.View
	tree  bool
	keep  bool // mode, owner and time
	links bool // symbolic links stay links
	force bool // what cannot be written to is removed first
}

func (c copier) copy(from, to string) error {
	i, err := c.v.Stat(from)
	if c.links && !strings.HasSuffix(from, "/") {
		i, err = c.v.Lstat(from)
	}
	if err != nil {
		return err
	}
	if j, err := c.v.Stat(to); err == nil && j.Ino == i.Ino && i.Mode()&fs.ModeSymlink == 0 {
		return errSame
	}
	switch {
	case i.Mode()&fs.ModeSymlink != 0:
		target, err := c.v.Readlink(from)
		if err != nil {
			return err
		}
		_ = c.v.Remove(to)
		return c.v.Symlink(target, to)
	case i.IsDir():
		if !c.tree {
			return errOmitted
		}
		if strings.HasPrefix(to+"/", strings.TrimSuffix(from, "/")+"/") {
			return errors.New("cannot copy a directory into itself")
		}
		if err := c.v.Mkdir(to, i.Mode()|0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		list, err := c.v.ReadDir(from)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := c.copy(path.Join(from, e.Name()), path.Join(to, e.Name())); err != nil {
				return err
			}
		}
	default:
		data, err := c.v.ReadFile(from)
		if err != nil {
			return err
		}
		err = c.v.WriteFile(to, data, i.Mode())
		if errors.Is(err, fs.ErrPermission) && c.force && c.v.Remove(to) == nil {
			err = c.v.WriteFile(to, data, i.Mode())
		}
		if err != nil {
			return err
		}
	}
	if !c.keep {
		return nil
	}
	if c.v.UID == 0 {
		_ = c.v.Chown(to, i.UID, i.GID, false)
	}
	return errors.Join(c.v.Chmod(to, i.Mode()), c.v.Chtimes(to, i.ModTime()))
}

var cmdMv = parsed("-f -n -v -T -t: --force", func(_ context.Context, p *machine.Proc, o *options) int {
	pairs, code := targetsOf(p, o)
	for _, x := range pairs {
		i, err := p.View().Lstat(p.Path(x[0]))
		j, err2 := p.View().Lstat(p.Path(x[1]))
		switch {
		case err2 == nil && o.has("-n"):
			continue
		case err == nil && err2 == nil && i.Ino == j.Ino && i.NLink == 1:
			err = errSame
		case err == nil:
			err = p.View().Rename(p.Path(x[0]), p.Path(x[1]))
		}
		if err != nil {
			code = failedCopy(p, "move", x, err)
		} else if o.has("-v") {
			fmt.Fprintf(p.Stdout, "renamed '%s' -> '%s'\n", x[0], x[1])
		}
	}
	return code
})
