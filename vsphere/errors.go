package vsphere

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// A class says what an error leaves to do.
type class int

const (
	permanent class = iota // trying again changes nothing
	again                  // rejected before anything happened
	busy                   // rejected because something else is going on there
	unknown                // it may have happened: read back
	gone                   // the object does not exist, or no longer
	loggedOut              // the session is gone; rejected before anything happened
)

// errVanished is what waiting for a task returns when vCenter no longer knows the task: it has
// forgotten it after ten minutes, or was restarted.
var errVanished = errors.New("vCenter no longer knows the task, so its outcome is unknown")

// errNoAnswer is the cause of ending a call that vCenter did not answer in time.
var errNoAnswer = errors.New("no answer from vCenter")

// statusError is an answer other than a result (200) or a fault (500).
type statusError struct{ code int }

// startingUp reports whether err is what a vCenter's proxy answers while the services behind it
// start: 503.
func startingUp(err error) bool {
	status, ok := errors.AsType[*statusError](err)
	return ok && status.code == http.StatusServiceUnavailable
}

func (e *statusError) Error() string {
	return fmt.Sprintf("HTTP status %d (%s)", e.code, http.StatusText(e.code))
}

// lostError is an error of waiting for an answer that must not be taken for the operation's own.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// odd reports whether err is a fault of vCenter's own, which may pass but is as a rule there to stay.
func odd(err error) bool { return has[*types.SystemError](err) || has[*types.DatabaseError](err) }

// faults returns the fault in err, in whichever of its three forms (of a method, of a property
// or of a task), followed by its causes.
func faults(err error) []types.BaseMethodFault {
	var has interface{ Fault() types.BaseMethodFault }
	if !errors.As(err, &has) {
		return nil
	}
	var all []types.BaseMethodFault
	for f := has.Fault(); f != nil; {
		all = append(all, f)
		m := f.GetMethodFault()
		if m == nil || m.FaultCause == nil {
			break
		}
		f = m.FaultCause.Fault
	}
	return all
}

// fault returns the first fault of type T, which is a pointer or one of govmomi's Base interfaces.
func fault[T any](err error) (T, bool) {
	for _, f := range faults(err) {
		if t, ok := f.(T); ok {
			return t, true
		}
	}
	var none T
	return none, false
}

// has reports whether err holds a fault of type T.
func has[T any](err error) bool {
	_, ok := fault[T](err)
	return ok
}

// classify returns, by the types in err and never by its text, what it leaves to do.
func classify(err error) class {
	var (
		lost   *lostError
		status *statusError
		dial   *net.OpError
		soapy  interface{ Fault() types.BaseMethodFault }
	)
	switch {
	case errors.Is(err, errQuestion), errors.As(err, new(*boundError)), errors.As(err, new(*stuckError)), errors.As(err, new(*twinError)):
		return permanent
	case errors.As(err, &lost), errors.Is(err, errVanished), errors.Is(err, errNoAnswer):
		return unknown
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errClosed),
		errors.Is(err, pool.ErrLeaseLost):
		return permanent
	case errors.As(err, &soapy):
		return classifyFault(err)
	case errors.As(err, &status):
		switch status.code {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return unknown
		}
		return permanent
	case untrusted(err) != nil:
		return permanent
	case errors.As(err, &dial) && dial.Op == "dial":
		return again
	case errors.As(err, new(*refusal)):
		return permanent
	}
	// What is left are connections and answers that broke off.
	return unknown
}

func classifyFault(err error) class {
	for _, f := range faults(err) {
		switch f := f.(type) {
		case *types.NotAuthenticated:
			return loggedOut
		case types.BaseTaskInProgress, *types.ConcurrentAccess, *types.ResourceInUse, *types.FileLocked,
			*types.SnapshotLocked, *types.FailToLockFaultToleranceVMs:
			return busy
		case *types.InvalidState: // itself, not its many subtypes: on the move, or a template by now
			return busy
		case *types.InvalidHostConnectionState: // reconnecting, as a rule
			return busy
		case *types.NetworkDisruptedAndConfigRolledBack:
			return again
		case *types.Timedout, types.BaseHostCommunication, *types.SystemError, *types.DatabaseError:
			return unknown
		case *types.ManagedObjectNotFound:
			return gone
		case types.BaseNoPermission:
			return permanent
		default:
			_ = f
		}
	}
	return permanent
}

// refusal is an error of ours that no repetition mends, such as a name that does not exist.
type refusal struct {
	msg string
	err error
}

func refuse(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &refusal{msg: err.Error(), err: errors.Unwrap(err)}
}

func (e *refusal) Error() string { return e.msg }
func (e *refusal) Unwrap() error { return e.err }

// untrusted returns why the server's certificate is not accepted, or nil if that is not err's
// reason.
func untrusted(err error) error {
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		return verify.Err
	}
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &record):
		return err
	}
	return nil
}
