package pool

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func nothing(context.Context, *Host) error { return nil }

func looks(context.Context, *Host) (string, error) { return "ok", nil }

// twoRoles is a Spec of con and dis, as its users write them.
func twoRoles(pools int) Spec {
	vm := func(role string, first int) func(int) VM {
		return func(n int) VM {
			return VM{
				Name: fmt.Sprint(role, n), MemoryMiB: 1024,
				NICs: []NIC{{Network: "Lab Network", MAC: fmt.Sprintf("00:50:56:%02x:%02x:%02x", n>>8, n&255, first)}},
				Env:  map[string]string{"HOST": fmt.Sprint(role, n)},
			}
		}
	}
	return Spec{
		Name: "lab", Provider: unused{}, Pools: pools, SSH: sshx.Config{Keys: []ssh.Signer{testKey}, HostKeys: sshx.HostKeys{TrustOnFirstUse: true}},
		Golden: Golden{
			Template: "rhel9", VM: VM{Name: "golden", DiskGiB: 20},
			Steps:  []Step{{Name: "update", Version: "1", Do: nothing}},
			Checks: []Check{{Name: "time", Version: "1", Do: looks}},
		},
		Roles: []Role{
			{Name: "con", VM: vm("con", 1), Steps: []Step{{Name: "dnsmasq", Version: "1", Do: nothing}}},
			{
				Name: "dis", VM: vm("dis", 2), Steps: []Step{{Name: "harden", Version: "1", Do: nothing}},
				Needs: []Need{{Name: "dns", Role: "con", Do: func(context.Context, *Host, *Host) error { return nil }}},
			},
		},
	}
}

// accounts has, for inventories that ready made, what the ledger has of the builds, by pool.
var accounts sync.Map

// unused is a Provider that must not be asked.
type unused struct{ Provider }

// ready is the inventory after everything that s asks for has been built.
func ready(t *testing.T, s Spec) *Inventory {
	t.Helper()
	s = s.withDefaults()
	inv := &Inventory{Templates: map[string]string{}}
	for _, g := range s.goldens() {
		inv.Templates[g.Template] = "vm=1;disks=1;snapshot=none"
	}
	w, err := planOf(t, s, inv)
	require.NoError(t, err)
	all := map[int]map[string]string{}
	add := func(vm VM, layer, from, snapshot string, rec record, a account) {
		rec.Set, rec.VM, rec.Layer, rec.At = s.Name, vm.Name, layer, seconds{now.Add(-time.Hour)}
		rec.Fingerprint, rec.Template = a.Parts.sum(), a.Parts.template()
		rec.Build = "build of " + vm.Name
		a.Build = rec.Build
		if all[rec.Pool] == nil {
			all[rec.Pool] = map[string]string{}
		}
		maps.Copy(all[rec.Pool], a.values(accountName(rec)))
		inv.VMs = append(inv.VMs, VMInfo{
			ID: "id-" + vm.Name, Name: vm.Name, Owner: owner{s.Name, vm.Name, layer, from}.String(), On: layer == "con" || layer == "dis",
			Snapshots: []Snapshot{{ID: "snap-" + vm.Name, Name: snapshot, Record: rec.encode()}},
		})
	}
	for _, g := range w.goldens {
		add(g.vm, g.layer, g.from, "golden-ready", record{}, account{Parts: g.print, Took: []took{{tookAll, 600}}})
	}
	for _, hosts := range w.roles {
		for _, h := range hosts {
			golden := "build of " + h.golden.vm.Name
			rec := record{Golden: golden, Pool: h.Pool}
			a := account{Parts: s.rolePrint(h.role, h.vm, golden), Took: []took{{tookClone, 5}, {tookAll, 60}}}
			for _, n := range h.role.Needs {
				rec.Needs = map[string]string{n.Role: fmt.Sprint("build of ", n.Role, h.Pool)}
			}
			add(h.vm, h.role.Name, "b", "pool-ready", rec, a)
		}
	}
	accounts.Store(inv, all)
	return inv
}

