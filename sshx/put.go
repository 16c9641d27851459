package sshx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// PutOptions say how files are written. With the zero value, a file keeps the mode, owner, group and
// ACL of the one that it replaces, or else has mode 0644 and belongs to the login user. The ACL is
// kept with the host's setfacl; without that, a file that has one is not replaced. Other extended
// attributes, such as file capabilities, are lost.
type PutOptions struct {
	// Mode is the permissions, with setuid and the like; 0 means those of what is replaced or 0644,
	// and in a tree those that each file has.
	Mode fs.FileMode
	// Owner is "user" or "user:group", set as root; "" keeps that of what is replaced, and in a
	// tree is the user who writes.
	Owner string
	// User writes the file, through sudo; "" is the login user, or root with Owner.
	User string
	// VerifyUpTo is the size in bytes up to which a file is read back and compared by SHA-256 before
	// it takes its place; its size is always compared. 0 means 64 MiB; a negative one is never.
	VerifyUpTo int64
	// IfChanged sends no file whose content is already there, in the same place; mode and owner are
	// set all the same.
	IfChanged bool
	// Progress, if set, is told how many bytes were sent so far, now and then and at the end. It
	// is never called twice at a time.
	Progress func(sent int64)
}

const defaultVerifyUpTo = 64 << 20

// putScript writes stdin to a temporary file beside dst, proves it, and moves it there once it is
// on the disk. Without mode and owner, it gets those of what it replaces. chown comes before
// chmod, since it takes setuid away. fail cleans up first: writing what it says may block or kill it
// when the connection is gone. Where SELinux is on, the file gets the label of its place.
const putScript = `set -eu
dst=$1 tmp=$2 mode=$3 owner=$4 size=$5 sum=$6 acl=
if [ -d "$dst" ]; then echo "$dst: is a directory" >&2; exit 1; fi
if [ -e "$dst" ] && [ ! -f "$dst" ] && [ ! -L "$dst" ]; then echo "$dst: is neither file nor link" >&2; exit 1; fi
trap 'rm -f "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
fail() { rm -f "$tmp"; echo "$1" >&2; exit 1; }
umask 077
cat >"$tmp"
n=$(($(wc -c <"$tmp")))
if [ "$n" -ne "$size" ]; then fail "$n of $size bytes arrived"; fi
if [ "$sum" != - ]; then
	got=$(sha256sum <"$tmp")
	got=${got%% *}
	if [ "$got" != "$sum" ]; then fail "sha256 is $got, want $sum"; fi
fi
if [ -f "$dst" ] && [ ! -L "$dst" ]; then
	if [ -z "$mode" ]; then mode=$(stat -c %a "$dst"); fi
	had=$(stat -c %u:%g "$dst")
	if [ -z "$owner" ] && [ "$had" != "$(stat -c %u:%g "$tmp")" ]; then
		chown "$had" "$tmp" || fail "$dst belongs to $had, which cannot be kept: write as root, or remove it first"
	fi
	case $(ls -ld "$dst") in
	??????????+*)
		if ! command -v setfacl >/dev/null 2>&1; then fail "$dst has an ACL, which cannot be kept without setfacl"; fi
		acl=$(getfacl -cp "$dst") || fail "$dst has an ACL, which cannot be read" ;;
	esac
fi
if [ -n "$owner" ]; then chown "$owner" "$tmp"; fi
if [ -n "$acl" ]; then printf '%s\n' "$acl" | setfacl --set-file=- "$tmp"; fi
chmod "${mode:-0644}" "$tmp"
sync "$tmp" 2>/dev/null || sync
mv -f "$tmp" "$dst"
if command -v restorecon >/dev/null 2>&1; then restorecon "$dst" || true; fi
`

