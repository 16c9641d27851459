package pool

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A Standing is how a set stands, from one reading of the inventory and one of the ledger. It
// marshals to JSON; String is a table.
type Standing struct {
	Set string    `json:"set"`
	At  time.Time `json:"at"` // by the hypervisor's clock, as all times here
	// Builder is who builds the set now, or nil.
	Builder *Holding `json:"builder,omitempty"`
	// Waiting are those who wait for a pool, in the order in which they are served.
	Waiting []Holding      `json:"waiting,omitempty"`
	Pools   []PoolStanding `json:"pools"`
	// Goldens are the plan's lines for golden and its older generations.
	Goldens []Item `json:"goldens"`
	// Foreign are the VMs in the set's folders that are not the set's: put there by a test, or by
	// hand.
	Foreign []string `json:"foreign,omitempty"`
}

// A Holding is who has or wants something.
type Holding struct {
	Owner string    `json:"owner"` // user@host pid N program
	For   string    `json:"for"`   // the test, or what is done
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // unless it is renewed
}

// PoolStanding is one pool.
type PoolStanding struct { //nolint:revive // a Standing is the set's
	Pool int `json:"pool"`
	// State is "clean" or "dirty" if it is free, "in use", "kept", "cooling down", "being
	// recovered", "broken", which is to be built anew, or "not ready", if the plan has work to do on
	// it.
	State string `json:"state"`
	// Why says more of a State that is neither free nor in use.
	Why    string   `json:"why,omitempty"`
	Holder *Holding `json:"holder,omitempty"`
	// Until is when a block is over.
	Until time.Time `json:"until,omitzero"`
	// LastUser is the test that last used it, and Cleaned when it was last shown to be clean since.
	LastUser string    `json:"lastUser,omitempty"`
	Cleaned  time.Time `json:"cleaned,omitzero"`
	// Failures counts the resets and builds that failed since one succeeded, LastFailure is the last.
	Failures    int       `json:"failures,omitempty"`
	LastFailure string    `json:"lastFailure,omitempty"`
	FailedAt    time.Time `json:"failedAt,omitzero"`
	// Left are the things outside of the VMs that wait to be cleaned up (see Pool.Track).
	Left  []External     `json:"left,omitempty"`
	Hosts []HostStanding `json:"hosts"`
}

