package sshx

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// getTreeScript prints the directory as a tar stream.
const getTreeScript = `if ! command -v tar >/dev/null 2>&1; then echo "tar: not found" >&2; exit 96; fi
LC_ALL=C
export LC_ALL
exec tar -C "$1" -cf - .
`

// GetTree copies the directory src to the local directory dst, which is made if it does not exist;
// files that dst has already are replaced. Permissions and times are restored, owners are not.
// Names are checked on our side: whatever the machine sends, nothing outside of dst is written.
// Links that lead out of dst are an error, and not made; they are looked at when all the rest is
// there. Devices and pipes are an error too; sockets are left out. Files may grow meanwhile, or go,
// unless GetOptions.Verify is set. A machine without tar sends file by file, over SFTP. After an
// error, dst may have part of the tree, but of each file all or nothing.
func (c *Client) GetTree(ctx context.Context, src, dst string, o GetOptions) error {
	if err := c.getTree(ctx, src, dst, o); err != nil {
		return fmt.Errorf("sshx: %s: get tree %s: %w", c.cfg.Name, src, c.bare(err))
	}
	return nil
}

func (c *Client) getTree(ctx context.Context, src, dst string, o GetOptions) error {
	if err := checkPath(src); err != nil {
		return err
	}
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	u := newUnpacked(root, o.Verify)
	got := &counted{tell: o.Progress}
	err = c.getTar(ctx, src, u, got, o)
	if ee, ok := errors.AsType[*ExitError](err); ok && ee.Code == noTar {
		if err = c.getSFTP(ctx, src, u, got, o); err != nil {
			err = fmt.Errorf("the machine has no tar: %w", c.bare(err))
		}
	}
	if err == nil {
		err = u.finish()
	}
	if err == nil && o.Verify {
		err = c.compare(ctx, src, u, o)
	}
	got.end(err == nil)
	return err
}

// getTar unpacks a tar stream.
func (c *Client) getTar(ctx context.Context, src string, u *unpacked, got *counted, o GetOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := u.tar(io.TeeReader(pr, got))
		if err != nil {
			cancel(err)
		}
		_, _ = io.Copy(io.Discard, pr) // the padding of the stream
		done <- err
	}()
	res, err := c.runRaw(ctx, Cmd{
		Name: "pack " + src, User: o.User, Stdout: pw, Separate: true,
		Args: []string{"/bin/sh", "-c", getTreeScript, "sshx-get", src},
	})
	if ee, ok := errors.AsType[*ExitError](err); ok && ee.Code == 1 && onlyWritten(string(res.Stderr)) {
		err = nil
	}
	if err == nil && res.Truncated {
		err = errors.New("the end of the stream did not come")
	}
	pw.CloseWithError(err)
	if uerr := <-done; uerr != nil && (err == nil || errors.Is(err, uerr)) {
		return uerr
	}
	return err
}

// onlyWritten reports whether tar complains of nothing but files that were written to, or removed,
// meanwhile. GNU's ends with 1 then.
func onlyWritten(said string) bool {
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		ok := strings.HasSuffix(line, ": file changed as we read it") || strings.HasSuffix(line, ": File removed before we read it") ||
			strings.HasSuffix(line, ": socket ignored")
		if !ok {
			return false
		}
	}
	return said != ""
}

// tar unpacks a tar stream.
func (u *unpacked) tar(r io.Reader) error {
	tr := tar.NewReader(bufio.NewReaderSize(r, treeBuffer))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := fs.FileMode(h.Mode).Perm()
		switch h.Typeflag {
		case tar.TypeDir:
			err = u.dir(h.Name, mode, h.ModTime)
		case tar.TypeReg:
			err = u.file(h.Name, mode, h.ModTime, func(w io.Writer) error { _, err := io.Copy(w, tr); return err })
		case tar.TypeSymlink:
			err = u.link(h.Name, h.Linkname)
		case tar.TypeLink:
			err = u.hardLink(h.Name, h.Linkname)
		default:
			err = fmt.Errorf("%q: type %q of a tar entry is neither file nor directory nor link", h.Name, h.Typeflag)
		}
		if err != nil {
			return err
		}
	}
}

// getSFTP reads a tree file by file, several at a time.
func (c *Client) getSFTP(ctx context.Context, src string, u *unpacked, got *counted, o GetOptions) error {
	sc, err := c.SFTP(ctx, o.User)
	if err != nil {
		return err
	}
	defer sc.Close()
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(sftpWorkers)
	err = readTree(wctx, sc, src, ".", u, func(name string, info fs.FileInfo) {
		work.Go(func() error {
			if wctx.Err() != nil {
				return context.Cause(wctx)
			}
			return u.file(name, info.Mode().Perm(), info.ModTime(), func(w io.Writer) error {
				return readFile(sc, path.Join(src, name), io.MultiWriter(w, got))
			})
		})
	})
	if werr := work.Wait(); werr != nil {
		err = werr
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// readTree goes through the directory dir below src: it makes directories and links, and tells of
// files.
func readTree(ctx context.Context, sc *sftp.Client, src, dir string, u *unpacked, file func(name string, info fs.FileInfo)) error {
	list, err := sc.ReadDirContext(ctx, path.Join(src, dir))
	if err != nil {
		return fmt.Errorf("%s: %w", path.Join(src, dir), err)
	}
	for _, info := range list {
		if n := info.Name(); n == "." || n == ".." || strings.ContainsRune(n, '/') {
			return fmt.Errorf("%s: the machine sent the name %q", path.Join(src, dir), n)
		}
		name := path.Join(dir, info.Name())
		switch info.Mode().Type() {
		case 0:
			file(name, info)
		case fs.ModeDir:
			if err = u.dir(name, info.Mode().Perm(), info.ModTime()); err == nil {
				err = readTree(ctx, sc, src, name, u, file)
			}
		case fs.ModeSymlink:
			var to string
			if to, err = sc.ReadLink(path.Join(src, name)); err == nil {
				err = u.link(name, to)
			}
		case fs.ModeSocket:
		default:
			err = fmt.Errorf("%s: %s is neither file nor directory nor link", name, info.Mode().Type())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readFile copies as much of a file as there is when it is opened: it may grow faster than it
// comes.
func readFile(sc *sftp.Client, name string, w io.Writer) error {
	f, err := sc.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	to := &limited{w: w, left: info.Size()}
	if _, err = f.WriteTo(to); err == nil {
		err = fmt.Errorf("%d of %d bytes came", info.Size()-to.left, info.Size())
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

var errEnough = errors.New("there is enough")

// A limited is a writer that fails with errEnough when it has all.
type limited struct {
	w    io.Writer
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	n, err := l.w.Write(p[:min(int64(len(p)), l.left)])
	if l.left -= int64(n); err == nil && l.left == 0 {
		err = errEnough
	}
	return n, err
}

// compare compares what came with what the machine has.
func (c *Client) compare(ctx context.Context, src string, u *unpacked, o GetOptions) error {
	names := slices.Sorted(maps.Keys(u.sums))
	has, err := c.sums(ctx, src, names, o.User)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := c.same(path.Join(src, name), u.sums[name], has[name]); err != nil {
			errs = append(errs, c.bare(err))
		}
	}
	return errors.Join(errs...)
}