// sameScript says whether dst is a file with that content, and then gives it mode and owner.
const sameScript = `set -eu
dst=$1 mode=$2 owner=$3 size=$4 sum=$5
if [ -L "$dst" ] || [ ! -f "$dst" ]; then exit 0; fi
if [ "$(($(wc -c <"$dst")))" -ne "$size" ]; then exit 0; fi
got=$(sha256sum <"$dst")
if [ "${got%% *}" != "$sum" ]; then exit 0; fi
if [ -n "$owner" ]; then
	if [ -z "$mode" ]; then mode=$(stat -c %a "$dst"); fi
	chown "$owner" "$dst"
fi
if [ -n "$mode" ]; then chmod "$mode" "$dst"; fi
echo same
`

// Put writes r to the file dst, whole or not at all: to a temporary file in the same directory,
// which must exist, and from there, once it is on the disk, by a rename. A symbolic link at dst is
// replaced; a directory, also one that a link leads to, and a device are an error. Relative names
// begin at the home directory of the user who writes. Size, and up to PutOptions.VerifyUpTo the
// SHA-256 of what the machine has are compared first. If r fails, or does not have the length that
// it had at first, dst is as it was, and nothing is left beside it, nor is when the connection is
// lost.
//
// An r that is no io.ReadSeeker is read to its end before anything is sent: to memory, and to a
// local temporary file if it is longer than 1 MiB.
//
// Put needs a shell on the machine, not the sftp subsystem. For an account that has only that, use
// SFTP.
func (c *Client) Put(ctx context.Context, dst string, r io.Reader, o PutOptions) error {
	p := &put{c: c, dst: dst, o: o, src: r}
	at := time.Now()
	err := p.do(ctx)
	c.observeTransfer(at, "put", dst, err)
	if err != nil {
		return fmt.Errorf("sshx: %s: put %s: %w", c.cfg.Name, dst, c.bare(err))
	}
	return nil
}

// A put is one file on its way.
type put struct {
	c    *Client
	dst  string
	o    PutOptions
	src  io.Reader
	size int64
	sum  string // of what will be sent, if requested
}

func (p *put) do(ctx context.Context) error {
	if err := checkPath(p.dst); err != nil {
		return err
	}
	if strings.HasSuffix(p.dst, "/") {
		return errors.New("the name of a file does not end in /")
	}
	setDefault(&p.o.VerifyUpTo, defaultVerifyUpTo)
	done, err := p.measure(ctx)
	defer done()
	if err != nil {
		return err
	}
	if p.o.IfChanged && p.sum != "" {
		out, err := p.run(ctx, "compare", sameScript, nil, p.dst, p.mode(), p.o.Owner, strconv.FormatInt(p.size, 10), p.sum)
		if err != nil {
			return err
		}
		if out == "same" {
			return nil
		}
	}
	return p.send(ctx)
}

// measure finds out size and sum beforehand. done frees what was needed for that.
func (p *put) measure(ctx context.Context) (done func(), err error) {
	done = func() {}
	s, at, end := extent(p.src)
	if s == nil {
		if s, done, err = spool(ctx, p.src); err != nil {
			return done, err
		}
		p.src = s
		s, at, end = extent(p.src)
	}
	p.size = end - at
	if p.size > p.o.VerifyUpTo && !p.o.IfChanged {
		return done, nil
	}
	h := sha256.New()
	n, err := io.Copy(h, s)
	if err != nil {
		return done, err
	}
	p.size, p.sum = n, hex.EncodeToString(h.Sum(nil))
	_, err = s.Seek(at, io.SeekStart)
	return done, err
}

// extent returns r and where its content begins and ends; or nil if that cannot be told, as of a
// pipe, or of a file of /proc.
func extent(r io.Reader) (s io.ReadSeeker, at, end int64) {
	s, ok := r.(io.ReadSeeker)
	if !ok {
		return nil, 0, 0
	}
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, 0
	}
	if end, err = s.Seek(0, io.SeekEnd); err != nil {
		return nil, 0, 0
	}
	if _, err := s.Seek(at, io.SeekStart); err != nil {
		return nil, 0, 0
	}
	if _, isFile := r.(*os.File); isFile && end == 0 {
		return nil, 0, 0
	}
	return s, at, end
}

