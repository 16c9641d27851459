package pool

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/poolready/poolready/sshx"
)

// What a transcript holds at most of one host: the last commands, and of each the beginning and the
// end of what it printed.
const (
	transcriptCommands = 500
	transcriptHead     = 2 << 10
	transcriptTail     = 4 << 10
)

// A transcript is what was done with a VM over SSH, since it began to be used.
type transcript struct {
	next func(sshx.Observation) // the user's own, or nil

	mu      sync.Mutex // guards what follows
	list    []sshx.Observation
	dropped int
}

// add is an sshx.Config.Observe.
func (t *transcript) add(o sshx.Observation) {
	if t.next != nil {
		t.next(o)
	}
	o.Out, o.What = shorten(o.Out, transcriptHead, transcriptTail), string(shorten([]byte(o.What), transcriptHead, 0))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, o)
	if n := len(t.list) - transcriptCommands; n > 0 {
		t.list, t.dropped = append(t.list[:0:0], t.list[n:]...), t.dropped+n
	}
}

// restart forgets what was done before.
func (t *transcript) restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list, t.dropped = nil, 0
}

// entries returns what was done, in the order in which it ended.
func (t *transcript) entries() (all []sshx.Observation, dropped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]sshx.Observation(nil), t.list...), t.dropped
}

// String is the transcript for people.
func (t *transcript) String() string {
	all, dropped := t.entries()
	var b strings.Builder
	if dropped > 0 {
		fmt.Fprintf(&b, "... %d earlier commands are left out ...\n", dropped)
	}
	for _, o := range all {
		fmt.Fprintf(&b, "%s %s: %s", o.At.Format("15:04:05.000"), o.Host, indent(o.What, "    "))
		if o.User != "" {
			fmt.Fprintf(&b, " (as %s)", o.User)
		}
		fmt.Fprintf(&b, "\n    %s after %s\n", outcome(o), o.Took.Round(time.Millisecond))
		if text := strings.TrimRight(string(o.Out), "\n"); text != "" {
			fmt.Fprintf(&b, "    | %s\n", strings.ReplaceAll(text, "\n", "\n    | "))
		}
	}
	return b.String()
}

// outcome is how a command ended, in a few words.
func outcome(o sshx.Observation) string {
	switch {
	case o.Fault == nil:
		return "ok"
	case o.Code >= 0:
		return fmt.Sprintf("exit %d", o.Code)
	}
	return firstLine(o.Fault)
}

// shorten returns text, or its first and last bytes with a line between them.
func shorten(text []byte, head, tail int) []byte {
	if len(text) <= head+tail {
		return bytes.Clone(text)
	}
	for head > 0 && !utf8.RuneStart(text[head]) {
		head--
	}
	at := len(text) - tail
	for at < len(text) && !utf8.RuneStart(text[at]) {
		at++
	}
	return fmt.Appendf(nil, "%s\n... %d bytes are left out ...\n%s", text[:head], at-head, text[at:])
}
