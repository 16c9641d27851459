package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A State says what may be done with a pool.
type State string

// The states. Of those with a lease or an end, Entry.State returns what they fall back to when that
// is over: Broken if the pool must be rebuilt, else Dirty.
const (
	Absent      State = "absent"      // no host of it was ever ready; the next build of the set makes it
	Building    State = "building"    // leased by the process that makes its hosts ready
	Dirty       State = "dirty"       // free, and to be reset before a test gets it
	Clean       State = "clean"       // free, and proved to be as it was when it became ready
	Leased      State = "leased"      // held by a test, or an operation
	Kept        State = "kept"        // left as it is for a person, until a time
	Quarantined State = "quarantined" // excluded, until a time, since it failed too often
	Recovering  State = "recovering"  // its entry was lost; its last holder may still hold it, until a time
	Broken      State = "broken"      // free, and to be rebuilt before a test gets it
)

// States returns all states.
func States() []State {
	return []State{Absent, Building, Dirty, Clean, Leased, Kept, Quarantined, Recovering, Broken}
}

// Free reports whether a pool in this state can be leased, by some transition.
func (s State) Free() bool { return s == Dirty || s == Clean || s == Broken }

// Excluded reports whether a pool in this state stays as it is until a person, or time, frees it:
// waiting for its holder makes no sense.
func (s State) Excluded() bool { return s == Kept || s == Quarantined }

// An Entry is what the ledger says of one pool.
type Entry struct {
	Format int `json:"poolready"`
	// Stored is the state as it was written. State is the one that counts.
	Stored State `json:"state"`
	// Lease is that of the holder, while Stored is Leased or Building.
	Lease *Lease `json:"lease,omitempty"`
	// Until is when Kept, Quarantined or Recovering ends, and Reason why it began.
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	// Broken is why the pool must be rebuilt before a test gets it. It outlasts leases.
	Broken string `json:"broken,omitempty"`
	// Build identifies the builds of the pool's hosts: if it differs from yours, plan again.
	Build string `json:"build,omitempty"`
	// Proof is what was found when the pool was last proved clean, while Stored is Clean.
	Proof *Proof `json:"proof,omitempty"`
	// Boots are the boot IDs of the hosts, in the order of roles, when last read.
	Boots []string `json:"boots,omitempty"`
	// LastUser is the test that last used it.
	LastUser string `json:"lastUser,omitempty"`
	// Failures counts the resets and builds that failed since one last succeeded.
	Failures int       `json:"failures,omitempty"`
	Failure  string    `json:"failure,omitempty"`
	FailedAt time.Time `json:"failedAt,omitzero"`

	holderGone bool // the holder was a process of this machine, and has ended
}

// A Proof is what was found when a pool was proved clean.
type Proof struct {
	At time.Time `json:"at"`
	By string    `json:"by"`
	// Skew is the largest difference between a guest's clock and the hypervisor's, in seconds.
	Skew float64 `json:"skew"`
}

// A Lease is the right to use a pool, or to build, as it is written down.
type Lease struct {
	Holder     string    `json:"holder"`  // user@host pid N program
	Purpose    string    `json:"purpose"` // the test, or the operation
	Token      string    `json:"token"`   // this lease, unlike any other
	AcquiredAt time.Time `json:"acquiredAt"`
	ExpiresAt  time.Time `json:"expiresAt"` // unless it is renewed
	Process    *Process  `json:"process,omitempty"`
	// Claim is the token of the claim with which the lease ends, if it is one under a claim.
	Claim string `json:"claim,omitempty"`
}

func (l *Lease) String() string {
	return fmt.Sprintf("%s (%s) since %s", l.Holder, l.Purpose, clock(l.AcquiredAt))
}

func clock(t time.Time) string { return t.Local().Format("15:04:05") }

// State returns the state at a moment of the ledger's clock.
func (e *Entry) State(now time.Time) State {
	switch e.Stored {
	case Leased, Building:
		if e.Holder(now) == nil {
			return e.idle()
		}
	case Kept, Quarantined, Recovering:
		if !now.Before(e.Until) {
			return e.idle()
		}
	}
	return e.Stored
}

