package pool

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// stopSignals are those that end a run of Main: the first one interrupts the process, a later one
// kills it.
var stopSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// killGrace is how long the functions of atKill may delay the end of the process.
const killGrace = 2 * time.Second

// signalBurst is how long after the first signal others count as the same one: a terminal that
// closes, timeout(1) and systemd each send several at once.
var signalBurst = 500 * time.Millisecond

// interrupted returns a context that ends, with the signal as its cause, when the process receives
// its first signal under Main or Run. Without them it never ends.
func interrupted() context.Context { return process.ctx }

// untilInterrupted returns a context that ends with ctx and when the process is interrupted. stop
// ends it.
func untilInterrupted(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	forget := context.AfterFunc(interrupted(), func() { cancel(context.Cause(interrupted())) })
	return ctx, func() {
		forget()
		cancel(nil)
	}
}

// atKill registers f to be called when a second signal is about to kill the process. All such
// functions run at the same time, and the process dies when they have returned or ctx is done,
// which is killGrace later. forget removes f; it does not wait for an f that is running.
func atKill(f func(ctx context.Context)) (forget func()) { return process.atKill(f) }

// process is the state of interruption of this process.
var process = newInterruption()

// An interruption is how far the end of a process by signals has come.
type interruption struct {
	ctx    context.Context // ends with the first signal
	cancel context.CancelCauseFunc

	mu      sync.Mutex // guards what follows
	calls   map[int]func(context.Context)
	next    int
	dying   context.Context // of the calls; nil before the second signal
	running int
	ended   *sync.Cond // a call has ended, or their time has
}

func newInterruption() *interruption {
	p := &interruption{calls: map[int]func(context.Context){}}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	_ = p.ctx.Done() // makes the channel, which must belong to no testing/synctest bubble
	p.ended = sync.NewCond(&p.mu)
	return p
}

func (p *interruption) atKill(f func(ctx context.Context)) (forget func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dying != nil {
		p.call(f)
		return func() {}
	}
	p.next++
	id := p.next
	p.calls[id] = f
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.calls, id)
	}
}

// call runs f on a goroutine. p.mu is held.
func (p *interruption) call(f func(context.Context)) {
	p.running++
	go func() {
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.running--
			p.ended.Broadcast()
		}()
		f(p.dying)
	}()
}

// runCalls runs all functions of atKill, and those that are registered meanwhile, and returns when
// they have ended or killGrace is over.
func (p *interruption) runCalls() {
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock() // so that no waiter is between its test and Wait
		defer p.mu.Unlock()
		p.ended.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dying = ctx
	for _, f := range p.calls {
		p.call(f)
	}
	for p.running > 0 && ctx.Err() == nil {
		p.ended.Wait()
	}
}

// handle makes the first of stopSignals call first and then interrupt the process, and a later one
// kill it. Signals that the process was started to ignore stay ignored. end restores what was
// before; once it has returned, a signal has been handled or has its default effect.
func (p *interruption) handle(first func(cause error)) (end func()) {
	signals := make(chan os.Signal, 8)
	for _, s := range stopSignals {
		if !signal.Ignored(s) { // Notify would bring it back
			signal.Notify(signals, s)
		}
	}
	return during(func(stop <-chan struct{}) {
		defer signal.Stop(signals)
		next := func() os.Signal {
			select {
			case s := <-signals:
				return s
			case <-stop:
			}
			signal.Stop(signals)
			select {
			case s := <-signals: // came together with stop
				return s
			default:
				return nil
			}
		}
		s := next()
		if s == nil {
			return
		}
		begun := time.Now()
		cause := fmt.Errorf("stopped by signal: %v", s)
		first(cause)
		p.cancel(cause)
		for s = next(); s != nil; s = next() {
			if time.Since(begun) >= signalBurst {
				p.runCalls()
				dieOf(s)
			}
		}
	})
}

// dieOf ends the process as the signal does by default.
func dieOf(s os.Signal) {
	signal.Reset(stopSignals...)
	if self, err := os.FindProcess(os.Getpid()); err == nil && self.Signal(s) == nil {
		time.Sleep(time.Second) // until the signal arrives, which is at once
	}
	os.Exit(1) // where a process cannot signal itself
}

// during runs f on a goroutine; end tells it to stop and waits for it.
func during(f func(stop <-chan struct{})) (end func()) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		f(stop)
	}()
	return func() {
		close(stop)
		<-ended
	}
}
