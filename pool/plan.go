package pool

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// An Action is what a plan does with one VM.
type Action string

// The actions, from none to most.
const (
	Reuse   Action = "reuse"    // it is ready and runs (golden: it is ready)
	PowerOn Action = "power on" // it is ready and off
	Reset   Action = "reset"    // it is ready, but wired otherwise than then, or off and then running
	Finish  Action = "finish"   // an interrupted golden: its steps are run again, on it
	Clone   Action = "clone"    // it is not there
	Rebuild Action = "rebuild"  // it is there and not, or no longer, what the Spec asks for
	Remove  Action = "remove"   // an older golden, as soon as no clone hangs on it
	Refuse  Action = "refuse"   // something that we did not make is in the way
)

// Work is a plan: what Open does, and why. It has one line for every VM, from one reading of
// the inventory.
type Work struct {
	Set   string
	Items []Item
	// Expect is how long it will take, from the times of earlier builds in the records, or
	// from Golden.Expect and Role.Expect.
	Expect time.Duration

	goldens []*goldenPlan
	hosts   [][]*hostPlan  // by role, then by pool
	taken   map[int]string // pools that somebody has, and who
	builder *tenure        // who builds the set now, if anybody does
}

// An Item is one line of a plan.
type Item struct {
	VM     string
	Role   string // "golden" or Role.Name
	Pool   int    // 0 for golden
	Action Action
	Reason string
}

func (i Item) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s: %s", i.VM, i.Action, i.Reason))
}

