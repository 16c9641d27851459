package pool

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/poolready/poolready/pool/internal/lease"
)

// ErrInvalidSpec is what a Spec's faults have in common. The error has a line for each of them, with
// its path, such as Spec.Roles[0] ("con"): VM(1).CPUs; it was returned before anything was done.
var ErrInvalidSpec = errors.New("invalid spec")

// ErrExists is returned by a Provider when a VM of that name is already there.
var ErrExists = errors.New("a VM of that name exists")

// ErrRecord is returned by a Provider when a snapshot did not keep its record as it was given.
var ErrRecord = errors.New("the snapshot's description is not the record that was written")

// ErrHasClones is returned by a Provider when disks of other VMs depend on those of a VM that is to
// be destroyed.
var ErrHasClones = errors.New("disks of other VMs depend on its disks")

// ErrChanged is returned by a LedgerStore when a shard is no longer as it was read.
var ErrChanged = lease.ErrChanged

// ErrLeaseLost is why the work on a pool ends when its lease was not kept: vCenter was out of reach
// for too long, or the process was stopped, or somebody removed the lease. From then on the pool
// may be somebody else's. It is the cause of the contexts that end, and in the errors of hosts.
var ErrLeaseLost = lease.ErrLost

// ErrReleased is in the errors of a pool's hosts that are used after the pool was released.
var ErrReleased = lease.ErrReleased

// A HostError is what kept one host, and so its pool, from being ready.
type HostError struct {
	Host  string // the VM's name
	Pool  int    // 0 for golden
	Stage string // such as "ready con"
	Step  string // the step, need or check, such as `step "dnsmasq"`, or "" outside of them
	Look  string // how to look at the host, such as an ssh command, or ""
	// Evidence is the directory of what was collected of the host, or ""; see Spec.Evidence.
	Evidence string
	Err      error
}

func (e *HostError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: ", e.Host, e.Stage)
	if e.Step != "" {
		fmt.Fprintf(&b, "%s: ", e.Step)
	}
	b.WriteString(e.Err.Error())
	if e.Look != "" {
		fmt.Fprintf(&b, "\nlook: %s", e.Look)
	}
	if e.Evidence != "" {
		fmt.Fprintf(&b, "\nevidence: %s", e.Evidence)
	}
	return b.String()
}

func (e *HostError) Unwrap() error { return e.Err }

// Is reports whether target is ErrInfrastructure.
func (e *HostError) Is(target error) bool { return target == ErrInfrastructure }

// hostError says which host failed, at what, and how to look. It is nil if err is.
func hostError(h *Host, stage string, err error) error {
	if err == nil {
		return nil
	}
	e := &HostError{Host: h.Name, Pool: h.Pool, Stage: stage, Look: h.Look(), Err: err}
	if step := (*stepError)(nil); errors.As(err, &step) {
		e.Step, e.Err = step.what, step.err
	}
	return e
}

// ErrInfrastructure is what the errors have in common that are no failure of what is tested: vCenter
// does not answer or refuses, a lease is lost, no pool can be had, a host cannot be made ready or
// reset, or its connection breaks or cannot be made. An exit code of a command is none, nor is a context
// that its owner ended, nor a fault of the Spec.
//
// Where Host.MustRun, Acquire or Ensure fail a test by such an error, the message begins with
// "infrastructure: ", and the test has the attribute "poolready.failure" of the value "infrastructure",
// which go test -json shows. If setup fails so, the exit code of the test binary is
// ExitInfrastructure; go test itself ends with 1 whatever it is. Set.Retry repeats a test that fails so.
var ErrInfrastructure = errors.New("infrastructure failed")

// ExitInfrastructure is the exit code of Main if setup failed by an ErrInfrastructure.
const ExitInfrastructure = 3

// An identityError says that another machine is at the address of a host.
type identityError struct {
	host string
	addr netip.Addr
	want string
	has  []string
}

func (e *identityError) Error() string {
	return fmt.Sprintf("%s is another machine than %s: its NICs are %s, that of %s is %s; "+
		"two machines have this address (clones with one /etc/machine-id or DHCP client ID, a static address in the template, "+
		"or a MAC that is used twice), or it is an address of before", e.addr, e.host, strings.Join(e.has, ", "), e.host, e.want)
}

// stepError carries the step, need or check up to the HostError that reports it.
type stepError struct {
	what string
	err  error
}

func (e *stepError) Error() string { return e.what + ": " + e.err.Error() }

func (e *stepError) Unwrap() error { return e.err }

// A cleanupError is a failure to clean up outside of the VMs, which rebuilding them does not repair.
type cleanupError struct{ err error }

func (e *cleanupError) Error() string { return e.err.Error() }

func (e *cleanupError) Unwrap() error { return e.err }

// A NotReadyError says which hosts kept a set from being ready.
type NotReadyError struct {
	Set         string
	Ready, Want int     // pools
	Failed      []error // *HostError, mostly
}

func (e *NotReadyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %q: %d of the %d pools wanted are ready", e.Set, e.Ready, e.Want)
	for _, err := range e.Failed {
		fmt.Fprintf(&b, "\n  %s", indent(err.Error(), "      "))
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the failures.
func (e *NotReadyError) Unwrap() []error { return e.Failed }