func (inv *Inventory) vm(name string) *VMInfo {
	for i := range inv.VMs {
		if inv.VMs[i].Name == name {
			return &inv.VMs[i]
		}
	}
	panic("no VM " + name)
}

func (inv *Inventory) remove(name string) {
	for i, vm := range inv.VMs {
		if vm.Name == name {
			inv.VMs = append(inv.VMs[:i], inv.VMs[i+1:]...)
			return
		}
	}
	panic("no VM " + name)
}

func lines(w *Plan) map[string]string {
	all := map[string]string{}
	for _, i := range w.Items {
		all[i.VM] = string(i.Action) + ": " + i.Reason
	}
	return all
}

func TestPlanOfNothingClonesAll(t *testing.T) {
	t.Parallel()
	w, err := planOf(t, twoRoles(3), &Inventory{Templates: map[string]string{"rhel9": "v1"}})
	require.NoError(t, err)
	var order []string
	for _, i := range w.Items {
		assert.Equal(t, ActionClone, i.Action, i.VM)
		assert.Equal(t, "does not exist", i.Reason, i.VM)
		order = append(order, i.VM)
	}
	assert.Equal(t, []string{"golden", "con1", "con2", "con3", "dis1", "dis2", "dis3"}, order)
	assert.True(t, w.Builds())
}

