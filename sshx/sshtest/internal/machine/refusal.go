package machine

import (
	"errors"
	"fmt"
)

// A Refusal is something that the machine was asked to do and does not simulate.
type Refusal struct {
	Command string // that refused: "grep"; "shell" for the shell's language; "sshd"
	What    string // the option, argument or construct
	User    string // who ran the command; "" for sshd
}

// Error is the message that Stderr gets, too.
func (r *Refusal) Error() string {
	return fmt.Sprintf("sshtest: %s: not simulated: %s", r.Command, r.What)
}

// Refused reports err to OnNotSimulated if it is, or wraps, a Refusal.
func (h *Host) Refused(err error, user string) {
	r, ok := errors.AsType[*Refusal](err)
	tell := h.config.OnNotSimulated()
	if !ok || tell == nil {
		return
	}
	told := *r
	told.User = user
	tell(told)
}
