package pool

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx"
)

// The most that vSphere 8 gives one VM, and the most pools of a set.
const (
	maxPools     = 1000
	maxCPUs      = 768
	maxMemoryMiB = 24 << 20
	maxDiskGiB   = 62 << 10
	maxNICs      = 10
	maxName      = 80 // characters of a folder's or snapshot's name
)

// validate returns every fault of s at once, as an ErrInvalidSpec; each begins with its path.
func (s Spec) validate() error {
	var f faults
	f.name("Spec.Name", s.Name, 40)
	if v := reflect.ValueOf(s.Provider); !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		f.addf("Spec.Provider", "is required (vsphere.New makes one)")
	}
	f.number("Spec.Pools", s.Pools, maxPools)
	f.number("Spec.MinPools", s.MinPools, maxPools)
	s.validateOnly(&f)
	if s.Pools <= maxPools {
		all := s.withDefaults().numbers()
		if s.MinPools > len(all) && len(all) > 0 {
			f.addf("Spec.MinPools", "is %d, more than the %d in Spec.Pools and Spec.Only",
				s.MinPools, len(all))
		}
	}
	f.limits("Spec.Limits", s.Limits)
	s.Keep.validate(&f)
	s.Evidence.validate(&f)
	for _, kind := range slices.Sorted(maps.Keys(s.Cleanups)) {
		at := fmt.Sprintf("Spec.Cleanups[%q]", kind)
		if kind == "" {
			f.addf(at, "the kind is required")
		}
		f.text(at, kind)
		if s.Cleanups[kind] == nil {
			f.addf(at, "the function is required")
		}
	}
	f.ssh(s.SSH)
	if s.Facts != "" {
		f.script("Spec.Facts", s.Facts)
	}
	f.golden("Spec.Golden", s.Golden)
	s.validateRoles(&f)
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n%w", ErrInvalidSpec, errors.Join(f...))
}

// ssh reports the faults of what is common to the connections to all hosts.
func (f *faults) ssh(c sshx.Config) {
	if c.Name != "" || c.Address != "" {
		f.addf("Spec.SSH", "Name and Address must be empty: every host has its own")
	}
	if trustsNone(c.HostKeys) {
		f.addf("Spec.SSH.HostKeys", "no trusted host key, so a new golden cannot be verified")
	}
	for i, j := range c.Jump {
		if trustsNone(j.HostKeys) {
			f.addf(fmt.Sprintf("Spec.SSH.Jump[%d].HostKeys", i), "no trusted host key")
		}
	}
	c.Name, c.Address = "host", "host"
	err := c.Validate()
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, err := range all {
		if err != nil {
			*f = append(*f, errors.New("Spec.SSH"+strings.TrimPrefix(err.Error(), "Config")))
		}
	}
}

func trustsNone(k sshx.HostKeys) bool {
	keys := len(k.Pinned)+len(k.Authorities) > 0 || k.KnownHosts != ""
	return !keys && !k.TrustOnFirstUse && !k.InsecureIgnore
}

func (f *faults) limits(path string, l Limits) {
	f.number(path+".Clones", l.Clones, 0)
	f.number(path+".Hosts", l.Hosts, 0)
	f.number(path+".Snapshots", l.Snapshots, 0)
	f.number(path+".Checks", l.Checks, 0)
	f.duration(path+".Boot", l.Boot, time.Second)
	f.duration(path+".Shutdown", l.Shutdown, time.Millisecond)
	f.duration(path+".Lease", l.Lease, time.Second)
	f.duration(path+".ClockSkew", max(l.ClockSkew, 0), time.Millisecond)
}

func (f *faults) golden(path string, g Golden) {
	if g.Template == "" {
		f.addf(path+".Template", "is required")
	}
	f.text(path+".Template", g.Template)
	f.text(path+".Snapshot", g.Snapshot)
	f.duration(path+".MaxAge", g.MaxAge, time.Minute)
	f.duration(path+".Expect", g.Expect, time.Millisecond)
	f.vm(path+".VM", g.VM, 40) // leaves room for "-<datastore>" and "-g<generation>"
	for i, nic := range g.VM.NICs {
		if nic.Unplugged {
			f.addf(fmt.Sprintf("%s.VM.NICs[%d].Unplugged", path, i), "is for roles")
		}
	}
	f.steps(path, g.Steps)
	f.checks(path, "Checks", g.Checks, []VM{g.VM})
}

