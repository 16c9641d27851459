package vspheretest_test

import (
	"context"
	"fmt"
	"log"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// In a test, NewServer(t) starts a vCenter with defaults and closes it at the end. A program, such
// as this one, passes nil and closes it by itself.
func Example() {
	srv := vspheretest.NewUnstartedServer(nil)
	srv.Templates = []vspheretest.Template{{Path: "templates/rhel9", DiskGiB: 40}}
	srv.Latency = vspheretest.Fast()
	srv.Start()
	defer srv.Close()

	ctx := context.Background()
	c, err := srv.Client(ctx) // or any client that is given srv.URL and srv.CAFile
	if err != nil {
		log.Fatal(err)
	}
	vms, err := find.NewFinder(c.Client).VirtualMachineList(ctx, "/Datacenter/vm/...")
	if err != nil {
		log.Fatal(err)
	}
	for _, vm := range vms {
		fmt.Println(vm.InventoryPath)
	}
	// Output: /Datacenter/vm/templates/rhel9
}

// A user who may not clone, and finds out by trying. Server.Client's user may everything.
func ExampleServer_Deny() {
	srv := vspheretest.NewUnstartedServer(nil)
	srv.Latency = vspheretest.Fast()
	srv.Start()
	defer srv.Close()
	ctx := context.Background()
	c, err := dial(ctx, srv)
	if err != nil {
		log.Fatal(err)
	}
	defer c.CloseIdleConnections()

	srv.Deny("VirtualMachine.Provisioning.DeployTemplate")
	f := find.NewFinder(c.Client)
	template, err := f.VirtualMachine(ctx, "/Datacenter/vm/template")
	if err != nil {
		log.Fatal(err)
	}
	folder, err := f.Folder(ctx, "/Datacenter/vm")
	if err != nil {
		log.Fatal(err)
	}
	_, err = template.Clone(ctx, folder, "vm1", types.VirtualMachineCloneSpec{})
	fmt.Println(fault.Is(err, &types.NoPermission{}))
	// Output: true
}

// The second snapshot of con1 is taken, but its answer is lost.
func ExampleFault() {
	srv := vspheretest.NewUnstartedServer(nil)
	srv.Start()
	defer srv.Close()
	lost := srv.Inject(vspheretest.Fault{
		Method: "CreateSnapshot_Task", Name: "con1", Nth: 2, Effect: vspheretest.LoseReply,
	})
	// ... what is tested runs ...
	fmt.Println(lost.Hits())
	// Output: 0
}

// A program's test that was written for vcsim, switched by one line: it was simulator.Test. What it
// asserts of the revert fails there.
func ExampleTest() {
	vspheretest.Test(func(ctx context.Context, c *vim25.Client) {
		vm, err := find.NewFinder(c).VirtualMachine(ctx, "/DC0/vm/DC0_H0_VM0")
		if err != nil {
			log.Fatal(err)
		}
		wait := func(task *object.Task, err error) {
			if err == nil {
				err = task.Wait(ctx)
			}
			if err != nil {
				log.Fatal(err)
			}
		}
		wait(vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{Annotation: "golden"}))
		wait(vm.CreateSnapshot(ctx, "clean", "", false, false))
		wait(vm.Reconfigure(ctx, types.VirtualMachineConfigSpec{Annotation: "used"}))
		wait(vm.RevertToSnapshot(ctx, "clean", false))

		var o mo.VirtualMachine
		if err := vm.Properties(ctx, vm.Reference(), []string{"config.annotation", "runtime.powerState"}, &o); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q, %s\n", o.Config.Annotation, o.Runtime.PowerState)
	})
	// Output: "golden", poweredOff
}
