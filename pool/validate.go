package pool

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// faults collects everything that is wrong with a Spec, each with its path.
type faults []error

func (f *faults) addf(path, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func (f *faults) name(path, name string, most int) {
	switch {
	case name == "":
		f.addf(path, "is required")
	case len(name) > most:
		f.addf(path, "%q has %d characters, at most %d are allowed", name, len(name), most)
	case !nameForm.MatchString(name):
		f.addf(path, "%q must be made of a-z, 0-9 and \"-\"", name)
	}
}

func (f *faults) notNegative(path string, v int64) {
	if v < 0 {
		f.addf(path, "is %d, must not be negative", v)
	}
}

// validate reports every fault of s at once.
func (s Spec) validate() error {
	var f faults
	f.name("Spec.Name", s.Name, 40)
	if s.Provider == nil {
		f.addf("Spec.Provider", "is required (vsphere.New makes one)")
	}
	f.notNegative("Spec.Pools", int64(s.Pools))
	f.notNegative("Spec.MinPools", int64(s.MinPools))
	s.validateOnly(&f)
	if most := s.withDefaults().numbers(); s.MinPools > len(most) && len(most) > 0 {
		f.addf("Spec.MinPools", "is %d, more than the %d in Spec.Pools and Spec.Only", s.MinPools, len(most))
	}
	f.notNegative("Spec.Limits.Clones", int64(s.Limits.Clones))
	f.notNegative("Spec.Limits.Hosts", int64(s.Limits.Hosts))
	f.notNegative("Spec.Limits.Checks", int64(s.Limits.Checks))
	f.notNegative("Spec.Limits.Boot", int64(s.Limits.Boot))
	f.notNegative("Spec.Limits.Shutdown", int64(s.Limits.Shutdown))
	s.Keep.validate(&f)
	for kind, clean := range s.Cleanups {
		if kind == "" || clean == nil {
			f.addf("Spec.Cleanups", "%q: kind and function are required", kind)
		}
	}
	f.notNegative("Spec.Limits.Lease", int64(s.Limits.Lease))
	if len(s.SSH.Keys) == 0 && s.SSH.Agent == "" {
		f.addf("Spec.SSH.Keys", "is empty, and there is no Agent: no way to log in")
	}
	if k := s.SSH.HostKeys; len(k.Pinned)+len(k.Authorities) == 0 && k.KnownHosts == "" && !k.TrustFirst && !k.InsecureIgnore {
		f.addf("Spec.SSH.HostKeys", "trusts no key, so that no new golden is let in")
	}
	f.golden("Spec.Golden", s.Golden)
	s.validateRoles(&f)
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("invalid spec:\n%w", errors.Join(f...))
}

func (f *faults) golden(path string, g Golden) {
	if g.Template == "" {
		f.addf(path+".Template", "is required")
	}
	f.notNegative(path+".MaxAge", int64(g.MaxAge))
	f.notNegative(path+".Expect", int64(g.Expect))
	f.vm(path+".VM", g.VM, 40) // leaves room for "-<datastore>" and "-g<generation>"
	for i, nic := range g.VM.NICs {
		if nic.Unplugged {
			f.addf(fmt.Sprintf("%s.VM.NICs[%d].Unplugged", path, i), "is for roles")
		}
	}
	f.steps(path, g.Steps, g.Checks)
}

// pathOf is where in the Spec a golden is.
func (s Spec) pathOf(g Golden) string {
	for i, r := range s.Roles {
		if r.Golden != nil && r.Golden.VM.Name == g.VM.Name {
			return fmt.Sprintf("Spec.Roles[%d] (%q).Golden", i, r.Name)
		}
	}
	return "Spec.Golden"
}

func (s Spec) validateRoles(f *faults) {
	if len(s.Roles) == 0 {
		f.addf("Spec.Roles", "is empty: a pool needs at least one role")
	}
	seen := map[string]int{}
	goldens := map[*Golden]bool{}                                   // of roles
	owners := map[string]string{s.Golden.VM.Name: "Spec.Golden.VM"} // VM names and MACs
	for _, nic := range s.Golden.VM.NICs {
		owners[strings.ToLower(nic.MAC)] = "Spec.Golden.VM"
	}
	for i, r := range s.Roles {
		path := fmt.Sprintf("Spec.Roles[%d] (%q)", i, r.Name)
		f.name(path+": Name", r.Name, 20)
		if r.Name == "golden" {
			f.addf(path+": Name", "%q is the name of what roles are cloned from", r.Name)
		}
		if j, ok := seen[r.Name]; ok && r.Name != "" {
			f.addf(path, "has the name of Spec.Roles[%d]", j)
		} else {
			seen[r.Name] = i
		}
		f.notNegative(path+": Expect", int64(r.Expect))
		if g := r.Golden; g != nil && !goldens[g] {
			goldens[g] = true
			f.golden(path+".Golden", *g)
			f.unique(owners, path+".Golden.VM", "Name", g.VM.Name)
			for _, nic := range g.VM.NICs {
				f.unique(owners, path+".Golden.VM", "MAC", strings.ToLower(nic.MAC))
			}
		}
		if r.Ready != "" && r.Ready != Off && r.Ready != Running {
			f.addf(path+": Ready", "is %q; it must be %q or %q", r.Ready, Off, Running)
		}
		f.steps(path, r.Steps, r.Checks)
		f.checks(path, "AfterReset", r.AfterReset)
		for j, n := range r.Needs {
			at := fmt.Sprintf("%s: Needs[%d] (%q)", path, j, n.Name)
			if k, ok := seen[n.Role]; !ok || k >= i {
				f.addf(at, "role %q is not an earlier role%s", n.Role, s.earlier(i))
			}
			if n.Name == "" {
				f.addf(at, "Name is required")
			}
			if n.Do == nil {
				f.addf(at, "Do is required")
			}
			f.notNegative(at+": Timeout", int64(n.Timeout))
		}
		if r.VM == nil {
			f.addf(path, "VM is required")
			continue
		}
		for n := 1; n <= max(s.Pools, 1); n++ {
			vm, at := s.vm(r, n), fmt.Sprintf("%s: VM(%d)", path, n)
			f.vm(at, vm, 63)
			if vm.DiskGiB != 0 {
				f.addf(at+".DiskGiB", "is %d: a linked clone's disk cannot grow; set Spec.Golden.VM.DiskGiB", vm.DiskGiB)
			}
			f.unique(owners, at, "Name", vm.Name)
			s.validateUnplugged(f, at, vm)
			for _, nic := range vm.NICs {
				f.unique(owners, at, "MAC", strings.ToLower(nic.MAC))
			}
		}
	}
	s.validateGoldens(f, owners)
}

// validateGoldens looks at the names of goldens of which there are several, one on each datastore.
func (s Spec) validateGoldens(f *faults, owners map[string]string) {
	if slices.ContainsFunc(s.Roles, func(r Role) bool { return r.VM == nil }) {
		return
	}
	const most = 76 // of vCenter's 80, for "-g<generation>"
	for _, g := range s.goldens() {
		all := s.datastores(g)
		if len(all) < 2 {
			continue
		}
		for _, ds := range all {
			name, at := goldenName(g, ds, all), fmt.Sprintf("%s.VM: golden on datastore %q", s.pathOf(g), ds)
			if len(name) > most {
				f.addf(at, "its name would have %d characters, at most %d are allowed", len(name), most)
			}
			f.unique(owners, at, "Name", name)
		}
	}
}

func (s Spec) earlier(i int) string {
	if i == 0 {
		return "; the first role can need none"
	}
	var names []string
	for _, r := range s.Roles[:i] {
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	return "; those are " + strings.Join(names, ", ")
}

func (f *faults) unique(owners map[string]string, at, what, value string) {
	if value == "" {
		return
	}
	if other, ok := owners[value]; ok {
		f.addf(at, "%s %q is that of %s", what, value, other)
		return
	}
	owners[value] = at
}

func (f *faults) vm(path string, vm VM, most int) {
	f.name(path+".Name", vm.Name, most)
	f.notNegative(path+".CPUs", int64(vm.CPUs))
	f.notNegative(path+".MemoryMiB", int64(vm.MemoryMiB))
	f.notNegative(path+".DiskGiB", int64(vm.DiskGiB))
	if strings.HasPrefix(vm.Folder, "/") || strings.Contains("/"+vm.Folder+"/", "/../") {
		f.addf(path+".Folder", "%q must be below the set's folder", vm.Folder)
	}
	for i, nic := range vm.NICs {
		if nic.MAC == "" {
			continue
		}
		if mac, err := net.ParseMAC(nic.MAC); err != nil || len(mac) != 6 || mac.String() != strings.ToLower(nic.MAC) {
			f.addf(fmt.Sprintf("%s.NICs[%d].MAC", path, i), "%q is not of the form 00:50:56:00:01:02", nic.MAC)
		}
	}
	for k := range vm.Env {
		if !envForm.MatchString(k) {
			f.addf(path+".Env", "%q is not a name for an environment variable", k)
		}
	}
}

func (f *faults) steps(path string, steps []Step, checks []Check) {
	seen := map[string]bool{}
	for i, s := range steps {
		f.part(seen, path, "Steps", i, s.Name, s.Version, s.Timeout, s.Do == nil)
		if s.fault != nil {
			f.addf(fmt.Sprintf("%s: Steps[%d] (%q)", path, i, s.Name), "%v", s.fault)
		}
	}
	f.checks(path, "Checks", checks)
}

func (f *faults) checks(path, kind string, checks []Check) {
	seen := map[string]bool{}
	for i, c := range checks {
		f.part(seen, path, kind, i, c.Name, c.Version, c.Timeout, c.Do == nil)
	}
}

// part looks at what steps and checks have in common.
func (f *faults) part(seen map[string]bool, path, kind string, i int, name, version string, timeout time.Duration, noDo bool) {
	at := fmt.Sprintf("%s: %s[%d] (%q)", path, kind, i, name)
	if name == "" {
		f.addf(at, "Name is required")
	} else if seen[name] {
		f.addf(at, "has the name of an earlier one")
	}
	seen[name] = true
	if noDo {
		f.addf(at, "Do is required")
	}
	if version == "" {
		f.addf(at, "Version is required: a function cannot be hashed (pool.Script and the like set it)")
	}
	f.notNegative(at+": Timeout", int64(timeout))
}