// HostStanding is one VM of a pool.
type HostStanding struct {
	Host   string `json:"host"`
	Role   string `json:"role"`
	Addr   string `json:"addr,omitempty"` // last reported by the guest
	On     bool   `json:"on"`
	Plan   Action `json:"plan"` // what Open would do with it
	Reason string `json:"reason"`
	// Fingerprint is that of its ready snapshot, if that is what the Spec asks for.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Status returns how the set stands: who uses which pool, who waits, what is broken. It changes
// nothing.
func Status(ctx context.Context, spec Spec) (*Standing, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	st, err := status(ctx, spec.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("pool: status of set %q: %w", spec.Name, err)
	}
	return st, nil
}

func status(ctx context.Context, s Spec) (*Standing, error) {
	work, inv, b, err := plan(ctx, s)
	if err != nil && work == nil {
		return nil, err
	}
	l := newLedger(s)
	st := &Standing{Set: s.Name, At: b.Now}
	if e, there, err := l.entry(b, buildShard); err == nil && there {
		st.Builder = e.holder(b.Now).holding()
	}
	for _, t := range b.line() {
		st.Waiting = append(st.Waiting, Holding{t.Owner, t.For, t.At, t.Until})
	}
	for _, n := range s.numbers() {
		st.Pools = append(st.Pools, poolStanding(l, b, work, n))
	}
	for _, i := range work.Items {
		if i.Role == "golden" {
			st.Goldens = append(st.Goldens, i)
		}
	}
	for _, vm := range inv.VMs {
		if _, ok := ours(s.Name, vm); !ok {
			st.Foreign = append(st.Foreign, strings.TrimPrefix(vm.Folder+"/"+vm.Name, "/"))
		}
	}
	slices.Sort(st.Foreign)
	return st, nil
}

func (t *tenure) holding() *Holding {
	if t == nil {
		return nil
	}
	return &Holding{t.Owner, t.For, t.Since, t.Until}
}

func poolStanding(l *ledger, b books, work *Work, n int) PoolStanding {
	p := PoolStanding{Pool: n, State: "dirty"}
	build, rewired := "", ""
	for _, h := range work.poolHosts(n) {
		host := HostStanding{Host: h.VM, Role: h.Role, On: h.info.On, Plan: h.Action, Reason: h.Reason}
		for _, a := range h.info.Addrs[h.vm.mac()] {
			host.Addr = a.String()
			break
		}
		if h.ready() {
			host.Fingerprint = h.rec.Fingerprint
		}
		if h.Action == Reset {
			rewired = fmt.Sprintf("%s: %s", h.VM, h.Reason)
		}
		if !h.ready() && build == "" {
			build = fmt.Sprintf("%s: %s: %s", h.VM, h.Action, h.Reason)
		}
		p.Hosts = append(p.Hosts, host)
	}
	e, there, err := l.entry(b, poolShard(n))
	if !there && err == nil {
		e = entry{}
	}
	p.LastUser, p.Failures, p.LastFailure, p.FailedAt = e.Used, e.Failures, e.Failure, e.FailedAt
	p.Holder = e.holder(b.Now).holding()
	p.Left = externals(b.Shards[poolShard(n)])
	if e.Clean != nil {
		p.Cleaned = e.Clean.At
	}
	switch {
	case err != nil:
		p.State, p.Why = "broken", err.Error()
	case p.Holder != nil:
		p.State = "in use"
	case e.busy(b.Now) != "":
		p.State, p.Why, p.Until = e.Block.Kind, e.Block.Why, e.Block.Until
	case e.Broken != "":
		p.State, p.Why = "broken", e.Broken
	case build != "":
		p.State, p.Why = "not ready", build
	case rewired != "":
		p.Why = rewired
	case e.Clean != nil:
		p.State = "clean"
	}
	return p
}

// String is the standing as a table.
func (s *Standing) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %q at %s", s.Set, stamp(s.At))
	if s.Builder != nil {
		fmt.Fprintf(&b, "; built by %s", s.Builder)
	}
	b.WriteString("\n")
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  pool\tstate\tholder\ttest\tsince\tuntil\tfingerprint\tlast failure")
	dash := func(s string) string { return or(s, "-") }
	for _, p := range s.Pools {
		holder, test, since, until := "", p.LastUser, "", ""
		if p.Holder != nil {
			holder, test, since, until = p.Holder.Owner, p.Holder.For, stamp(p.Holder.Since), clock(p.Holder.Until)
		} else if !p.Until.IsZero() {
			until = stamp(p.Until)
		}
		var prints []string
		for _, h := range p.Hosts {
			prints = append(prints, dash(h.Fingerprint[:min(len(h.Fingerprint), 7)]))
		}
		line, _, _ := strings.Cut(or(p.LastFailure, p.Why), "\n")
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Pool, p.State, dash(holder), dash(test), dash(since), dash(until), strings.Join(prints, " "), dash(line))
	}
	_ = w.Flush() // into memory
	for i, t := range s.Waiting {
		fmt.Fprintf(&b, "  waiting %d: %s\n", i+1, &t)
	}
	for _, p := range s.Pools {
		for _, x := range p.Left {
			fmt.Fprintf(&b, "  pool %d left %s %q, made %s\n", p.Pool, x.Kind, x.Ref, stamp(x.At))
		}
	}
	for _, f := range s.Foreign {
		fmt.Fprintf(&b, "  not the set's, and left alone: %s\n", f)
	}
	return strings.TrimRight(b.String(), "\n")
}

// JSON is the standing as JSON, indented.
func (s *Standing) JSON() string {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("pool: a standing cannot be encoded: " + err.Error()) // it holds plain data only
	}
	return string(text)
}

func (h *Holding) String() string {
	return fmt.Sprintf("%s (%s) since %s", h.Owner, h.For, stamp(h.Since))
}

// Release frees a pool that is kept for a person or cooling down; it is reset before it is lent. A
// pool that somebody holds is not taken away.
func Release(ctx context.Context, spec Spec, pool int) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	if pool < 1 || pool > s.Pools {
		return fmt.Errorf("pool: release pool %d of set %q: the pools are 1 to %d", pool, s.Name, s.Pools)
	}
	err := newLedger(s).changeEntry(ctx, poolShard(pool), nil, func(b books, e *entry, there bool) (bool, error) {
		if t := e.holder(b.Now); t != nil {
			return false, fmt.Errorf("it is held by %s", t)
		}
		if !there || e.Block != nil && e.Block.Kind == blockUnknown {
			return false, nil // who holds it may still be there
		}
		e.Block, e.Clean, e.Failures = nil, nil, 0
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("pool: release pool %d of set %q: %w", pool, s.Name, err)
	}
	return nil
}
