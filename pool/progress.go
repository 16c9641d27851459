package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/eventlog"
)

// How long a wait is silent before a line says what is awaited, and then how often.
const (
	firstWord = 10 * time.Second
	nextWord  = 30 * time.Second
)

// A progress says, line by line, what a long operation does, and records it as events.
type progress struct {
	logf    func(format string, args ...any)
	start   time.Time
	events  *eventlog.Log // nil if none are wanted
	view    view          // of the setup; or nil
	closing sync.Once

	current atomic.Pointer[string] // the stage that last began

	noticing sync.Mutex
	noticed  time.Time // when a notice was last said
}

func newProgress(logf func(string, ...any)) *progress {
	return &progress{logf: logf, start: time.Now()}
}

// linef says something that no other event tells.
func (p *progress) linef(format string, args ...any) {
	p.events.Write(events.Event{Kind: events.Note, Text: fmt.Sprintf(format, args...)})
	p.sayf(format, args...)
}

// sayf says something that an event tells, too.
func (p *progress) sayf(format string, args ...any) {
	p.logf("%s", p.line(fmt.Sprintf(format, args...)))
}

// line is a text with the time at which it is said.
func (p *progress) line(text string) string {
	return fmt.Sprintf("[%6.1fs] %s", time.Since(p.start).Seconds(), text)
}

// A stage is one batch of work on several hosts.
type stage struct {
	*progress
	name  string
	total int
	began time.Time
	span  *eventlog.Span
	stop  chan struct{}
	gone  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	done   int
	failed int
	spoke  time.Time         // when the last line was said,
	waited bool              // and whether that told what is awaited
	doing  map[string]string // host -> what it is at
}

// stageName is the stage that runs, for other processes to read.
func (p *progress) stageName() string {
	if name := p.current.Load(); name != nil {
		return "building: " + *name
	}
	return "building"
}

// notice says what a Provider reports, or leaves it out, since many calls that wait report the same.
func (p *progress) notice(text string) {
	p.noticing.Lock()
	defer p.noticing.Unlock()
	if now := time.Now(); now.Sub(p.noticed) >= firstWord {
		p.noticed = now
		p.linef("%s", text)
	}
}

// wait returns a function that says what is awaited, whenever it is called after a silence, of
// which first is the first, and one that ends the wait. e says what waits for what.
func (p *progress) wait(e events.Event, first time.Duration) (say func(state string), done func()) {
	began := time.Now()
	next := began.Add(first)
	e.Kind = events.Wait
	var span *eventlog.Span
	say = func(state string) {
		if span == nil {
			e.Text = state
			span = p.events.Begin(e)
		} else {
			span.Set(func(e *events.Event) { e.Text = state })
		}
		if now := time.Now(); !now.Before(next) {
			next = now.Add(nextWord)
			p.sayf("%s (for %s): %s", e.Name, round(now.Sub(began)), state)
		}
	}
	return say, func() { span.End(nil) }
}

func (p *progress) stage(name string, total int) *stage {
	p.current.Store(&name)
	now := time.Now()
	s := &stage{
		progress: p, name: name, total: total, began: now, spoke: now, stop: make(chan struct{}), doing: map[string]string{},
		span: p.events.Begin(events.Event{Kind: events.Stage, Stage: name, Count: total}),
	}
	s.gone.Go(s.speak)
	return s
}

// at notes what a host is at.
func (s *stage) at(host, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing[host] = what
	if s.view != nil {
		s.view.at(s.name, host, what, 0)
	}
}

// host begins the work on one host, and returns a context for it, and a function that reports how it
// ended.
func (s *stage) host(ctx context.Context, e events.Event) (_ context.Context, finished func(what string, err error)) {
	began := time.Now()
	if s.view != nil {
		s.view.at(s.name, e.Host, "", time.Duration(e.Expect*float64(time.Second)))
	}
	e.Stage = s.name
	ctx = s.within(WithNotices(ctx, func(text string) { s.at(e.Host, text) }), e)
	e.Kind = events.Host
	span := s.events.Begin(e)
	return ctx, func(what string, err error) {
		took := time.Since(began)
		span.Set(func(e *events.Event) { e.Text = what })
		span.End(err)
		s.finished(e.Host, what, took, err)
	}
}

// finished reports one host.
func (s *stage) finished(host, what string, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.doing, host)
	s.done++
	s.spoke, s.waited = time.Now(), false
	text := fmt.Sprintf("%s %d/%d: %s %s in %s", s.name, s.done, s.total, host, what, round(took))
	if err != nil {
		s.failed++
		text = fmt.Sprintf("%s %d/%d: %s FAILED after %s: %s", s.name, s.done, s.total, host, round(took), cause(err))
	}
	if s.view != nil {
		s.view.finished(s.name, host, s.line(text), took, err)
	}
	if _, tells := s.view.(*cases); !tells {
		s.sayf("%s", text)
	}
}

// end closes the stage.
func (s *stage) end() {
	close(s.stop)
	s.gone.Wait()
	s.span.Set(func(e *events.Event) { e.Failed = s.failed })
	s.span.End(nil)
	took := time.Since(s.began)
	text := fmt.Sprintf("%s: done in %s", s.name, round(took))
	if s.failed > 0 {
		text = fmt.Sprintf("%s: %d of %d failed, after %s", s.name, s.failed, s.total, round(took))
	}
	if s.view != nil {
		s.view.ended(s.name, s.line(text), took, s.failed > 0)
	}
	if _, tells := s.view.(*cases); !tells {
		s.sayf("%s", text)
	}
}

// speak breaks a long silence with what is awaited.
func (s *stage) speak() {
	for {
		s.mu.Lock()
		wait := firstWord
		if s.waited {
			wait = nextWord
		}
		left := wait - time.Since(s.spoke)
		s.mu.Unlock()
		if left <= 0 {
			s.say()
			continue
		}
		select {
		case <-s.stop:
			return
		case <-time.After(min(left, firstWord)): // a host that finishes shortens the wait
		}
	}
}

func (s *stage) say() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for host, what := range s.doing {
		all = append(all, host+": "+what)
	}
	slices.Sort(all)
	s.sayf("%s %d/%d: running for %s: %s", s.name, s.done, s.total, round(time.Since(s.began)), strings.Join(all, "; "))
	s.spoke, s.waited = time.Now(), true
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// round makes a duration readable: three digits at most.
func round(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	default:
		return d.Round(time.Second)
	}
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// indent sets every line but the first in by two more blanks than the line before a block has.
func indent(s, by string) string {
	return strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+by)
}