func TestPlan(t *testing.T) {
	t.Parallel()
	since := "ready since " + stamp(now.Add(-time.Hour))
	for _, tt := range []struct {
		name   string
		spec   func(*Spec)
		inv    func(*Inventory)
		want   map[string]string // what is not in it is reused
		golden string            // its name if it is not "golden"
	}{
		{name: "everything ready is reused"},
		{
			name: "a VM that is off is powered on",
			inv:  func(inv *Inventory) { inv.vm("con1").On = false },
			want: map[string]string{"con1": "power on: is off; " + since},
		},
		{
			name: "a VM that is gone is cloned, and what was made ready with it is rebuilt",
			inv:  func(inv *Inventory) { inv.remove("con2") },
			want: map[string]string{"con2": "clone: does not exist", "dis2": "rebuild: con2, which it needs, is rebuilt"},
		},
		{
			name: "a dis that is gone leaves its con alone",
			inv:  func(inv *Inventory) { inv.remove("dis2") },
			want: map[string]string{"dis2": "clone: does not exist"},
		},
		{
			name: "a VM without its snapshot is rebuilt",
			inv:  func(inv *Inventory) { inv.vm("dis1").Snapshots = nil },
			want: map[string]string{"dis1": `rebuild: has no snapshot "pool-ready"`},
		},
		{
			name: "a snapshot of a longer name is another snapshot",
			inv:  func(inv *Inventory) { inv.vm("dis1").Snapshots[0].Name = "pool-ready-old" },
			want: map[string]string{"dis1": `rebuild: has no snapshot "pool-ready" (but "pool-ready-old")`},
		},
		{
			name: "a snapshot of a longer name beside the right one does no harm",
			inv: func(inv *Inventory) {
				vm := inv.vm("dis1")
				vm.Snapshots = append(vm.Snapshots, Snapshot{ID: "x", Name: "pool-ready-old"})
			},
		},
		{
			name: "a VM to be rebuilt that has somebody's snapshot is kept aside",
			inv: func(inv *Inventory) {
				inv.vm("dis1").Snapshots = []Snapshot{{ID: "x", Name: "pool-ready-old", Record: "before the demo"}}
			},
			want: map[string]string{"dis1": `rebuild: has no snapshot "pool-ready" (but "pool-ready-old"); the existing VM is kept under another name, since it has snapshots that poolready did not take`},
		},
		{
			name: "two snapshots of the name are none",
			inv: func(inv *Inventory) {
				vm := inv.vm("dis1")
				vm.Snapshots = append(vm.Snapshots, vm.Snapshots[0])
			},
			want: map[string]string{"dis1": `rebuild: has 2 snapshots "pool-ready"`},
		},
		{
			name: "a snapshot of the name that is not ours is in the way",
			inv:  func(inv *Inventory) { inv.vm("dis1").Snapshots[0].Record = "made by hand" },
			want: map[string]string{"dis1": `refuse: snapshot "pool-ready" on it was not taken by poolready; rename or remove the snapshot`},
		},
		{
			name: "a record of a later version is not understood, and said so",
			inv:  func(inv *Inventory) { inv.vm("dis1").Snapshots[0].Record = `{"poolready": 3}` },
			want: map[string]string{"dis1": `refuse: snapshot "pool-ready": its record has format 3, this program knows format 2: use one version of poolready for one set`},
		},
		{
			name: "golden's too",
			inv:  func(inv *Inventory) { inv.vm("golden").Snapshots[0].Record = `{"poolready": 3}` },
			want: map[string]string{
				"golden": `refuse: snapshot "golden-ready": its record has format 3, this program knows format 2: use one version of poolready for one set`,
				"con1":   "rebuild: golden is rebuilt", "con2": "rebuild: golden is rebuilt",
				"dis1": "rebuild: golden is rebuilt", "dis2": "rebuild: golden is rebuilt",
			},
		},
		{
			name: "a damaged record does not count",
			inv: func(inv *Inventory) {
				snap := &inv.vm("dis1").Snapshots[0]
				snap.Record = strings.Replace(snap.Record, `"at":`, `"at":"then","was":`, 1)
			},
			want: map[string]string{"dis1": `rebuild: snapshot "pool-ready": damaged record: strconv.ParseInt: parsing "\"then\"": invalid syntax`},
		},
		{
			name: "a record that the hypervisor has cut is told as one, and not built again",
			inv: func(inv *Inventory) {
				for _, name := range []string{"golden", "dis1"} {
					snap := &inv.vm(name).Snapshots[0]
					snap.Record = snap.Record[:60]
				}
			},
			want: map[string]string{
				"golden": `refuse: snapshot "golden-ready": ` + errCutRecord.Error(), "dis1": `refuse: snapshot "pool-ready": ` + errCutRecord.Error(),
				"con1": "rebuild: golden is rebuilt", "con2": "rebuild: golden is rebuilt", "dis2": "rebuild: golden is rebuilt",
			},
		},
		{
			name: "without the ledger's accounts it is known that something changed, and not what",
			spec: func(s *Spec) { s.Roles[1].Steps[0].Version = "2" },
			inv:  func(inv *Inventory) { accounts.Delete(inv) },
			want: map[string]string{
				"dis1": "rebuild: steps, checks, hardware or parameters changed (the ledger no longer has what was there before)",
				"dis2": "rebuild: steps, checks, hardware or parameters changed (the ledger no longer has what was there before)",
			},
		},
		{
			name: "nor what changed of the template",
			inv: func(inv *Inventory) {
				accounts.Delete(inv)
				inv.Templates["rhel9"] = "vm=1;disks=2;snapshot=none"
			},
			want: map[string]string{
				"golden-g2": "rebuild: the template changed (the ledger no longer has what was there before)",
				"golden":    "remove: an older generation; it goes when no clone depends on its disks",
				"con1":      "rebuild: golden-g2 is rebuilt", "con2": "rebuild: golden-g2 is rebuilt",
				"dis1": "rebuild: golden-g2 is rebuilt", "dis2": "rebuild: golden-g2 is rebuilt",
			},
		},
		{
			name: "without accounts a template that is gone is no change",
			inv: func(inv *Inventory) {
				accounts.Delete(inv)
				delete(inv.Templates, "rhel9")
			},
			want: map[string]string{"golden": "reuse: " + since + `; template "rhel9" is gone and was not compared`},
		},
		{
			name: "the record of another VM does not count",
			inv: func(inv *Inventory) {
				inv.vm("dis1").Snapshots[0].Record = inv.vm("dis2").Snapshots[0].Record
			},
			want: map[string]string{"dis1": `rebuild: snapshot "pool-ready" is that of "dis2"`},
		},
		{
			name: "somebody's VM of the name is in the way",
			inv:  func(inv *Inventory) { inv.vm("con1").Owner = "" },
			want: map[string]string{
				"con1": "refuse: a VM of this name exists that poolready did not make; rename or remove it",
				"dis1": "rebuild: con1, which it needs, is rebuilt",
			},
		},
		{
			name: "a clone of golden made by hand, which inherits its mark, is somebody's VM",
			inv:  func(inv *Inventory) { inv.vm("con1").Owner = inv.vm("golden").Owner },
			want: map[string]string{
				"con1": `refuse: a VM of this name exists, made as "` + owner{"lab", "golden", "golden/golden", ""}.String(),
				"dis1": "rebuild: con1, which it needs, is rebuilt",
			},
		},
		{
			name: "a changed step of dis rebuilds dis only",
			spec: func(s *Spec) { s.Roles[1].Steps[0].Version = "2" },
			want: map[string]string{"dis1": `rebuild: step "harden" changed`, "dis2": `rebuild: step "harden" changed`},
		},
		{
			name: "steps in another order are another recipe",
			spec: func(s *Spec) {
				s.Roles[1].Steps = append([]Step{{Name: "first", Version: "1", Do: nothing}}, s.Roles[1].Steps...)
			},
			want: map[string]string{"dis1": `rebuild: step "first" is new`, "dis2": `rebuild: step "first" is new`},
		},
		{
			name: "changed parameters of one VM rebuild that VM",
			spec: func(s *Spec) {
				vm := s.Roles[1].VM
				s.Roles[1].VM = func(n int) VM {
					v := vm(n)
					if n == 2 {
						v.Env["NEW"] = "x"
					}
					return v
				}
			},
			want: map[string]string{"dis2": "rebuild: parameters (VM.Env) changed"},
		},
		{
			name: "a changed step of golden is a new generation beside the old, and rebuilds all",
			spec: func(s *Spec) { s.Golden.Steps[0].Version = "2" },
			want: map[string]string{
				"golden-g2": `rebuild: step "update" changed`,
				"golden":    "remove: an older generation; it goes when no clone depends on its disks",
				"con1":      "rebuild: golden-g2 is rebuilt", "con2": "rebuild: golden-g2 is rebuilt",
				"dis1": "rebuild: golden-g2 is rebuilt", "dis2": "rebuild: golden-g2 is rebuilt",
			},
		},
		{
			name: "a changed template does so too",
			inv:  func(inv *Inventory) { inv.Templates["rhel9"] = "vm=1;disks=2;snapshot=none" },
			want: map[string]string{
				"golden-g2": `rebuild: template's disks changed`,
				"golden":    "remove: an older generation; it goes when no clone depends on its disks",
				"con1":      "rebuild: golden-g2 is rebuilt", "con2": "rebuild: golden-g2 is rebuilt",
				"dis1": "rebuild: golden-g2 is rebuilt", "dis2": "rebuild: golden-g2 is rebuilt",
			},
		},
		{
			name: "golden outlives its template",
			inv:  func(inv *Inventory) { inv.Templates = nil },
			want: map[string]string{"golden": "reuse: " + since + `; template "rhel9" is gone and was not compared`},
		},
		{
			name: "an interrupted golden without clones is finished",
			inv:  func(inv *Inventory) { inv.VMs = inv.VMs[:1]; inv.vm("golden").Snapshots = nil },
			want: map[string]string{
				"golden": "finish: was left unfinished", "con1": "clone: does not exist", "con2": "clone: does not exist",
				"dis1": "clone: does not exist", "dis2": "clone: does not exist",
			},
		},
		{
			name: "VMs whose needed partner was replaced are rebuilt",
			inv: func(inv *Inventory) {
				rec, err := decodeRecord(inv.vm("con1").Snapshots[0].Record)
				require.NoError(t, err)
				rec.Build = "another"
				inv.vm("con1").Snapshots[0].Record = rec.encode()
			},
			want: map[string]string{"dis1": "rebuild: was made ready with an earlier con1"},
		},
		{
			name: "other VMs in the folder are nobody's business",
			inv:  func(inv *Inventory) { inv.VMs = append(inv.VMs, VMInfo{ID: "z", Name: "jumpbox", On: true}) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := twoRoles(2)
			inv := ready(t, spec)
			if tt.inv != nil {
				tt.inv(inv)
			}
			if tt.spec != nil {
				tt.spec(&spec)
			}
			w, err := planOf(t, spec, inv)
			require.NoError(t, err)
			for vm, got := range lines(w) {
				want, ok := tt.want[vm]
				if !ok {
					want = "reuse: " + since
				}
				if cut, ok := strings.CutSuffix(want, "from="); ok {
					assert.Contains(t, got, cut, vm)
					continue
				}
				assert.Equal(t, want, got, vm)
			}
			for vm := range tt.want {
				assert.Contains(t, lines(w), vm)
			}
		})
	}
}

