package vspheretest_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// What a VM's life takes does not depend on how many there are: looking at a VM allocates
// memory, so the number of allocations says how many are looked at.
func TestOperationsDoNotVisitEveryVM(t *testing.T) {
	const few, many = 10, 410
	life := func(n int) float64 {
		srv := vspheretest.NewUnstartedServer(t)
		srv.Model, srv.Latency = simulator.VPX(), vspheretest.Latency{Scale: 1e-9}
		srv.Model.Host, srv.Model.Machine, srv.Model.Autostart = 0, n, false
		srv.Start()
		c, err := srv.Client(t.Context())
		require.NoError(t, err)
		f := find.NewFinder(c.Client)
		folder, err := f.Folder(t.Context(), "/DC0/vm")
		require.NoError(t, err)
		src, err := f.VirtualMachine(t.Context(), "/DC0/vm/DC0_C0_RP0_VM1")
		require.NoError(t, err)
		result := func(task *object.Task, err error) any {
			require.NoError(t, err)
			info, err := task.WaitForResult(t.Context())
			require.NoError(t, err)
			return info.Result
		}
		return testing.AllocsPerRun(5, func() {
			ref := result(src.Clone(t.Context(), folder, "clone", types.VirtualMachineCloneSpec{}))
			vm := object.NewVirtualMachine(c.Client, ref.(types.ManagedObjectReference))
			result(vm.Rename(t.Context(), "renamed"))
			result(vm.PowerOn(t.Context()))
			result(vm.PowerOff(t.Context()))
			result(vm.Destroy(t.Context()))
		})
	}
	a, b := life(few), life(many)
	t.Logf("%.0f allocations with %d VMs, %.0f with %d", a, few, b, many)
	assert.Less(t, b-a, float64(2*(many-few))) // one more look at each takes more; waits vary by some hundred
}
