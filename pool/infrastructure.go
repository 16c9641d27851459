package pool

import (
	"context"
	"errors"

	"github.com/poolready/poolready/sshx"
)

// ErrInfrastructure is what the errors have in common that are no failure of what is tested: vCenter
// does not answer or refuses, a lease is lost, no pool can be had, a host cannot be made ready or
// reset, or its connection breaks or cannot be made. An exit code of a command is none, nor is a context
// that its owner ended, nor a fault of the Spec.
//
// Where Host.MustRun, Acquire or Ensure fail a test by such an error, the message begins with
// "infrastructure: ", and the test has the attribute "poolready.failure" of the value "infrastructure",
// which go test -json shows. If setup fails so, the exit code of the test binary is
// ExitInfrastructure; go test itself ends with 1 whatever it is.
var ErrInfrastructure = errors.New("infrastructure failed")

// ExitInfrastructure is the exit code of Main if setup failed by an ErrInfrastructure.
const ExitInfrastructure = 3

// An infrastructureError is an error that is an ErrInfrastructure.
type infrastructureError struct{ err error }

func (e *infrastructureError) Error() string        { return e.err.Error() }
func (e *infrastructureError) Unwrap() error        { return e.err }
func (e *infrastructureError) Is(target error) bool { return target == ErrInfrastructure }

// infrastructure marks an error of the harness. It is nil if err is; one that is marked stays as it
// is, and so does a fault of the Spec, and what ends since somebody wanted it to.
func infrastructure(err error) error {
	if err == nil || errors.Is(err, ErrInfrastructure) || errors.Is(err, ErrInvalidSpec) || stopped(err) {
		return err
	}
	return &infrastructureError{err}
}

// stopped reports whether an error says no more than that work was ended by its caller.
func stopped(err error) bool {
	return errors.Is(err, ErrReleased) || errors.Is(err, context.Canceled) || process.ctx.Err() != nil
}

// ofHost marks the error of something that was done with a host, unless it is that of a command that
// ran, or of the caller.
func ofHost(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrLeaseLost):
		return infrastructure(err)
	case ctx.Err() != nil, errors.As(err, new(*sshx.ExitError)), errors.As(err, new(*sshx.StartError)), errors.As(err, new(*sshx.SudoError)):
		return err
	case errors.As(err, new(*sshx.DisconnectedError)), errors.As(err, new(*sshx.DialError)), errors.As(err, new(*sshx.NotReadyError)),
		errors.As(err, new(*sshx.SessionError)), errors.As(err, new(*sshx.HostKeyError)), errors.As(err, new(*identityError)):
		return infrastructure(err)
	}
	return err
}

// attribute sets an attribute of a test, where it can have one.
func attribute(t T, key, value string) {
	if a, ok := t.(interface{ Attr(key, value string) }); ok {
		a.Attr(key, value)
	}
}

// fatal fails t by an error, and says which kind it is.
func fatal(t T, err error, format string, args ...any) {
	t.Helper()
	if errors.Is(err, ErrInfrastructure) {
		format = "infrastructure: " + format
		attribute(t, "poolready.failure", "infrastructure")
		if m, ok := t.(*mainT); ok {
			m.mu.Lock()
			m.infra = true
			m.mu.Unlock()
		}
	}
	t.Fatalf(format, args...)
}