// pathOf returns where in the Spec a golden is.
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
	complete := true // every VM is known
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
		f.duration(path+": Expect", r.Expect, time.Millisecond)
		f.text(path+": Snapshot", r.Snapshot)
		if g := r.Golden; g != nil && !goldens[g] {
			goldens[g] = true
			f.golden(path+".Golden", *g)
			f.unique(owners, path+".Golden.VM", "Name", g.VM.Name)
			for _, nic := range g.VM.NICs {
				f.unique(owners, path+".Golden.VM", "MAC", strings.ToLower(nic.MAC))
			}
		}
		if r.Ready != "" && r.Ready != ReadyOff && r.Ready != ReadyRunning {
			f.addf(path+": Ready", "is %q; want %q or %q", r.Ready, ReadyOff, ReadyRunning)
		}
		vms := s.validateVMs(f, path, r, owners)
		complete = complete && len(vms) == max(s.Pools, 1)
		f.steps(path, r.Steps)
		f.checks(path, "Checks", r.Checks, vms)
		f.checks(path, "AfterReset", r.AfterReset, vms)
		for j, n := range r.Needs {
			at := fmt.Sprintf("%s: Needs[%d] (%q)", path, j, n.Name)
			if k, ok := seen[n.Role]; !ok || k >= i {
				f.addf(at, "role %q is not an earlier role%s", n.Role, s.earlier(i))
			}
			if n.Name == "" {
				f.addf(at, "Name is required")
			}
			f.text(at, n.Name)
			if n.Do == nil {
				f.addf(at, "Do is required")
			}
			f.duration(at+": Timeout", n.Timeout, time.Millisecond)
		}
	}
	if complete {
		s.validateGoldens(f, owners)
	}
}

// validateVMs returns the VMs of a role by pool, as far as its function returns them.
func (s Spec) validateVMs(f *faults, path string, r Role, owners map[string]string) []VM {
	if r.VM == nil {
		f.addf(path, "VM is required")
		return nil
	}
	var vms []VM
	for n := 1; n <= min(max(s.Pools, 1), maxPools); n++ {
		at := fmt.Sprintf("%s: VM(%d)", path, n)
		vm, err := s.callVM(r, n)
		if err != nil {
			f.addf(at, "%v", err)
			return vms
		}
		vms = append(vms, vm)
		f.vm(at, vm, 63)
		if vm.DiskGiB != 0 {
			f.addf(at+".DiskGiB", "is %d: a linked clone's disk cannot grow; set Spec.Golden.VM.DiskGiB",
				vm.DiskGiB)
		}
		f.unique(owners, at, "Name", vm.Name)
		s.validateUnplugged(f, at, vm)
		for _, nic := range vm.NICs {
			f.unique(owners, at, "MAC", strings.ToLower(nic.MAC))
			for _, c := range nic.Claims {
				f.unique(owners, at, "claim", nic.Network+" "+c)
			}
		}
	}
	return vms
}

// callVM calls the VM function of a role, twice.
func (s Spec) callVM(r Role, pool int) (vm VM, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panics: %v", p)
		}
	}()
	vm = s.vm(r, pool)
	// Copied, since a function may return the map or slice that it changes in its next call.
	first := vm
	first.NICs, first.Env = slices.Clone(vm.NICs), maps.Clone(vm.Env)
	if again := s.vm(r, pool); !reflect.DeepEqual(first, again) {
		return vm, fmt.Errorf("returns %s at the first call, and %s at the second; "+
			"it must return the same", first.differing(again), again.differing(first))
	}
	return first, nil
}

// differing returns the first field in which vm differs from other, with its value, which for Env
// are the names.
func (vm VM) differing(other VM) string {
	a, b := reflect.ValueOf(vm), reflect.ValueOf(other)
	for i := range a.NumField() {
		if reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			continue
		}
		name := a.Type().Field(i).Name
		if name == "Env" {
			return fmt.Sprintf("an Env of %d variables", len(vm.Env)) // their values are secret
		}
		return fmt.Sprintf("%s %+v", name, a.Field(i).Interface())
	}
	return "another VM"
}

