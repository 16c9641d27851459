package pool

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// Live shows, on a terminal, a line for each host that is worked on, which is written again and again, and
// the lines that tell of what has ended above them. It has no colors.
type live struct {
	p       *mpb.Progress
	refresh chan any      // has what is there written
	over    chan any      // closed when writing has ended
	stop    chan struct{} // ends the goroutine that refreshes
	ticks   sync.WaitGroup
	end     func()
	restore func()

	mu    sync.Mutex // guards what follows
	hosts map[string]*liveHost
}

// A liveHost is the line of one host.
type liveHost struct {
	stage, host string
	began       time.Time
	expect      time.Duration
	bar         *mpb.Bar

	mu   sync.Mutex // guards what follows
	what string
}

// newLive shows on w, which is a terminal. What t, if not nil, prints to w is above it.
func newLive(w io.Writer, t *mainT, end func()) *live {
	l := &live{
		hosts: map[string]*liveHost{}, end: end, restore: func() {},
		refresh: make(chan any), over: make(chan any), stop: make(chan struct{}),
	}
	l.p = mpb.New(mpb.WithOutput(w), mpb.WithManualRefresh(l.refresh), mpb.WithShutdownNotifier(l.over))
	l.ticks.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				l.write()
			case <-l.stop:
				return
			}
		}
	})
	if t != nil {
		l.restore = t.setOut(&aboveLive{l.p, w})
	}
	return l
}

// line is the host's line.
func (h *liveHost) line(decor.Statistics) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	took := time.Since(h.began)
	text := fmt.Sprintf("%s: %s, %s", h.host, h.stage, took.Round(time.Second))
	if h.expect > 0 {
		text += fmt.Sprintf(" of about %s", h.expect.Round(time.Second))
	}
	if h.what != "" {
		text += ": " + firstLineOf(h.what)
	}
	return text
}

func (l *live) at(stage, host, what string, expect time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		h = &liveHost{stage: stage, host: host, began: time.Now(), expect: expect}
		h.bar = l.p.New(0, mpb.NopStyle(), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Any(h.line)))
		l.hosts[host] = h
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.what = what
}

func (l *live) finished(_, host, _ string, _ time.Duration, _ error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.hosts[host]; h != nil {
		h.bar.Abort(true)
		delete(l.hosts, host)
	}
}

func (l *live) ended(string, string, time.Duration, bool) {}

// write has what is there written, or begins to.
func (l *live) write() {
	select {
	case l.refresh <- time.Now():
	case <-l.over:
	}
}

func (l *live) close() {
	l.restore()
	close(l.stop)
	l.ticks.Wait()
	l.write() // Shutdown drops the last lines
	l.write() // which is taken when the one before is being carried out
	l.p.Shutdown()
	l.end()
}

// An aboveLive writes whole lines above those of hosts.
type aboveLive struct {
	p    *mpb.Progress
	then io.Writer
}

func (a *aboveLive) Write(text []byte) (int, error) {
	n, err := a.p.Write(text)
	if err != nil { // it has ended
		return a.then.Write(text)
	}
	return n, nil
}
