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
