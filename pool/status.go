package pool

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// A Status is the state of a set, from one reading of the ledger and one of the inventory. It
// marshals to JSON; String is a table.
type Status struct {
	Set string    `json:"set"`
	At  time.Time `json:"at"` // by the hypervisor's clock, as all times here
	// Builder is the process that builds the set now, or nil.
	Builder *Lease `json:"builder,omitempty"`
	// Waiting are those who wait for a pool, in the order in which they are served.
	Waiting []Lease      `json:"waiting,omitempty"`
	Pools   []PoolStatus `json:"pools"`
	// Goldens are the plan's lines for golden and its older generations.
	Goldens []Item `json:"goldens"`
	// Foreign are the VMs in the set's folders that are not the set's: put there by a test, or by
	// hand.
	Foreign []string `json:"foreign,omitempty"`
}

// PoolStatus is the state of one pool.
type PoolStatus struct { //nolint:revive // a Status is the set's
	Pool  int   `json:"pool"`
	State State `json:"state"`
	// Ready reports whether every host is ready and on, so that Open has nothing to do for the pool.
	Ready bool `json:"ready"`
	// Reason says why the pool is in a State other than clean, dirty or leased, or not Ready.
	Reason string `json:"reason,omitempty"`
	Lease  *Lease `json:"lease,omitempty"`
	// Until is when a pool is no longer kept, quarantined or recovering.
	Until time.Time `json:"until,omitzero"`
	// LastUser is the test that last used it, and Cleaned when it was last proved clean since.
	LastUser string    `json:"lastUser,omitempty"`
	Cleaned  time.Time `json:"cleaned,omitzero"`
	// Failures counts the resets and builds that failed since one succeeded, LastFailure is the last.
	Failures    int       `json:"failures,omitempty"`
	LastFailure string    `json:"lastFailure,omitempty"`
	FailedAt    time.Time `json:"failedAt,omitzero"`
	// Tracked are the things outside of the VMs that wait to be cleaned up (see Pool.Track).
	Tracked []External   `json:"tracked,omitempty"`
	Hosts   []HostStatus `json:"hosts"`
}

// HostStatus is the state of one VM of a pool.
type HostStatus struct {
	Host   string `json:"host"`
	Role   string `json:"role"`
	Pool   int    `json:"pool"`
	Addr   string `json:"addr,omitempty"` // where SSH answers, as far as is known
	Ready  bool   `json:"ready"`          // it has the snapshot that the Spec asks for, and is on
	Action Action `json:"action"`         // of the plan
	Reason string `json:"reason"`         // of the Action, or why it is not Ready
	// Fingerprint is that of its ready snapshot, if that is what the Spec asks for. Of ReadStatus.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Took is how long Open worked on it. Of Set.Status.
	Took time.Duration `json:"took,omitempty"`
	// Checks are the results of the checks of its role, in their order; what kept them from being run
	// is a result of its own, of the name "ready". Skipped is why they were not run, since somebody
	// else has the pool. Of Verify.
	Checks  []CheckResult `json:"checks,omitempty"`
	Skipped string        `json:"skipped,omitempty"`
}

// String is the state in one line.
func (h HostStatus) String() string {
	if !h.Ready {
		return "not ready: " + h.Reason
	}
	return fmt.Sprintf("ready: %s: %s", h.Action, h.Reason)
}

// ReadStatus returns the state of the set: who uses which pool, who waits, what is broken. It
// changes nothing.
func ReadStatus(ctx context.Context, spec Spec) (*Status, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	st, err := readStatus(ctx, spec.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("pool: status of set %q: %w", spec.Name, err)
	}
	return st, nil
}

