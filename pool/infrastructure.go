package pool

import (
	"context"
	"errors"

	"github.com/poolready/poolready/sshx"
)

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
