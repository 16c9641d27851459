package sshx

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// copyOutput reads both streams until they end, and tells when both have. Client.Close does not
// wait for that: a writer of the caller's may block.
func (r *run) copyOutput(s *session) <-chan struct{} {
	done := make(chan struct{})
	var streams sync.WaitGroup
	one := func(sk *sink, stream io.Reader) {
		copyTo(sk, stream, &r.over)
		if !r.over.Load() {
			_ = sk.red.flush()
		}
	}
	streams.Go(func() { one(r.out, s.ch) })
	streams.Go(func() {
		if r.err != nil {
			one(r.err, s.ch.Stderr())
		} else {
			copyTo(&r.noise, s.ch.Stderr(), &r.over)
		}
	})
	go func() { streams.Wait(); close(done) }()
	return done
}

// copyInput sends the header and script or Stdin. It tells of the reader's error, if any; that
// the machine takes no more is no error: the command's end says what there is to say.
func (r *run) copyInput(s *session) <-chan error {
	result := make(chan error, 1)
	send := func() {
		if _, err := io.WriteString(s, r.input); err != nil {
			return
		}
		if r.cmd.Stdin == nil {
			return
		}
		in := &failing{r: r.cmd.Stdin}
		_, _ = io.Copy(struct{ io.Writer }{s}, bufio.NewReaderSize(in, 128<<10))
		if in.err != nil {
			result <- in.err
		} else {
			s.closeWrite()
		}
	}
	switch {
	case r.cmd.Stdin != nil:
		go send() // not waited for: nothing but Stdin itself can end its Read
	case r.input != "":
		r.c.spawn(send)
	}
	return result
}

// failing remembers how a reader failed.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// drain waits until all output has come, or WaitDelay has passed, or ctx ends. Data is given up
// only when none of it has come for WaitDelay: of a file, much may follow the exit status.
func (r *run) drain(ctx context.Context, outDone <-chan struct{}) bool {
	delay := r.cmd.WaitDelay
	setDefault(&delay, 2*time.Second)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-outDone:
			return true
		case <-timer.C:
			idle := r.out.idle()
			if idle >= delay {
				return false
			}
			timer.Reset(delay - idle)
		case <-ctx.Done():
			return false
		}
	}
}

// noise is what comes as stderr of a command whose stderr is merged into its stdout on the machine:
// messages of what starts it, such as a login shell's. It is never output of the command.
type noise struct {
	mu   sync.Mutex // guards text
	text []byte
}

func (n *noise) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = append(n.text, p...)
	n.text = n.text[max(0, len(n.text)-earlyMax):]
	return len(p), nil
}

func (n *noise) bytes() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Clone(n.text)
}
