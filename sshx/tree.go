package sshx

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"
)

// PutTree writes the tree src to the directory dst, which need not exist, but whose parent must.
// It is sent as one tar stream, and unpacked beside dst, or in it under a hidden name if it exists.
// Until that is done, dst is as it was; if it fails, or the connection is lost, nothing of it is
// left. A dst that exists keeps what src does not have, and its directories their modes and owners;
// files and links in it are replaced one by one, each whole. Where a directory would have to
// replace something else, or something else a directory or a device, nothing is replaced at all.
//
// Modes are the permissions that src has, made writable for the owner (embedded files are not), or
// PutOptions.Mode for all files. Symbolic links are sent as such, if src is an fs.ReadLinkFS.
// Anything but files, directories and links is an error, and so is a file that changes meanwhile.
// Times are not sent. A machine without tar gets it file by file, over SFTP. With
// PutOptions.IfChanged, files that dst has already are not sent.
func (c *Client) PutTree(ctx context.Context, dst string, src fs.FS, o PutOptions) error {
	if s := strings.TrimRight(dst, "/"); s != "" || dst == "" {
		dst = s
	} else {
		dst = "/"
	}
	if err := c.putTree(ctx, dst, src, o); err != nil {
		return fmt.Errorf("sshx: %s: put tree %s: %w", c.cfg.Name, dst, c.bare(err))
	}
	return nil
}

func (c *Client) putTree(ctx context.Context, dst string, src fs.FS, o PutOptions) error {
	if err := checkPath(dst); err != nil {
		return err
	}
	entries, err := listTree(src, o)
	if err != nil {
		return err
	}
	t := &treePut{c: c, dst: dst, src: src, entries: entries, o: o}
	var same []entry
	if o.IfChanged {
		if t.entries, same, err = c.changed(ctx, dst, src, entries, o); err != nil {
			return err
		}
	}
	if len(t.entries) > 0 {
		if err := t.send(ctx); err != nil {
			return err
		}
	}
	return c.settle(ctx, dst, same, o)
}

// A treePut is the transfer of one tree.
type treePut struct {
	c       *Client
	dst     string
	src     fs.FS
	entries []entry
	o       PutOptions
}

func (t *treePut) send(ctx context.Context) error {
	err := t.through(ctx, unpackTar, t.writeTar)
	if ee, ok := errors.AsType[*ExitError](err); ok && ee.Code == noTar {
		if err = t.through(ctx, unpackSFTP, t.writeSFTP); err != nil {
			err = fmt.Errorf("the machine has no tar: %w", t.c.bare(err))
		}
	}
	return err
}

// through sends the tree through a script that unpacks it: fill writes to w, may read from r what
// is answered, and counts what is sent. last is the name of an empty file that follows all others.
func (t *treePut) through(ctx context.Context, unpack string, fill func(w *io.PipeWriter, r io.Reader, last string, sent *counted) error) error {
	tmp, mode := beside(t.dst), ""
	last := path.Base(tmp)
	if t.o.Mode&^fs.ModePerm != 0 {
		mode = fmt.Sprintf("%04o", unixMode(t.o.Mode))
	}
	sent := &counted{tell: t.o.Progress}
	stdin, w := io.Pipe()
	r, stdout := io.Pipe()
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		w.CloseWithError(fill(w, r, last, sent))
		r.Close()
	}()
	_, err := t.c.runRaw(ctx, Cmd{
		Name: "unpack " + t.dst, User: t.o.user(), Stdin: stdin, Stdout: stdout, Separate: true,
		Args: []string{"/bin/sh", "-c", treeScript(unpack), "sshx-put", t.dst, last, t.o.Owner, mode},
	})
	stdin.CloseWithError(errNoMore)
	stdout.Close()
	<-filled
	sent.end(err == nil)
	if err != nil {
		t.c.sweep(ctx, t.o.user(), err, tmp, t.dst+"/"+last)
	}
	return blame(ctx, err) // src is at fault, or what the machine said of it
}

var errNoMore = errors.New("the machine takes no more")

// An entry is one file, directory or link of a tree that is sent.
type entry struct {
	name string
	mode fs.FileMode
	size int64
	link string
}

