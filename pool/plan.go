package pool

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// A Plan is what Open would do, and why. It has one line for every VM, made from one reading of the
// ledger and the inventory, and does not change.
type Plan struct {
	Set   string `json:"set"`
	Items []Item `json:"items"`
	// Expect is how long it will take, from the times of earlier builds in the ledger, or
	// from Golden.Expect and Role.Expect. In JSON it is in nanoseconds.
	Expect time.Duration `json:"expect"`
	// Concurrency is how much of it is done at once.
	Concurrency Concurrency `json:"concurrency"`

	goldens []*goldenPlan
	roles   [][]*hostPlan // of the pools that the Spec is about, by role
	pools   []*poolPlan   // that the Spec is about, by number
	builder *lease.Lease  // that of the process that builds the set now, or nil
}

// MakePlan returns what Open would do now, and why. It changes nothing.
func MakePlan(ctx context.Context, spec Spec) (*Plan, error) {
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	o, err := observe(ctx, s, newLedger(s))
	if err != nil {
		return nil, fmt.Errorf("pool: plan set %q: %w", s.Name, err)
	}
	p, err := o.plan(s, nil)
	if err != nil {
		return p, fmt.Errorf("pool: plan set %q: %w", s.Name, err)
	}
	return p, nil
}

// String is the plan as a table.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan for set %q", p.Set)
	if p.Expect > 0 {
		fmt.Fprintf(&b, " (about %s)", round(p.Expect))
	}
	b.WriteString(":\n")
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, i := range p.Items {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", i.VM, i.Action, i.Reason)
	}
	w.Flush()
	if p.Builds() {
		fmt.Fprintf(&b, "  %s\n", p.Concurrency)
	}
	return strings.TrimRight(b.String(), "\n")
}

// Builds reports whether the plan makes or remakes any VM.
func (p *Plan) Builds() bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool {
		return i.Action == ActionClone || i.Action == ActionRebuild || i.Action == ActionFinish
	})
}

// pool returns the plan of a pool that the Spec is about.
func (p *Plan) pool(n int) *poolPlan {
	i, _ := slices.BinarySearchFunc(p.pools, n, func(p *poolPlan, n int) int { return p.number - n })
	return p.pools[i]
}

// builds reports whether the plan needs the claim to build: a VM is made, or a pool has no shard.
func (p *Plan) builds() bool {
	return p.Builds() || slices.ContainsFunc(p.pools, func(q *poolPlan) bool { return q.state == lease.Absent })
}

