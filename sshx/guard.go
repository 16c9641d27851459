package sshx

import (
	"bufio"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// A guard is a process on the machine that ends commands when they are cancelled or the connection is lost,
// for all that run at the same time: without one, each has a process of its own for that, which takes a
// fifth of the time of a short command. It has a session, and it holds no place in the gate. A machine that
// cannot have one, as without /proc or a place for files, watches commands one by one.
type guard struct {
	mu    sync.Mutex // guards what follows
	ran   int        // commands that could have been guarded
	s     *session   // nil unless it starts or lives
	dir   string     // where commands announce themselves; "" unless it is ready
	ended bool       // it is not used any longer
}

const (
	guardAfter = 8   // commands, since a guard takes as long to start as some of them
	guardClean = 256 // commands, after which the files of those are removed that have ended
)

// yieldAfter is the pause after which a session that is refused, while the guard's is the only one, is no longer
// refused for those that have just ended.
const yieldAfter = 20 * time.Millisecond

// guarded returns the guard's session and directory for one more command, or nil.
func (c *Client) guarded() (*session, string) {
	g := &c.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.ran++; {
	case g.ran == guardAfter && c.cfg.Sessions > 1:
		c.spawn(c.runGuard)
	case g.dir == "":
		return nil, ""
	case g.ran%guardClean == 0:
		s := g.s
		c.spawn(func() { _, _ = s.Write([]byte("\n")) })
	}
	return g.s, g.dir
}

// runGuard starts the guard, and stays until it ends.
func (c *Client) runGuard() {
	ch, reqs, err := c.openChannel("session", nil)
	if err != nil {
		return // the machine has no room for one more
	}
	s := c.newSession(ch, reqs, false)
	defer s.close()
	defer c.guard.set(nil, "")
	c.guard.set(s, "")
	token := newToken()
	call := wire.Call{Text: wire.Guard, Name: "sshx:guard", Args: []string{token}}
	if s.start(context.Background(), "exec", call.Command()) != nil {
		return
	}
	for lines := bufio.NewScanner(ch); lines.Scan(); {
		if dir, ok := strings.CutPrefix(lines.Text(), wire.Marker+wire.Answer(token)+" "); ok {
			c.guard.set(s, dir)
			<-s.closed
		}
	}
}

func (g *guard) set(s *session, dir string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.s = s; !g.ended {
		g.dir = dir
	}
}

// end has it used for no further commands.
func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dir, g.ended = "", true
}

// yield ends the guard, whose session may be the only one that the machine allows. No command is guarded.
func (g *guard) yield() {
	g.end()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.s != nil {
		g.s.close()
	}
}

// cancel has the guard, whose session it is, end the command with a token, or keep it from starting. A guard
// that cannot ends itself.
func (s *session) cancel(token string) {
	s.c.spawn(func() { _, _ = s.Write([]byte(token + "\n")) })
}
