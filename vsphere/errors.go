package vsphere

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/soap"
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
	gone                   // the object does not exist (any more)
	loggedOut              // the session is gone; rejected before anything happened
)

// errVanished is what waiting for a task returns when vCenter no longer knows the task: it has
// forgotten it after ten minutes, or was restarted.
var errVanished = errors.New("vCenter no longer knows the task, so its outcome is unknown")

// errNoAnswer is the cause of ending a call that vCenter did not answer in time.
var errNoAnswer = errors.New("no answer from vCenter")

// statusError is an answer other than a result (200) or a fault (500).
type statusError struct{ code int }

// startingUp tells whether err is what a vCenter's proxy answers while the services behind it
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

// has tells whether err holds a fault of type T.
func has[T any](err error) bool {
	_, ok := fault[T](err)
	return ok
}

// classify tells by the types in err, never by its text, what it leaves to do.
func classify(err error) class {
	var (
		lost   *lostError
		status *statusError
		dial   *net.OpError
		soapy  interface{ Fault() types.BaseMethodFault }
	)
	switch {
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
			*types.FailToLockFaultToleranceVMs:
			return busy
		case *types.InvalidState: // itself, not its many subtypes: on the move, or in maintenance
			return busy
		case *types.NetworkDisruptedAndConfigRolledBack:
			return again
		case *types.Timedout, types.BaseHostCommunication, *types.SystemError:
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

// explained is an error in the words of whoever has to do something about it.
type explained struct {
	msg string
	err error
}

func (e *explained) Error() string { return e.msg }
func (e *explained) Unwrap() error { return e.err }

// explain adds to a fault what it means here and the remedy, if known. name gives managed
// objects the names that people know them by.
func explain(err error, name func(types.ManagedObjectReference) string) error {
	if err == nil {
		return nil
	}
	if errors.As(err, new(*explained)) {
		return err
	}
	if msg := remedy(err, name); msg != "" {
		return &explained{msg: msg + ": " + plain(err), err: err}
	}
	if text := plain(err); text != err.Error() {
		return &explained{msg: text, err: err}
	}
	return err
}

// remedy says in a few words what err means and what to do, or "".
func remedy(err error, name func(types.ManagedObjectReference) string) string {
	for _, f := range faults(err) {
		switch f := f.(type) {
		case *types.InvalidLogin:
			return "user name or password is wrong; check GOVC_USERNAME and GOVC_PASSWORD"
		case *types.NoPermission:
			return "the user lacks " + privileges(f, name) + "; give it in a role there"
		case *types.RestrictedVersion:
			return "the license allows no changes through the API; use a vCenter with a full license"
		case *types.NoDiskSpace:
			return fmt.Sprintf("datastore %q is full; free space there or choose another", f.Datastore)
		case *types.InsufficientStorageSpace:
			return "the datastore has too little room; free some there or choose another"
		case types.BaseInsufficientResourcesFault:
			return "the hosts have too little left for it; free some or choose another resource pool"
		case *types.TooManySnapshotLevels:
			return "the VM has too many snapshots on top of each other; remove some"
		case types.BaseInvalidDeviceSpec:
			return fmt.Sprintf("device change %d of the specification is refused (%s)", f.GetInvalidDeviceSpec().DeviceIndex, typeName(f))
		case *types.MethodDisabled:
			return "vCenter has disabled the operation on it, as a rule because another program owns it"
		case types.BaseTaskInProgress:
			return "another task is in progress there; wait for it to end or cancel it"
		case types.BaseHostCommunication:
			return "vCenter does not reach the VM's host; see there what ails it"
		case *types.ManagedObjectNotFound:
			return name(f.Obj) + " does not exist"
		case *types.NotAuthenticated:
			return "vCenter refuses the session even after logging in again"
		}
	}
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0 {
		return fmt.Sprintf("the vCenter's certificate is not trusted; set GOVC_TLS_CA_CERTS to its authority's, or put \"host:port %s\" in a file and set GOVC_TLS_KNOWN_HOSTS to it",
			soap.ThumbprintSHA256(verify.UnverifiedCertificates[0]))
	}
	if untrusted(err) != nil {
		return "no trusted TLS connection; check the URL's scheme, host and port"
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return "vCenter cannot be reached; check GOVC_URL and the network"
	}
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return "there is no vCenter API at that address; check GOVC_URL"
	}
	if startingUp(err) {
		return "vCenter is not up yet, or has no session left (programs that do not log out take them)"
	}
	return ""
}

// privileges names the missing ones and where.
func privileges(f *types.NoPermission, name func(types.ManagedObjectReference) string) string {
	var all []string
	for _, m := range f.MissingPrivileges {
		all = append(all, fmt.Sprintf("%s on %s", strings.Join(m.PrivilegeIds, ", "), name(m.Entity)))
	}
	if len(all) == 0 && f.PrivilegeId != "" {
		all = append(all, f.PrivilegeId)
		if f.Object != nil {
			all[0] += " on " + name(*f.Object)
		}
	}
	if len(all) == 0 {
		return "a privilege"
	}
	return strings.Join(all, "; ")
}

// plain is what vCenter said, without SOAP's fault code, and with the fault's type when it said
// nothing.
func plain(err error) string {
	text := err.Error()
	fs := faults(err)
	if len(fs) == 0 {
		return text
	}
	_, text, found := strings.Cut(text, "ServerFaultCode: ")
	if !found {
		text = err.Error()
	}
	if kind := typeName(fs[0]); !strings.Contains(text, kind) {
		text = strings.TrimSpace(text + " (" + kind + ")")
	}
	return text
}

func typeName(v any) string {
	t := reflect.TypeOf(v)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}