// idle is the state of a pool that has no holder and of which nothing is known.
func (e *Entry) idle() State {
	if e.Broken != "" {
		return Broken
	}
	return Dirty
}

// Holder returns the lease that is in force at a moment of the ledger's clock, or nil. That of a
// process of this machine which has ended is not in force.
func (e *Entry) Holder(now time.Time) *Lease {
	if (e.Stored == Leased || e.Stored == Building) && e.Lease != nil && now.Before(e.Lease.ExpiresAt) && !e.holderGone {
		return e.Lease
	}
	return nil
}

// Gone returns the lease whose holder, a process of this machine, has ended though the lease would
// be in force, or nil.
func (e *Entry) Gone(now time.Time) *Lease {
	if (e.Stored == Leased || e.Stored == Building) && e.Lease != nil && now.Before(e.Lease.ExpiresAt) && e.holderGone {
		return e.Lease
	}
	return nil
}

// Same reports whether the pool had no holder between two readings of its entry, e the later one,
// nor left it without releasing it.
func (e *Entry) Same(before Entry) bool {
	return e.Lease == nil && e.Stored == before.Stored && e.Build == before.Build && slices.Equal(e.Boots, before.Boots)
}

// Why says in words why the pool cannot be leased at a moment of the ledger's clock, or returns "".
func (e *Entry) Why(now time.Time) string {
	switch s := e.State(now); s {
	case Building, Leased:
		l := e.Lease
		return fmt.Sprintf("held by %s, until %s unless renewed", l, clock(l.ExpiresAt))
	case Kept, Quarantined, Recovering:
		return fmt.Sprintf("%s until %s: %s", s, clock(e.Until), e.Reason)
	case Broken:
		return "to be rebuilt: " + e.Broken
	case Absent:
		return "not built yet"
	}
	return ""
}

const (
	format     = 2
	entryLimit = 4000 // bytes of an entry's JSON
)

// ErrFormat is in the error for an entry that another version of poolready has written.
var ErrFormat = errors.New("use one version of poolready for one set; when the set is not in use, " +
	`remove its folder "ledger" in vCenter to begin a new ledger`)

// errDamaged says that an entry is not there as it was written.
var errDamaged = errors.New("the ledger's entry is unreadable")

