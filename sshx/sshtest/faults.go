package sshtest

import (
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// Faults are ways in which a machine's sshd misbehaves, each of which real ones have. The zero
// value is a machine in good order. They may be set at any time; each says from when on it acts.
//
// What real machines do on account of their files needs no fault: nologin while booting
// (/run/nologin), few sessions (MaxSessions), no SFTP (no Subsystem line), exit status long before
// the end of output (a background process), signals that root's processes never get, another host
// key (Disk.RemoveHostKeys and Boot). Nor do refused connections and a listener that restarts while
// sessions live on (Server.Refuse and Accept, StopSSHD and StartSSHD), lost connections
// (DropConnections), a new boot id (Boot).
type Faults struct {
	// Silent accepts new connections and never says a word.
	Silent bool
	// SlowKeyExchange waits that long on new connections before it says anything.
	SlowKeyExchange time.Duration
	// Booting, if set, is sent as a banner to a user who logs in with a right key, root too; then
	// the connection ends.
	Booting string
	// RefuseAuth refuses all keys.
	RefuseAuth bool
	// RefuseAuthUntil refuses all keys until then: a machine whose cloud-init has not yet brought
	// the user's. The zero time is never.
	RefuseAuthUntil time.Time
	// MaxSessions takes the place of sshd_config's for new sessions, unless it is 0; places become
	// free late, as they always do.
	MaxSessions int
	// RefuseSessions refuses new sessions with "open failed", as beyond MaxSessions.
	RefuseSessions bool
	// DropAtExit drops the connection when a command ends, instead of telling its exit status.
	DropAtExit bool
	// DropAfterExit drops the connection right after a command's exit status.
	DropAfterExit bool
	// StdoutLast holds stdout back, of commands started from now on, until stderr has ended: the
	// two are separate streams, and nothing keeps their order. Who prints more than a pipe holds
	// waits.
	StdoutLast bool
	// LateEOF closes a channel that long after the exit status and the end of output.
	LateEOF time.Duration
	// IgnoreSignals passes over signal requests, for users other than root too.
	IgnoreSignals bool
	// NoKeepAlive leaves global requests, such as keepalive@openssh.com, without an answer.
	NoKeepAlive bool
	// NoSFTP refuses subsystems.
	NoSFTP bool
	// StallWindow never reads what is sent to commands started from now on, so that the
	// client's window runs out.
	StallWindow bool
	// Frozen makes all of sshd stand still, as kill -STOP and a dead network do: connections,
	// old and new, are neither read nor written until it is false again.
	Frozen bool
	// NewHostKeys removes the host keys at each Boot, which then makes new ones, as first boots of
	// clones do.
	NewHostKeys bool
	// KeepBootID boots with the same boot id again, as a snapshot with memory comes back.
	KeepBootID bool
	// DropAfter drops new connections, with "Not allowed at this time" as OpenSSH 9.8 does, after
	// that many ended without a login since Faults were last set: PerSourcePenalties. 0 is never.
	DropAfter int
}

// SetFaults replaces the machine's faults. They outlast Halt and Boot.
func (h *Host) SetFaults(f Faults) {
	h.m.SetFaults(machine.Faults(f))
	h.sshd.Forget()
}

// Faults returns the machine's faults.
func (h *Host) Faults() Faults { return Faults(h.m.Faults()) }
