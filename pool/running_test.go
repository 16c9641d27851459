package pool_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

const bootID = "/proc/sys/kernel/random/boot_id"

// running is a spec whose roles of these names are resumed, not booted.
func (r *rig) running(pools int, roles ...string) pool.Spec {
	spec := r.spec(pools)
	for i := range spec.Roles {
		for _, name := range roles {
			if spec.Roles[i].Name == name {
				spec.Roles[i].Ready = pool.ReadyRunning
			}
		}
	}
	return spec
}

func TestARunningRoleIsResumed(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.running(1, "con", "dis")
	set := r.open(spec)
	assert.Equal(t, 1, r.count("PowerOn", "con1"), "it stays on when it is ready")
	assert.Equal(t, map[string]string{"golden": "reuse", "con1": "reuse", "dis1": "reuse"}, r.plan(spec))

	first := testOf(t, "TestFirst")
	p := first.acquire(set)
	require.NotNil(t, p, "%v", first.errs)
	boots := map[string]string{}
	var streams []chan error
	for _, h := range p.Hosts() {
		boots[h.Name] = h.MustRun(t, "cat", bootID)
		_, err := h.Script(t.Context(), `set -e
touch /var/dirt /run/dirt /dev/shm/dirt
echo "127.0.0.1 dirt" >> /etc/hosts
date -s @1000000000
(sleep 1000 >/dev/null 2>&1 &)
`)
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, err := h.Run(t.Context(), "sleep", "1000")
			ended <- err
		}()
		streams = append(streams, ended)
	}
	n := r.calls()
	first.end()
	for _, s := range streams {
		require.ErrorIs(t, <-s, pool.ErrReleased)
	}

	second := testOf(t, "TestSecond")
	p = second.acquire(set)
	require.NotNil(t, p, "%v", second.errs)
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, "PowerOn", "nothing is booted")
	}
	for _, h := range p.Hosts() {
		assert.Equal(t, boots[h.Name], h.MustRun(t, "cat", bootID), "%s goes on", h.Name)
		out, err := h.Script(t.Context(), "ls /var/dirt /run/dirt /dev/shm/dirt 2>/dev/null; grep dirt /etc/hosts; pgrep sleep; true")
		require.NoError(t, err)
		assert.Empty(t, out, "%s is clean", h.Name)
		now, err := time.Parse(time.RFC3339, h.MustRun(t, "date", "-u", "+%FT%TZ"))
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now(), now, 4*time.Second, "%s's clock is right", h.Name)
	}
	second.end()
	assert.Empty(t, second.errs)
	assert.Equal(t, 1, r.count("Clone", "con1"), "nothing had to be built anew")
}

func TestRolesMayBeReadyInTheirOwnWays(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"con", "dis"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			spec := r.running(1, role)
			set := r.open(spec)
			first := testOf(t, "TestFirst")
			p := first.acquire(set)
			require.NotNil(t, p, "%v", first.errs)
			before := map[string]string{}
			for _, h := range p.Hosts() {
				before[h.Role] = h.MustRun(t, "cat", bootID)
				h.MustRun(t, "touch", "/var/dirt")
			}
			events := len(r.history())
			first.end()
			second := testOf(t, "TestSecond")
			p = second.acquire(set)
			require.NotNil(t, p, "%v", second.errs)
			for _, h := range p.Hosts() {
				assert.Equal(t, h.Role == role, before[h.Role] == h.MustRun(t, "cat", bootID), h.Name)
				_, err := h.Run(t.Context(), "test", "-e", "/var/dirt")
				require.Error(t, err, h.Name)
			}
			h := r.history()[events:]
			last := func(event string) (at int) {
				at = -1
				for i, e := range h {
					if e == event {
						at = i
					}
				}
				require.GreaterOrEqual(t, at, 0, "%s in %q", event, h)
				return at
			}
			assert.Less(t, last("VmPoweredOff dis1"), last("VmPoweredOn con1"), "con comes back when nothing is left of dis")
			assert.Less(t, last("VmPoweredOff con1"), last("VmPoweredOn dis1"), "and dis when nothing is left of con")
			second.end()
		})
	}
}

