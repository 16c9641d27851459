// Package eventlog writes the record of a run, whose format is that of package events.
package eventlog

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/poolready/poolready/pool/events"
)

// A Log writes the events of one set. Its methods may be called from any goroutine, and a nil Log
// discards them.
type Log struct {
	file   *file
	set    string
	redact func(string) string // takes secrets out of a text
	calls  func() map[string]int
}

// A file is that of this process in one directory. It is open while Logs and spans are.
type file struct {
	dir, path string

	mu    sync.Mutex // guards what follows
	refs  int
	f     *os.File
	size  int64
	ended bool // it is full, or cannot be written
	next  int  // ID
	fault error
}

var (
	mu    sync.Mutex // guards what follows
	files = map[string]*file{}
)

// Options are what a Log needs to know.
type Options struct {
	Set    string
	Redact func(string) string   // takes secrets out of a text; nil leaves all as it is
	Calls  func() map[string]int // how many calls to the hypervisor were made so far; nil if they are not counted
}

// Open returns a Log that writes to the file of this process in a directory, which is made if it does
// not exist. Close it when done.
func Open(dir string, o Options) (*Log, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	f := files[dir]
	if f == nil {
		f = &file{dir: dir}
		files[dir] = f
	}
	l := &Log{file: f, set: o.Set, redact: o.Redact, calls: o.Calls}
	if err := f.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Close ends the Log, but not the spans that are open.
func (l *Log) Close() {
	if l != nil {
		l.file.close()
	}
}

// Err returns why writing has ended, if it has.
func (l *Log) Err() error {
	if l == nil {
		return nil
	}
	l.file.mu.Lock()
	defer l.file.mu.Unlock()
	return l.file.fault
}

var foreign = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// open opens the file once more, and begins it if it is new.
func (f *file) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs++; f.f != nil {
		return nil
	}
	begin := f.path == ""
	if begin {
		program := foreign.ReplaceAllString(filepath.Base(os.Args[0]), "-")
		f.path = filepath.Join(f.dir, fmt.Sprintf("%.40s-%s-%d.jsonl", program, time.Now().UTC().Format("20060102T150405.000"), os.Getpid()))
	}
	err := os.MkdirAll(f.dir, 0o700)
	if err == nil {
		f.f, err = os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	}
	if err != nil {
		f.refs--
		return err
	}
	if begin {
		about := events.About{Version: events.Version, Program: filepath.Base(os.Args[0]), Events: f.dir, PID: os.Getpid()}
		about.Directory, _ = os.Getwd() // what is not known is left out
		about.Machine, _ = os.Hostname()
		if u, err := user.Current(); err == nil {
			about.User = u.Username
		}
		f.write(events.Event{Kind: events.Process, About: &about})
	}
	return nil
}

func (f *file) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs--; f.refs == 0 && f.f != nil {
		_ = f.f.Close() // every line was written
		f.f = nil
	}
}

// write writes one line. f.mu is held.
func (f *file) write(e events.Event) {
	if f.ended || f.f == nil {
		return
	}
	e.Time = time.Now()
	if f.size > events.MaxFile-(1<<20) {
		e = events.Event{Time: e.Time, Kind: events.Cut, Text: fmt.Sprintf("the file has %d bytes", f.size)}
		f.ended = true
	}
	line, err := json.Marshal(e)
	if err != nil {
		panic("eventlog: an event cannot be encoded: " + err.Error()) // it holds strings and numbers only
	}
	n, err := f.f.Write(append(line, '\n'))
	f.size += int64(n)
	if err != nil {
		f.ended, f.fault = true, err
	}
}

// Write writes an event that takes no time.
func (l *Log) Write(e events.Event) {
	if l == nil {
		return
	}
	l.clean(&e)
	l.file.mu.Lock()
	defer l.file.mu.Unlock()
	l.file.write(e)
}

// clean makes an event fit to be written.
func (l *Log) clean(e *events.Event) {
	e.Set = l.set
	for _, text := range []*string{&e.Name, &e.Text, &e.Error, &e.Test, e.Want, e.Got} {
		if text != nil && *text != "" {
			*text = l.text(*text)
		}
	}
	for i := range e.Items {
		e.Items[i].Reason = l.text(e.Items[i].Reason)
	}
}

func (l *Log) text(s string) string {
	if l.redact != nil {
		s = l.redact(s)
	}
	if len(s) > events.MaxText {
		const mark = " ..."
		at := events.MaxText - len(mark)
		for at > 0 && !utf8.RuneStart(s[at]) {
			at--
		}
		s = s[:at] + mark
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// A Span is an event that takes time. A nil one does nothing.
type Span struct {
	l     *Log
	calls map[string]int

	mu sync.Mutex // guards what follows
	e  events.Event
	is bool // it has ended
}

// Begin writes that something begins, which must be ended.
func (l *Log) Begin(e events.Event) *Span {
	if l == nil || l.file.open() != nil {
		return nil
	}
	l.clean(&e)
	e.Start, e.Open = time.Now(), true
	s := &Span{l: l}
	if e.Kind == events.Stage || e.Kind == events.Setup {
		s.calls = l.callsNow()
	}
	f := l.file
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	e.ID = f.next
	s.e = e
	f.write(e)
	return s
}

// Set changes what is written when the span ends.
func (s *Span) Set(change func(*events.Event)) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.e)
}

// End writes that the span has ended, and why, if that was a failure. Only the first call counts.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.is {
		return
	}
	s.is = true
	e := s.e
	e.Open, e.Seconds = false, time.Since(e.Start).Seconds()
	if err != nil {
		e.Error = err.Error()
	}
	if s.calls != nil {
		e.Calls = s.l.callsNow()
		for method, n := range s.calls {
			if e.Calls[method] -= n; e.Calls[method] == 0 {
				delete(e.Calls, method)
			}
		}
	}
	s.l.Write(e)
	s.l.file.close()
}

// WriteCalls writes how many calls were made so far.
func (l *Log) WriteCalls() {
	if l == nil || l.calls == nil {
		return
	}
	l.Write(events.Event{Kind: events.Calls, Calls: l.callsNow()})
}

func (l *Log) callsNow() map[string]int {
	if l.calls == nil {
		return nil
	}
	return maps.Clone(l.calls())
}
