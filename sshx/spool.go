package sshx

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
)

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
