package userland

import (
	"context"
	"errors"
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

// A finder is one call of find.
type finder struct {
	p     *machine.Proc
	min   int
	max   int
	depth bool
	expr  func(file string, i *disk.FileInfo) bool
	acts  bool // has an action, so that -print is not implied
	batch func() int
	code  int
	prune bool
	ctx   context.Context
}

// cmdFind is
//
//	find [-H -L are not simulated] [FILE...] [-maxdepth N] [-mindepth N] [-depth] [-xdev] [EXPRESSION]
//
// with the tests -name -iname -path -type f|d|l -user -group -perm [-/]MODE -size [+-]N[ck] -empty
// -newer FILE -mtime|-mmin [+-]N, the actions -print -print0 -delete -prune -exec COMMAND {} ; and
// -exec COMMAND {} +, and ! -not -a -and -o -or ( ).
func cmdFind(ctx context.Context, p *machine.Proc) int {
	args := p.Args[1:]
	var roots []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "!" && args[0] != "(" {
		roots, args = append(roots, args[0]), args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	f := &finder{p: p, ctx: ctx, max: 1 << 30}
	ps := &findParser{f: f, args: args}
	expr, err := ps.or()
	if err == nil && len(ps.args) > 0 {
		err = fmt.Errorf("unexpected argument %s", ps.args[0])
	}
	if ns, ok := errors.AsType[sedNotSimulated](err); ok {
		return p.NotSimulated(string(ns))
	}
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	f.expr = expr
	if !f.acts {
		f.expr = func(file string, i *disk.FileInfo) bool {
			if expr(file, i) {
				fmt.Fprintln(p.Stdout, file)
			}
			return true
		}
	}
	for _, r := range roots {
		f.walk(r, 0)
	}
	if f.batch != nil && f.batch() != 0 {
		f.code = 1
	}
	return f.code
}

func (f *finder) walk(file string, depth int) {
	if f.ctx.Err() != nil {
		return
	}
	v := f.p.View()
	i, err := v.Lstat(f.p.Path(file))
	if err != nil {
		f.code = f.p.Fail(1, "'%s': %s", file, disk.Reason(err))
		return
	}
	f.prune = false
	if !f.depth && depth >= f.min {
		f.expr(file, i)
	}
	if i.IsDir() && depth < f.max && !f.prune {
		list, err := v.ReadDir(f.p.Path(file))
		if err != nil {
			f.code = f.p.Fail(1, "'%s': %s", file, disk.Reason(err))
		}
		for _, e := range disk.Unsorted(list) {
			f.walk(strings.TrimSuffix(file, "/")+"/"+e.Name(), depth+1)
		}
	}
	if f.depth && depth >= f.min {
		f.expr(file, i)
	}
}

type findTest = func(file string, i *disk.FileInfo) bool

type findParser struct {
	f    *finder
	args []string
}

func (p *findParser) next() string {
	a := p.args[0]
	p.args = p.args[1:]
	return a
}

func (p *findParser) or() (findTest, error) {
	if len(p.args) > 0 && slices.Contains([]string{"-o", "-or", "-a", "-and"}, p.args[0]) {
		return nil, fmt.Errorf("invalid expression; you have used a binary operator '%s' with nothing before it.", p.args[0])
	}
	left, err := p.and()
	for err == nil && len(p.args) > 0 && (p.args[0] == "-o" || p.args[0] == "-or") {
		p.next()
		if len(p.args) == 0 || p.args[0] == ")" {
			return nil, errors.New("invalid expression; you have used a binary operator '-o' with nothing after it.")
		}
		a := left
		var b findTest
		if b, err = p.and(); err == nil {
			left = func(file string, i *disk.FileInfo) bool { return a(file, i) || b(file, i) }
		}
	}
	return left, err
}

func (p *findParser) and() (findTest, error) {
	left := func(string, *disk.FileInfo) bool { return true }
	for len(p.args) > 0 && !slices.Contains([]string{"-o", "-or", ")"}, p.args[0]) {
		if p.args[0] == "-a" || p.args[0] == "-and" {
			p.next()
			continue
		}
		a := left
		b, err := p.primary()
		if err != nil {
			return nil, err
		}
		left = func(file string, i *disk.FileInfo) bool { return a(file, i) && b(file, i) }
	}
	return left, nil
}

func (p *findParser) primary() (findTest, error) {
	yes := func(string, *disk.FileInfo) bool { return true }
	name := p.next()
	switch name {
	case "!", "-not":
		if len(p.args) == 0 {
			return nil, errors.New("expected an expression after '!'")
		}
		t, err := p.primary()
		return func(file string, i *disk.FileInfo) bool { return !t(file, i) }, err
	case "(":
		t, err := p.or()
		if err == nil && (len(p.args) == 0 || p.next() != ")") {
			err = errors.New("invalid expression; expected to find a ')'")
		}
		return t, err
	case "-print", "-print0":
		p.f.acts = true
		end := "\n"
		if name == "-print0" {
			end = "\x00"
		}
		return func(file string, _ *disk.FileInfo) bool { fmt.Fprint(p.f.p.Stdout, file+end); return true }, nil
	case "-delete":
		p.f.acts, p.f.depth = true, true
		return p.f.delete, nil
	case "-prune":
		return func(string, *disk.FileInfo) bool { p.f.prune = true; return true }, nil
	case "-depth":
		p.f.depth = true
		return yes, nil
	case "-xdev", "-mount", "-true":
		return yes, nil
	case "-empty":
		return func(file string, i *disk.FileInfo) bool {
			if i.IsDir() {
				list, err := p.f.p.View().ReadDir(p.f.p.Path(file))
				return err == nil && len(list) == 0
			}
			return i.Mode().IsRegular() && i.Size() == 0
		}, nil
	case "-exec":
		return p.exec()
	}
	if len(p.args) == 0 {
		return nil, sedNotSimulated(name)
	}
	return p.withArgument(name, p.next())
}

func (f *finder) delete(file string, _ *disk.FileInfo) bool {
	if file == "." {
		return true
	}
	if err := f.p.View().Remove(f.p.Path(file)); err != nil {
		f.code = f.p.Fail(1, "cannot delete '%s': %s", file, disk.Reason(err))
		return false
	}
	return true
}

func (p *findParser) exec() (findTest, error) {
	f := p.f
	f.acts = true
	end := slices.IndexFunc(p.args, func(a string) bool { return a == ";" || a == "+" })
	if end < 1 {
		return nil, errors.New("missing argument to '-exec'")
	}
	cmd, kind := p.args[:end], p.args[end]
	p.args = p.args[end+1:]
	if kind == ";" {
		return func(file string, _ *disk.FileInfo) bool {
			args := slices.Clone(cmd)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "{}", file)
			}
			return f.p.Run(f.ctx, args...) == 0
		}, nil
	}
	if lastOf(cmd) != "{}" || f.batch != nil {
		return nil, sedNotSimulated("-exec ... + of this form")
	}
	var all []string
	f.batch = func() int {
		if len(all) == 0 {
			return 0
		}
		return f.p.Run(f.ctx, slices.Concat(cmd[:len(cmd)-1], all)...)
	}
	return func(file string, _ *disk.FileInfo) bool { all = append(all, file); return true }, nil
}

