package machine

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// The journal and the kernel's log are in memory: a boot empties them.
const (
	JournalFile = "/run/log/journal"
	KernelFile  = "/run/log/kmsg"
)

// Log adds a line to the machine's journal, as a service does that is called tag.
func (h *Host) Log(tag, text string) { h.addLog(JournalFile, tag, text) }

// KernelLog adds a line to the kernel's log, of a level such as "err", and to the journal.
func (h *Host) KernelLog(level, text string) {
	h.addLog(KernelFile, level, text)
	h.addLog(JournalFile, "kernel", text)
}

func (h *Host) addLog(file, tag, text string) {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	data, _ := h.Disk.ReadFile(file) // there may be none yet
	_ = h.Disk.MkdirAll("/run/log", 0o755)
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		data = fmt.Appendf(data, "%d\t%s\t%s\n", h.Clock().UnixMicro(), tag, line)
	}
	_ = h.Disk.WriteFile(file, data, fs.FileMode(0o600))
}

// ReadLog returns the lines of a log since then: time, tag and text.
func (h *Host) ReadLog(file string, since time.Time) (all []logLine) {
	data, _ := h.Disk.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
		micro, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil || len(parts) < 3 || time.UnixMicro(micro).Before(since) {
			continue
		}
		all = append(all, logLine{time.UnixMicro(micro), parts[1], parts[2]})
	}
	return all
}

type logLine struct {
	At        time.Time
	Tag, Text string
}