func readStatus(ctx context.Context, s Spec) (*Status, error) {
	o, err := observe(ctx, s, newLedger(s))
	if err != nil {
		return nil, err
	}
	p, err := o.plan(s, nil)
	if p == nil {
		return nil, err
	}
	st := &Status{Set: s.Name, At: o.ledger.Now, Builder: publicLease(p.builder)}
	for _, t := range o.ledger.Queue() {
		st.Waiting = append(st.Waiting, Lease{t.Holder, t.Purpose, t.At, t.ExpiresAt})
	}
	for _, q := range p.pools {
		st.Pools = append(st.Pools, q.status(o.ledger))
	}
	for _, i := range p.Items {
		if i.Role == "golden" {
			st.Goldens = append(st.Goldens, i)
		}
	}
	for _, vm := range o.inv.VMs {
		if _, ok := ours(s.Name, vm); !ok {
			st.Foreign = append(st.Foreign, vm.path())
		}
	}
	slices.Sort(st.Foreign)
	return st, nil
}

func (q *poolPlan) status(s *lease.Snapshot) PoolStatus {
	e := &q.entry
	p := PoolStatus{
		Pool: q.number, State: q.state, Ready: true, Lease: publicLease(e.Holder(s.Now)),
		LastUser: e.LastUser, Failures: e.Failures, LastFailure: e.Failure, FailedAt: e.FailedAt,
		Tracked: externals(s.Values(q.number, externalPrefix)),
	}
	switch q.state {
	case lease.Clean:
		p.Cleaned = e.Proof.At
	case lease.Kept, lease.Quarantined, lease.Recovering:
		p.Reason, p.Until = e.Reason, e.Until
	case lease.Broken:
		p.Reason = e.Broken
	}
	for _, h := range q.hosts {
		st := h.status()
		if !st.Ready {
			p.Ready, p.Reason = false, cmp.Or(p.Reason, fmt.Sprintf("%s: %v", h.VM, h.unfit()))
		}
		p.Hosts = append(p.Hosts, st)
	}
	return p
}

// status is what the inventory tells of a host.
func (h *hostPlan) status() HostStatus {
	st := HostStatus{Host: h.VM, Role: h.Role, Pool: h.Pool, Ready: h.Action == ActionReuse, Action: h.Action, Reason: h.Reason}
	if a := h.addr(); a.IsValid() {
		st.Addr = a.String()
	}
	if h.ready() {
		st.Fingerprint = h.rec.Fingerprint
	}
	return st
}

// String is the status as a table.
func (s *Status) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %q at %s", s.Set, stamp(s.At))
	if s.Builder != nil {
		fmt.Fprintf(&b, "; built by %s", s.Builder)
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  pool\tstate\tholder\ttest\tsince\tuntil\tfingerprint\treason")
	dash := func(s string) string { return cmp.Or(s, "-") }
	for _, p := range s.Pools {
		holder, test, since, until := "", p.LastUser, "", ""
		if p.Lease != nil {
			holder, test, since, until = p.Lease.Holder, p.Lease.Purpose, stamp(p.Lease.AcquiredAt), stamp(p.Lease.ExpiresAt)
		} else if !p.Until.IsZero() {
			until = stamp(p.Until)
		}
		var prints []string
		for _, h := range p.Hosts {
			prints = append(prints, dash(h.Fingerprint[:min(len(h.Fingerprint), 7)]))
		}
		state := string(p.State)
		if !p.Ready {
			state += ", not ready"
		}
		line, _, _ := strings.Cut(cmp.Or(p.LastFailure, p.Reason), "\n")
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Pool, state, dash(holder), dash(test), dash(since), dash(until), strings.Join(prints, " "), dash(line))
	}
	_ = w.Flush() // into memory
	for i, t := range s.Waiting {
		fmt.Fprintf(&b, "  waiting %d: %s\n", i+1, &t)
	}
	for _, p := range s.Pools {
		for _, x := range p.Tracked {
			fmt.Fprintf(&b, "  pool %d: to be cleaned up: %s %q, made %s\n", p.Pool, x.Kind, x.Ref, stamp(x.At))
		}
	}
	for _, f := range s.Foreign {
		fmt.Fprintf(&b, "  not the set's, and left alone: %s\n", f)
	}
	return strings.TrimRight(b.String(), "\n")
}

// JSON is the status as JSON, indented.
func (s *Status) JSON() string { return asJSON(s) }

func asJSON(v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("pool: cannot be encoded: " + err.Error()) // it holds plain data only
	}
	return string(text)
}