// decode reads what encode wrote.
func decode[T any](text string) (v T, err error) {
	var probe struct {
		Format *int `json:"poolready"`
	}
	if text == "" {
		return v, fmt.Errorf("%w: it is empty", errDamaged)
	}
	if err := json.Unmarshal([]byte(text), &probe); err != nil {
		return v, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if probe.Format == nil || *probe.Format != format {
		n := 0
		if probe.Format != nil {
			n = *probe.Format
		}
		return v, fmt.Errorf("the ledger has format %d, this program reads format %d: %w", n, format, ErrFormat)
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return v, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return v, nil
}

func encode(v any) (string, error) {
	text, err := json.Marshal(v)
	if err == nil && len(text) > entryLimit {
		err = fmt.Errorf("the ledger's entry has %d bytes, at most %d fit: too many roles", len(text), entryLimit)
	}
	return string(text), err
}

func (e Entry) text() (string, error) {
	e.Format = format
	e.Failure, e.Broken, e.LastUser, e.Reason = Shorten(e.Failure), Shorten(e.Broken), Shorten(e.LastUser), Shorten(e.Reason)
	e.Lease = e.Lease.short()
	return encode(e)
}

func (l *Lease) short() *Lease {
	if l == nil {
		return nil
	}
	s := *l
	s.Holder, s.Purpose = Shorten(s.Holder), Shorten(s.Purpose)
	return &s
}

// Shorten cuts text that people read to a length that fits into the ledger.
func Shorten(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// A Transition is a change of an Entry: the only kind there is.
type Transition struct {
	Name string
	from []State
	do   func(e *Entry, now time.Time)
	also map[string]string
}

// With has values written into the pool's shard together with the Entry, where the transition ends a
// lease. Values of "" remove what has their key.
func (t Transition) With(values map[string]string) Transition {
	t.also = values
	return t
}

// Apply changes the entry at a moment of the ledger's clock, or returns an error if its state is
// none that the transition may start from.
func (t Transition) Apply(e *Entry, now time.Time) error { return t.start(e, e.State(now), now) }

// applyHeld is Apply under a lease that is on the entry. It may have expired: as long as it is
// there, no other process holds the pool.
func (t Transition) applyHeld(e *Entry, now time.Time) error { return t.start(e, e.Stored, now) }

func (t Transition) start(e *Entry, s State, now time.Time) error {
	if !slices.Contains(t.from, s) {
		return fmt.Errorf("%s: the pool is %s, want one of %v", t.Name, s, t.from)
	}
	t.do(e, now)
	return nil
}

// stored puts the entry into a state without a lease.
func (e *Entry) stored(s State) {
	e.Stored, e.Lease, e.Proof, e.Until, e.Reason = s, nil, nil, time.Time{}, ""
}

// hold puts the entry under a lease.
func hold(name string, s State, l *Lease, from ...State) Transition {
	return Transition{Name: name, from: from, do: func(e *Entry, _ time.Time) {
		e.stored(s)
		e.Lease = l
	}}
}

// acquire leases a pool to a test. One that is broken must be rebuilt first.
func acquire(l *Lease) Transition { return hold("acquire", Leased, l, Clean, Dirty) }

// operate leases a pool to an operation, which cares for one that is broken itself.
func operate(l *Lease) Transition { return hold("operate", Leased, l, Clean, Dirty, Broken) }

// build leases a pool to the process that makes its hosts ready.
func build(l *Lease) Transition { return hold("build", Building, l, Clean, Dirty, Broken) }

// renew prolongs a lease; purpose, if not "", is what it is for from now on.
func renew(expires time.Time, purpose string) Transition {
	return Transition{Name: "renew", from: []State{Leased, Building}, do: func(e *Entry, _ time.Time) {
		e.Lease = e.Lease.renewed(expires, purpose)
	}}
}

// renewed is a copy, since others may have the one that was read.
func (l *Lease) renewed(expires time.Time, purpose string) *Lease {
	r := *l
	r.ExpiresAt = expires
	if purpose != "" {
		r.Purpose = purpose
	}
	return &r
}

// recovering is the entry of a pool whose own was lost, until its holder must have written again.
func recovering(why string, until time.Time) Entry {
	return Entry{Format: format, Stored: Recovering, Reason: why, Until: until}
}

// Resetting says that a test has ended and that its pool is being reset, under its lease.
func Resetting(test string) Transition {
	return Transition{Name: "begin reset", from: []State{Leased}, do: func(e *Entry, _ time.Time) {
		l := *e.Lease
		l.Purpose = "reset after " + test
		e.Lease, e.LastUser = &l, test
	}}
}

// Prepared says that the pool was reset, under the lease of the test that gets it now.
func Prepared(build string, boots []string) Transition {
	return Transition{Name: "prepared", from: []State{Leased}, do: func(e *Entry, _ time.Time) {
		e.succeeded(build, boots)
		e.LastUser = e.Lease.Purpose
	}}
}

// Cleaned ends the lease on a pool that was reset and proved clean.
func Cleaned(build string, proof *Proof, boots []string) Transition {
	return Transition{Name: "cleaned", from: []State{Leased}, do: func(e *Entry, _ time.Time) {
		e.stored(Clean)
		e.Proof = proof
		e.succeeded(build, boots)
	}}
}

// Built ends the lease on a pool whose hosts have become ready: clean if there is a proof. Else it is
// reset before a test gets it, and its failures stay counted until then: one that can be built and
// never reset is not built over and over.
func Built(build string, proof *Proof, boots []string) Transition {
	return Transition{Name: "built", from: []State{Building}, do: func(e *Entry, _ time.Time) {
		e.stored(Dirty)
		e.Build, e.Boots, e.Broken = build, boots, ""
		if proof != nil {
			e.Stored, e.Proof = Clean, proof
			e.succeeded(build, boots)
		}
	}}
}

func (e *Entry) succeeded(build string, boots []string) {
	e.Build, e.Boots = build, boots
	e.Broken, e.Failures, e.Failure, e.FailedAt = "", 0, "", time.Time{}
}

// Released ends a lease, and nothing is known of the pool from then on.
func Released() Transition {
	return Transition{Name: "release", from: []State{Leased, Building}, do: func(e *Entry, _ time.Time) { e.stored(e.idle()) }}
}

// Used ends the lease of a test, whose pool is not reset yet.
func Used(test string) Transition {
	return Transition{Name: "release", from: []State{Leased}, do: func(e *Entry, _ time.Time) {
		e.stored(e.idle())
		e.LastUser = test
	}}
}

// Untouched ends a lease under which nothing was done: the pool is what it was before.
func Untouched(was Entry) Transition {
	return Transition{Name: "put back", from: []State{Leased, Building}, do: func(e *Entry, _ time.Time) {
		e.stored(e.idle())
		if was.Stored == Clean {
			e.Stored, e.Proof = Clean, was.Proof
		}
	}}
}

// How long a pool is quarantined that could not be made clean, and after how many failures.
const (
	QuarantineTime  = 5 * time.Minute
	QuarantineAfter = 3
)

// ResetFailed ends the lease on a pool that could not be made clean. It must be rebuilt, if that
// can help; after some failures it is quarantined.
func ResetFailed(err error, rebuild bool) Transition {
	return Transition{Name: "fail reset", from: []State{Leased, Building}, do: func(e *Entry, now time.Time) {
		e.failed(now, err)
		if rebuild {
			e.Broken = firstLine(err)
		}
		e.stored(e.idle())
		if e.Failures >= QuarantineAfter {
			e.exclude(Quarantined, fmt.Sprintf("%d failures, the last: %s", e.Failures, firstLine(err)), now.Add(QuarantineTime))
		}
	}}
}

// BuildFailed ends the lease on a pool that could not be rebuilt.
func BuildFailed(err error) Transition {
	return Transition{Name: "fail build", from: []State{Building}, do: func(e *Entry, now time.Time) {
		e.failed(now, err)
		e.Broken = firstLine(err)
		e.exclude(Quarantined, firstLine(err), now.Add(QuarantineTime))
	}}
}

// VerifyFailed ends the lease on a pool that was clean, and of which a check fails.
func VerifyFailed(err error) Transition {
	return Transition{Name: "fail verify", from: []State{Leased}, do: func(e *Entry, now time.Time) {
		e.failed(now, err)
		e.stored(e.idle())
	}}
}

func (e *Entry) failed(now time.Time, err error) {
	e.Failures++
	e.Failure, e.FailedAt = err.Error(), now
}

// Keep ends the lease on a pool, or prolongs its time, to leave it as it is to a person.
func Keep(reason string, until time.Time, lastUser string) Transition {
	return Transition{Name: "keep", from: []State{Leased, Kept}, do: func(e *Entry, _ time.Time) {
		e.exclude(Kept, reason, until)
		if lastUser != "" {
			e.LastUser = lastUser
		}
	}}
}

func (e *Entry) exclude(s State, reason string, until time.Time) {
	e.stored(s)
	e.Reason, e.Until = reason, until
}

// Free makes a pool usable that is kept or quarantined, or whose holder is gone; its failures are
// forgotten. It is reset before a test gets it, and rebuilt if it is broken.
func Free() Transition {
	return Transition{Name: "free", from: []State{Kept, Quarantined, Dirty, Broken}, do: func(e *Entry, _ time.Time) {
		e.stored(e.idle())
		e.Failures = 0
	}}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
