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
)

// GetTree copies the directory src to the local directory dst, which is made if it does not
// exist; files that dst has already are replaced. Names are checked on our side: whatever the
// machine sends, nothing outside of dst is written, and links that lead out of dst are an error. Owners,
// devices and the like are not restored; modes and times are. After an error, dst may have part of the tree.
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pr, pw := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := unpack(root, &counted{r: pr, tell: o.Progress})
		if err != nil {
			cancel(err)
		}
		_, _ = io.Copy(io.Discard, pr) // the padding of the stream
		unpacked <- err
	}()
	_, err = c.runRaw(ctx, Cmd{
		Name: "pack " + src, User: o.user(), Stdout: pw, Separate: true,
		Args: []string{"tar", "-C", src, "-cf", "-", "."},
	})
	pw.CloseWithError(err)
	if uerr := <-unpacked; uerr != nil && (err == nil || errors.Is(err, uerr)) {
		return uerr
	}
	return err
}

// unpack writes a tar stream below root.
func unpack(root *os.Root, r io.Reader) error {
	tr := tar.NewReader(bufio.NewReaderSize(r, treeBuffer))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := safeName(h.Name)
		if err != nil {
			return err
		}
		if err := unpackEntry(root, tr, h, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// safeName checks a name that came from the machine. os.Root checks what links make of it.
func safeName(name string) (string, error) {
	clean := path.Clean(strings.TrimSuffix(name, "/"))
	if strings.ContainsAny(name, "\x00\\") || path.IsAbs(clean) || !filepath.IsLocal(clean) {
		return "", fmt.Errorf("the machine sent the name %q, which leads out of the directory", name)
	}
	return clean, nil
}

func unpackEntry(root *os.Root, tr *tar.Reader, h *tar.Header, name string) error {
	mode := fs.FileMode(h.Mode).Perm()
	if name == "." {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, mode|0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case tar.TypeReg:
		if err := remove(root, name); err != nil {
			return err
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o200)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, tr)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return errors.Join(root.Chmod(name, mode), root.Chtimes(name, h.ModTime, h.ModTime))
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(path.Join(path.Dir(name), h.Linkname)) {
			return fmt.Errorf("the link to %q leads out of the directory", h.Linkname)
		}
		if err := remove(root, name); err != nil {
			return err
		}
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		to, err := safeName(h.Linkname)
		if err != nil {
			return err
		}
		if err := remove(root, name); err != nil {
			return err
		}
		return root.Link(to, name)
	}
	return fmt.Errorf("type %q of a tar entry is neither file nor directory nor link", h.Typeflag)
}

// remove makes room for a file; a directory in its place is an error.
func remove(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("a directory is in its place")
	}
	return root.Remove(name)
}