func TestPlanKeepsEveryGenerationUntilItsClonesAreGone(t *testing.T) {
	t.Parallel()
	spec := twoRoles(1)
	inv := ready(t, spec)
	old := *inv.vm("golden")
	old.Name, old.ID = "golden-g7", "id-g7"
	old.Owner = owner{"lab", "golden-g7", "golden/golden", "x"}.String()
	old.Snapshots = nil
	inv.VMs = append(inv.VMs, old)
	w, err := planOf(t, spec, inv)
	require.NoError(t, err)
	assert.Equal(t, "reuse", strings.SplitN(lines(w)["golden"], ":", 2)[0], "an older generation that fits is reused")
	assert.Contains(t, lines(w)["golden-g7"], "remove")

	spec.Golden.MaxAge = time.Minute
	w, err = planOf(t, spec, inv)
	require.NoError(t, err)
	assert.Contains(t, lines(w)["golden-g8"], "rebuild")
	assert.Contains(t, lines(w)["golden"], "remove")
	assert.Contains(t, lines(w)["golden-g7"], "remove")
}

func TestPlanMakesOneGoldenForEachDatastore(t *testing.T) {
	t.Parallel()
	spec := twoRoles(3)
	for i, r := range spec.Roles {
		vm := r.VM
		spec.Roles[i].VM = func(n int) VM {
			v := vm(n)
			v.Datastore = fmt.Sprintf("/DC/datastore/SSD %d", 1+n%2)
			return v
		}
	}
	w, err := planOf(t, spec, &Inventory{Templates: map[string]string{"rhel9": "v1"}})
	require.NoError(t, err)
	require.Len(t, w.goldens, 2)
	assert.Equal(t, "golden-ssd-1", w.goldens[0].VM)
	assert.Equal(t, "golden-ssd-2", w.goldens[1].VM)
	for _, hosts := range w.roles {
		for _, h := range hosts {
			assert.Equal(t, h.vm.Datastore, h.golden.vm.Datastore, h.VM)
		}
	}
}