func TestARunningHostThatIsOffIsReset(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.running(1, "con", "dis")
	set := r.open(spec)
	boot := set.Pools()[0].Host("dis").MustRun(t, "cat", bootID)
	set.Pools()[0].Host("dis").MustRun(t, "touch", "/var/dirt")
	set.Close()
	r.powerOff("dis1")
	assert.Equal(t, map[string]string{"golden": "reuse", "con1": "reuse", "dis1": "reset: is off, and runs when ready;"}, r.plan(spec))
	n := r.calls()
	dis := r.open(spec).Pools()[0].Host("dis")
	assert.Equal(t, boot, dis.MustRun(t, "cat", bootID))
	_, err := dis.Run(t.Context(), "test", "-e", "/var/dirt")
	require.Error(t, err)
	assert.Contains(t, r.asked(n), "Revert dis1")
	for _, asked := range r.asked(n) {
		assert.NotContains(t, asked, "PowerOn")
	}
}

func TestAChangeOfTheReadyStateRebuildsTheRole(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	r.open(r.running(1)).Close()
	spec := r.running(1, "dis")
	assert.Equal(t, map[string]string{"golden": "reuse", "con1": "reuse", "dis1": "rebuild: memory of the ready snapshot is new"}, r.plan(spec))
	r.open(spec).Close()
	assert.Equal(t, map[string]string{"golden": "reuse", "con1": "reuse", "dis1": "reuse"}, r.plan(spec))
	assert.Equal(t, "rebuild: memory of the ready snapshot is gone", r.plan(r.running(1))["dis1"])

	spec.Roles[0].Ready = "sleeping"
	_, err := pool.MakePlan(t.Context(), spec)
	assert.ErrorContains(t, err, `Spec.Roles[0] ("con"): Ready: is "sleeping"`)
}

func TestARefusedMemorySnapshotNamesTheRemedy(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.Inject(vspheretest.Fault{Method: "CreateSnapshot_Task", Name: "con1", Times: -1, Effect: vspheretest.Refuse(&types.MemorySnapshotOnIndependentDisk{})})
	_, err := pool.Open(t.Context(), r.running(1, "con"))
	require.ErrorContains(t, err, "MemorySnapshotOnIndependentDisk")
	require.ErrorContains(t, err, "if the VM cannot be snapshotted with its memory, set Role.Ready to ReadyOff")
}

// A lazy provider reverts as long as it is asked to, or not.
type lazy struct {
	pool.Provider
	revert func(ctx context.Context, p pool.Provider, id, snapshot string) error
}

func (l lazy) Revert(ctx context.Context, id, snapshot string) error {
	return l.revert(ctx, l.Provider, id, snapshot)
}

func TestAResumeThatIsNoneIsNoticed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		revert func(ctx context.Context, p pool.Provider, id, snapshot string) error
		dirty  string // what the test does to the host's memory or disk beforehand
		want   string
	}{
		"nothing is done": {
			revert: func(context.Context, pool.Provider, string, string) error { return nil },
			want:   "its disk was not reverted: it has /var/tmp/.poolready-dirty, which only a host has that a test used",
		},
		"nothing is done, and the file on the disk is gone": {
			revert: func(context.Context, pool.Provider, string, string) error { return nil },
			dirty:  "rm /var/tmp/.poolready-dirty",
			want:   "its memory was not reverted: it has /dev/shm/.poolready-clean, which an earlier proof wrote",
		},
		"it boots": {
			revert: func(ctx context.Context, p pool.Provider, id, snapshot string) error {
				if err := p.Revert(ctx, id, snapshot); err != nil {
					return err
				}
				if _, err := p.ShutDown(ctx, id, 0); err != nil {
					return err
				}
				return p.PowerOn(ctx, id)
			},
			want: "it did not resume",
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			r := newMemory(t)
			spec := r.running(1, "con")
			spec.Roles = spec.Roles[:1]
			spec.Provider = lazy{spec.Provider, c.revert}
			set := r.open(spec)
			first := testOf(t, "TestFirst")
			p := first.acquire(set)
			require.NotNil(t, p, "%v", first.errs)
			p.Host("con").MustRun(t, "touch", "/var/dirt")
			if c.dirty != "" {
				_, err := p.Host("con").Script(t.Context(), c.dirty)
				require.NoError(t, err)
			}
			first.end()
			second := testOf(t, "TestSecond")
			p = second.acquire(set)
			require.NotNil(t, p, "%v", second.errs)
			assert.Contains(t, r.saying(), c.want)
			assert.NotContains(t, r.saying(), "did not resume within", "nothing is waited for that cannot come")
			_, err := p.Host("con").Run(t.Context(), "test", "-e", "/var/dirt")
			require.Error(t, err, "it is rebuilt instead")
			// Once more, if the connection was dropped when the process took the rebuilt pool over:
			// such a pool is reset first.
			assert.GreaterOrEqual(t, r.count("Clone", "con1"), 2)
			second.end()
		})
	}
}