// String is the plan as a table.
func (p *Work) String() string {
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

// Builds tells whether the plan makes or remakes any VM.
func (p *Work) Builds() bool {
	return slices.ContainsFunc(p.Items, func(i Item) bool {
		return i.Action == Clone || i.Action == Rebuild || i.Action == Finish
	})
}

// goldenPlan is one golden: there is one of each recipe on each datastore that its roles use.
type goldenPlan struct {
	*Item
	recipe Golden
	layer  string // "golden/<name of the first generation>"
	vm     VM     // with the generation's name
	print  fingerprint
	from   string // for the owner's mark
	info   VMInfo // of the VM to reuse or finish
	snap   string // the ready snapshot's ID, when reused
	rec    record // its record
	old    []VMInfo
}

// hostPlan is one VM of a pool.
type hostPlan struct {
	*Item
	role   Role
	vm     VM
	golden *goldenPlan
	info   VMInfo // of the VM that is there, if any
	snap   string // the ready snapshot's ID
	rec    record // of the ready snapshot, when reused or powered on
	idle   bool   // its pool is not in Spec.Only: it has no Action
}

func (h *hostPlan) builds() bool { return h.Action == Clone || h.Action == Rebuild }

// ready tells whether the VM has the snapshot that the Spec asks for.
func (h *hostPlan) ready() bool {
	return h.Action == Reuse || h.Action == PowerOn || h.Action == Reset
}

// isIdle tells whether no pool in use hangs on a golden.
func (p *Work) isIdle(g *goldenPlan) bool {
	for _, hosts := range p.hosts {
		if slices.ContainsFunc(hosts, func(h *hostPlan) bool { return h.golden == g && !h.idle }) {
			return false
		}
	}
	return true
}

// makePlan compares the Spec, with defaults filled in, to an inventory.
func makePlan(s Spec, inv *Inventory, now time.Time) (*Work, error) {
	p := &Work{Set: s.Name}
	byName := map[string][]VMInfo{}
	for _, vm := range inv.VMs {
		byName[vm.Name] = append(byName[vm.Name], vm)
	}
	for _, recipe := range s.goldens() {
		datastores := s.datastores(recipe)
		for _, ds := range datastores {
			g := &goldenPlan{recipe: recipe, vm: recipe.VM, Item: &Item{Role: "golden"}}
			g.vm.Datastore, g.vm.Name = ds, goldenName(recipe, ds, datastores)
			planGolden(s, g, inv, byName, now)
			p.goldens = append(p.goldens, g)
		}
	}
	for _, r := range s.Roles {
		var hosts []*hostPlan
		for n := 1; n <= s.Pools; n++ {
			vm := s.vm(r, n)
			h := &hostPlan{role: r, vm: vm, Item: &Item{VM: vm.Name, Role: r.Name, Pool: n}, idle: !s.uses(n)}
			h.golden = p.goldens[slices.IndexFunc(p.goldens, func(g *goldenPlan) bool {
				return g.recipe.VM.Name == s.golden(r).VM.Name && g.vm.Datastore == vm.Datastore
			})]
			hosts = append(hosts, h)
			if !h.idle {
				planHost(s, h, byName[vm.Name], p.hosts)
			}
		}
		p.hosts = append(p.hosts, hosts)
	}
	p.goldens = slices.DeleteFunc(p.goldens, p.isIdle)
	p.list()
	p.Expect = p.expect(s)
	var missing []error
	for _, g := range p.goldens {
		if _, found := inv.Templates[g.recipe.Template]; !found && g.Action != Reuse {
			missing = append(missing, fmt.Errorf("template %q of %s does not exist (is the name or inventory path right, and may this user see it?)", g.recipe.Template, s.pathOf(g.recipe)))
		}
	}
	return p, errors.Join(missing...)
}

// datastores returns those that the roles of a golden use, sorted. "" is the provider's default.
func (s Spec) datastores(golden Golden) []string {
	var all []string
	for _, r := range s.Roles {
		if s.golden(r).VM.Name != golden.VM.Name {
			continue
		}
		for n := 1; n <= s.Pools; n++ {
			all = append(all, s.vm(r, n).Datastore)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// goldenName is the name of the golden, of its first generation, on one of the datastores that its
// roles use.
func goldenName(g Golden, datastore string, all []string) string {
	if len(all) < 2 {
		return g.VM.Name
	}
	return g.VM.Name + "-" + slug(datastore)
}

// slug makes a datastore's name or path fit for a VM's name.
func slug(datastore string) string {
	low := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(path.Base("/"+datastore)))
	return or(strings.Trim(low, "-"), "default")
}

// planGolden chooses, among the generations that are there, the one to reuse or to finish, or
// names the next one.
func planGolden(s Spec, g *goldenPlan, inv *Inventory, byName map[string][]VMInfo, now time.Time) {
	base := g.vm.Name
	template, found := inv.Templates[g.recipe.Template]
	g.layer = "golden/" + base
	g.print = g.recipe.print(g.vm, template)
	g.from = hash(g.recipe.Template, template, fmt.Sprint(g.print[1]))
	g.Action, g.Reason = Clone, "is not there"
	var mine []VMInfo
	for _, vm := range inv.VMs {
		if o, ok := ours(s.Name, vm); ok && o.Layer == g.layer {
			mine = append(mine, vm)
		}
	}
	// The newest generation first: it is the one to reuse, and tells best why none is reused.
	slices.SortFunc(mine, func(a, b VMInfo) int { return generation(base, b.Name) - generation(base, a.Name) })
	chosen := -1
	for i, vm := range mine {
		action, reason, rec, snap := judgeGolden(s, g, vm, found, now)
		if i == 0 || action == Reuse || g.Action == Rebuild && action != Rebuild {
			g.Action, g.Reason, g.rec, g.snap, g.info = action, reason, rec, snap, vm
			if action != Rebuild {
				chosen = i
			}
		}
		if action == Reuse {
			break
		}
	}
	for i, vm := range mine {
		if i != chosen {
			g.old = append(g.old, vm)
		}
	}
	if chosen >= 0 {
		g.vm.Name = g.info.Name // refused, too: it is what stands in the way
	} else {
		if len(mine) > 0 {
			g.vm.Name = fmt.Sprintf("%s-g%d", base, generation(base, mine[0].Name)+1)
		}
		if taken := byName[g.vm.Name]; len(taken) > 0 {
			g.Action, g.Reason = Refuse, inTheWay(taken[0])
		}
	}
	g.VM = g.vm.Name
}

// generation is 1 for the base name and n for "<base>-g<n>".
func generation(base, name string) int {
	n := 1
	if rest, ok := strings.CutPrefix(name, base+"-g"); ok {
		if g, err := strconv.Atoi(rest); err == nil {
			n = g
		}
	}
	return n
}

func judgeGolden(s Spec, g *goldenPlan, vm VMInfo, templateFound bool, now time.Time) (Action, string, record, string) {
	o, _ := parseOwner(vm.Owner)
	rec, snap, why, err := readySnapshot(vm, g.recipe.Snapshot)
	switch {
	case vm.Problem != "":
		return Rebuild, "the hypervisor says: " + vm.Problem, record{}, ""
	case errors.Is(err, errUnfinished) && len(vm.Snapshots) == 0 && o.From == g.from:
		return Finish, "was left unfinished", record{}, ""
	case errors.Is(err, errOtherForm):
		return Refuse, why, record{}, ""
	case err != nil:
		return Rebuild, why, record{}, ""
	case s.again.has("golden"):
		return Rebuild, asked, record{}, ""
	}
	print := g.print
	note := ""
	if !templateFound { // golden outlives its template
		print = slices.Clone(print)
		if len(rec.Parts) > 0 {
			print[0] = rec.Parts[0]
		}
		note = fmt.Sprintf("; template %q is gone and was not compared", g.recipe.Template)
	}
	if d := print.diff(rec.Parts); d != "" {
		return Rebuild, d, record{}, ""
	}
	age := now.Sub(rec.At)
	if g.recipe.MaxAge > 0 && age > g.recipe.MaxAge {
		return Rebuild, fmt.Sprintf("is %s old, more than MaxAge %s", round(age), g.recipe.MaxAge), record{}, ""
	}
	return Reuse, fmt.Sprintf("ready since %s%s", stamp(rec.At), note), rec, snap
}

func planHost(s Spec, h *hostPlan, there []VMInfo, earlier [][]*hostPlan) {
	set := func(a Action, format string, args ...any) { h.Action, h.Reason = a, fmt.Sprintf(format, args...) }
	if len(there) == 0 {
		set(Clone, "is not there")
		return
	}
	h.info = there[0]
	if o, ok := ours(s.Name, h.info); len(there) > 1 || !ok || o.Layer != h.role.Name {
		set(Refuse, "%s", inTheWay(there...))
		return
	}
	rec, snap, why, err := readySnapshot(h.info, h.role.Snapshot)
	switch {
	case h.info.Problem != "":
		set(Refuse, "the hypervisor says: %s; mend or remove it", h.info.Problem)
	case errors.Is(err, errForeign), errors.Is(err, errOtherForm):
		set(Refuse, "%s", why)
	case err != nil:
		set(Rebuild, "%s", why)
	case s.again.has(h.role.Name):
		set(Rebuild, "%s", asked)
	case h.golden.Action != Reuse:
		set(Rebuild, "%s is built anew", h.golden.vm.Name)
	default:
		if d := s.rolePrint(h.role, h.vm, h.golden.rec.Build).diff(rec.Parts); d != "" {
			set(Rebuild, "%s", strings.Replace(d, "golden changed", "was cloned from an earlier golden", 1))
			break
		}
		if why := partners(s, h, rec, earlier); why != "" {
			set(Rebuild, "%s", why)
			break
		}
		if why := h.stateOf(rec, snap); why != "" {
			set(Rebuild, "%s", why)
			break
		}
		h.rec, h.snap = rec, snap
		switch set(Reuse, "ready since %s", stamp(rec.At)); {
		case rewired(h.vm, h.info) != "":
			set(Reset, "%s", rewired(h.vm, h.info))
		case h.info.On:
		case rec.Boot != "":
			set(Reset, "is off, and runs when ready; ready since %s", stamp(rec.At))
		default:
			set(PowerOn, "is off; ready since %s", stamp(rec.At))
		}
	}
}

// stateOf says why the ready snapshot is not of the state that the role asks for, or "". Its
// fingerprint says that it is; but a VM may have stopped while its snapshot was taken.
func (h *hostPlan) stateOf(rec record, id string) string {
	i := slices.IndexFunc(h.info.Snapshots, func(s Snapshot) bool { return s.ID == id })
	running := h.role.Ready == Running
	switch {
	case running && (!h.info.Snapshots[i].Running || rec.Boot == ""):
		return "its ready snapshot lacks the VM's memory"
	case !running && h.info.Snapshots[i].Running:
		return "its ready snapshot is of a VM that ran"
	}
	return ""
}

// partners says why h does not belong together with the hosts that it needs, or "".
func partners(s Spec, h *hostPlan, rec record, earlier [][]*hostPlan) string {
	for _, need := range h.role.Needs {
		i := slices.IndexFunc(s.Roles, func(r Role) bool { return r.Name == need.Role })
		of := earlier[i][h.Pool-1]
		switch {
		case !of.ready():
			return fmt.Sprintf("%s, which it needs, is built anew", of.VM)
		case rec.Needs[need.Role] != of.rec.Build:
			return fmt.Sprintf("was made ready with an earlier %s", of.VM)
		}
	}
	return ""
}

var (
	errUnfinished = errors.New("no ready snapshot")
	errForeign    = errors.New("the ready snapshot is not ours")
)

// readySnapshot finds the one snapshot that makes vm ready, or says why there is none.
func readySnapshot(vm VMInfo, name string) (rec record, id, why string, err error) {
	var exact []Snapshot
	var others []string
	for _, snap := range vm.Snapshots {
		if snap.Name == name {
			exact = append(exact, snap)
		} else {
			others = append(others, fmt.Sprintf("%q", snap.Name))
		}
	}
	switch {
	case len(exact) == 0 && len(others) > 0:
		return rec, "", fmt.Sprintf("has no snapshot %q (but %s)", name, strings.Join(others, ", ")), errUnfinished
	case len(exact) == 0:
		return rec, "", fmt.Sprintf("has no snapshot %q", name), errUnfinished
	case len(exact) > 1:
		return rec, "", fmt.Sprintf("has %d snapshots %q", len(exact), name), errUnfinished
	}
	rec, err = decodeRecord(exact[0].Record)
	switch {
	case errors.Is(err, errNoRecord):
		return rec, "", fmt.Sprintf("snapshot %q on it was not taken by poolready; rename or remove the snapshot", name), errForeign
	case err != nil:
		return rec, "", fmt.Sprintf("snapshot %q: %v", name, err), err
	case rec.VM != vm.Name:
		return rec, "", fmt.Sprintf("snapshot %q is that of %q", name, rec.VM), errUnfinished
	}
	return rec, exact[0].ID, "", nil
}

// foreignSnapshots tells whether there are any that we did not take: then the VM is renamed, and
// not destroyed.
func (vm VMInfo) foreignSnapshots() bool {
	return slices.ContainsFunc(vm.Snapshots, func(s Snapshot) bool {
		_, err := decodeRecord(s.Record)
		return errors.Is(err, errNoRecord)
	})
}

func inTheWay(there ...VMInfo) string {
	if len(there) > 1 {
		return fmt.Sprintf("%d VMs in the set's folder have this name; rename or remove those that are not the pool's", len(there))
	}
	if there[0].Owner == "" {
		return "a VM of this name is there that poolready did not make; rename or remove it"
	}
	return fmt.Sprintf("a VM of this name is there, made as %q; rename or remove it", there[0].Owner)
}

// list fills Items, in the order of the work.
func (p *Work) list() {
	p.Items = nil
	for _, g := range p.goldens {
		p.Items = append(p.Items, *g.Item)
		for _, old := range g.old {
			p.Items = append(p.Items, Item{VM: old.Name, Role: "golden", Action: Remove, Reason: "an older generation; goes when no clone hangs on it"})
		}
	}
	for _, hosts := range p.hosts {
		for _, h := range hosts {
			if h.idle {
				continue
			}
			item := *h.Item
			if h.Action == Rebuild && h.info.foreignSnapshots() {
				item.Reason += "; the VM that is there is kept under another name, since it has snapshots that poolready did not take"
			}
			if why := p.taken[h.Pool]; why != "" {
				item.Reason += "; its pool is " + why
			}
			p.Items = append(p.Items, item)
		}
	}
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
