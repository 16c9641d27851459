package sshx

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"
)

// keepBytes is how much of the head, and of the tail, of an output a Result has.
const keepBytes = 1 << 20

// A kept is a writer that keeps the head and the tail of what it gets.
type kept struct {
	max     int
	head    []byte
	tail    []byte // a ring, once it is max long
	at      int    // where the ring begins
	dropped int64
}

func (k *kept) Write(p []byte) (int, error) {
	n := len(p)
	if room := k.max - len(k.head); room > 0 {
		m := min(room, len(p))
		k.head = append(k.head, p[:m]...)
		p = p[m:]
	}
	if room := k.max - len(k.tail); room > 0 && len(p) > 0 {
		m := min(room, len(p))
		k.tail = append(k.tail, p[:m]...)
		p = p[m:]
	}
	if len(p) > k.max {
		k.dropped += int64(len(p) - k.max)
		p = p[len(p)-k.max:]
	}
	k.dropped += int64(len(p))
	for len(p) > 0 {
		m := copy(k.tail[k.at:], p)
		k.at = (k.at + m) % k.max
		p = p[m:]
	}
	return n, nil
}

// bytes returns head and tail, with a line between them that says how much is missing.
func (k *kept) bytes() []byte {
	b := bytes.Clone(k.head)
	if k.dropped > 0 {
		b = fmt.Appendf(b, "\n[... %d bytes left out ...]\n", k.dropped)
	}
	b = append(b, k.tail[k.at:]...)
	return append(b, k.tail[:k.at]...)
}

// end returns at most the last n bytes.
func (k *kept) end(n int) []byte {
	b := append(bytes.Clone(k.tail[k.at:]), k.tail[:k.at]...)
	if len(b) < n && k.dropped == 0 {
		b = append(bytes.Clone(k.head), b...)
	}
	return b[max(0, len(b)-n):]
}

// A sink takes one stream of a command: it drops what precedes the wrapper's marker, takes
// secrets out, keeps head and tail, and passes everything on to the caller's writer.
type sink struct {
	marker string            // "sshx TOKEN "; "" once it was seen
	other  bool              // another stream has a marker, which a terminal would put before ours
	seen   func(line string) // is told the rest of the marker's line

	mu      sync.Mutex // guards what follows; never held while the caller's writer is at work
	early   []byte     // what came before the marker
	kept    kept
	data    bool      // it is raw
	writing bool      // the caller's writer is at work on data
	came    time.Time // when it had taken the last of it

	red  *redactor
	live *lockedWriter // the caller's; nil without
}

// earlyMax bounds what is kept of the noise before the marker.
const earlyMax = 64 << 10

func newSink(marker string, secrets []string, live *lockedWriter, seen func(line string)) *sink {
	s := &sink{marker: marker, seen: seen, live: live, kept: kept{max: keepBytes}}
	s.red = newRedactor(writerFunc(s.pass), secrets)
	return s
}

// raw makes the sink pass everything on as it is, and keep nothing.
func (s *sink) raw() {
	s.data = true
	s.red = newRedactor(writerFunc(func(p []byte) (int, error) {
		s.busy(true)
		defer s.busy(false)
		return s.live.Write(p)
	}), nil)
}

func (s *sink) busy(writing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing, s.came = writing, time.Now()
}

// idle is for how long no data has come: none at all for a sink that is not raw.
func (s *sink) idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.data:
		return math.MaxInt64
	case s.writing:
		return 0
	}
	return time.Since(s.came)
}

// Write is called by one goroutine at a time.
func (s *sink) Write(p []byte) (int, error) {
	n := len(p)
	if s.marker != "" {
		if p = s.untilMarker(p); len(p) == 0 {
			return n, nil
		}
	}
	_, err := s.red.Write(p)
	return n, err
}

// untilMarker takes early bytes and returns what follows the marker's line.
func (s *sink) untilMarker(p []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.untilMarkerLocked(p)
}

func (s *sink) untilMarkerLocked(p []byte) []byte {
	s.early = append(s.early, p...)
	i := bytes.Index(s.early, []byte(s.marker))
	if i < 0 {
		if over := len(s.early) - earlyMax; over > 0 {
			s.early = bytes.Clone(s.early[over:])
		}
		return nil
	}
	j := bytes.IndexByte(s.early[i:], '\n')
	if j < 0 {
		return nil
	}
	line := strings.TrimSpace(string(s.early[i+len(s.marker) : i+j]))
	rest := s.early[i+j+1:]
	if terminal := s.early[i+j-1] == '\r'; terminal && s.other { // something there runs us in a terminal
		s.other, s.early = false, s.early[:i]
		return s.untilMarkerLocked(rest)
	}
	s.early = s.early[:i]
	s.marker = ""
	if s.seen != nil {
		s.seen(line)
	}
	return rest
}

// pass takes redacted output.
func (s *sink) pass(p []byte) (int, error) {
	s.mu.Lock()
	_, _ = s.kept.Write(p)
	s.mu.Unlock()
	if s.live != nil {
		return s.live.Write(p)
	}
	return len(p), nil
}

// noise returns what came before the marker.
func (s *sink) noise() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.early)
}

func (s *sink) result() (b []byte, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept.bytes(), s.kept.dropped > 0
}

// shownEnd is how many bytes of a command's output its error carries.
const shownEnd = 4096

// end returns the last of the output, as much as errors show.
func (s *sink) end() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept.end(shownEnd)
}

// A lockedWriter is a caller's writer, for use by two streams and until it fails. A writer that
// fails is not an error of the command: the first error is remembered, and no more is written.
type lockedWriter struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		_, l.err = l.w.Write(p)
	}
	return len(p), nil
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