func TestACleanPoolThatWasRevertedByHandIsResetBeforeItIsLent(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.running(1, "con", "dis"))
	r.revert("con1", "pool-ready")
	p := set.Acquire(t)
	assert.Contains(t, r.saying(), "pool 1: reset, though it was clean: ", "its boot id is the same, but its clock is behind")
	p.Host("con").MustRun(t, "true")
}

func TestTheGuestsOwnMeansAreAsked(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.running(1, "con", "dis")
	spec.Golden.Steps = append(spec.Golden.Steps, pool.Script("time and leases", `set -e
mkdir -p /usr/local/bin
cat > /usr/local/bin/chronyc <<'END'
#!/bin/sh
echo "chronyc $*" >> /var/log/asked
END
cat > /usr/local/bin/networkctl <<'END'
#!/bin/sh
if test "$1" = --no-legend; then
	echo "  1 lo     loopback carrier    unmanaged"
	echo "  2 ens192 ether    routable   configured"
	exit 0
fi
echo "networkctl $*" >> /var/log/asked
END
chmod 755 /usr/local/bin/chronyc /usr/local/bin/networkctl
`))
	set := r.open(spec)
	first := testOf(t, "TestFirst")
	p := first.acquire(set)
	require.NotNil(t, p, "%v", first.errs)
	first.end()
	p = set.Acquire(t)
	for _, h := range p.Hosts() {
		assert.Equal(t, "chronyc makestep\nnetworkctl renew ens192", h.MustRun(t, "cat", "/var/log/asked"), h.Name)
	}
}

func TestAResumedHostIsLookedForAnew(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.running(1, "con"))
	addr := set.Pools()[0].Host("con").Addr()
	first := testOf(t, "TestFirst")
	require.NotNil(t, first.acquire(set), "%v", first.errs)
	first.end()

	// Since it was reverted, the next boot gets another address, which vCenter goes on telling
	// after the revert.
	second := testOf(t, "TestSecond")
	p := second.acquire(set)
	require.NotNil(t, p, "%v", second.errs)
	c, err := p.Host("con").SSH(t.Context())
	require.NoError(t, err)
	boot := p.Host("con").MustRun(t, "cat", bootID)
	_, _ = p.Host("con").Run(t.Context(), "reboot")
	<-c.Done()
	old := addr.String()
	require.Eventually(t, func() bool {
		at := r.info("con1").Addrs["00:50:56:01:01:01"]
		return len(at) > 0 && at[0].String() != old
	}, 20*time.Second, 5*time.Millisecond)
	second.end()

	p = set.Acquire(t)
	assert.Equal(t, boot, p.Host("con").MustRun(t, "cat", bootID))
	assert.Equal(t, addr, p.Host("con").Addr())
	assert.Equal(t, 1, r.count("Clone", "con1"))
}

// A confused provider tells another VM's address for a while after a revert.
type confused struct {
	pool.Provider
	mu    sync.Mutex
	other netip.Addr
	left  int
}

func (c *confused) Address(ctx context.Context, id, mac string, except netip.Addr, _ ...netip.Prefix) (netip.Addr, error) {
	c.mu.Lock()
	if c.left > 0 && mac == "00:50:56:01:01:01" { // con1
		other := c.other
		if except != other {
			c.left--
		}
		c.mu.Unlock()
		if except == other { // nothing else will come
			<-ctx.Done()
			return netip.Addr{}, context.Cause(ctx)
		}
		return other, nil
	}
	c.mu.Unlock()
	return c.Provider.Address(ctx, id, mac, except)
}

