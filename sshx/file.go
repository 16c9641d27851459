package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"time"
)

// checkPath refuses names that no file can have.
func checkPath(path string) error {
	if path == "" || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%q is not the name of a file", path)
	}
	if strings.HasPrefix(path, "-") {
		return fmt.Errorf("%q would be taken for an option; write ./%s", path, path)
	}
	return nil
}

// beside returns the name of something temporary in the directory of dst: one that is hidden, that
// nothing else has, and that is no longer than names may be, however long that of dst is.
func beside(dst string) string {
	dir, _ := path.Split(dst)
	return dir + ".sshx-" + newToken()
}

// unixMode is the number that chmod knows a mode by.
func unixMode(m fs.FileMode) uint32 {
	n := uint32(m.Perm())
	for bit, v := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			n |= v
		}
	}
	return n
}

// A whole is a reader that must have left more bytes, and then end.
type whole struct {
	r    io.Reader
	left int64
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.left -= int64(n)
	switch {
	case w.left < 0:
		n += int(w.left)
		w.left = 0
		return n, errors.New("the source changed while it was read: it has grown")
	case errors.Is(err, io.EOF) && w.left > 0:
		return n, fmt.Errorf("the source changed while it was read: it lacks %d bytes", w.left)
	}
	return n, err
}

// Size tells pkg/sftp that several packets may be under way at once.
func (w *whole) Size() int64 { return w.left }

// until is a reader that fails once ended says why: what is cancelled is never sent whole.
type until struct {
	ended func() error
	r     io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ended(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// counted counts what is written to it, and tells every 100 ms.
type counted struct {
	tell func(int64)

	mu   sync.Mutex // guards what follows, and is held while telling
	n    int64
	told time.Time
	over bool // nothing more is told
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(len(p))
	if c.tell != nil && !c.over && time.Since(c.told) > 100*time.Millisecond {
		c.told = time.Now()
		c.tell(c.n)
	}
	return len(p), nil
}

// end is the last that is told of, if all went well.
func (c *counted) end(well bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if well && c.tell != nil {
		c.tell(c.n)
	}
}

func (c *counted) total() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// blame returns the error of a command's Stdin, if it was cancelled for that.
func blame(ctx context.Context, err error) error {
	if ce, ok := errors.AsType[*CanceledError](err); ok && ctx.Err() == nil {
		if cause := errors.Unwrap(ce.Cause); cause != nil {
			return cause
		}
	}
	return err
}
