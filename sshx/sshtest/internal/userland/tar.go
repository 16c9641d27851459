package userland

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// cmdTar is
//
//	tar -c|-x|-t [-z] [-v] [-p] [-f FILE|-] [-C DIR] [--same-owner | --no-same-owner | -o] [--numeric-owner]
//	    [--same-permissions | --no-same-permissions] [--exclude=PATTERN] [--strip-components=N] [--overwrite] [NAME...]; -t without -v
//
// The first argument may lack its dash. Formats are ustar, pax and GNU; files, directories,
// symbolic and hard links.
func cmdTar(ctx context.Context, p *machine.Proc) int {
	args := slices.Clone(p.Args)
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") { // tar xzf FILE
		expanded := []string{args[0]}
		rest := args[2:]
		for _, c := range args[1] {
			expanded = append(expanded, "-"+string(c))
			if (c == 'f' || c == 'C') && len(rest) > 0 {
				expanded, rest = append(expanded, rest[0]), rest[1:]
			}
		}
		args = slices.Concat(expanded, rest)
	}
	q := p.With(args...)
	o, ok := parse(q, `-c -x -t -z -v -p -o -f: -C: --create --extract --list --gzip --file= --directory= --same-owner --no-same-owner --numeric-owner
		--same-permissions --preserve-permissions --no-same-permissions --exclude= --strip-components= --overwrite --format=`)
	if !ok {
		return machine.ExitNotSimulated
	}
	list := o.has("-t", "--list")
	switch {
	case list && o.has("-v"):
		return p.NotSimulated("-v with -t")
	case o.has("--format") && !slices.Contains([]string{"ustar", "pax", "posix", "gnu"}, o.set["--format"]):
		return p.NotSimulated("--format=" + o.set["--format"])
	}
	t := &tarCall{ctx: ctx, p: p, o: o, dir: p.Dir, seen: map[string]bool{}}
	for _, x := range o.list {
		switch x[0] {
		case "-C", "--directory":
			if o.has("-c", "--create") && len(o.args) > 0 && slices.Index(q.Args, o.args[0]) < slices.Index(q.Args, x[0]) {
				return p.NotSimulated("-C after a name")
			}
			if !path.IsAbs(x[1]) {
				x[1] = path.Join(t.dir, x[1])
			}
			t.dir = x[1]
			if i, err := p.View().Stat(t.dir); err != nil || !i.IsDir() {
				return p.Fail(2, "%s: Cannot open: No such file or directory\ntar: Error is not recoverable: exiting now", x[1])
			}
		case "--exclude":
			t.exclude = append(t.exclude, x[1])
		case "--strip-components":
			n, err := strconv.Atoi(x[1])
			if err != nil || n < 0 {
				return p.Fail(2, "%s: Invalid number of elements", x[1])
			}
			t.strip = n
		}
	}
	file := cmp.Or(cmp.Or(o.set["-f"], o.set["--file"]), "-")
	var err error
	switch {
	case o.has("-c", "--create"):
		err = t.create(file)
	case o.has("-x", "--extract", "-t", "--list"):
		err = t.extract(file, list)
	default:
		return p.Fail(2, "You must specify one of the '-Acdtrux' options")
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Fail(2, "%s: Cannot open: %s\ntar: Error is not recoverable: exiting now", file, disk.Reason(err))
	}
	if err != nil {
		return p.Fail(2, "%v", err)
	}
	if t.failed {
		return p.Fail(2, "Exiting with failure status due to previous errors")
	}
	return 0
}

type tarCall struct {
	ctx     context.Context
	p       *machine.Proc
	o       *options
	told    io.Writer // where -v tells of members that are added
	dir     string
	exclude []string
	strip   int
	seen    map[string]bool // operands that were found
	failed  bool
}

func (t *tarCall) excluded(name string) bool {
	return slices.ContainsFunc(t.exclude, func(e string) bool {
		return fnmatch(e, name) || fnmatch(e, path.Base(name)) || fnmatch(strings.TrimPrefix(e, "./"), strings.TrimPrefix(name, "./"))
	})
}

