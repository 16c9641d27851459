package sshx

import (
	"bytes"
	"io"
	"slices"
	"strings"
)

// stars stands in the place of a secret.
const stars = "***"

// secretLine is how long a line of a secret must be to be one itself.
const secretLine = 8

// secrets returns those that can be looked for, longest first, so that a secret that contains
// another goes as a whole. One of several lines, such as a key, may be shown line by line, or by a
// terminal, which puts CRs before line ends.
func (c Config) secrets() []string {
	s := append(slices.Clone(c.Secrets), c.SudoPassword)
	for _, secret := range s {
		if !strings.Contains(secret, "\n") {
			continue
		}
		s = append(s, strings.ReplaceAll(secret, "\n", "\r\n"))
		for line := range strings.Lines(secret) {
			if line = strings.TrimRight(line, "\r\n"); len(line) >= secretLine && !strings.HasPrefix(line, "-----") {
				s = append(s, line)
			}
		}
	}
	s = slices.DeleteFunc(s, func(s string) bool { return s == "" })
	slices.SortFunc(s, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(s)
}

// Redact returns s with every one of Secrets, and SudoPassword, replaced by ***, as everything is that this
// package says.
func (c Config) Redact(s string) string {
	if len(c.Secrets) == 0 && c.SudoPassword == "" {
		return s
	}
	var b strings.Builder
	r := newRedactor(&b, c.secrets())
	_, _ = io.WriteString(r, s)
	_ = r.flush()
	return b.String()
}

// said returns a foreign text without secrets, fit for one line.
func (c Config) said(s string) string { return clean(c.Redact(s)) }

// redactErr returns err, with a text without secrets.
func (c Config) redactErr(err error) error {
	if err == nil || c.Redact(err.Error()) == err.Error() {
		return err
	}
	return &redacted{err, c.Redact(err.Error())}
}

type redacted struct {
	err  error
	text string
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }

// A redactor replaces secrets in what goes through it, also those that come in pieces. It holds
// back only what may yet become one.
type redactor struct {
	w       io.Writer
	secrets []string  // longest first
	first   [256]bool // bytes that they begin with
	held    []byte
}

func newRedactor(w io.Writer, secrets []string) *redactor {
	r := &redactor{w: w, secrets: secrets}
	for _, s := range secrets {
		r.first[s[0]] = true
	}
	return r
}

func (r *redactor) Write(p []byte) (int, error) {
	if len(r.secrets) == 0 {
		return r.w.Write(p)
	}
	data := append(r.held, p...)
	out, rest := r.scan(data, false)
	_, err := r.w.Write(out)
	r.held = append([]byte(nil), rest...)
	return len(p), err
}

// flush writes what is held back: nothing follows that could make it a secret.
func (r *redactor) flush() error {
	if len(r.held) == 0 {
		return nil
	}
	out, _ := r.scan(r.held, true)
	r.held = nil
	_, err := r.w.Write(out)
	return err
}

// scan returns data with secrets replaced, and the end of it that may be the beginning of one. At
// each place the longest secret counts, so one that could still grow into a longer is held too.
func (r *redactor) scan(data []byte, last bool) (out, rest []byte) {
	for i := 0; i < len(data); {
		match := ""
		for _, s := range r.secrets {
			if !last && len(data)-i < len(s) && strings.HasPrefix(s, string(data[i:])) {
				return out, data[i:]
			}
			if match == "" && bytes.HasPrefix(data[i:], []byte(s)) {
				match = s
			}
		}
		if match != "" {
			out = append(out, stars...)
			i += len(match)
			continue
		}
		next := r.next(data[i+1:])
		out = append(out, data[i:i+1+next]...)
		i += 1 + next
	}
	return out, nil
}

// next returns how many bytes of data cannot begin a secret.
func (r *redactor) next(data []byte) int {
	for n, b := range data {
		if r.first[b] {
			return n
		}
	}
	return len(data)
}
