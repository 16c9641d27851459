package sshx

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// treeScript unpacks stdin beside dst and moves it there, whole; into a directory that exists it
// is copied file by file. tar may take an early end between two files for the end: the stream has
// come whole if its last file is there.
const treeScript = `set -eu
dst=$1 tmp=$2 owner=$3 last=$4
if ! command -v tar >/dev/null 2>&1; then echo "tar: not found" >&2; exit 96; fi
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
mkdir "$tmp"
tar -xpf - -C "$tmp"
if [ ! -f "$tmp/$last" ]; then rm -rf "$tmp"; echo "the stream ended early" >&2; exit 1; fi
rm "$tmp/$last"
` + moveScript

// noTar is the exit code of treeScript on a machine without tar.
const noTar = 96

// placeScript is what is left to do of treeScript when tmp has the tree.
const placeScript = `set -eu
dst=$1 tmp=$2 owner=$3
trap 'rm -rf "$tmp"' EXIT
` + moveScript

const moveScript = `if [ -n "$owner" ]; then chown -R "$owner" "$tmp"; fi
if [ -d "$dst" ]; then
	cp -a "$tmp/." "$dst/"
else
	mv "$tmp" "$dst"
	trap - EXIT
fi
if command -v restorecon >/dev/null 2>&1; then restorecon -R "$dst" || true; fi
`

// sumsScript prints the SHA-256 of files below dst whose names come on stdin, separated by NUL.
const sumsScript = `cd "$1" 2>/dev/null || exit 0
xargs -0 sha256sum -- 2>/dev/null || true
`

// PutTree writes the tree src to the directory dst, which need not exist, but whose parent must. It
// is sent as one tar stream, and unpacked beside dst before anything is there: if anything fails,
// dst is as it was. A directory that exists keeps what src does not have; files in it are replaced one by one.
//
// Modes are those of src, made writable for the owner (embedded files are not), or PutOptions.Mode
// for all files. Symbolic links are sent as such, if src is an fs.ReadLinkFS. Anything but files, directories
// and links is an error. Times are not sent. A machine without tar gets it file by file, over SFTP. With PutOptions.IfChanged, files that dst has already are not sent.
func (c *Client) PutTree(ctx context.Context, dst string, src fs.FS, o PutOptions) error {
	dst = strings.TrimRight(dst, "/")
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
	if o.IfChanged {
		if entries, err = c.changed(ctx, dst, src, entries, o); err != nil || len(entries) == 0 {
			return err
		}
	}
	pr, pw := io.Pipe()
	sent := make(chan error, 1)
	in := &counted{r: pr, tell: o.Progress}
	token := newToken()
	last := ".sshx-" + token
	go func() {
		err := writeTree(pw, src, entries, last)
		pw.CloseWithError(err)
		sent <- err
	}()
	tmp := dst + ".sshx-" + token
	_, err = c.Run(ctx, Cmd{
		Name: "unpack " + dst, User: o.user(), Stdin: in, Separate: true,
		Args: []string{"/bin/sh", "-c", treeScript, "sshx-put", dst, tmp, o.Owner, last},
	})
	pr.CloseWithError(errors.New("the machine takes no more"))
	serr := <-sent
	in.end(false)
	n := in.total()
	if ee, ok := errors.AsType[*ExitError](err); ok && ee.Code == noTar {
		n, err = c.putTreeSFTP(ctx, dst, tmp, src, entries, o)
		serr = nil
	}
	if err != nil {
		c.sweep(ctx, o.user(), tmp)
	}
	if ce, ok := errors.AsType[*CanceledError](err); ok && serr != nil && errors.Is(ce.Cause, serr) {
		return serr // src is at fault
	}
	if err == nil && o.Progress != nil {
		o.Progress(n)
	}
	return err
}

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
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{name: name, mode: info.Mode().Perm() | 0o200, size: info.Size()}
		switch info.Mode().Type() {
		case 0:
			if o.Mode != 0 {
				e.mode = o.Mode
			}
		case fs.ModeDir:
			e.mode |= fs.ModeDir | 0o700
			e.size = 0
		case fs.ModeSymlink:
			e.mode = fs.ModeSymlink | 0o777
			e.size = 0
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

// writeTree sends the entries, and an empty file at last, as a tar stream, plain enough for every tar.
func writeTree(w io.Writer, src fs.FS, entries []entry, last string) error {
	buf := bufio.NewWriterSize(w, treeBuffer)
	tw := tar.NewWriter(buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: int64(unixMode(e.mode)), Size: e.size, ModTime: time.Now().Truncate(time.Second), Typeflag: tar.TypeReg}
		switch e.mode.Type() {
		case fs.ModeDir:
			h.Typeflag, h.Name = tar.TypeDir, e.name+"/"
		case fs.ModeSymlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if e.name == "." {
			h.Name = "./"
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			if err := copyFile(tw, src, e); err != nil {
				return err
			}
		}
	}
	if err := tw.WriteHeader(&tar.Header{Name: last, Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

func copyFile(w io.Writer, src fs.FS, e entry) error {
	f, err := src.Open(e.name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(w, f)
	if err == nil && n != e.size {
		err = fmt.Errorf("%s: changed while it was read", e.name)
	}
	return err
}

// changed returns the entries that dst does not have, and directories that lead to them.
func (c *Client) changed(ctx context.Context, dst string, src fs.FS, entries []entry, o PutOptions) ([]entry, error) {
	var names strings.Builder
	for _, e := range entries {
		if e.mode.IsRegular() {
			names.WriteString("./" + e.name + "\x00")
		}
	}
	var out strings.Builder
	_, err := c.runRaw(ctx, Cmd{
		Name: "compare " + dst, User: o.user(), Stdin: strings.NewReader(names.String()), Separate: true, Stdout: &out,
		Args: []string{"/bin/sh", "-c", sumsScript, "sshx-sums", dst},
	})
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	for line := range strings.Lines(out.String()) {
		// Names with a backslash or newline are printed another way; they count as changed.
		if sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ./"); ok {
			have[name] = sum
		}
	}
	need := map[string]bool{}
	for _, e := range entries {
		if e.mode.IsRegular() {
			sum, err := sumFile(src, e.name)
			if err != nil {
				return nil, err
			}
			if have[e.name] == sum {
				continue
			}
		} else if e.mode.IsDir() {
			continue
		}
		for p := e.name; !need[p]; p = path.Dir(p) {
			need[p] = true
		}
	}
	var rest []entry
	for _, e := range entries {
		if need[e.name] {
			rest = append(rest, e)
		}
	}
	return rest, nil
}

func sumFile(src fs.FS, name string) (string, error) {
	f, err := src.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