// compareTo parses [+-]N and compares.
func compareTo(s string) (func(int64) bool, error) {
	n, err := strconv.ParseInt(strings.TrimLeft(s, "+-"), 10, 64)
	return func(x int64) bool {
		switch s[0] {
		case '+':
			return x > n
		case '-':
			return x < n
		}
		return x == n
	}, err
}

func (p *findParser) withArgument(name, arg string) (findTest, error) {
	yes := func(string, *disk.FileInfo) bool { return true }
	acc := p.f.p.Host.Disk.Accounts()
	switch name {
	case "-maxdepth", "-mindepth":
		n, err := strconv.Atoi(arg)
		if name == "-maxdepth" {
			p.f.max = n
		} else {
			p.f.min = n
		}
		return yes, err
	case "-name", "-iname":
		return func(file string, _ *disk.FileInfo) bool {
			base := path.Base(file)
			if name == "-iname" {
				base, arg = strings.ToLower(base), strings.ToLower(arg)
			}
			return fnmatch(arg, base)
		}, nil
	case "-path", "-wholename":
		return func(file string, _ *disk.FileInfo) bool {
			return fnmatch(strings.ReplaceAll(arg, "/", "\x00"), strings.ReplaceAll(file, "/", "\x00"))
		}, nil
	case "-type":
		for k := range strings.SplitSeq(arg, ",") {
			if !slices.Contains([]string{"f", "d", "l"}, k) {
				return nil, sedNotSimulated("-type " + k)
			}
		}
		return func(_ string, i *disk.FileInfo) bool {
			for k := range strings.SplitSeq(arg, ",") {
				switch k {
				case "f":
					if i.Mode().IsRegular() {
						return true
					}
				case "d":
					if i.IsDir() {
						return true
					}
				case "l":
					if i.Mode()&fs.ModeSymlink != 0 {
						return true
					}
				}
			}
			return false
		}, nil
	case "-user":
		id, ok := acc.UserNamedOrNumbered(arg)
		if !ok {
			return nil, fmt.Errorf("'%s' is not the name of a known user", arg)
		}
		return func(_ string, i *disk.FileInfo) bool { return i.UID == id }, nil
	case "-group":
		id, ok := acc.GroupNamedOrNumbered(arg)
		if !ok {
			return nil, fmt.Errorf("'%s' is not the name of an existing group", arg)
		}
		return func(_ string, i *disk.FileInfo) bool { return i.GID == id }, nil
	case "-perm":
		n, err := strconv.ParseUint(strings.TrimLeft(arg, "-/"), 8, 32)
		if err != nil {
			return nil, sedNotSimulated("-perm " + arg)
		}
		want := uint32(n)
		return func(_ string, i *disk.FileInfo) bool {
			switch have := disk.BitsOf(i.Mode()); arg[0] {
			case '-':
				return have&want == want
			case '/':
				return have&want != 0 || want == 0
			default:
				return have == want
			}
		}, nil
	case "-size":
		unit := int64(512)
		switch arg[len(arg)-1] {
		case 'c':
			unit, arg = 1, arg[:len(arg)-1]
		case 'k':
			unit, arg = 1<<10, arg[:len(arg)-1]
		case 'M':
			unit, arg = 1<<20, arg[:len(arg)-1]
		}
		ok, err := compareTo(arg)
		return func(_ string, i *disk.FileInfo) bool { return ok((i.Size() + unit - 1) / unit) }, err
	case "-newer":
		ref, err := p.f.p.View().Stat(p.f.p.Path(arg))
		return func(_ string, i *disk.FileInfo) bool { return i.ModTime().After(ref.ModTime()) }, err
	case "-mtime", "-mmin":
		unit := time.Minute
		if name == "-mtime" {
			unit = 24 * time.Hour
		}
		ok, err := compareTo(arg)
		return func(_ string, i *disk.FileInfo) bool { return ok(int64(p.f.p.Host.Clock().Sub(i.ModTime()) / unit)) }, err
	}
	return nil, sedNotSimulated(name)
}

// fnmatch is path.Match, with "!" for "^" in sets.
func fnmatch(pattern, name string) bool {
	ok, _ := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), name)
	return ok
}
