package pool

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A fingerprint is what a layer (golden or the VM of a role) was or should be built from: its
// parts, each a name and a hash, in order. The record has its sum; an account has it part by part, so
// that a plan can say which of them changed.
type fingerprint []part

// part is a [2]string so that an account's JSON stays short.
type part [2]string

// ofTemplate reports whether the part is one of the template, without which golden can be compared,
// too.
func (p part) ofTemplate() bool { return strings.HasPrefix(p[0], templatePart) }

const templatePart = "template"

func (f *fingerprint) add(name string, of ...string) { *f = append(*f, part{name, hash(of...)[:10]}) }

// part returns the part of that name.
func (f fingerprint) part(name string) part {
	i := slices.IndexFunc(f, func(p part) bool { return p[0] == name })
	return f[i]
}

// sum is the fingerprint in one word.
func (f fingerprint) sum() string { return f.sumWith(f.template()) }

// sumWith is sum with another template.
func (f fingerprint) sumWith(template string) string {
	all := []string{template}
	for _, p := range f {
		if !p.ofTemplate() {
			all = append(all, p[0], p[1])
		}
	}
	return hash(all...)
}

// template is what there is of the template in one word; "" if there is none.
func (f fingerprint) template() string {
	var all []string
	for _, p := range f {
		if p.ofTemplate() {
			all = append(all, p[0], p[1])
		}
	}
	if all == nil {
		return ""
	}
	return hash(all...)[:10]
}

func (f *fingerprint) recipe(steps []Step, checks []Check) {
	for _, s := range steps {
		f.add(fmt.Sprintf("step %q", s.Name), s.Version)
	}
	for _, c := range checks {
		f.add(fmt.Sprintf("check %q", c.Name), c.Version, c.Want)
	}
}

// vm adds what a VM of a set is made of.
func (f *fingerprint) vm(set string, vm VM) {
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
	f.add("parameters (VM.Env)", hashEnv(set, vm))
}

// hashEnv stands for the values of VM.Env, which may be secrets, in records that everybody sees who
// may read vCenter: it is slow, so that guessing is, and salted by set and VM, so that a guess is
// good for one VM only.
func hashEnv(set string, vm VM) string {
	if len(vm.Env) == 0 {
		return ""
	}
	var all []string
	for _, k := range slices.Sorted(maps.Keys(vm.Env)) {
		all = append(all, strconv.Quote(k), strconv.Quote(vm.Env[k]))
	}
	text, salt := strings.Join(all, " "), fmt.Sprintf("poolready %q %q", set, vm.Name)
	type input struct{ text, salt string }
	if known, ok := envHashes.Load(input{text, salt}); ok {
		return known.(string)
	}
	key, err := pbkdf2.Key(sha256.New, text, []byte(salt), hashRounds, 16)
	if err != nil {
		panic("pool: hash of VM.Env: " + err.Error()) // its arguments are constant but for the texts
	}
	sum := hex.EncodeToString(key)
	envHashes.Store(input{text, salt}, sum)
	return sum
}

// envRounds take some milliseconds for each VM, once in a process.
const envRounds = 10_000

var hashRounds = envRounds // few in tests

var envHashes sync.Map // of inputs, to hashes

// print is the fingerprint of golden on a datastore. template is the template's identity.
func (g Golden) print(set string, vm VM, template string) fingerprint {
	var f fingerprint
	f.add(templatePart, g.Template)
	for value := range strings.SplitSeq(template, ";") {
		name, _, _ := strings.Cut(value, "=")
		f.add(templatePart+"'s "+name, value)
	}
	f.vm(set, vm)
	f.recipe(g.Steps, g.Checks)
	return f
}

// rolePrint is the fingerprint of a role's VM cloned from the golden of that build.
func (s Spec) rolePrint(r Role, vm VM, golden string) fingerprint {
	var f fingerprint
	f.add("golden", golden)
	f.vm(s.Name, vm)
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

// hash returns the first 16 hex digits of the SHA-256 of the parts, which cannot run together.
func hash(parts ...string) string {
	sum := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16]
}
