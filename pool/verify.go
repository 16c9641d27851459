package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A Report is what the checks of a set's hosts found at one time. It marshals to JSON; String
// is a table.
type Report struct {
	Set   string       `json:"set"`
	At    time.Time    `json:"at"` // by the local clock
	Hosts []HostReport `json:"hosts"`
}

// A HostReport is what the checks of one host found.
type HostReport struct {
	Host string `json:"host"`
	Role string `json:"role"`
	Pool int    `json:"pool"`
	// Skipped is why the host was not looked at, since somebody else has its pool, or "".
	Skipped string `json:"skipped,omitempty"`
	// Results are those of the checks of its role, in their order. What kept them from being run is a
	// result of its own, of the name "ready".
	Results []CheckResult `json:"results,omitempty"`
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
// somebody else holds or keeps is skipped, and the report says for whom. A host that is not there,
// not ready, off, or wired otherwise than when it became ready fails as such. The error is one of
// the inventory or the ledger.
//
// A pool that was clean and of which a check fails, such as that of an air gap which is open,
// counts as dirty from then on, and Status has the failure: it is reset, to the snapshot that was
// taken when all checks had passed, before anybody gets it. It is not built anew at once, as what
// is wrong is as a rule what somebody did to the running hosts. What a reset does not cure, it
// finds as far as its proof goes (NICs that must be unplugged, Needs, Role.AfterReset); then the
// pool is built anew, and rests if that does not help. So a check whose failure must keep a pool
// from being lent belongs in AfterReset, too: one that only Checks have may fail again after the
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
	work, _, _, err := plan(ctx, s)
	if err != nil {
		return nil, err
	}
	r := &Report{Set: s.Name, At: time.Now().Round(0)}
	numbers := s.numbers()
	pools := make([][]HostReport, len(numbers))
	errs := make([]error, len(numbers))
	forAll(numbers, max(1, s.Limits.Hosts/len(s.Roles)), func(n int) {
		i := slices.Index(numbers, n)
		pools[i], errs[i] = verifyPool(ctx, s, n, work.poolHosts(n))
	})
	r.Hosts = slices.Concat(pools...)
	return r, errors.Join(errs...)
}

// verifyPool returns the reports of a pool's hosts, looked at under a lease of it.
func verifyPool(ctx context.Context, s Spec, n int, hosts []*hostPlan) ([]HostReport, error) {
	reports, ready := reportUnfit(hosts)
	if !ready {
		return reports, nil // Open has work to do, after which all its checks will have passed
	}
	x, was, err := newLedger(s).take(ctx, request{shard: poolShard(n), what: "verify"})
	if busy := (*busyError)(nil); errors.As(err, &busy) {
		for i := range reports {
			reports[i].Skipped, reports[i].Results = fmt.Sprintf("pool %d is %s", n, busy.why), nil
		}
		return reports, nil
	}
	if err != nil {
		return nil, err
	}
	bound, stop := x.bind(ctx)
	p := fromPlan(s, hosts)
	if was.Build != p.build { // somebody may have built it since the plan was made
		work, _, _, err := plan(bound, s)
		if err == nil {
			hosts = work.poolHosts(n)
			reports, ready = reportUnfit(hosts)
		}
		if err != nil || !ready {
			stop()
			return reports, errors.Join(err, letGoOf(ctx, x, nil))
		}
		p = fromPlan(s, hosts)
	}
	forAll(p.hosts, len(p.hosts), func(h *Host) {
		i := slices.Index(p.hosts, h)
		defer h.drop()
		if hosts[i].info.On {
			reports[i].Results = append(reports[i].Results, p.verifyHost(bound, i)...)
		}
	})
	stop()
	err = letGoOf(ctx, x, func(now time.Time, e *entry) {
		if err := reportError(reports); was.Clean != nil && err != nil && ctx.Err() == nil {
			e.Clean, e.Failures, e.Failure, e.FailedAt = nil, e.Failures+1, "verify: "+err.Error(), now
			return
		}
		e.Clean = was.Clean
	})
	return reports, err
}

