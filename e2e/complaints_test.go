package e2e

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// These are the complaints that users of the shell harness before had, each as a test. Two more are
// elsewhere: the air gap that was in the guest only, and proved by one ping, in airgap_test.go;
// snapshots that were all taken at once, which the provider's gate prevents, in package vsphere.

func TestComplaintsOfSetsThatAreReady(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 1
	e := newEmbedded(t, topology, fast)
	set := e.open(t, e.spec(t))
	for _, test := range []struct {
		complaint string
		f         func(t *testing.T, e *embedded, set *pool.Set)
	}{
		{"clones were full though they said linked", clonesAreLinked},
		{"a snapshot of a longer name counted as pool-ready", onlyTheExactNameCounts},
		{"snapshots older than a fix were reused", aFixRebuilds},
		{"children ate the script", childrenDoNotEatTheScript},
		{"an update died with its connection", detachedOutlivesItsConnection},
		{"reverts needed patching, and suites left things", resetsLeaveNothing},
	} {
		t.Run(test.complaint, func(t *testing.T) { test.f(t, e, set) })
	}
}

func clonesAreLinked(t *testing.T, e *embedded, _ *pool.Set) {
	for _, name := range []string{"con1", "dis1"} {
		devices, err := e.vm(t, name).Device(t.Context())
		require.NoError(t, err)
		disks := devices.SelectByType((*types.VirtualDisk)(nil))
		require.Len(t, disks, 1)
		// Its snapshot stands between the disk and golden's.
		var files []string
		backing, _ := disks[0].GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		for ; backing != nil; backing = backing.Parent {
			files = append(files, backing.FileName)
		}
		require.GreaterOrEqual(t, len(files), 2, name)
		assert.Contains(t, files[len(files)-1], e.topology.GoldenName, "%s: %v", name, files)
	}
}

func onlyTheExactNameCounts(t *testing.T, e *embedded, _ *pool.Set) {
	vm := e.vm(t, "con1")
	rename := func(from, to string) {
		ref, err := vm.FindSnapshot(t.Context(), from)
		require.NoError(t, err)
		_, err = methods.RenameSnapshot(t.Context(), vm.Client(), &types.RenameSnapshot{This: *ref, Name: to})
		require.NoError(t, err)
	}
	rename("pool-ready", "pool-ready-old")
	defer rename("pool-ready-old", "pool-ready")
	assert.Equal(t, `rebuild: has no snapshot "pool-ready" (but "pool-ready-old")`, e.plan(t, e.spec(t))["con1"])
}

func aFixRebuilds(t *testing.T, e *embedded, _ *pool.Set) {
	assert.Contains(t, e.plan(t, e.spec(t))["con1"], "reuse: ")
	spec := e.spec(t)
	fixed := slices.Clone(spec.Roles[0].Steps)
	i := slices.IndexFunc(fixed, func(s pool.Step) bool { return s.Name == "dnsmasq" })
	fixed[i] = pool.Script("dnsmasq", script("steps", "dnsmasq")+"# fixed\n")
	spec.Roles[0].Steps = fixed
	assert.Equal(t, `rebuild: step "dnsmasq" changed`, e.plan(t, spec)["con1"])
}

// plan is what would be done to each VM.
func (e *embedded) plan(t *testing.T, spec pool.Spec) map[string]string {
	t.Helper()
	work, err := pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	all := map[string]string{}
	for _, i := range work.Items {
		all[i.VM] = string(i.Action) + ": " + i.Reason
	}
	return all
}

func childrenDoNotEatTheScript(t *testing.T, _ *embedded, set *pool.Set) {
	got, err := set.Acquire(t).Host(Con).Script(t.Context(), "#!/bin/sh\nset -eu\nssh root@localhost cat\ncat\necho end\n")
	require.NoError(t, err)
	assert.Equal(t, "end", got)
}

func resetsLeaveNothing(t *testing.T, e *embedded, set *pool.Set) {
	t.Run("a suite that leaves things", func(t *testing.T) {
		p := set.Acquire(t)
		_, err := p.Host(Con).Script(t.Context(), `#!/bin/sh
set -eu
firewall-cmd -q --permanent --add-port=5000/tcp
echo 'host-record=left.p1.example.com,10.0.2.99' >/etc/dnsmasq.d/left.conf
systemctl restart dnsmasq
useradd intruder
dnf -y -q remove tmux
`)
		require.NoError(t, err)
		_, err = p.Host(Dis).Script(t.Context(), "#!/bin/sh\nset -eu\nmkdir -p /opt/product\necho 1 >/opt/product/VERSION\nsystemctl disable chronyd\n")
		require.NoError(t, err)
	})
	t.Run("the next one finds both hosts as they were", func(t *testing.T) {
		p := set.Acquire(t)
		for role, list := range map[string][]pool.Check{Con: e.topology.checks(Con), Dis: e.topology.checks(Dis)} {
			h := p.Host(role)
			for _, c := range list {
				got, err := c.Do(t.Context(), h)
				require.NoError(t, err, "%s: %s", h.Name, c.Name)
				assert.Equal(t, expand(c.Want, h.VM.Env), strings.TrimSpace(got), "%s: %s", h.Name, c.Name)
			}
		}
		_, err := p.Host(Con).Run(t.Context(), "getent", "passwd", "intruder")
		assert.Error(t, err)
	})
}

