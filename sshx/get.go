package sshx

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// GetOptions are the zero value for reading as the user logged in as.
type GetOptions struct {
	// User reads the file, through sudo; "" is the login user.
	User string
	// Verify compares the SHA-256 of each file that came with that of the machine's, computed
	// afterwards; where they differ, that is a *ChangedError. It is off by default, since it is
	// one more reading on the machine, and no log that is being written to would ever be good.
	Verify bool
	// Progress, if set, is told how many bytes have come so far, now and then and at the end. It
	// is never called twice at a time.
	Progress func(got int64)
}

// A ChangedError is a file that changed while it was read, so that what came is neither what it
// was nor what it is; with GetOptions.Verify.
type ChangedError struct {
	Host string
	Path string // on the machine
	Got  string // SHA-256 of what was received, in hex
	Want string // SHA-256 of the file afterwards; "" if it could not be read: it may be gone
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("sshx: %s: %s changed while it was read: what came has sha256 %s, the file %s", e.Host, e.Path, e.Got, cmp.Or(e.Want, "none"))
}

// getScript prints the size of a file, and then what it has. A file of /proc has size 0, and more
// in it.
const getScript = `set -eu
if [ -d "$1" ]; then echo "$1: is a directory" >&2; exit 1; fi
if [ -e "$1" ] && [ ! -f "$1" ]; then echo "$1: is not a file" >&2; exit 1; fi
n=$(wc -c <"$1")
echo $((n))
exec cat "$1"
`

// Get copies the file src to w. Less than the file's size is an error; a file that grows
// meanwhile is not. A relative name begins at the user's home directory.
func (c *Client) Get(ctx context.Context, src string, w io.Writer, o GetOptions) error {
	at := time.Now()
	err := c.getFile(ctx, src, w, o)
	c.observeTransfer(at, "get", src, err)
	if err != nil {
		return fmt.Errorf("sshx: %s: get %s: %w", c.cfg.Name, src, c.bare(err))
	}
	return nil
}

func (c *Client) getFile(ctx context.Context, src string, w io.Writer, o GetOptions) error {
	if err := checkPath(src); err != nil {
		return err
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in := &sized{w: w, want: -1, got: counted{tell: o.Progress}, fail: cancel}
	if o.Verify {
		in.sum = sha256.New()
	}
	_, err := c.runRaw(reading, Cmd{
		Name: "read " + src, Args: []string{"/bin/sh", "-c", getScript, "sshx-get", src},
		Stdout: in, Separate: true, User: o.User,
	})
	if err = in.end(err); err != nil || !o.Verify {
		return err
	}
	has, err := c.Run(ctx, Cmd{
		Name: "compare " + src, Args: []string{"/bin/sh", "-c", `exec sha256sum <"$1"`, "sshx-get", src}, Separate: true, User: o.User,
	})
	if err != nil {
		return err
	}
	sum, _, _ := strings.Cut(string(has.Stdout), " ")
	return c.same(src, in.sum, sum)
}

// same compares sums of a file.
func (c *Client) same(src string, came hash.Hash, has string) error {
	if sum := hex.EncodeToString(came.Sum(nil)); sum != has {
		return &ChangedError{Host: c.cfg.Name, Path: src, Got: sum, Want: clean(has)}
	}
	return nil
}

// sized passes on what follows a line with its length.
type sized struct {
	w    io.Writer
	sum  hash.Hash // nil without
	fail context.CancelCauseFunc
	got  counted

	mu    sync.Mutex // guards what follows; a Write that was given up may still be at work
	line  []byte
	want  int64 // -1 until the line was read
	wrote error
}

func (s *sized) Write(p []byte) (int, error) {
	n := len(p)
	p, err := s.content(p)
	if err == nil && len(p) > 0 {
		if _, err = s.w.Write(p); err == nil {
			if s.sum != nil {
				_, _ = s.sum.Write(p)
			}
			_, _ = s.got.Write(p)
		}
	}
	if err != nil {
		s.mu.Lock()
		s.wrote = err
		s.mu.Unlock()
		s.fail(err) // the rest is of no use
		return 0, err
	}
	return n, nil
}

// content takes the line off.
func (s *sized) content(p []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want >= 0 {
		return p, nil
	}
	s.line = append(s.line, p...)
	line, rest, ok := bytes.Cut(s.line, []byte("\n"))
	want, err := strconv.ParseInt(string(line), 10, 64)
	switch {
	case !ok && len(line) < 20:
		return nil, nil
	case !ok || err != nil || want < 0:
		return nil, fmt.Errorf("the machine answered %q", clean(string(line)))
	}
	s.want = want
	return rest, nil
}

// end says whether all has come, from a command that ended with err.
func (s *sized) end(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got.total()
	switch {
	case s.wrote != nil:
		err = s.wrote
	case err != nil:
	case s.want < 0:
		err = errors.New("the machine sent nothing")
	case got < s.want:
		err = fmt.Errorf("%d of %d bytes came", got, s.want)
	}
	s.got.end(err == nil)
	return err
}
