package machine

import "time"

// Faults are sshtest.Faults.
type Faults struct {
	Silent          bool
	SlowKeyExchange time.Duration
	Booting         string
	RefuseAuth      bool
	RefuseAuthUntil time.Time
	MaxSessions     int
	RefuseSessions  bool
	DropAtExit      bool
	DropAfterExit   bool
	StdoutLast      bool
	LateEOF         time.Duration
	IgnoreSignals   bool
	NoKeepAlive     bool
	NoSFTP          bool
	StallWindow     bool
	Frozen          bool
	NewHostKeys     bool
	KeepBootID      bool
	DropAfter       int
}
