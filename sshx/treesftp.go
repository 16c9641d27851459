package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// sftpWorkers is how many files go at once where each costs several round trips.
const sftpWorkers = 8

// putTreeSFTP is PutTree for a machine without tar: file by file, and many times slower over a
// network. It returns how many bytes were sent.
func (c *Client) putTreeSFTP(ctx context.Context, dst, tmp string, src fs.FS, entries []entry, o PutOptions) (int64, error) {
	if !path.IsAbs(tmp) { // SFTP may begin elsewhere than a command does
		res, err := c.Run(ctx, Cmd{Args: []string{"pwd"}, User: o.user(), Separate: true})
		if err != nil {
			return 0, err
		}
		tmp = path.Join(strings.TrimSpace(string(res.Stdout)), tmp)
		dst = path.Join(strings.TrimSpace(string(res.Stdout)), dst)
	}
	sc, err := c.SFTP(ctx, o.user())
	if err != nil {
		return 0, fmt.Errorf("the machine has no tar: %w", c.bare(err))
	}
	defer sc.Close()
	t := &treeSFTP{sc: sc, src: src, tmp: tmp, sent: counted{tell: o.Progress}}
	if err := t.send(ctx, entries); err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, err
	}
	_, err = c.Run(ctx, Cmd{
		Name: "place " + dst, User: o.user(), Separate: true,
		Args: []string{"/bin/sh", "-c", placeScript, "sshx-put", dst, tmp, o.Owner},
	})
	return t.sent.total(), err
}

// A treeSFTP is a tree on its way over SFTP.
type treeSFTP struct {
	sc   *sftp.Client
	src  fs.FS
	tmp  string
	sent counted
}

func (t *treeSFTP) send(ctx context.Context, entries []entry) error {
	if err := t.sc.Mkdir(t.tmp); err != nil {
		return fmt.Errorf("%s: %w", t.tmp, err)
	}
	if err := t.sc.Chmod(t.tmp, 0o700); err != nil {
		return fmt.Errorf("%s: %w", t.tmp, err)
	}
	for _, e := range entries {
		if e.mode.IsDir() && e.name != "." {
			if err := t.sc.Mkdir(t.name(e)); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(sftpWorkers)
	for _, e := range entries {
		if e.mode.IsDir() {
			continue
		}
		work.Go(func() error {
			if wctx.Err() != nil {
				return context.Cause(wctx)
			}
			if err := t.one(e); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for _, e := range slices.Backward(entries) { // what they hold is in place
		if e.mode.IsDir() {
			if err := t.sc.Chmod(t.name(e), e.mode.Perm()); err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
		}
	}
	return nil
}

func (t *treeSFTP) name(e entry) string { return path.Join(t.tmp, e.name) }

// one sends a file or a link.
func (t *treeSFTP) one(e entry) error {
	if e.mode&fs.ModeSymlink != 0 {
		return t.sc.Symlink(e.link, t.name(e))
	}
	in, err := t.src.Open(e.name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := t.sc.Create(t.name(e))
	if err != nil {
		return err
	}
	n, err := io.Copy(out, &counting{in, &t.sent})
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if n != e.size {
		return fmt.Errorf("%d bytes, where there were %d", n, e.size)
	}
	return t.sc.Chmod(t.name(e), e.mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}

// counting counts what is read of one of several files.
type counting struct {
	r   io.Reader
	all *counted
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.all.add(n)
	return n, err
}