// listTree reads what is in src, in an order in which directories come before what they hold.
func listTree(src fs.FS, o PutOptions) ([]entry, error) {
	var entries []entry
	err := fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return notUTF8(name, err)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{name: name, mode: info.Mode().Perm() | 0o200}
		switch info.Mode().Type() {
		case 0:
			e.size = info.Size()
			if o.Mode != 0 {
				e.mode = o.Mode &^ fs.ModeType
			}
		case fs.ModeDir:
			e.mode |= fs.ModeDir | 0o700
		case fs.ModeSymlink:
			e.mode = fs.ModeSymlink | 0o777
			if e.link, err = fs.ReadLink(src, name); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: %s is neither file nor directory nor link", name, info.Mode().Type())
		}
		entries = append(entries, e)
		return nil
	})
	return entries, err
}

// treeBuffer joins headers and contents into packets of full size.
const treeBuffer = 256 << 10

// writeTar sends the entries, and an empty file at last, as a tar stream. Its format is GNU's: in
// the others, names beyond ASCII, and long ones, are in extensions that busybox passes over.
func (t *treePut) writeTar(w *io.PipeWriter, _ io.Reader, last string, sent *counted) error {
	buf := bufio.NewWriterSize(io.MultiWriter(w, sent), treeBuffer)
	tw := tar.NewWriter(buf)
	block := make([]byte, 64<<10) // for all files: io.Copy would make one for each
	now := time.Now().Truncate(time.Second)
	for _, e := range append(t.entries, entry{name: last, mode: 0o600}) {
		h := &tar.Header{Name: e.name, Mode: int64(unixMode(e.mode)), Size: e.size, ModTime: now, Typeflag: tar.TypeReg, Format: tar.FormatGNU}
		switch e.mode.Type() {
		case fs.ModeDir:
			h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
		case fs.ModeSymlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || e.name == last {
			continue
		}
		if err := t.copy(e, func(r *whole) error { _, err := io.CopyBuffer(tw, r, block); return err }); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

// copy calls to with the file of an entry, which must be as long as it was when it was listed.
func (t *treePut) copy(e entry, to func(*whole) error) error {
	f, err := openIn(t.src, e.name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := to(&whole{r: f, left: e.size}); err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	return nil
}

// DirFS returns the tree below the local directory dir, for PutTree. It is os.DirFS, but also opens
// files whose names are not UTF-8, such as those that GetTree may have written.
func DirFS(dir string) fs.FS { return dirFS(dir) }

type dirFS string

// local returns the local path of name. Names are checked as fs.ValidPath does, whatever they are
// encoded in.
func (d dirFS) local(op, name string) (string, error) {
	if !fs.ValidPath(strings.ToValidUTF8(name, "_")) || filepath.Separator != '/' && strings.ContainsAny(name, `\:`) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return filepath.Join(string(d), filepath.FromSlash(name)), nil
}

// Open opens a file.
func (d dirFS) Open(name string) (fs.File, error) {
	file, err := d.local("open", name)
	if err != nil {
		return nil, err
	}
	return os.Open(file)
}

// ReadDir lists a directory, sorted by name.
func (d dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	dir, err := d.local("readdir", name)
	if err != nil {
		return nil, err
	}
	return os.ReadDir(dir)
}

// Lstat describes a file; it does not follow a symbolic link.
func (d dirFS) Lstat(name string) (fs.FileInfo, error) {
	file, err := d.local("lstat", name)
	if err != nil {
		return nil, err
	}
	return os.Lstat(file)
}

// ReadLink returns the target of a symbolic link.
func (d dirFS) ReadLink(name string) (string, error) {
	file, err := d.local("readlink", name)
	if err != nil {
		return "", err
	}
	return os.Readlink(file)
}

// openIn opens a file of a tree that is sent.
func openIn(src fs.FS, name string) (fs.File, error) {
	f, err := src.Open(name)
	return f, notUTF8(name, err)
}

// notUTF8 adds to an error what helps with names that most file systems of Go refuse.
func notUTF8(name string, err error) error {
	if errors.Is(err, fs.ErrInvalid) && !utf8.ValidString(name) {
		return fmt.Errorf("%w: the name is not UTF-8; send the tree as sshx.DirFS", err)
	}
	return err
}
