package vsphere

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// altered breaks what is listed of each VM.
func altered(change func(*pool.VMInfo)) func(pool.Provider) pool.Provider {
	return func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(ctx context.Context, set string, templates []string) (*pool.Inventory, error) {
			inv, err := p.Inventory(ctx, set, templates...)
			if err == nil {
				for i := range inv.VMs {
					change(&inv.VMs[i])
				}
			}
			return inv, err
		}}
	}
}

// cloning breaks what is asked for when cloning.
func cloning(change func(*pool.CloneSpec)) func(pool.Provider) pool.Provider {
	return func(p pool.Provider) pool.Provider {
		return broken{Provider: p, clone: func(ctx context.Context, spec pool.CloneSpec) (string, error) {
			change(&spec)
			return p.Clone(ctx, spec)
		}}
	}
}

// adopting takes a VM whose name is taken for its own.
func adopting(p pool.Provider) pool.Provider {
	return broken{Provider: p, clone: func(ctx context.Context, spec pool.CloneSpec) (string, error) {
		id, err := p.Clone(ctx, spec)
		if !errors.Is(err, pool.ErrExists) {
			return id, err
		}
		inv, err := p.Inventory(ctx, spec.Set)
		if err != nil {
			return "", err
		}
		for _, vm := range inv.VMs {
			if vm.Name == spec.VM.Name {
				return vm.ID, nil
			}
		}
		return "", errors.New("gone")
	}}
}

// cached remembers the first address of each VM, whatever NIC it is asked for.
func cached(p pool.Provider) pool.Provider {
	var mu sync.Mutex
	known := map[string]netip.Addr{}
	return broken{Provider: p, address: func(ctx context.Context, id, mac string) (netip.Addr, error) {
		mu.Lock()
		a, ok := known[id]
		mu.Unlock()
		if ok {
			return a, nil
		}
		a, err := p.Address(ctx, id, mac, netip.Addr{})
		mu.Lock()
		defer mu.Unlock()
		known[id] = a
		return a, err
	}}
}

// stuck is a pool.NICConnector whose cables stay where they are.
type stuck struct{ pool.Provider }

func (stuck) ConnectNIC(context.Context, string, string, bool) error { return nil }

func (s stuck) NICState(ctx context.Context, id, mac string) (pool.NICState, error) {
	return s.Provider.(*Provider).NICState(ctx, id, mac)
}

