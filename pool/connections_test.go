package pool_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

func TestOnlyTheHostsUsedLastKeepIdleConnections(t *testing.T) {
	t.Parallel()
	const pools, kept = 4, 2
	r := newRig(t, nil)
	set := r.open(r.light(pools).KeepIdle(kept))
	connected := func(hosts []*pool.Host) (names []string) {
		for _, h := range hosts {
			if h.Connected() {
				names = append(names, h.Name)
			}
		}
		return names
	}
	var hosts []*pool.Host
	for _, p := range set.Pools() {
		hosts = append(hosts, p.Hosts()...)
	}
	assert.Len(t, connected(hosts), kept, "after a build")
	for i := range pools {
		ft := testOf(t, fmt.Sprint("Test", i))
		p := ft.acquire(set)
		require.NotNil(t, p, "%v", ft.errs)
		defer ft.end()
		hosts = append(hosts, p.Hosts()...)
	}
	assert.Len(t, connected(hosts), kept, "all are leased")
	hosts = hosts[2*pools:]

	waiting, given, dialed := hosts[0], hosts[1], hosts[2]
	ran := make(chan error, 1)
	go func() {
		_, err := waiting.Script(t.Context(), "touch /tmp/begun; while test ! -e /tmp/end; do sleep 0.01; done")
		ran <- err
	}()
	c, err := given.SSH(t.Context())
	require.NoError(t, err)
	conn, err := dialed.DialContext(t.Context(), "tcp", given.Addr().String()+":22")
	require.NoError(t, err)
	defer conn.Close()
	require.Eventually(t, func() bool {
		_, err := waiting.Run(t.Context(), "test", "-e", "/tmp/begun")
		return err == nil
	}, time.Minute, time.Millisecond)
	for _, h := range slices.Concat(hosts[3:], hosts[3:]) {
		h.MustRun(t, "true")
	}
	assert.Equal(t, []string{waiting.Name, given.Name, dialed.Name, hosts[6].Name, hosts[7].Name}, connected(hosts), "and those in use")
	again, err := given.SSH(t.Context())
	require.NoError(t, err)
	assert.Same(t, c, again)
	banner := make([]byte, 4)
	_, err = conn.Read(banner)
	require.NoError(t, err)
	assert.Equal(t, "SSH-", string(banner))
	waiting.MustRun(t, "touch", "/tmp/end")
	require.NoError(t, <-ran)
}

// Nothing powers a leased host on again, so that its loss is told at once, also if its connection was idle.
func TestALeasedHostThatIsOffAndWasIdleIsToldOfAtOnce(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.light(2).KeepIdle(1))
	p, other := set.Acquire(t), testOf(t, "TestOther")
	require.NotNil(t, other.acquire(set), "%v", other.errs)
	defer other.end()
	require.False(t, p.Host("con").Connected())
	r.powerOff(p.Host("con").Name)
	begun := time.Now()
	_, err := p.Host("con").Run(t.Context(), "true")
	require.ErrorContains(t, err, "the hypervisor says")
	assert.Less(t, time.Since(begun), time.Minute, "Limits.Boot is 10 minutes")
}

// A use of a pool of Set.Pools goes on when a test leases the pool, and shares the connection.
func TestALeasedHostLeavesTheConnectionToThoseWhoUseIt(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	set := r.open(r.light(2).KeepIdle(1))
	given, ran := map[string]*sshx.Client{}, make(chan error, 2)
	for _, p := range set.Pools() {
		c, err := p.Host("con").SSH(t.Context())
		require.NoError(t, err)
		given[p.Host("con").Name] = c
		go func() {
			_, err := p.Host("dis").Script(context.WithoutCancel(t.Context()), "touch /tmp/begun; while test ! -e /tmp/end; do sleep 0.01; done")
			ran <- err
		}()
		require.Eventually(t, func() bool {
			_, err := p.Host("dis").Run(t.Context(), "test", "-e", "/tmp/begun")
			return err == nil
		}, time.Minute, time.Millisecond)
	}
	var leased []*pool.Pool
	for range 2 {
		ft := testOf(t, fmt.Sprint("Test", len(leased)))
		p := ft.acquire(set)
		require.NotNil(t, p, "%v", ft.errs)
		defer ft.end()
		leased = append(leased, p)
	}
	for _, p := range slices.Concat(leased, leased) {
		p.Host("con").MustRun(t, "true")
		p.Host("dis").MustRun(t, "touch", "/tmp/end")
	}
	for range 2 {
		require.NoError(t, <-ran)
	}
	for name, c := range given {
		require.NoError(t, c.Err(), name)
	}
}

// What vCenter does not reach may run all the same.
func TestAnIdleHostThatAnswersIsUsedWhateverTheHypervisorSays(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.light(2).KeepIdle(1)
	spec.Provider = outOfReach{spec.Provider}
	set := r.open(spec)
	p, other := set.Acquire(t), testOf(t, "TestOther")
	require.NotNil(t, other.acquire(set), "%v", other.errs)
	defer other.end()
	require.False(t, p.Host("con").Connected())
	p.Host("con").MustRun(t, "true")
}

// outOfReach is a Provider that has lost the host of the hypervisor that all VMs are on.
type outOfReach struct{ pool.Provider }

func (outOfReach) Diagnose(context.Context, string) (pool.Diagnosis, error) {
	return pool.Diagnosis{On: true, Host: "its host esx1 does not respond"}, nil
}
