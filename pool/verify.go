package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
)

// A Report is what the checks of a set's hosts found at one time. It marshals to JSON; String
// is a table.
type Report struct {
	Set   string       `json:"set"`
	At    time.Time    `json:"at"` // by the local clock
	Hosts []HostStatus `json:"hosts"`
}

// resultJSON is a CheckResult as JSON has it.
type resultJSON struct {
	Host    string  `json:"host"`
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Want    string  `json:"want"`
	Got     string  `json:"got"`
	Err     string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

// MarshalJSON has the fields host, name, ok, want, got, error and seconds.
func (r CheckResult) MarshalJSON() ([]byte, error) {
	j := resultJSON{Host: r.Host, Name: r.Name, OK: r.OK(), Want: r.Want, Got: r.Got, Seconds: r.Took.Seconds()}
	if r.Err != nil {
		j.Err = r.Err.Error()
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote; of Err only the text.
func (r *CheckResult) UnmarshalJSON(data []byte) error {
	var j resultJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*r = CheckResult{Host: j.Host, Name: j.Name, Want: j.Want, Got: j.Got, Took: time.Duration(j.Seconds * float64(time.Second))}
	if j.Err != "" {
		r.Err = errors.New(j.Err)
	}
	return nil
}

// Verify runs all checks of all hosts of the set, of all pools at once, and never stops at a
// failure. It builds, powers on and changes nothing. Each pool is leased meanwhile; one that
// somebody else holds or keeps is skipped, and the report says for whom. A host that does not exist,
// is not ready or off, or has a NIC connected differently, fails as such. The error is one of the
// inventory or the ledger.
//
// A pool that was clean and of which a check fails, such as that of an air gap which is open,
// counts as dirty from then on, and its status has the failure: it is reset, to the snapshot that
// was taken when all checks had passed, before a test gets it. It is not rebuilt at once, as what
// is wrong is as a rule what somebody did to the running hosts. What a reset does not cure, its
// proof finds as far as it goes (NICs that must be unplugged, Needs, Role.AfterReset); then the
// pool is rebuilt, and quarantined if that does not help. So a check whose failure must keep tests
// from getting a pool belongs in AfterReset, too: one that only Checks have may fail again after the
// reset. Of a pool that is dirty, since a test has used it, checks may well fail; nothing is noted
// then, and it is reset anyway.
func Verify(ctx context.Context, spec Spec) (*Report, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	r, err := verify(ctx, spec.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("pool: verify set %q: %w", spec.Name, err)
	}
	return r, nil
}

func verify(ctx context.Context, s Spec) (*Report, error) {
	l := newLedger(s)
	o, err := observe(ctx, s, l)
	if err != nil {
		return nil, err
	}
	p, err := o.plan(s, nil)
	if err != nil {
		return nil, err
	}
	r := &Report{Set: s.Name, At: time.Now().Round(0)}
	pools := make([][]HostStatus, len(p.pools))
	errs := make([]error, len(p.pools))
	forAll(p.pools, p.Concurrency.Hosts/len(s.Roles), func(q *poolPlan) {
		i := slices.Index(p.pools, q)
		pools[i], errs[i] = verifyPool(ctx, s, l, q)
	})
	r.Hosts = slices.Concat(pools...)
	return r, errors.Join(errs...)
}

// verifyPool returns the states of a pool's hosts, checked under a lease of it.
func verifyPool(ctx context.Context, s Spec, l *lease.Ledger, q *poolPlan) ([]HostStatus, error) {
	hosts, ready := q.unready()
	if !ready {
		return hosts, nil // Open has work to do, after which all its checks will have passed
	}
	n := q.number
	x, was, err := take(ctx, l.Operate, lease.Request{Pool: n, Purpose: "verify"})
	if busy, ok := errors.AsType[*BusyError](err); ok {
		for i := range hosts {
			hosts[i].Skipped, hosts[i].Checks = fmt.Sprintf("pool %d is %s", n, busy.Why), nil
		}
		return hosts, nil
	}
	if err != nil {
		return nil, err
	}
	guard(x)
	bound, stop := x.Bind(ctx)
	p := newPool(s, nil, q.hosts)
	if was.Build != p.build { // somebody may have built it since the plan was made
		only := s.only(n)
		o, err := observe(bound, only, l)
		var plan *Plan
		if err == nil {
			plan, err = o.plan(only, nil)
		}
		if err == nil {
			q = plan.pool(n)
			hosts, ready = q.unready()
		}
		if err != nil || !ready {
			stop()
			return hosts, errors.Join(err, releaseLease(ctx, x, lease.Untouched(was)))
		}
		p = newPool(s, nil, q.hosts)
	}
	forAll(p.hosts, len(p.hosts), func(h *Host) {
		i := slices.Index(p.hosts, h)
		defer h.drop()
		if q.hosts[i].info.On {
			hosts[i].Checks = append(hosts[i].Checks, p.verifyHost(bound, i)...)
		}
	})
	stop()
	end := lease.Untouched(was)
	if err := checksError(hosts); was.Stored == lease.Clean && err != nil && ctx.Err() == nil {
		end = lease.VerifyFailed(fmt.Errorf("verify: %w", err))
	}
	return hosts, releaseLease(ctx, x, end)
}

// unready returns the states of the pool's hosts, with a result for each that is not as it was when
// it became ready, as far as the inventory tells, and whether all have their ready snapshots.
func (q *poolPlan) unready() (hosts []HostStatus, ready bool) {
	ready = true
	for _, h := range q.hosts {
		st := h.status()
		if !st.Ready {
			st.Checks = []CheckResult{{Host: h.VM, Name: readyCheck, Want: "ready", Err: h.unfit()}}
		}
		hosts, ready = append(hosts, st), ready && h.ready()
	}
	return hosts, ready
}

// readyCheck is the name of the result that says why a host's checks were not run, or cannot be
// trusted.
const readyCheck = "ready"

// unfit says why a host is not to be used as it is.
func (h *hostPlan) unfit() error {
	if h.info.ID == "" {
		return errNotBuilt
	}
	return fmt.Errorf("%s: %s", h.Action, h.Reason)
}

// errNotBuilt says that a host, or all of a pool, does not exist.
var errNotBuilt = errors.New("it is not built yet; Ensure or Open builds it")

// verifyHost runs all checks of one host.
func (p *Pool) verifyHost(ctx context.Context, i int) []CheckResult {
	h := p.hosts[i]
	start := time.Now()
	if err := h.probe(ctx); err != nil {
		return []CheckResult{{Host: h.Name, Name: readyCheck, Want: "ready", Err: fmt.Errorf("no login: %w", err), Took: time.Since(start)}}
	}
	results, _ := runChecks(ctx, h, p.roles[i].Checks) // the results say it
	return results
}

// Verify runs all checks of the pool's hosts, at once, and never stops at a failure: for a test
// that wants to know what it did to the pool that it holds.
func (p *Pool) Verify(ctx context.Context) *Report {
	ctx = p.set.log.within(ctx, events.Event{Stage: "verify", Test: p.test})
	r := &Report{Set: p.set.Name, At: time.Now().Round(0), Hosts: make([]HostStatus, len(p.hosts))}
	forAll(p.hosts, len(p.hosts), func(h *Host) {
		i := slices.Index(p.hosts, h)
		r.Hosts[i] = HostStatus{Host: h.Name, Role: h.Role, Pool: p.Number, Addr: h.Addr().String(), Ready: true, Action: ActionReuse, Checks: p.verifyHost(ctx, i)}
	})
	return r
}

// Failed returns the results that are not as wanted, by host.
func (r *Report) Failed() []CheckResult { return failedOf(r.Hosts) }

func failedOf(hosts []HostStatus) (all []CheckResult) {
	for _, h := range hosts {
		for _, c := range h.Checks {
			if !c.OK() {
				all = append(all, c)
			}
		}
	}
	return all
}

// Err is nil if no check failed; else it names all that did. Hosts that were skipped are no
// failure.
func (r *Report) Err() error { return checksError(r.Hosts) }

func checksError(hosts []HostStatus) error {
	var failed []error
	for _, c := range failedOf(hosts) {
		failed = append(failed, fmt.Errorf("%s: %s", c.Host, c))
	}
	return errors.Join(failed...)
}

// String is the report as tables: one line for each host, and then one for each check that failed.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "verify set %q at %s\n", r.Set, stamp(r.At))
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "  pool\thost\tchecks\tfailed\ttook")
	for _, h := range r.Hosts {
		if h.Skipped != "" {
			fmt.Fprintf(w, "  %d\t%s\tskipped: %s\n", h.Pool, h.Host, h.Skipped)
			continue
		}
		var took time.Duration
		for _, c := range h.Checks {
			took += c.Took
		}
		fmt.Fprintf(w, "  %d\t%s\t%d\t%d\t%s\n", h.Pool, h.Host, len(h.Checks), len(failedOf([]HostStatus{h})), round(took))
	}
	w.Flush()
	for _, c := range r.Failed() {
		fmt.Fprintf(&b, "  %s: %s\n", c.Host, indent(c.String(), "      "))
	}
	return strings.TrimRight(b.String(), "\n")
}

// JSON is the report as JSON, indented.
func (r *Report) JSON() string { return asJSON(r) }

// A Runner is a T that has subtests, as *testing.T is one.
type Runner[P any] interface {
	T
	Run(name string, f func(P)) bool
}

// Subtests shows a report as subtests of t: one for each host, with one for each check.
func Subtests[P Runner[P]](t P, r *Report) {
	t.Helper()
	for _, h := range r.Hosts {
		t.Run(h.Host, func(t P) {
			if h.Skipped != "" {
				t.Logf("skipped: %s", h.Skipped)
			}
			for _, c := range h.Checks {
				t.Run(c.Name, func(t P) {
					if !c.OK() {
						t.Errorf("%s: %s", c.Host, c)
					}
				})
			}
		})
	}
}

// Verify is like the function, for the set's Spec. Pools that are leased, also by this process, are
// skipped.
func (s *Set) Verify(ctx context.Context) (*Report, error) {
	return Verify(s.log.within(ctx, events.Event{Stage: "verify"}), s.spec)
}

// Visit calls f for the hosts of the set that are ready and on, one after the other, for a person
// who wants to look at them: it takes no lease, so a host may be in use, or kept, and f must change
// nothing on it. Hosts end with f. Errors are joined; a host that is not ready, or off, is one.
func Visit(ctx context.Context, spec Spec, f func(ctx context.Context, h *Host) error) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	o, err := observe(ctx, s, newLedger(s))
	var p *Plan
	if err == nil {
		p, err = o.plan(s, nil)
	}
	if err != nil {
		return fmt.Errorf("pool: visit set %q: %w", s.Name, err)
	}
	var errs []error
	for _, q := range p.pools {
		for _, h := range q.hosts {
			if !h.ready() || !h.info.On {
				errs = append(errs, fmt.Errorf("%s: %w", h.VM, h.unfit()))
				continue
			}
			host := h.newHost(s)
			if err := host.probe(ctx); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", h.VM, err))
			} else {
				errs = append(errs, protect(func() error { return f(ctx, host) }))
			}
			host.drop()
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pool: visit set %q: %w", s.Name, err)
	}
	return nil
}
