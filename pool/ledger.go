package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// A State says what may be done with a pool. It is what the ledger says of it, at a moment of the
// hypervisor's clock.
type State = lease.State

// The states of a pool. Kept, quarantined and recovering pools, and those whose lease expires,
// become dirty by themselves, or broken.
const (
	StateAbsent      = lease.Absent      // no host of it was ever ready; the next Open makes it
	StateBuilding    = lease.Building    // leased by the process that makes its hosts ready
	StateDirty       = lease.Dirty       // free, and reset before a test gets it
	StateClean       = lease.Clean       // free, and proved to be as it was when it became ready
	StateLeased      = lease.Leased      // held by a test, or an operation
	StateKept        = lease.Kept        // left as it is for a person, until a time
	StateQuarantined = lease.Quarantined // excluded, until a time, since it failed too often
	StateRecovering  = lease.Recovering  // its entry was lost; its last holder may still hold it, until a time
	StateBroken      = lease.Broken      // free, and rebuilt before a test gets it
)

// A BusyError says that a pool, or the claim to build the set, cannot be leased now.
type BusyError struct {
	Pool  int // 0 is the claim to build
	State State
	Lease *Lease // the one that is in force, or nil
	Why   string // in words
}

func (e *BusyError) Error() string { return e.Why }

// take leases a pool as how does, one of the methods of a lease.Ledger. The error is a *BusyError if
// the pool is not free.
func take(ctx context.Context, how func(context.Context, lease.Request) (*lease.Held, lease.Entry, error), r lease.Request) (*lease.Held, lease.Entry, error) {
	x, was, err := how(ctx, r)
	return x, was, public(err)
}

// public returns the error of a lease.Ledger as users of this package see it.
func public(err error) error {
	if e, ok := errors.AsType[*lease.BusyError](err); ok {
		return &BusyError{e.Pool, e.State, publicLease(e.Lease), e.Why}
	}
	return err
}

// newLedger returns the ledger of the Spec's set, with defaults filled in.
func newLedger(s Spec) *lease.Ledger {
	return lease.New(ledgerStore{s.Provider, s.Name}, s.Limits.Lease, whoami())
}

// guard has a lease released when a second signal kills this process.
func guard(x *lease.Held) {
	forget := atKill(func(ctx context.Context) {
		if x.Pool == 0 {
			_ = x.ReleaseClaim(ctx, nil, nil, nil) // what fails expires
			return
		}
		_ = x.Release(ctx, lease.Released())
	})
	x.AfterEnd(forget)
}

// ledgerStore is a Provider as the store of one set's ledger.
type ledgerStore struct {
	provider LedgerStore
	set      string
}

func (s ledgerStore) Read(ctx context.Context, shards ...string) (*lease.Contents, error) {
	l, err := s.provider.Ledger(ctx, s.set, shards...)
	if err != nil {
		return nil, err
	}
	c := &lease.Contents{Now: l.Now, Slack: l.Slack, Shards: map[string]lease.Shard{}}
	for name, shard := range l.Shards {
		c.Shards[name] = lease.Shard(shard)
	}
	return c, nil
}

func (s ledgerStore) Write(ctx context.Context, shard, revision string, values map[string]string) error {
	return s.provider.SetLedger(ctx, s.set, shard, revision, values)
}

// CheckLease reports whether what is done under ctx may still be done: it returns an error for which
// errors.Is(err, ErrLeaseLost) holds as soon as the lease that it is done under is over, even if
// this process slept and ctx has not ended yet. A Provider calls it right before each call that
// changes something. Without a lease it returns nil.
func CheckLease(ctx context.Context) error { return lease.CheckContext(ctx) }

func whoami() string {
	name := "?"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s@%s pid %d %s", name, host, os.Getpid(), strings.TrimSuffix(filepath.Base(os.Args[0]), ".test"))
}

// A Lease is the right to use a pool, or to build, or a waiter's request for one.
type Lease struct {
	Holder     string    `json:"holder"`  // user@host pid N program
	Purpose    string    `json:"purpose"` // the test, or the operation
	AcquiredAt time.Time `json:"acquiredAt"`
	ExpiresAt  time.Time `json:"expiresAt"` // unless it is renewed
}

func publicLease(l *lease.Lease) *Lease {
	if l == nil {
		return nil
	}
	return &Lease{l.Holder, l.Purpose, l.AcquiredAt, l.ExpiresAt}
}

func (l *Lease) String() string {
	return fmt.Sprintf("%s (%s) since %s", l.Holder, l.Purpose, stamp(l.AcquiredAt))
}
