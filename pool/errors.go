package pool

import (
	"errors"
	"fmt"
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

// ErrHasClones is returned by a Provider when disks of other VMs hang on those of a VM that is to
// be destroyed.
var ErrHasClones = errors.New("disks of other VMs hang on its disks")

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

// A CheckError holds every check of a host that failed.
type CheckError struct {
	Failed []CheckResult
	Of     int // how many checks there were
}

func (e *CheckError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d checks failed", len(e.Failed), e.Of)
	for _, r := range e.Failed {
		fmt.Fprintf(&b, "\n%s", r)
	}
	return b.String()
}

// indent sets every line but the first in by two more blanks than the line before a block has.
func indent(s, by string) string {
	return strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n"+by)
}