// Inventory knows no address of a VM whose address is another's.
func (c *confused) Inventory(ctx context.Context, set string, templates ...string) (*pool.Inventory, error) {
	inv, err := c.Provider.Inventory(ctx, set, templates...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.left > 0 {
		for i := range inv.VMs {
			inv.VMs[i].Addrs = nil
		}
	}
	return inv, err
}

func TestAnotherCloneIsNotTakenForTheResumedHost(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.running(2, "con")
	spec.Roles = spec.Roles[:1]
	provider := &confused{Provider: spec.Provider}
	spec.Provider = provider
	set := r.open(spec)
	first := testOf(t, "TestFirst")
	p := first.acquire(set)
	require.NotNil(t, p, "%v", first.errs)
	require.Equal(t, 1, p.Number)
	provider.mu.Lock()
	provider.other, provider.left = set.Pools()[1].Host("con").Addr(), 1
	provider.mu.Unlock()
	first.end()
	require.Eventually(t, func() bool { return strings.Contains(r.saying(), "pool 1: reset in") }, 20*time.Second, time.Millisecond)
	provider.mu.Lock()
	assert.Zero(t, provider.left)
	provider.mu.Unlock()
	assert.Equal(t, "served by con1", set.Pools()[0].Host("con").MustRun(t, "cat", "/etc/served"))
}

func TestASnapshotThatLostTheMemoryIsNotReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.running(1, "dis")
	r.open(spec).Close()
	var o mo.VirtualMachine
	require.NoError(t, r.vm("dis1").Properties(t.Context(), r.vm("dis1").Reference(), []string{"snapshot"}, &o))
	record := o.Snapshot.RootSnapshotList[0].Description
	r.byHand(func(ctx context.Context) (*object.Task, error) {
		return r.vm("dis1").RemoveSnapshot(ctx, "pool-ready", false, nil)
	})
	r.byHand(func(ctx context.Context) (*object.Task, error) {
		return r.vm("dis1").CreateSnapshot(ctx, "pool-ready", record, false, false)
	})
	assert.Equal(t, "rebuild: its ready snapshot lacks the VM's memory", r.plan(spec)["dis1"])
}

// Another clone, with golden's host keys, answers at the address that vCenter tells: it is never
// taken for the host.
func TestAnotherCloneAtTheAddressIsRefused(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(2)
	spec.Roles = spec.Roles[:1]
	provider := &confused{Provider: spec.Provider}
	spec.Provider = provider
	set := r.open(spec)
	provider.mu.Lock()
	provider.other, provider.left = set.Pools()[1].Host("con").Addr(), 1000
	provider.mu.Unlock()
	set.Close()
	r.powerOff("con1")
	impatient := spec
	impatient.Limits.Boot = 5 * time.Second
	_, err := pool.Open(t.Context(), impatient)
	var failed *pool.HostError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, "con1", failed.Host)
	assert.ErrorContains(t, err, provider.other.String()+" is another machine than con1")
	assert.ErrorContains(t, err, "/etc/machine-id")

	provider.mu.Lock()
	provider.left = 1 // for a moment only
	provider.mu.Unlock()
	r.powerOff("con1")
	r.open(spec)
}

// A host that cannot be reset is rebuilt by the next run, also where no test was to have it.
func TestAHostWhoseResetFailsIsRebuiltByTheNextRun(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.running(1, "con")
	r.open(spec).Close()
	r.powerOff("con1")
	broken := spec
	broken.Provider = lazy{spec.Provider, func(context.Context, pool.Provider, string, string) error { return errors.New("no such disk") }}
	_, err := pool.Open(t.Context(), broken)
	require.ErrorContains(t, err, "no such disk")
	assert.Equal(t, pool.StateBroken, r.status(spec).Pools[0].State)
	plan := r.plan(spec)
	assert.Contains(t, plan["con1"], "rebuild: its pool could not be reset: ")
	assert.Contains(t, plan["con1"], "no such disk")
	r.open(broken)
	assert.Equal(t, 2, r.count("Clone", "con1"))
	assert.Equal(t, pool.StateClean, r.status(spec).Pools[0].State)
}