func TestPlanNeedsTheTemplateOnlyToBuildGolden(t *testing.T) {
	t.Parallel()
	_, err := planOf(t, twoRoles(1), &Inventory{})
	assert.ErrorContains(t, err, `template "rhel9" of Spec.Golden does not exist`)
}

func TestExpect(t *testing.T) {
	t.Parallel()
	spec := twoRoles(3)
	spec.Limits.Clones = 2
	w, err := planOf(t, spec, &Inventory{Templates: map[string]string{"rhel9": "v1"}})
	require.NoError(t, err)
	assert.Equal(t, 20*time.Minute+2*(2*30*time.Second+10*time.Minute), w.Expect, "stated defaults: golden, then for each role two rounds of clones and one of work")
	assert.NoError(t, w.fits(now, now.Add(time.Hour)))
	err = w.fits(now, now.Add(11*time.Minute))
	for _, fact := range []string{`"lab"`, "42m0s", "11m0s", "nothing was touched", "-timeout 54m0s"} {
		assert.ErrorContains(t, err, fact)
	}
	assert.ErrorContains(t, w.fits(now, now.Add(-time.Second)), "in 0s")

	inv := ready(t, spec)
	spec.Roles[1].Steps[0].Version = "2"
	w, err = planOf(t, spec, inv)
	require.NoError(t, err)
	assert.Equal(t, 2*5*time.Second+time.Minute, w.Expect, "the times of the last build")
}
