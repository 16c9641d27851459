package pool_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// On systems whose DHCP client goes by /etc/machine-id, clones of a golden with a filled one get one
// address. None of them is taken for another: the set is not ready, and the error says why.
func TestClonesThatShareALeaseAreNotReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(s *vspheretest.Server) { s.OS = &sshguest.OS{LeaseByMachineID: true} })
	spec := r.spec(1)
	spec.Roles = spec.Roles[:1]
	r.open(spec).Close()
	spec.Pools, spec.Limits.Boot = 2, 5*time.Second
	set, err := pool.Open(t.Context(), spec)
	if err == nil {
		set.Close()
	}
	var failed *pool.HostError
	require.ErrorAs(t, err, &failed)
	assert.ErrorContains(t, err, "con1")
	assert.ErrorContains(t, err, "con2")
	assert.ErrorContains(t, err, "machine-id")
}

// With an empty machine-id in golden each clone makes its own, and has an address of its own.
func TestClonesOfAGoldenWithoutAMachineIDAreReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(s *vspheretest.Server) { s.OS = &sshguest.OS{LeaseByMachineID: true} })
	spec := r.spec(2)
	spec.Golden.Steps = append(spec.Golden.Steps, pool.Script("machine-id", ": >/etc/machine-id"))
	set := r.open(spec)
	addrs := map[string]bool{}
	for _, p := range set.Pools() {
		for _, role := range []string{"con", "dis"} {
			addrs[p.Host(role).Addr().String()] = true
		}
	}
	assert.Len(t, addrs, 4)
}
