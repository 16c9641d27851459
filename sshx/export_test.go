package sshx

import "time"

// Hurried returns r with pauses that are 50 times shorter: for tests of what comes after them.
func Hurried(r Ready) Ready {
	r.hurry = 50
	return r
}

// GiveUpAfter is how long a Client bears with refused sessions.
func (c *Client) GiveUpAfter(d time.Duration) { c.refusedFor = d }

// Hold keeps others from dialling; it returns what ends that, with a connection of somebody else's.
func (l *Link) Hold() func(*Client) {
	l.dialling <- struct{}{}
	return func(c *Client) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.c = c
		<-l.dialling
	}
}

// HasSpare reports whether a session is open for the next command.
func (c *Client) HasSpare() bool {
	c.spare.mu.Lock()
	defer c.spare.mu.Unlock()
	return c.spare.s != nil
}
