package sshx

import "time"

// Hurried returns r with pauses that are 50 times shorter: for tests of what comes after them.
func Hurried(r Ready) Ready {
	r.hurry = 50
	return r
}

// GiveUpAfter is how long a Client bears with refused sessions.
func (c *Client) GiveUpAfter(d time.Duration) { c.refusedFor = d }

// HasSpare reports whether a session is open for the next command.
func (c *Client) HasSpare() bool {
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	return c.spare.s != nil
}

// Guard returns the directory of the connection's guard, or "".
func (c *Client) Guard() string {
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	return c.guard.dir
}

// StartGuard starts the guard, if it was not yet time, and gives it a moment.
func (c *Client) StartGuard() {
	c.guard.mu.Lock()
	c.guard.ran = max(c.guard.ran, guardAfter-1)
	c.guard.mu.Unlock()
	c.guarded()
	for range 100 {
		if c.Guard() != "" {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
