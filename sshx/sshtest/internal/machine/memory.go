package machine

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// A memory is what a running machine knows beside its disk. Connections are no part of it: when it
// goes on somewhere else, their other ends no longer know it.
type memory struct {
	BootID  string
	Uptime  time.Duration
	Clock   time.Time
	LastPID int
	SSHD    bool
}

// saveTime is how long SaveMemory waits for programs to end: those of a client that has just hung up
// are ending.
const saveTime = time.Second

// SaveMemory returns a copy of the disk, /run included, and what the machine knows beside it, of one
// moment.
func (h *Host) SaveMemory() (*disk.Disk, []byte, error) {
	end := time.Now().Add(saveTime)
	timer := time.AfterFunc(saveTime, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.cond.Broadcast()
	})
	defer timer.Stop()
	base := h.clock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.up != nil && len(h.up.programs()) > 0 && time.Now().Before(end) {
		h.cond.Wait()
	}
	b := h.up
	if b == nil {
		return nil, nil, ErrHalted
	}
	if programs := b.programs(); len(programs) > 0 {
		return nil, nil, fmt.Errorf("sshtest: the memory of programs that run is not simulated: %s", strings.Join(programs, "; "))
	}
	m := memory{
		BootID: h.bootID, Uptime: time.Since(b.Since), Clock: base().Add(h.offset),
		LastPID: b.lastPID, SSHD: h.parts.SSHD.RunsIn(b),
	}
	data, err := json.Marshal(m)
	return h.Disk.Clone(), data, err
}

// programs lists what runs, but for services, which the caller of Resume starts again. The
// caller holds Host.mu.
func (b *Boot) programs() (list []string) {
	for pid, p := range b.pids {
		if !p.Task.service {
			list = append(list, fmt.Sprintf("%d %s", pid, strings.Join(p.Args, " ")))
		}
	}
	return list
}

// Resume is Boot for a machine on a disk that SaveMemory returned.
func (h *Host) Resume(saved []byte) error {
	var m memory
	if err := json.Unmarshal(saved, &m); err != nil {
		return fmt.Errorf("sshtest: resume: %w", err)
	}
	h.Halt()
	b := newBoot(h)
	b.Since, b.lastPID = b.Since.Add(-m.Uptime), m.LastPID
	h.Disk.SetUptime(b.Since)
	base := h.clock()
	h.mu.Lock()
	h.up, h.bootID, h.offset = b, m.BootID, m.Clock.Sub(base())
	h.mu.Unlock()
	if m.SSHD {
		return h.parts.SSHD.Start()
	}
	return nil
}

// clock is what the machine's clock is reckoned from.
func (h *Host) clock() func() time.Time {
	if now := h.config.Now(); now != nil {
		return now
	}
	return time.Now
}

// Clock is what the machine's clock reads.
func (h *Host) Clock() time.Time {
	t := h.clock()()
	h.mu.Lock()
	defer h.mu.Unlock()
	return t.Add(h.offset)
}

// SetClock sets the clock, as date -s does. It is right again after the next Boot.
func (h *Host) SetClock(t time.Time) {
	now := h.clock()()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.offset = t.Sub(now)
}