// mode is for chmod; "" leaves it to the machine.
func (p *put) mode() string {
	if p.o.Mode == 0 {
		return ""
	}
	return fmt.Sprintf("%04o", unixMode(p.o.Mode))
}

// send sends the content; the machine compares what has arrived.
func (p *put) send(ctx context.Context) error {
	tmp := beside(p.dst)
	sum := "-"
	if p.sum != "" && p.size <= p.o.VerifyUpTo {
		sum = p.sum
	}
	sent := &counted{tell: p.o.Progress}
	in := &whole{r: until{ctx.Err, io.TeeReader(p.src, sent)}, left: p.size}
	_, err := p.run(ctx, "write", putScript, in, p.dst, tmp, p.mode(), p.o.Owner, strconv.FormatInt(p.size, 10), sum)
	sent.end(err == nil)
	if err != nil {
		p.c.sweep(ctx, p.o.user(), err, tmp)
	}
	return blame(ctx, err)
}

// sweep removes what a transfer that ended with err may have left; a shell that is killed cleans up
// nothing. Without a connection nothing can be done, nor is a wrapper there to be killed. Nothing
// is left by what never started, and sudo is not to count a wrong password twice.
func (c *Client) sweep(ctx context.Context, user string, err error, left ...string) {
	_, sudo := errors.AsType[*SudoError](err)
	_, start := errors.AsType[*StartError](err)
	if sudo || start {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killGrace)
	defer cancel()
	_, _ = c.Run(ctx, Cmd{Name: "clean up", Args: append([]string{"rm", "-rf"}, left...), User: user})
}

// run runs a shell text with arguments and returns the first line of its output.
func (p *put) run(ctx context.Context, name, text string, stdin io.Reader, args ...string) (string, error) {
	cmd := Cmd{
		Name:  name + " " + p.dst,
		Args:  append([]string{"/bin/sh", "-c", text, "sshx-put"}, args...),
		Stdin: stdin, Separate: true, User: p.o.user(),
	}
	res, err := p.c.Run(ctx, cmd)
	line, _, _ := strings.Cut(string(res.Stdout), "\n")
	return line, err
}

// user is who writes.
func (o PutOptions) user() string {
	if o.User == "" && o.Owner != "" {
		return "root"
	}
	return o.User
}

// spoolMemory is how much of a reader is kept in memory; a longer one goes to a temporary file.
const spoolMemory = 1 << 20

// spool reads r to its end, which alone tells its length, so that the machine can be told that
// beforehand: a stream that ends early is then never taken for a whole one. done frees what holds
// it. When ctx ends, nothing but r itself can end its Read.
func spool(ctx context.Context, r io.Reader) (content io.ReadSeeker, done func(), err error) {
	type spooled struct {
		content io.ReadSeeker
		done    func()
		err     error
	}
	result := make(chan spooled)
	go func() {
		var s spooled
		s.content, s.done, s.err = spoolAll(r)
		select {
		case result <- s:
		case <-ctx.Done():
			s.done()
		}
	}()
	select {
	case s := <-result:
		return s.content, s.done, s.err
	case <-ctx.Done():
		return nil, func() {}, context.Cause(ctx)
	}
}

func spoolAll(r io.Reader) (content io.ReadSeeker, done func(), err error) {
	var head bytes.Buffer
	if _, err := io.CopyN(&head, r, spoolMemory); errors.Is(err, io.EOF) {
		return bytes.NewReader(head.Bytes()), func() {}, nil
	} else if err != nil {
		return nil, func() {}, err
	}
	f, err := os.CreateTemp("", "sshx")
	if err != nil {
		return nil, func() {}, err
	}
	done = func() {
		f.Close()
		os.Remove(f.Name())
	}
	if _, err = io.Copy(f, io.MultiReader(&head, r)); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	return f, done, err
}
