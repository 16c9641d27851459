package sshtest

import (
	"io"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// A Service is a program that a machine runs without a login, as systemd does.
type Service struct {
	// Args are the program, by its path or name, and its arguments.
	Args []string
	// User runs it; "" is root.
	User string
	// Dir is its working directory; "" is /.
	Dir string
	// Env is its environment besides HOME, USER, LOGNAME, SHELL and PATH.
	Env map[string]string
	// Output gets what it prints, stdout and stderr merged; nil discards it. It must not block.
	Output io.Writer
	// Resumed tells the program that it goes on, as Proc.Resumed.
	Resumed bool
}

// A RunningService is a Service that was started.
type RunningService struct{ s *machine.RunningService }

// PID is its process ID.
func (s *RunningService) PID() int { return s.s.PID() }

// Done is closed when the program and all that it started have ended, and their output has been
// written.
func (s *RunningService) Done() <-chan struct{} { return s.s.Done() }

// Code is the program's exit code, once Done is closed: 128+N if signal N ended it.
func (s *RunningService) Code() int { return s.s.Code() }

// Stop sends SIGTERM to the program and all that it started. It does not wait.
func (s *RunningService) Stop() { s.s.Stop() }

// Kill is Stop with SIGKILL.
func (s *RunningService) Kill() { s.s.Kill() }

// Start starts a Service. It ends by itself, by Stop or Kill, or when the machine halts. SaveMemory does
// not mind it, but the memory of a program cannot be kept: the caller of Resume starts its
// services again, with Resumed set.
func (h *Host) Start(s Service) (*RunningService, error) {
	r, err := h.m.Start(machine.Service(s))
	if err != nil {
		return nil, err
	}
	return &RunningService{r}, nil
}
