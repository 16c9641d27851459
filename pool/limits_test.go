package pool_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
)

// A crowd lets nothing end before as many are in the hypervisor's hands at once as are wanted.
type crowd struct {
	*pooltest.Provider

	hosts []string // of the hypervisor
	want  map[string]int

	mu      sync.Mutex // guards what follows
	goldens map[string]bool
	in      map[string]int
	most    map[string]int
	enough  map[string]chan struct{}
}

func (c *crowd) during(ctx context.Context, what string) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.enough[what] == nil {
		c.enough[what] = make(chan struct{})
	}
	c.in[what]++
	if c.most[what] = max(c.most[what], c.in[what]); c.in[what] == c.want[what] && c.most[what] == c.in[what] {
		select {
		case <-c.enough[what]:
		default:
			close(c.enough[what])
		}
	}
	enough := c.enough[what]
	return func() {
		select {
		case <-enough:
		case <-ctx.Done():
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.in[what]--
	}
}

func (c *crowd) Place(ctx context.Context, vms ...pool.VM) ([]pool.Placement, error) {
	all, err := c.Provider.Place(ctx, vms...)
	for i := range all {
		all[i].Hosts = c.hosts
	}
	return all, err
}

func (c *crowd) Clone(ctx context.Context, spec pool.CloneSpec) (string, error) {
	if !spec.Template {
		defer c.during(ctx, "clone")()
	}
	id, err := c.Provider.Clone(ctx, spec)
	if spec.Template {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.goldens[id] = true
	}
	return id, err
}

func (c *crowd) isGolden(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goldens[id]
}

func (c *crowd) PowerOn(ctx context.Context, id string) error {
	if !c.isGolden(id) {
		defer c.during(ctx, "boot")()
	}
	return c.Provider.PowerOn(ctx, id)
}

func (c *crowd) Snapshot(ctx context.Context, id, name, record string) (string, error) {
	if !c.isGolden(id) {
		defer c.during(ctx, "snapshot")()
	}
	return c.Provider.Snapshot(ctx, id, name, record)
}

// A hypervisor of one host has what one host bears in its hands, one of several more, and the
// user's own numbers count in both.
func TestWhatIsDoneAtOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hosts  int
		limits pool.Limits
		want   map[string]int
	}{
		"unknown hosts":      {0, pool.Limits{}, map[string]int{"clone": 8, "boot": 16, "snapshot": 10}},
		"one host":           {1, pool.Limits{}, map[string]int{"clone": 8, "boot": 16, "snapshot": 10}},
		"two hosts":          {2, pool.Limits{Hosts: 20}, map[string]int{"clone": 20, "boot": 20, "snapshot": 20}},
		"the user's numbers": {1, pool.Limits{Clones: 11, Hosts: 13, Snapshots: 12}, map[string]int{"clone": 11, "boot": 13, "snapshot": 12}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newMemory(t)
			spec := r.light(20)
			spec.Roles, spec.Limits = spec.Roles[:1], c.limits
			p := &crowd{
				Provider: r.mem, want: c.want, goldens: map[string]bool{},
				in: map[string]int{}, most: map[string]int{}, enough: map[string]chan struct{}{},
			}
			for i := range c.hosts {
				p.hosts = append(p.hosts, fmt.Sprint("esxi", i))
			}
			spec.Provider = p
			r.open(spec)
			assert.Equal(t, c.want, p.most)
		})
	}
}

func TestThePlanTellsWhatLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.spec(3)
	spec.Limits.Hosts = 30
	p, err := pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 1, p.Concurrency.Hypervisors)
	assert.Contains(t, p.String(), "at once, for one hypervisor host: 8 linked clones, 4 full clones, 30 hosts made ready (Limits.Hosts), 10 snapshots or reverts")
	r.open(spec)
	p, err = pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	assert.NotContains(t, p.String(), "at once", "nothing is built")
	assert.False(t, slices.ContainsFunc(p.Items, func(i pool.Item) bool { return i.Action != pool.ActionReuse }))
}