var breaks = map[string]func(pool.Provider) pool.Provider{
	"an address except the one that it is does not come": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, address: func(ctx context.Context, id, mac string) (netip.Addr, error) {
			return p.Address(ctx, id, mac, netip.Addr{})
		}}
	},
	"a set without VMs has an empty inventory": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(ctx context.Context, set string, templates []string) (*pool.Inventory, error) {
			inv, err := p.Inventory(ctx, set, templates...)
			if err == nil && len(inv.VMs) == 0 {
				return nil, errors.New("no such folder")
			}
			return inv, err
		}}
	},
	"a template that does not exist is absent": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(ctx context.Context, set string, templates []string) (*pool.Inventory, error) {
			inv, err := p.Inventory(ctx, set, templates...)
			if err == nil {
				for _, t := range templates {
					inv.Templates[t] += "@"
				}
			}
			return inv, err
		}}
	},
	"the identity of a template stays while it does not change": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(ctx context.Context, set string, templates []string) (*pool.Inventory, error) {
			inv, err := p.Inventory(ctx, set, templates...)
			if err == nil {
				for t := range inv.Templates {
					inv.Templates[t] = time.Now().String()
				}
			}
			return inv, err
		}}
	},
	"every VM is listed with its folder and owner": altered(func(vm *pool.VMInfo) { vm.Folder = path.Base(vm.Folder) }),
	"VMs of other sets are not listed": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(ctx context.Context, set string, templates []string) (*pool.Inventory, error) {
			inv, err := p.Inventory(ctx, set, templates...)
			more, err2 := p.Inventory(ctx, set+"-other")
			if err == nil && err2 == nil {
				inv.VMs = append(inv.VMs, more.VMs...)
			}
			return inv, errors.Join(err, err2)
		}}
	},
	"addresses are listed by MAC in lower case": altered(func(vm *pool.VMInfo) {
		upper := map[string][]netip.Addr{}
		for mac, addrs := range vm.Addrs {
			upper[strings.ToUpper(mac)] = addrs
		}
		vm.Addrs = upper
	}),
	"a VM that runs is listed as on": altered(func(vm *pool.VMInfo) { vm.On = false }),

	"a clone is off and as its specification says": cloning(func(c *pool.CloneSpec) { c.Owner = "its source's" }),
	"a clone of a snapshot hangs on it":            cloning(func(c *pool.CloneSpec) { c.Snapshot = "" }),
	"a clone of a template hangs on nothing": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, clone: func(ctx context.Context, spec pool.CloneSpec) (string, error) {
			if !spec.Template {
				return p.Clone(ctx, spec)
			}
			hidden := spec
			hidden.VM.Name += "-hidden"
			id, err := p.Clone(ctx, hidden)
			if err != nil {
				return "", err
			}
			snap, err := p.Snapshot(ctx, id, "s", "")
			if err != nil {
				return "", err
			}
			spec.Source, spec.Template, spec.Snapshot = id, false, snap
			return p.Clone(ctx, spec)
		}}
	},
	"of racing clones of one name one wins and the others get ErrExists": adopting,
	"a name that is taken is ErrExists and its VM stays as it is":        adopting,
	"a name that another set has is free":                                cloning(func(c *pool.CloneSpec) { c.Set = strings.TrimSuffix(c.Set, "-other") }),
	"a clone of a template that does not exist names it and makes nothing": cloning(func(c *pool.CloneSpec) {
		c.Source = "template"
	}),
	"a clone on a datastore that does not exist names it and makes nothing": cloning(func(c *pool.CloneSpec) { c.VM.Datastore = "" }),
	"the disk of a linked clone cannot grow":                                cloning(func(c *pool.CloneSpec) { c.VM.DiskGiB = 0 }),
	"the clones of a VM are found wherever they are": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, clones: func(ctx context.Context, id string) ([]string, error) {
			all, err := p.Clones(ctx, id)
			return slices.DeleteFunc(all, func(s string) bool { return strings.Contains(s, "-other/") }), err
		}}
	},
	"a VM that nothing hangs on has no clones": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, clones: func(ctx context.Context, id string) ([]string, error) {
			all, err := p.Clones(ctx, id)
			return append(all, "/itself"), err
		}}
	},

	"a VM that is powered on runs and gets an address": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, address: func(context.Context, string, string) (netip.Addr, error) {
			return netip.MustParseAddr("fe80::1"), nil
		}}
	},
	"a MAC in upper case is the same MAC": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, address: func(ctx context.Context, id, mac string) (netip.Addr, error) {
			if strings.ToLower(mac) != mac {
				return netip.Addr{}, errors.New("no such NIC")
			}
			return p.Address(ctx, id, mac, netip.Addr{})
		}}
	},
	"powering on a VM that runs leaves it alone": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, powerOn: func(ctx context.Context, id string) error {
			if _, err := p.ShutDown(ctx, id, 0); err != nil {
				return err
			}
			return p.PowerOn(ctx, id)
		}}
	},
	"a guest that is asked shuts down, and the power is not cut": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, shutDown: func(ctx context.Context, id string, _ time.Duration) (bool, error) {
			return p.ShutDown(ctx, id, 0)
		}}
	},
	"without grace the power is cut": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, shutDown: func(ctx context.Context, id string, _ time.Duration) (bool, error) {
			return p.ShutDown(ctx, id, time.Minute)
		}}
	},
	"a guest whose tools have not started yet is waited for, and its power is not cut": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, shutDown: func(ctx context.Context, id string, _ time.Duration) (bool, error) {
			return p.ShutDown(ctx, id, 0)
		}}
	},
	"shutting down a VM that is off leaves it alone": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, shutDown: func(ctx context.Context, id string, grace time.Duration) (bool, error) {
			_, err := p.ShutDown(ctx, id, grace)
			return true, err
		}}
	},
	"an address from before the power went off is no address": cached,
	"an address that another running VM has is no address, and that VM is named": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, address: func(ctx context.Context, _, _ string) (netip.Addr, error) {
			return netip.MustParseAddr("10.0.0.1"), ctx.Err()
		}}
	},
	"an address is that of the requested NIC": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, address: func(ctx context.Context, id, _ string) (netip.Addr, error) {
			return p.Address(ctx, id, "", netip.Addr{})
		}}
	},

	"a NIC that is disconnected stays so when the VM is powered on": func(p pool.Provider) pool.Provider { return stuck{p} },
	"a NIC that does not exist cannot be disconnected":              func(p pool.Provider) pool.Provider { return stuck{p} },

	"a snapshot keeps name and record to the byte": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, snapshot: func(ctx context.Context, id, name, record string) (string, error) {
			return p.Snapshot(ctx, id, name, strings.TrimSpace(record[:min(len(record), 256)]))
		}}
	},
	"snapshots of one name are all listed": altered(func(vm *pool.VMInfo) {
		vm.Snapshots = slices.CompactFunc(vm.Snapshots, func(a, b pool.Snapshot) bool { return a.Name == b.Name })
	}),
	"a reverted VM is off and its snapshot stays": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, revert: func(context.Context, string, string) error { return nil }}
	},
	"a reverted VM boots and gets an address": func(p pool.Provider) pool.Provider {
		return broken{
			Provider: p,
			powerOn:  func(context.Context, string) error { return nil },
			address: func(context.Context, string, string) (netip.Addr, error) {
				return netip.MustParseAddr("10.0.0.1"), nil
			},
		}
	},

	"a snapshot of a VM that runs says so, and the VM runs on": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, running: p.Snapshot}
	},
	"a snapshot without memory of a VM that runs is none of a VM that runs": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, snapshot: p.SnapshotRunning}
	},
	"a snapshot with memory of a VM that is off is an error, and none is taken": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, running: p.Snapshot}
	},
	"a VM that is reverted to a snapshot of it running runs, without being powered on": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, revert: func(ctx context.Context, id, snapshot string) error {
			if err := p.Revert(ctx, id, snapshot); err != nil {
				return err
			}
			_, err := p.ShutDown(ctx, id, 0)
			return err
		}}
	},

	"a renamed VM is listed under its new name": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, rename: func(ctx context.Context, id, name string) error { return p.Annotate(ctx, id, name) }}
	},
	"renaming to a taken name is ErrExists and changes nothing": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, rename: func(ctx context.Context, id, name string) error {
			if err := p.Rename(ctx, id, name); errors.Is(err, pool.ErrExists) {
				return p.Rename(ctx, id, name+"-1")
			}
			return nil
		}}
	},
	"a note changes nothing that is listed": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, annotate: func(ctx context.Context, id, note string) error {
			_, err := p.Snapshot(ctx, id, "note", note)
			return err
		}}
	},
	"destroying a VM that runs removes it": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, destroy: func(ctx context.Context, id string) error {
			_, err := p.ShutDown(ctx, id, 0)
			return err
		}}
	},
	"destroying a VM that is gone is no error": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, destroy: func(ctx context.Context, id string) error {
			_, err := p.ShutDown(ctx, id, 0)
			return errors.Join(err, p.Destroy(ctx, id))
		}}
	},

	"a preflight of what can be built reports nothing and makes nothing": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, preflight: func(ctx context.Context, clones []pool.CloneSpec) error {
			_, err := p.Clone(ctx, clones[0])
			return err
		}}
	},
	"a preflight reports every place that does not exist, at once": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, preflight: func(ctx context.Context, clones []pool.CloneSpec) error {
			return p.Preflight(ctx, clones[:1])
		}}
	},
	"a preflight reports names that others have taken": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, preflight: func(context.Context, []pool.CloneSpec) error { return nil }}
	},
	"a preflight names the VM that has a static MAC": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, preflight: func(context.Context, []pool.CloneSpec) error { return nil }}
	},
	"a preflight says nothing of names that are ours": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, preflight: func(ctx context.Context, clones []pool.CloneSpec) error {
			clones = slices.Clone(clones)
			clones[0].Owner = "another"
			return p.Preflight(ctx, clones)
		}}
	},
	"a preflight reports missing privileges": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, preflight: func(context.Context, []pool.CloneSpec) error { return nil }}
	},
	"a wrong password is one clear error that shows neither name nor password": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, inventory: func(context.Context, string, []string) (*pool.Inventory, error) {
			return nil, errors.New("log in as the-user with password the-secret: refused")
		}}
	},

	"a VM on whose disks others hang is not destroyed, nor its power cut": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, destroy: func(ctx context.Context, id string) error {
			if _, err := p.ShutDown(ctx, id, 0); err != nil {
				return err
			}
			return p.Destroy(ctx, id)
		}}
	},
	"a VM is where Place said": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, place: func(ctx context.Context, vms []pool.VM) ([]pool.Placement, error) {
			all, err := p.Place(ctx, vms...)
			for i := range all {
				all[i].ResourcePool = path.Base(all[i].ResourcePool)
			}
			return all, err
		}}
	},
	"places that do not exist are named, all at once": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, place: func(ctx context.Context, vms []pool.VM) ([]pool.Placement, error) {
			return p.Place(ctx, vms[:1]...)
		}}
	},
	"a diagnosis reports whether a VM runs, and that it is gone": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, diagnose: func(ctx context.Context, id string) (pool.Diagnosis, error) {
			d, err := p.Diagnose(ctx, id)
			if d.Gone {
				return d, errors.New("no such VM")
			}
			return d, err
		}}
	},
	"a copy made by hand is listed as one, and not as ours": altered(func(vm *pool.VMInfo) {
		if vm.CopyOf != "" {
			vm.Owner, vm.CopyOf = vm.CopyOf, ""
		}
	}),
	"a record that is not stored as a whole is ErrRecord": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, snapshot: func(ctx context.Context, id, name, record string) (string, error) {
			return p.Snapshot(ctx, id, name, record[:min(len(record), recordLimit)])
		}}
	},
	"an operation that waits for an answer to a question ends with the question": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, powerOn: func(ctx context.Context, id string) error {
			if err := p.PowerOn(ctx, id); err != nil {
				return errors.New("it did not work")
			}
			return nil
		}}
	},

	"every method fails on a VM that is gone, and says so": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, annotate: func(ctx context.Context, id, note string) error {
			_ = p.Annotate(ctx, id, note)
			return nil
		}}
	},
	"every method ends when its context has ended, and does nothing": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, annotate: func(ctx context.Context, id, note string) error {
			return p.Annotate(context.WithoutCancel(ctx), id, note)
		}}
	},
	"a wait ends when its context does, with its cause": func(p pool.Provider) pool.Provider {
		return broken{Provider: p, address: func(ctx context.Context, id, mac string) (netip.Addr, error) {
			<-ctx.Done()
			return netip.Addr{}, errors.New("timed out")
		}}
	},
}