func (t *tarCall) create(file string) error {
	w := t.p.Stdout
	t.told = t.p.Stderr
	if file != "-" {
		t.told = t.p.Stdout
		f, err := t.p.View().Open(t.p.Path(file), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			return err
		}
		defer f.Close()
		w = f
	}
	if t.o.has("-z", "--gzip") {
		z := gzip.NewWriter(w)
		defer z.Close()
		w = z
	}
	if len(t.o.args) == 0 {
		return errors.New("Cowardly refusing to create an empty archive")
	}
	tw := tar.NewWriter(w)
	for _, name := range t.o.args {
		if err := t.add(tw, name); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (t *tarCall) add(tw *tar.Writer, name string) error {
	if t.excluded(name) || t.ctx.Err() != nil {
		return t.ctx.Err()
	}
	v := t.p.View()
	full := name
	if !path.IsAbs(name) {
		full = path.Join(t.dir, name)
	}
	complain := func(err error) error {
		t.failed = true
		t.p.Fail(2, "%s: Cannot open: %s", name, disk.Reason(err))
		return nil
	}
	i, err := v.Lstat(full)
	if err != nil {
		t.failed = true
		t.p.Fail(2, "%s: Cannot stat: %s", name, disk.Reason(err))
		return nil
	}
	target := ""
	if i.Mode()&fs.ModeSymlink != 0 {
		target, _ = v.Readlink(full)
	}
	h, err := tar.FileInfoHeader(i, target)
	if err != nil {
		return err
	}
	own := i.Owner()
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.Format = strings.TrimLeft(name, "/"), own.UID, own.GID, own.User, own.Group, tar.FormatPAX
	h.ModTime = i.ModTime()
	if i.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	var data []byte
	if i.Mode().IsRegular() {
		if data, err = v.ReadFile(full); err != nil {
			return complain(err)
		}
		h.Size = int64(len(data))
	}
	if t.o.has("-v") {
		fmt.Fprintln(t.told, h.Name)
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if _, err := tw.Write(data); err != nil {
		return err
	}
	if !i.IsDir() {
		return nil
	}
	list, err := v.ReadDir(full)
	if err != nil {
		return complain(err)
	}
	for _, e := range disk.Unsorted(list) {
		if err := t.add(tw, strings.TrimSuffix(name, "/")+"/"+e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (t *tarCall) extract(file string, list bool) error {
	r, err := openInput(t.p, file)
	if err != nil {
		return err
	}
	defer r.Close()
	begin := bufio.NewReader(r)
	magic, _ := begin.Peek(2)
	var in io.Reader = begin
	if len(magic) == 0 {
		return errors.New("This does not look like a tar archive")
	}
	if packed := string(magic) == "\x1f\x8b"; t.o.has("-z", "--gzip") || packed && file != "-" {
		if in, err = gzip.NewReader(begin); err != nil {
			return errors.New("not in gzip format")
		}
	}
	tr := tar.NewReader(in)
	type stamp struct {
		name string
		h    *tar.Header
	}
	var dirs []stamp // modes and times of directories come last
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.New("This does not look like a tar archive")
		}
		if t.ctx.Err() != nil {
			return t.ctx.Err()
		}
		name := t.member(h.Name)
		if name == "" || t.excluded(h.Name) || len(t.o.args) > 0 && !t.wanted(h.Name) {
			continue
		}
		if list || t.o.has("-v") {
			fmt.Fprintln(t.p.Stdout, h.Name)
		}
		if list {
			continue
		}
		if err := t.restore(tr, h, name); err != nil {
			t.failed = true
			t.p.Host.Refused(err, t.p.User)
			t.p.Fail(2, "%s: Cannot open: %s", h.Name, disk.Reason(err))
			continue
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, stamp{name, h})
		} else if h.Typeflag != tar.TypeSymlink && h.Typeflag != tar.TypeLink {
			t.finish(name, h)
		}
	}
	for _, d := range slices.Backward(dirs) {
		t.finish(d.name, d.h)
	}
	for _, a := range t.o.args {
		if !t.seen[a] {
			t.failed = true
			t.p.Fail(2, "%s: Not found in archive", a)
		}
	}
	_, _ = io.Copy(io.Discard, r) // what pads the last block
	return nil
}

// member is where a member goes: GNU tar takes leading slashes off and refuses "..".
func (t *tarCall) member(name string) string {
	parts := disk.Split(name)
	if slices.Contains(parts, "..") {
		t.failed = true
		t.p.Fail(2, "%s: Member name contains '..'", name)
		return ""
	}
	if t.strip > 0 {
		if len(parts) <= t.strip {
			return ""
		}
		parts = parts[t.strip:]
	}
	return path.Join(t.dir, path.Join(parts...))
}

func (t *tarCall) wanted(name string) bool {
	name = strings.TrimSuffix(name, "/")
	return slices.ContainsFunc(t.o.args, func(a string) bool {
		d := strings.TrimSuffix(a, "/")
		if d == name || strings.HasPrefix(name, d+"/") {
			t.seen[a] = true
			return true
		}
		return false
	})
}

func (t *tarCall) restore(tr io.Reader, h *tar.Header, name string) error {
	v := t.p.View()
	if err := v.MkdirAll(path.Dir(name), 0o777); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if i, err := v.Lstat(name); err == nil && i.IsDir() {
			return nil
		}
		return v.Mkdir(name, 0o777)
	case tar.TypeSymlink:
		if err := v.Remove(name); err != nil && !disk.IsNotExist(err) {
			return err
		}
		return v.Symlink(h.Linkname, name)
	case tar.TypeLink:
		if err := v.Remove(name); err != nil && !disk.IsNotExist(err) {
			return err
		}
		return v.Link(t.member(h.Linkname), name)
	case tar.TypeReg:
		if err := v.Remove(name); err != nil && !disk.IsNotExist(err) {
			return err
		}
		f, err := v.Open(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode).Perm())
		if err != nil {
			return err
		}
		defer f.Close()
		return copyTo(t.ctx, f, tr)
	}
	return &machine.Refusal{Command: "tar", What: fmt.Sprintf("member of type %q", h.Typeflag)}
}

// finish sets owner, mode and time. Root restores owners and exact modes unless told not to.
func (t *tarCall) finish(name string, h *tar.Header) {
	v := t.p.View()
	root := v.UID == 0
	if root && !t.o.has("--no-same-owner", "-o") || t.o.has("--same-owner") {
		uid, gid := h.Uid, h.Gid
		acc := t.p.Host.Disk.Accounts()
		if !t.o.has("--numeric-owner") {
			if u, ok := acc.User(h.Uname); ok {
				uid = u.UID
			}
			if g, ok := acc.Group(h.Gname); ok {
				gid = g.GID
			}
		}
		_ = v.Chown(name, uid, gid, false)
	}
	mode := disk.FileModeOf(uint32(h.Mode) & 0o7777)
	if !(root || t.o.has("-p", "--same-permissions", "--preserve-permissions")) || t.o.has("--no-same-permissions") {
		mode &^= disk.FileModeOf(t.p.Umask)
	}
	_ = v.Chmod(name, mode)
	_ = v.Chtimes(name, h.ModTime)
}
