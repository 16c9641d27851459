package pool

import (
	"cmp"
	"fmt"
	"time"
)

// What is assumed of VMs when no account of an earlier build tells.
const (
	expectClone = 30 * time.Second // a linked clone: 3-10 s, and the queue
	expectBoot  = time.Minute
)

// expect predicts how long the plan takes: stage by stage, since stages are barriers, and
// within a stage as many rounds as the limits make necessary.
func (p *Plan) expect(s Spec, o *observation) time.Duration {
	var total, golden time.Duration
	for _, g := range p.goldens {
		if g.Action == ActionReuse {
			continue
		}
		golden = max(golden, o.expectedGolden(g))
	}
	total = golden
	for i, hosts := range p.roles {
		var clones, works int
		work, boot := s.Roles[i].Expect, time.Duration(0)
		clone := min(expectClone, work) // of a role that is made ready in seconds, so is the clone
		var seenClone, seenWork time.Duration
		for _, h := range hosts {
			if rec, _, _, err := readySnapshot(h.info, h.role.Snapshot); err == nil {
				a, _ := o.account(rec)
				seenClone, seenWork = max(seenClone, a.took(tookClone)), max(seenWork, a.took(tookAll))
			}
			switch {
			case h.builds():
				clones, works = clones+1, works+1
			case h.Action == ActionPowerOn, h.Action == ActionReset:
				boot = expectBoot
			}
		}
		clone, work = cmp.Or(seenClone, clone), cmp.Or(seenWork, work)
		total += time.Duration(rounds(clones, p.Concurrency.Clones))*clone + max(time.Duration(rounds(works, p.Concurrency.Hosts))*work, boot)
	}
	return total
}

// expectedGolden is how long a golden is expected to take, by the account of an earlier generation or by
// the Spec.
func (o *observation) expectedGolden(g *goldenPlan) time.Duration {
	d := g.recipe.Expect
	for _, old := range g.old {
		if rec, _, _, err := readySnapshot(old, g.recipe.Snapshot); err == nil {
			a, _ := o.account(rec)
			d = cmp.Or(a.took(tookAll), d)
		}
	}
	return d
}

// expected is how long a host is expected to take to be cloned, and then to be made ready, by the account of
// its last build or by the Spec; 0 if there is next to nothing to do.
func (o *observation) expected(h *hostPlan) (clone, ready time.Duration) {
	switch {
	case h.Action == ActionPowerOn, h.Action == ActionReset:
		return 0, expectBoot
	case !h.builds():
		return 0, 0
	}
	clone, ready = min(expectClone, h.role.Expect), h.role.Expect
	if rec, _, _, err := readySnapshot(h.info, h.role.Snapshot); err == nil {
		a, _ := o.account(rec)
		clone = cmp.Or(a.took(tookClone), clone)
		ready = cmp.Or(a.took(tookAll)-a.took(tookClone), ready)
	}
	return clone, ready
}

func rounds(n, atOnce int) int { return (n + atOnce - 1) / atOnce }

// fits returns an error if the plan cannot be done before end, when go test kills the process.
func (p *Plan) fits(now, end time.Time) error {
	left := end.Sub(now)
	if p.Expect <= left {
		return nil
	}
	need := (p.Expect + p.Expect/4).Round(time.Minute) + time.Minute
	return fmt.Errorf("set %q: needs about %s, but go test ends this process in %s; nothing was touched: "+
		"run go test with -timeout %s or more, plus the time of the tests, or with 0 for no limit",
		p.Set, round(p.Expect), round(max(left, 0)), need)
}
