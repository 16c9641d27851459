package sshx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// prompt is what sudo is to ask for its password with: a text that nothing else prints. "" tells
// that it is not to ask.
func (c *Client) prompt() string {
	if c.cfg.SudoPassword == "" {
		return ""
	}
	return "sshx " + newToken() + " password: "
}

// authorize answers sudo, which the session was started with, and returns once the command has
// the session's streams for itself.
func (c *Client) authorize(ctx context.Context, s *session, prompt string) error {
	if prompt == "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errSudoSilent)
	defer cancel()
	answer := make(chan error, 1)
	d := &dialogue{}
	if !s.c.spawn(func() { answer <- d.run(s.ch.Stderr(), s, prompt, c.cfg.SudoPassword) }) {
		return errGone
	}
	var err error
	select {
	case err = <-answer:
	case <-ctx.Done():
		s.close() // ends the dialogue, some time
		if err = context.Cause(ctx); !errors.Is(err, errSudoSilent) {
			return err
		}
		err = fmt.Errorf("%w for %s", err, c.cfg.Timeout)
	}
	if !errors.Is(err, io.EOF) {
		return d.refusal(c.cfg, err)
	}
	// The end of the stream is that of sudo, or of the connection, which is known a moment later.
	select {
	case <-s.exited:
	case <-s.closed:
	case <-ctx.Done():
	}
	if !s.hasExited() {
		return errGone
	}
	return d.refusal(c.cfg, errEnded)
}

var (
	errSudoSilent = errors.New("it neither requested the password nor started the command")
	errPassword   = errors.New("it did not accept Config.SudoPassword")
	errEnded      = errors.New("sudo ended and said nothing")
)

// A refused is how sudo kept a command from starting.
type refused struct{ text string }

func (r *refused) Error() string { return r.text }

// A dialogue is one with sudo.
type dialogue struct {
	mu   sync.Mutex // guards text
	text []byte     // what sudo said, without the prompts
}

// run reads what is said, byte by byte, since what follows wire.ReadyLine is the command's, and
// sends the password when asked. It returns nil when the command starts, and errPassword when it is
// asked again, which is what a wrong password comes to; more would only lock the account.
func (d *dialogue) run(said io.Reader, answer io.Writer, prompt, password string) error {
	asked := false
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(said, b); err != nil {
			return io.EOF
		}
		switch prompted, ready := d.add(b[0], prompt); {
		case ready:
			return nil
		case prompted && asked:
			return errPassword
		case prompted:
			asked = true
			if _, err := io.WriteString(answer, password+"\n"); err != nil {
				return io.EOF
			}
		}
	}
}

// add takes a byte, and reports whether it completes wire.ReadyLine, or the prompt, which it
// removes.
func (d *dialogue) add(b byte, prompt string) (prompted, ready bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text = append(d.text, b)
	d.text = d.text[max(0, len(d.text)-earlyMax):]
	if rest, ok := bytes.CutSuffix(d.text, []byte(prompt)); ok {
		d.text = rest
		return true, false
	}
	line := bytes.TrimSuffix(d.text, []byte("\n"))
	return false, b == '\n' && bytes.HasSuffix(bytes.TrimSuffix(line, []byte("\r")), []byte(wire.ReadyLine))
}

// refusal is nil if err is.
func (d *dialogue) refusal(cfg Config, err error) error {
	if err == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	text := cfg.said(wire.Strip(string(d.text)))
	switch {
	case text == "":
		text = err.Error()
	case !errors.Is(err, errEnded):
		text = err.Error() + ": " + text
	}
	return &refused{text}
}

// sudoRefused gives a refusal its type, and returns every other error as it is.
func (c *Client) sudoRefused(err error, user, label string) error {
	if r, ok := errors.AsType[*refused](err); ok {
		return &SudoError{Host: c.cfg.Name, User: user, Cmd: label, Text: r.text}
	}
	return err
}