// reportUnfit begins the reports of a pool's hosts with what the inventory tells, and says whether
// all are ready.
func reportUnfit(hosts []*hostPlan) (reports []HostReport, ready bool) {
	ready = true
	for _, h := range hosts {
		r := HostReport{Host: h.VM, Role: h.Role, Pool: h.Pool}
		if why := h.unfit(); why != nil {
			r.Results = []CheckResult{{Host: h.VM, Name: readyCheck, Want: "ready", Err: why}}
		}
		reports, ready = append(reports, r), ready && h.ready()
	}
	return reports, ready
}

// readyCheck is the name of the result that says why a host's checks were not run, or cannot be
// trusted.
const readyCheck = "ready"

// unfit says why a host is not as it was when ready, as far as the inventory tells.
func (h *hostPlan) unfit() error {
	if h.Action == Reuse {
		return nil
	}
	return fmt.Errorf("%s: %s", h.Action, h.Reason)
}

// fromPlan is the pool of hosts that are ready. It has no set.
func fromPlan(s Spec, hosts []*hostPlan) *Pool {
	p := &Pool{Number: hosts[0].Pool, roles: s.Roles}
	peers := map[string]*Host{}
	for _, h := range hosts {
		host := h.host(s)
		host.peers = maps.Clone(peers)
		peers[h.role.Name] = host
		p.hosts, p.snaps, p.builds = append(p.hosts, host), append(p.snaps, h.snap), append(p.builds, h.rec.Build)
	}
	p.build = hash(p.builds...)
	return p
}

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
	r := &Report{Set: p.set.Name, At: time.Now().Round(0), Hosts: make([]HostReport, len(p.hosts))}
	forAll(p.hosts, len(p.hosts), func(h *Host) {
		i := slices.Index(p.hosts, h)
		r.Hosts[i] = HostReport{Host: h.Name, Role: h.Role, Pool: p.Number, Results: p.verifyHost(ctx, i)}
	})
	return r
}

// Failed returns the results that are not as wanted, by host.
func (r *Report) Failed() []CheckResult { return failedOf(r.Hosts) }

func failedOf(hosts []HostReport) (all []CheckResult) {
	for _, h := range hosts {
		for _, c := range h.Results {
			if !c.OK() {
				all = append(all, c)
			}
		}
	}
	return all
}

// Err is nil if no check failed; else it names all that did. Hosts that were skipped are no
// failure.
func (r *Report) Err() error { return reportError(r.Hosts) }

func reportError(hosts []HostReport) error {
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
		for _, c := range h.Results {
			took += c.Took
		}
		fmt.Fprintf(w, "  %d\t%s\t%d\t%d\t%s\n", h.Pool, h.Host, len(h.Results), len(failedOf([]HostReport{h})), round(took))
	}
	w.Flush()
	for _, c := range r.Failed() {
		fmt.Fprintf(&b, "  %s: %s\n", c.Host, indent(c.String(), "      "))
	}
	return strings.TrimRight(b.String(), "\n")
}

// JSON is the report as JSON, indented.
func (r *Report) JSON() string {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic("pool: a report cannot be encoded: " + err.Error()) // it holds plain data only
	}
	return string(text)
}

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
			for _, c := range h.Results {
				t.Run(c.Name, func(t P) {
					if !c.OK() {
						t.Errorf("%s: %s", c.Host, c)
					}
				})
			}
		})
	}
}

// Verify is like the function, for the set's Spec. Pools that are lent, also by this process, are
// skipped.
func (s *Set) Verify(ctx context.Context) (*Report, error) {
	r, err := verify(ctx, s.spec)
	if err != nil {
		return nil, fmt.Errorf("pool: verify set %q: %w", s.Name, err)
	}
	return r, nil
}
