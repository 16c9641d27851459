package machine

import (
	"fmt"
	"io"
	"sync"
	"syscall"
)

// An Output is the pipe between a task and the reader of what it prints.
type Output struct {
	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte
	done    bool // there are no more writers
	broken  bool // there are no more readers, or the writers were killed
	onEPIPE func()
}

const pipeSize = 64 << 10

// NewOutput returns an empty pipe.
func NewOutput() *Output {
	o := &Output{}
	o.cond.L = &o.mu
	return o
}

// Write blocks while the pipe is full. It fails once there is no reader.
func (o *Output) Write(b []byte) (int, error) { return o.write(b, true) }

func (o *Output) write(b []byte, kills bool) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for len(b) > 0 {
		for len(o.buf) >= pipeSize && !o.broken && !o.done {
			o.cond.Wait()
		}
		if o.broken || o.done {
			if o.onEPIPE != nil && kills {
				o.onEPIPE() // at once: what follows the write is never run
				o.onEPIPE = nil
			}
			return n, fmt.Errorf("write: %w", syscall.EPIPE)
		}
		k := min(len(b), pipeSize-len(o.buf))
		o.buf = append(o.buf, b[:k]...)
		b = b[k:]
		n += k
		o.cond.Broadcast()
	}
	return n, nil
}

// Survivor returns the output for a process that dies alone when there is no reader.
func (o *Output) Survivor() io.Writer { return survivor{o} }

// A survivor is an output for a process that dies alone when there is no reader.
type survivor struct{ o *Output }

func (s survivor) Write(b []byte) (int, error) { return s.o.write(b, false) }

// Read blocks until there is something, or there is no more writer.
func (o *Output) Read(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) == 0 && !o.done && !o.broken {
		o.cond.Wait()
	}
	if len(o.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, o.buf)
	o.buf = o.buf[:copy(o.buf, o.buf[n:])]
	o.cond.Broadcast()
	return n, nil
}

func (o *Output) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done = true
	o.cond.Broadcast()
}

// BreakOff makes writers fail; what was written before can still be read.
func (o *Output) BreakOff() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken = true
	o.cond.Broadcast()
}

// OnEPIPE sets what happens at a write without a reader, once.
func (o *Output) OnEPIPE(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.onEPIPE = f
}