// plan compares the Spec, with defaults filled in, to what was observed. force, if not nil, is what
// is rebuilt though it is ready. The plan is returned even if there is an error, if it could be
// made.
func (o *observation) plan(s Spec, force *RebuildOptions) (*Plan, error) {
	p := &Plan{Set: s.Name, Concurrency: s.gates.size(o.hypervisors())}
	var err error
	if p.builder, err = o.ledger.Claim(); err != nil {
		return nil, err
	}
	byName := map[string][]VMInfo{}
	for _, vm := range o.inv.VMs {
		byName[vm.Name] = append(byName[vm.Name], vm)
	}
	for _, recipe := range s.goldens() {
		datastores := s.datastores(recipe)
		for _, ds := range datastores {
			g := &goldenPlan{recipe: recipe, vm: recipe.VM, Item: &Item{Role: "golden"}}
			g.vm.Datastore, g.vm.Name = ds, goldenName(recipe, ds, datastores)
			g.decide(s, o, byName, force)
			p.goldens = append(p.goldens, g)
		}
	}
	for _, n := range s.numbers() {
		q := &poolPlan{number: n}
		if q.entry, err = o.ledger.Pool(n); err != nil {
			return nil, err
		}
		for _, r := range s.Roles {
			vm := s.vm(r, n)
			h := &hostPlan{role: r, vm: vm, Item: &Item{VM: vm.Name, Role: r.Name, Pool: n}}
			h.golden = p.goldens[slices.IndexFunc(p.goldens, func(g *goldenPlan) bool {
				return g.recipe.VM.Name == s.golden(r).VM.Name && g.vm.Datastore == vm.Datastore
			})]
			h.decide(s, o, q, byName[vm.Name], force)
			q.hosts = append(q.hosts, h)
		}
		if !o.ledger.Made(n) && p.builder == nil && q.isNew() && o.inv.Incomplete == "" {
			q.entry = lease.Entry{Stored: lease.Absent} // there is nothing that anybody could hold
		}
		q.state = q.entry.State(o.ledger.Now)
		if !q.state.Free() && q.state != lease.Absent {
			now := o.ledger.Now
			q.taken = &BusyError{n, q.state, publicLease(q.entry.Holder(now)), q.entry.Why(now)}
		}
		p.pools = append(p.pools, q)
	}
	p.shareAddrs()
	p.roles = make([][]*hostPlan, len(s.Roles))
	for _, q := range p.pools {
		for i, h := range q.hosts {
			p.roles[i] = append(p.roles[i], h)
		}
	}
	p.goldens = slices.DeleteFunc(p.goldens, func(g *goldenPlan) bool { return !p.uses(g) })
	p.list()
	p.Expect = p.expect(s, o)
	var missing []error
	for _, g := range p.goldens {
		if _, found := o.inv.Templates[g.recipe.Template]; !found && g.Action != ActionReuse {
			missing = append(missing, fmt.Errorf("template %q of %s does not exist (is the name or inventory path right, and may this user see it?)", g.recipe.Template, s.pathOf(g.recipe)))
		}
	}
	return p, errors.Join(missing...)
}

// shareAddrs finds hosts that report one address, of which none is used.
func (p *Plan) shareAddrs() {
	seen := map[netip.Addr]*hostPlan{}
	for _, q := range p.pools {
		for _, h := range q.hosts {
			a := h.info.addr(h.vm)
			if !a.IsValid() || !h.info.On {
				continue
			}
			if other := seen[a]; other != nil && len(other.info.Placement.Networks) > 0 && len(h.info.Placement.Networks) > 0 &&
				other.info.Placement.Networks[0] == h.info.Placement.Networks[0] {
				other.shared, h.shared = true, true
			}
			seen[a] = h
		}
	}
}

// uses reports whether a host is cloned from a golden.
func (p *Plan) uses(g *goldenPlan) bool {
	return slices.ContainsFunc(p.roles, func(hosts []*hostPlan) bool {
		return slices.ContainsFunc(hosts, func(h *hostPlan) bool { return h.golden == g })
	})
}

// list makes Items, in the order of the work.
func (p *Plan) list() {
	for _, g := range p.goldens {
		p.Items = append(p.Items, *g.Item)
		for _, old := range g.old {
			p.Items = append(p.Items, Item{VM: old.Name, Role: "golden", Action: ActionRemove, Reason: "an older generation; it goes when no clone depends on its disks"})
		}
	}
	for _, hosts := range p.roles {
		for _, h := range hosts {
			item := *h.Item
			if h.Action == ActionRebuild && h.info.foreignSnapshots() {
				item.Reason += "; the existing VM is kept under another name, since it has snapshots that poolready did not take"
			}
			if busy := p.pool(h.Pool).taken; busy != nil {
				item.Reason += "; its pool is " + busy.Why
			}
			p.Items = append(p.Items, item)
		}
	}
}

// creating returns the names of planned VMs that are still being created, by a call of a process
// that has ended.
func (p *Plan) creating() (names []string) {
	for _, g := range p.goldens {
		if g.info.Problem == BeingCreated {
			names = append(names, g.VM)
		}
	}
	for _, q := range p.pools {
		for _, h := range q.hosts {
			if h.info.Problem == BeingCreated {
				names = append(names, h.VM)
			}
		}
	}
	return names
}
