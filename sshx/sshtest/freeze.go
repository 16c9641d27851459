package sshtest

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// A memory is what a running machine knows beside its disk. Connections are no part of it: when it
// goes on somewhere else, nobody at their other ends knows it any more.
type memory struct {
	BootID  string
	Uptime  time.Duration
	Clock   time.Time
	LastPID int
	SSHD    bool
}

// freezeTime is how long Freeze waits for programs to end: those of a client that has just hung up
// are ending.
const freezeTime = time.Second

// Freeze returns a copy of the disk, /run included, and what the machine knows beside it, of one
// moment: what a hypervisor keeps with a snapshot of the memory. The machine goes on. Programs are
// goroutines here, which nobody can copy: if any but the services of Start still runs after a second,
// Freeze fails and names it.
func (h *Host) Freeze() (*Disk, []byte, error) {
	end := time.Now().Add(freezeTime)
	timer := time.AfterFunc(freezeTime, func() {
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
		return nil, nil, errHalted
	}
	if programs := b.programs(); len(programs) > 0 {
		return nil, nil, fmt.Errorf("sshtest: the memory of programs that run is not simulated: %s", strings.Join(programs, "; "))
	}
	m := memory{
		BootID: h.bootID, Uptime: time.Since(b.since), Clock: base().Add(h.offset),
		LastPID: b.lastPID, SSHD: b.sshd != nil,
	}
	data, err := json.Marshal(m)
	return h.disk.Clone(), data, err
}

// programs lists what runs, but for services, which whoever resumes the machine starts again. The
// caller holds Host.mu.
func (b *boot) programs() (list []string) {
	for pid, p := range b.pids {
		if !p.task.service {
			list = append(list, fmt.Sprintf("%d %s", pid, strings.Join(p.args, " ")))
		}
	}
	return list
}

// Resume is Boot for a machine on a disk that Freeze returned: it goes on from that moment. Boot
// id, uptime, process ids and /run are as they were, the clock reads what it read then, until
// somebody sets it, and there are no connections. sshd reads its configuration anew.
func (h *Host) Resume(frozen []byte) error {
	var m memory
	if err := json.Unmarshal(frozen, &m); err != nil {
		return fmt.Errorf("sshtest: resume: %w", err)
	}
	h.Halt()
	b := newBoot(h)
	b.since, b.lastPID = b.since.Add(-m.Uptime), m.LastPID
	h.disk.setUptime(b.since)
	base := h.clock()
	h.mu.Lock()
	h.up, h.bootID, h.offset = b, m.BootID, m.Clock.Sub(base())
	h.mu.Unlock()
	if m.SSHD {
		return h.StartSSHD()
	}
	return nil
}

// clock is what the machine's clock is reckoned from.
func (h *Host) clock() func() time.Time {
	if h.Now != nil {
		return h.Now
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
