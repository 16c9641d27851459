package pool

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

// observation is one reading of the ledger and then, since VMs are not changed without a lease that
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
	o := &observation{snapshot, inv, s.places(ctx), time.Now()}
	s.gates.size(o.hypervisors())
	return o, nil
}

// hypervisors counts the hosts of the hypervisor that can run any of the set's VMs; 0 is not known.
func (o *observation) hypervisors() int {
	all := map[string]bool{}
	for _, p := range o.places {
		for _, h := range p.Hosts {
			all[h] = true
		}
	}
	return len(all)
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
	return cmp.Or(strings.Trim(low, "-"), "default")
}

// inTheWay says why the VMs that have a name cannot be used, and what to do.
func inTheWay(existing ...VMInfo) string {
	if len(existing) > 1 {
		var all []string
		for _, vm := range existing {
			all = append(all, vm.path()+vm.whose())
		}
		return fmt.Sprintf("%d VMs in the set's folder have this name: %s; rename, move or remove those that are not the pool's",
			len(existing), strings.Join(all, " and "))
	}
	vm := existing[0]
	switch {
	case vm.CopyOf != "":
		return fmt.Sprintf("%s is a copy of a VM that poolready made, or made by an earlier version; rename, move or remove it", vm.path())
	case vm.Owner == "":
		return "a VM of this name exists that poolready did not make; rename or remove it"
	}
	return fmt.Sprintf("a VM of this name exists, made as %q; rename or remove it", vm.Owner)
}

// path is that of the VM below the set's folder.
func (vm VMInfo) path() string { return path.Join(vm.Folder, vm.Name) }

// whose says what is known of who made the VM.
func (vm VMInfo) whose() string {
	switch {
	case vm.CopyOf != "":
		return " (a copy)"
	case vm.Owner == "":
		return " (not made by poolready)"
	}
	return ""
}