// validateGoldens reports faults in the names of goldens that have several VMs, one on each
// datastore.
func (s Spec) validateGoldens(f *faults, owners map[string]string) {
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
		return "; the first role cannot need another"
	}
	var names []string
	for _, r := range s.Roles[:i] {
		names = append(names, fmt.Sprintf("%q", r.Name))
	}
	return "; those are " + strings.Join(names, ", ")
}

func (f *faults) vm(at string, vm VM, most int) {
	f.name(at+".Name", vm.Name, most)
	f.number(at+".CPUs", vm.CPUs, maxCPUs)
	f.number(at+".MemoryMiB", vm.MemoryMiB, maxMemoryMiB)
	if vm.MemoryMiB%4 != 0 {
		f.addf(at+".MemoryMiB", "is %d; the memory of a VM is a multiple of 4 MiB", vm.MemoryMiB)
	}
	f.number(at+".DiskGiB", vm.DiskGiB, maxDiskGiB)
	f.folder(at+".Folder", vm.Folder)
	f.text(at+".Datastore", vm.Datastore)
	f.text(at+".ResourcePool", vm.ResourcePool)
	if len(vm.NICs) > maxNICs {
		f.addf(at+".NICs", "are %d, at most %d are allowed", len(vm.NICs), maxNICs)
	}
	for i, nic := range vm.NICs {
		f.text(fmt.Sprintf("%s.NICs[%d].Network", at, i), nic.Network)
		switch {
		case nic.Subnet == netip.Prefix{}:
		case !nic.Subnet.IsValid():
			f.addf(fmt.Sprintf("%s.NICs[%d].Subnet", at, i), "is no subnet")
		case i > 0:
			f.addf(fmt.Sprintf("%s.NICs[%d].Subnet", at, i), "SSH goes to the first NIC only")
		}
		for j, c := range nic.Claims {
			claim := fmt.Sprintf("%s.NICs[%d].Claims[%d]", at, i, j)
			f.text(claim, c)
			if c == "" {
				f.addf(claim, "is empty")
			}
		}
		if nic.MAC != "" {
			f.mac(fmt.Sprintf("%s.NICs[%d].MAC", at, i), nic.MAC)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(vm.Env)) {
		switch {
		case !envForm.MatchString(k):
			f.addf(at+".Env", "%q is not a name for an environment variable", k)
		case strings.HasPrefix(k, "_sshx"):
			f.addf(at+".Env", "%q: names that begin with _sshx are reserved", k)
		}
		if strings.ContainsRune(vm.Env[k], 0) {
			f.addf(at+".Env", "the value of %q has a NUL", k)
		}
	}
}

func (f *faults) folder(at, folder string) {
	if folder == "" {
		return
	}
	names := strings.Split(folder, "/")
	if strings.HasPrefix(folder, "/") || slices.Contains(names, "..") {
		f.addf(at, "%q must be below the set's folder", folder)
		return
	}
	if strings.EqualFold(names[0], "ledger") {
		f.addf(at, "%q is reserved for the set's ledger", folder)
	}
	for _, name := range names {
		switch {
		case name == "" || name == ".":
			f.addf(at, "%q must be names with / between them", folder)
		case len(name) > maxName:
			f.addf(at, "%q has %d characters, at most %d are allowed", name, len(name), maxName)
		}
	}
	f.text(at, folder)
}

func (f *faults) mac(at, text string) {
	mac, err := net.ParseMAC(text)
	switch {
	case err != nil || len(mac) != 6 || mac.String() != strings.ToLower(text):
		f.addf(at, "%q is not of the form 00:50:56:00:01:02", text)
	case mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00":
		f.addf(at, "%q is not the address of one NIC", text)
	}
}

func (f *faults) steps(path string, steps []Step) {
	seen := map[string]bool{}
	for i, s := range steps {
		at := fmt.Sprintf("%s: Steps[%d] (%q)", path, i, s.Name)
		f.part(seen, at, s.Name, s.Version, s.Timeout)
		if s.Do == nil {
			f.addf(at, "Do is required")
		}
		if s.fault != nil {
			f.addf(at, "%v", s.fault)
		}
		if s.script != nil {
			f.script(at, *s.script)
		}
	}
}

// checks reports the faults of the checks that run on vms.
func (f *faults) checks(path, kind string, checks []Check, vms []VM) {
	seen := map[string]bool{}
	for i, c := range checks {
		at := fmt.Sprintf("%s: %s[%d] (%q)", path, kind, i, c.Name)
		f.part(seen, at, c.Name, c.Version, c.Timeout)
		if c.Do == nil {
			f.addf(at, "Do is required")
		}
		if c.script != nil {
			f.script(at, *c.script)
		}
		if c.Want != strings.TrimSpace(c.Want) {
			f.addf(at+": Want", "%q has white space around it, which what Do returns never has", c.Want)
		}
		for _, v := range variable.FindAllString(c.Want, -1) {
			n := slices.IndexFunc(vms, func(vm VM) bool { _, ok := vm.Env[v[2:len(v)-1]]; return !ok })
			if n >= 0 {
				known := strings.Join(slices.Sorted(maps.Keys(vms[n].Env)), ", ")
				f.addf(at+": Want", "unknown variable %s; want one of the Env of %s: %s", v, vms[n].Name, cmp.Or(known, "it is empty"))
			}
		}
	}
}

// part reports faults of what steps and checks have in common.
func (f *faults) part(seen map[string]bool, at, name, version string, timeout time.Duration) {
	if name == "" {
		f.addf(at, "Name is required")
	} else if seen[name] {
		f.addf(at, "has the name of an earlier one")
	}
	f.text(at, name)
	seen[name] = true
	if version == "" {
		f.addf(at, "Version is required: a function cannot be hashed (pool.Script and the like set it)")
	}
	f.duration(at+": Timeout", timeout, time.Millisecond)
}

func (f *faults) script(at, text string) {
	if err := checkScript(text); err != nil {
		f.addf(at, "%v", err)
	}
}

func (s Spec) validateOnly(f *faults) {
	most := max(s.Pools, 1)
	for i, n := range s.Only {
		at := fmt.Sprintf("Spec.Only[%d]", i)
		if n < 1 || n > most {
			f.addf(at, "is %d: the pools are 1 to %d", n, most)
		} else if j := slices.Index(s.Only, n); j < i {
			f.addf(at, "is %d, like Spec.Only[%d]", n, j)
		}
	}
}

func (k KeepPolicy) validate(f *faults) {
	switch k.When {
	case "":
		if k != (KeepPolicy{}) {
			f.addf("Spec.Keep.When", "is empty, so nothing would be kept; want never, failed or always")
		}
	case "never", "failed", "always":
	default:
		f.addf("Spec.Keep.When", "is %q; want never, failed or always", k.When)
	}
	f.number("Spec.Keep.Pools", k.Pools, 0)
	f.duration("Spec.Keep.For", k.For, time.Millisecond)
}

func (e Evidence) validate(f *faults) {
	if !slices.Contains([]string{"", "never", "failed", "always"}, e.When) {
		f.addf("Spec.Evidence.When", "is %q; want never, failed or always", e.When)
	}
	for i, p := range e.Files {
		if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "\x00\n") {
			f.addf(fmt.Sprintf("Spec.Evidence.Files[%d]", i), "is %q; want an absolute path or pattern", p)
		}
	}
	for i, c := range e.Collectors {
		at := fmt.Sprintf("Spec.Evidence.Collectors[%d]", i)
		if !fileName.MatchString(c.Name) {
			f.addf(at+".Name", "is %q; want a file name of A-Z, a-z, 0-9, \".\", \"-\" and \"_\"", c.Name)
		} else if slices.ContainsFunc(e.Collectors[:i], func(o Collector) bool { return o.Name == c.Name }) {
			f.addf(at+".Name", "is %q, like that of an earlier one", c.Name)
		}
		if (c.Script == "") == (c.Do == nil) {
			f.addf(at, "has both Script and Do, or neither; want one of them")
		}
	}
	f.duration("Spec.Evidence.Timeout", e.Timeout, time.Millisecond)
	if e.MaxBytes < 0 {
		f.addf("Spec.Evidence.MaxBytes", "is %d, must not be negative", e.MaxBytes)
	}
}

var fileName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
