package pool

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// goldenPlan is the plan of one golden: there is one of each recipe on each datastore that its
// roles use.
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

// decide chooses, among the existing generations, the one to reuse or to finish, or names the next
// one.
func (g *goldenPlan) decide(s Spec, o *observation, byName map[string][]VMInfo, force *RebuildOptions) {
	base := g.vm.Name
	template, found := o.inv.Templates[g.recipe.Template]
	g.layer = goldenLayer + base
	g.print = g.recipe.print(s.Name, g.vm, template)
	g.from = hash(g.recipe.Template, template, fmt.Sprint(g.print.part("hardware")))
	g.Action, g.Reason = ActionClone, "does not exist"
	var mine []VMInfo
	for _, vm := range o.inv.VMs {
		if owner, ok := ours(s.Name, vm); ok && owner.Layer == g.layer {
			mine = append(mine, vm)
		}
	}
	// The newest generation first: it is the one to reuse, and tells best why none is reused.
	slices.SortFunc(mine, func(a, b VMInfo) int { return generation(base, b.Name) - generation(base, a.Name) })
	chosen := -1
	for i, vm := range mine {
		action, reason, rec, snap := g.judge(vm, o, base, found, force)
		if i == 0 || action == ActionReuse || g.Action == ActionRebuild && action != ActionRebuild {
			g.Action, g.Reason, g.rec, g.snap, g.info = action, reason, rec, snap, vm
			if action != ActionRebuild {
				chosen = i
			}
		}
		if action == ActionReuse {
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
			g.info = taken[0]
			g.Action, g.Reason = ActionRefuse, inTheWay(taken...)
		}
	}
	g.VM = g.vm.Name
}

// judge says what can be done with one generation, and why.
func (g *goldenPlan) judge(vm VMInfo, o *observation, base string, templateFound bool, force *RebuildOptions) (Action, string, record, string) {
	mark, _ := parseOwner(vm.Owner)
	rec, snap, why, err := readySnapshot(vm, g.recipe.Snapshot)
	switch {
	case vm.Problem != "":
		return ActionRebuild, "the hypervisor says: " + vm.Problem, record{}, ""
	case errors.Is(err, errUnfinished) && len(vm.Snapshots) == 0 && mark.From == g.from:
		return ActionFinish, "was left unfinished", record{}, ""
	case errors.Is(err, errOtherForm), errors.Is(err, errCutRecord): // the next one would be cut, too
		return ActionRefuse, why, record{}, ""
	case err != nil:
		return ActionRebuild, why, record{}, ""
	case force.includes("golden"):
		return ActionRebuild, requested, record{}, ""
	}
	note, d := "", ""
	if templateFound {
		d = o.changed(g.print, rec)
	} else { // golden outlives its template
		d = o.changedWithout(g.print, rec)
		note = fmt.Sprintf("; template %q is gone and was not compared", g.recipe.Template)
	}
	if d != "" {
		return ActionRebuild, d, record{}, ""
	}
	// Linked clones lie where golden's disks are, which somebody may have moved.
	if d := o.misplaced(vm, base); d != "" {
		return ActionRebuild, d, record{}, ""
	}
	age := o.at.Sub(rec.At.Time)
	if g.recipe.MaxAge > 0 && age > g.recipe.MaxAge {
		return ActionRebuild, fmt.Sprintf("is %s old, more than MaxAge %s", round(age), g.recipe.MaxAge), record{}, ""
	}
	return ActionReuse, fmt.Sprintf("ready since %s%s", stamp(rec.At.Time), note), rec, snap
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