// hasty breaks what is promised about lost answers: it submits again without looking.
var hasty = map[string]func(p *Provider) pool.Provider{
	"a clone whose answer is lost is made once": func(p *Provider) pool.Provider {
		return broken{Provider: p, clone: func(ctx context.Context, spec pool.CloneSpec) (string, error) {
			return p.blindClone(ctx, spec)
		}}
	},
	"a snapshot whose answer is lost is taken once": func(p *Provider) pool.Provider {
		return broken{Provider: p, snapshot: func(ctx context.Context, id, name, record string) (snap string, err error) {
			snap, err = p.Snapshot(ctx, id, name, record)
			if err == nil {
				snap, err = p.Snapshot(ctx, id, name, record)
			}
			return snap, err
		}}
	},
	"a snapshot with memory whose answer is lost is taken once": func(p *Provider) pool.Provider {
		return broken{Provider: p, running: func(ctx context.Context, id, name, record string) (snap string, err error) {
			snap, err = p.SnapshotRunning(ctx, id, name, record)
			if err == nil {
				snap, err = p.SnapshotRunning(ctx, id, name, record)
			}
			return snap, err
		}}
	},
	"other answers may be lost too": func(p *Provider) pool.Provider {
		return broken{Provider: p, rename: func(ctx context.Context, id, name string) error {
			err := p.Rename(ctx, id, name)
			if err == nil { // as seen by one who repeats after a lost answer
				err = fmt.Errorf("name taken: %w", pool.ErrExists)
			}
			return err
		}}
	},
}

