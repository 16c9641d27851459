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

// An Action is what a plan does with one VM.
type Action string

// The actions, from none to most.
const (
	ActionReuse   Action = "reuse"    // it is ready and on (golden: it is ready)
	ActionPowerOn Action = "power on" // it is ready and off
	ActionReset   Action = "reset"    // it is ready, but a NIC is connected differently, or it must run and is off
	ActionFinish  Action = "finish"   // an interrupted golden: its steps are run again, on it
	ActionClone   Action = "clone"    // it does not exist
	ActionRebuild Action = "rebuild"  // it exists and is not, or no longer, what the Spec asks for
	ActionRemove  Action = "remove"   // an older golden, as soon as no clone depends on it
	ActionRefuse  Action = "refuse"   // something that we did not make is in the way
)

// A Plan is what Open would do, and why. It has one line for every VM, made from one reading of the
// ledger and the inventory, and does not change.
type Plan struct {
	Set   string `json:"set"`
	Items []Item `json:"items"`
	// Expect is how long it will take, from the times of earlier builds in the ledger, or
	// from Golden.Expect and Role.Expect. In JSON it is in nanoseconds.
	Expect time.Duration `json:"expect"`

	goldens []*goldenPlan
	roles   [][]*hostPlan // of the pools that the Spec is about, by role
	pools   []*poolPlan   // that the Spec is about, by number
	builder *lease.Lease  // whoever builds the set now, or nil
}

// An Item is one line of a plan.
type Item struct {
	VM     string `json:"vm"`
	Role   string `json:"role"` // "golden" or Role.Name
	Pool   int    `json:"pool"` // 0 for golden
	Action Action `json:"action"`
	Reason string `json:"reason"`
}

func (i Item) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s: %s", i.VM, i.Action, i.Reason))
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
	return strings.TrimRight(b.String(), "\n")
}

// Builds reports whether the plan makes or remakes any VM.
func (p *Plan) Builds() bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool {
		return i.Action == ActionClone || i.Action == ActionRebuild || i.Action == ActionFinish
	})
}

// A poolPlan is what a plan knows of one pool.
type poolPlan struct {
	number int
	state  lease.State
	entry  lease.Entry
	taken  *BusyError  // why nobody else may have it now, or nil
	hosts  []*hostPlan // in the order of roles
}

// works reports whether there is anything to do for the pool that only its holder may do: what is
// not reused as it is, and the first shard of a pool that has none.
func (q *poolPlan) works() bool {
	return q.state == lease.Absent || slices.ContainsFunc(q.hosts, func(h *hostPlan) bool { return h.Action != ActionReuse })
}

// isNew reports whether no VM of the pool exists, so that nobody can hold it.
func (q *poolPlan) isNew() bool {
	return !slices.ContainsFunc(q.hosts, func(h *hostPlan) bool { return h.info.ID != "" })
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

// observation is one reading of the ledger and then, since nobody changes VMs without a lease that
// is written there before, of the inventory.
type observation struct {
	ledger *lease.Snapshot
	inv    *Inventory
	places map[string]Placement // by VM name, where the Spec wants the VM; nil if that cannot be said
	at     time.Time
}

func observe(ctx context.Context, s Spec, l *lease.Ledger) (*observation, error) {
	ctx = notices(ctx, newProgress(s.Logf).notice)
	snapshot, err := l.Read(ctx)
	if err != nil {
		return nil, err
	}
	var templates []string
	for _, g := range s.goldens() {
		templates = append(templates, g.Template)
	}
	inv, err := s.Provider.Inventory(ctx, s.Name, templates...)
	if err != nil {
		return nil, err
	}
	return &observation{snapshot, inv, s.places(ctx), time.Now()}, nil
}

// places returns where the Spec wants its VMs, with the Provider's defaults resolved. If a place does
// not exist, Preflight says so before anything is touched.
func (s Spec) places(ctx context.Context) map[string]Placement {
	var vms []VM
	for _, g := range s.goldens() {
		all := s.datastores(g)
		for _, ds := range all {
			vm := g.VM
			vm.Datastore, vm.Name = ds, goldenName(g, ds, all)
			vms = append(vms, vm)
		}
	}
	for _, r := range s.Roles {
		for _, n := range s.numbers() {
			vms = append(vms, s.vm(r, n))
		}
	}
	if len(vms) == 0 {
		return nil
	}
	places, err := s.Provider.Place(ctx, vms...)
	if err != nil || len(places) != len(vms) {
		return nil
	}
	all := map[string]Placement{}
	for i, vm := range vms {
		all[vm.Name] = places[i]
	}
	return all
}

// misplaced says how a VM is not where the Spec wants the one of a name, or returns "".
func (o *observation) misplaced(vm VMInfo, name string) string {
	want, ok := o.places[name]
	if !ok {
		return ""
	}
	return vm.Placement.Differs(want)
}

// plan compares the Spec, with defaults filled in, to what was observed. force, if not nil, is what
// is rebuilt though it is ready. The plan is returned even if there is an error, if it could be
// made.
func (o *observation) plan(s Spec, force *RebuildOptions) (*Plan, error) {
	p := &Plan{Set: s.Name}
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

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// round makes a duration readable: three digits at most.
func round(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	default:
		return d.Round(time.Second)
	}
}