func TestComplaintsOfBuildsThatFail(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 1
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)
	good := spec.Roles[0].Steps
	t.Run("verify stopped at the first failure", func(t *testing.T) {
		spec.Roles[0].Steps = append(slices.Clone(good), pool.Script("break", `#!/bin/sh
timedatectl set-timezone UTC
rm /root/.pull-secret.json
systemctl disable dnsmasq
`))
		_, err := pool.Open(t.Context(), spec)
		failed, ok := errors.AsType[*pool.CheckError](err)
		require.True(t, ok, "%v", err)
		var names []string
		for _, r := range failed.Failed {
			names = append(names, r.Name)
		}
		assert.ElementsMatch(t, []string{"timezone", "pull-secret", "dnsmasq"}, names)
		assert.Equal(t, len(checks[Con]), failed.Of)
	})
	t.Run("dirty hosts became the baseline", func(t *testing.T) {
		// SSH answers, half of the steps are done, and then one fails.
		spec.Roles[0].Steps = append(slices.Clone(good[:4]), pool.Script("fail", "#!/bin/sh\ntouch /half-done\nexit 3\n"))
		_, err := pool.Open(t.Context(), spec)
		require.ErrorContains(t, err, `step "fail": `)
		n, err := e.snapshots(t.Context(), "con1")
		require.NoError(t, err)
		assert.Zero(t, n, "no snapshot of a host that is not ready")
		spec.Roles[0].Steps = good
		set := e.open(t, spec)
		_, err = set.Pools()[0].Host(Con).Run(t.Context(), "test", "!", "-e", "/half-done")
		assert.NoError(t, err, "it was built anew")
	})
}

func TestComplaintAllHostsHitTheMirrorAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := make(gate, cap(updates))
		release := make(chan struct{})
		var inside atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				assert.NoError(t, g.do(t.Context(), func() error {
					inside.Add(1)
					<-release
					return nil
				}))
			})
		}
		synctest.Wait()
		assert.EqualValues(t, cap(updates), inside.Load())

		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		err := g.do(ctx, func() error { return nil })
		assert.ErrorContains(t, err, "enough", "who waits for others ends with the context")
		err = update(pool.Script("update", script("steps", "update")), g).Do(ctx, nil)
		assert.ErrorContains(t, err, "wait for other hosts to update: enough", "the step waits before it touches its host")
		close(release)
		all.Wait()
		assert.EqualValues(t, 20, inside.Load())
	})
}

func TestComplaintAKilledRunLeftOrphans(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology()
	topology.Pools = 1
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := pool.Step{Name: "the run is killed here", Version: "1", Do: func(ctx context.Context, h *pool.Host) error {
		cancel(errors.New("killed"))
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	killed := spec
	killed.Roles = slices.Clone(spec.Roles)
	killed.Roles[0].Steps = append([]pool.Step{stop}, spec.Roles[0].Steps...)
	_, err := pool.Open(ctx, killed)
	require.ErrorContains(t, err, "killed")

	set := e.open(t, spec)
	require.Len(t, set.Pools(), 1)
	names := map[string]int{}
	for _, name := range e.vmNames(t) {
		names[name]++
	}
	delete(names, topology.Template)
	for _, shard := range []string{"build", "pool-1"} { // no clones: they say who builds, and who has the pool
		delete(names, topology.Set+"-ledger-"+shard)
	}
	assert.Equal(t, map[string]int{topology.GoldenName: 1, "con1": 1, "dis1": 1}, names)
}

// vmNames are the names of all VMs.
func (e *embedded) vmNames(t *testing.T) []string {
	t.Helper()
	c, err := e.server.Client(t.Context())
	require.NoError(t, err)
	list, err := findAll(t.Context(), c.Client)
	require.NoError(t, err)
	var names []string
	for _, ref := range list {
		name, err := object.NewVirtualMachine(c.Client, ref).ObjectName(t.Context())
		require.NoError(t, err)
		names = append(names, name)
	}
	return names
}