// blindClone clones and, for want of an answer, clones again and reports what that says.
func (p *Provider) blindClone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	id, err := p.Clone(ctx, spec)
	if err == nil {
		id, err = p.Clone(ctx, spec)
	}
	return id, err
}

func TestConformanceSuiteFailsBrokenProviders(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast(), limited)
	env := l.conformance()
	env.Timeout, env.Instant = 4*time.Second, 200*time.Millisecond
	env.ReadOnly = func(pool.T) pool.Provider { return l.p }
	env.Lose = func(pool.T, pooltest.Operation, string) {}
	s := pooltest.NewSuite(t, l.p, env)
	all := maps.Clone(breaks)
	for name, f := range hasty {
		all[name] = func(pool.Provider) pool.Provider { return f(l.p) }
	}
	for _, c := range pooltest.Cases() {
		f, ok := all[c.Name]
		if !assert.True(t, ok, "no provider breaks the promise %q", c.Name) {
			continue
		}
		t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			r := &recorder{t: t, ctx: t.Context()}
			failures := r.run(func() { s.Check(r, c, f(l.p)) })
			require.NotEmpty(t, failures, "a provider that breaks the promise passes")
		})
	}
	assert.Len(t, all, len(pooltest.Cases()), "every provider breaks a promise that there is")
}
