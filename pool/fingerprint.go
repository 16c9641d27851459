package pool

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A fingerprint is what a layer (golden or the VM of a role) was or should be built from: its
// parts, each a name and a hash, in order. It is kept in the record part by part, so that a
// plan can say which of them changed.
type fingerprint []part

// part is a [2]string so that a record's JSON stays short.
type part [2]string

func (f *fingerprint) add(name string, of ...string) { *f = append(*f, part{name, hash(of...)[:10]}) }

// sum is the fingerprint in one word.
func (f fingerprint) sum() string {
	var all []string
	for _, p := range f {
		all = append(all, p[0], p[1])
	}
	return hash(all...)
}

func (f *fingerprint) recipe(steps []Step, checks []Check) {
	for _, s := range steps {
		f.add(fmt.Sprintf("step %q", s.Name), s.Version)
	}
	for _, c := range checks {
		f.add(fmt.Sprintf("check %q", c.Name), c.Version, c.Want)
	}
}

func (f *fingerprint) vm(vm VM) {
	f.add("hardware", vm.Datastore, vm.ResourcePool,
		strconv.Itoa(vm.CPUs), strconv.Itoa(vm.MemoryMiB), strconv.Itoa(vm.DiskGiB))
	var nics []string
	for _, n := range vm.NICs {
		nics = append(nics, n.Network, strings.ToLower(n.MAC))
		if n.Unplugged {
			nics = append(nics, "unplugged")
		}
	}
	f.add("network interfaces", nics...)
	var env []string
	for k, v := range vm.Env {
		env = append(env, hash(k, v))
	}
	slices.Sort(env)
	f.add("parameters (VM.Env)", env...)
}

// print is the fingerprint of golden on a datastore. template is the template's identity.
func (g Golden) print(vm VM, template string) fingerprint {
	var f fingerprint
	f.add("template", g.Template, template)
	f.vm(vm)
	f.recipe(g.Steps, g.Checks)
	return f
}

// rolePrint is the fingerprint of a role's VM cloned from the golden of that build.
func (s Spec) rolePrint(r Role, vm VM, golden string) fingerprint {
	var f fingerprint
	f.add("golden", golden)
	f.vm(vm)
	if r.Ready == ReadyRunning { // ReadyOff is no part: VMs stay ready that were before there was a choice
		f.add("memory of the ready snapshot")
	}
	f.recipe(r.Steps, r.Checks)
	return f
}

// diff says in words what changed from old to f, or "" if nothing did.
func (f fingerprint) diff(old fingerprint) string {
	was := map[string]string{}
	for _, p := range old {
		was[p[0]] = p[1]
	}
	var words []string
	for _, p := range f {
		switch h, ok := was[p[0]]; {
		case !ok:
			words = append(words, p[0]+" is new")
		case h != p[1]:
			words = append(words, p[0]+" changed")
		}
		delete(was, p[0])
	}
	for _, p := range old {
		if _, ok := was[p[0]]; ok {
			words = append(words, p[0]+" is gone")
		}
	}
	if len(words) == 0 && !slices.Equal(f, old) {
		words = append(words, "steps or checks are in another order")
	}
	if len(words) > 3 {
		words = append(words[:3], fmt.Sprintf("%d more changes", len(words)-3))
	}
	return strings.Join(words, ", ")
}
