package sshtest

import "github.com/poolready/poolready/sshx/sshtest/internal/machine"

// A Refusal is something that the machine was asked to do and does not simulate.
type Refusal struct {
	Command string // that refused: "grep"; "shell" for the shell's language; "sshd"
	What    string // the option, argument or construct
	User    string // who ran the command; "" for sshd
}

// Error is the message that Stderr gets, too.
func (r *Refusal) Error() string { m := machine.Refusal(*r); return m.Error() }
