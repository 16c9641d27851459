package vsphere

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// Diagnose implements pool.Provider. It costs one call.
func (p *Provider) Diagnose(ctx context.Context, id string) (pool.Diagnosis, error) {
	d, err := p.diagnose(ctx, vmRef(id))
	return d, p.errorf(err, "diagnose %s", p.label(id))
}

func (p *Provider) diagnose(ctx context.Context, ref types.ManagedObjectReference) (pool.Diagnosis, error) {
	objects, err := p.s.retrieve(ctx, types.PropertyFilterSpec{
		PropSet: []types.PropertySpec{
			{Type: "VirtualMachine", PathSet: []string{
				"name", "runtime.powerState", "runtime.connectionState", "runtime.question", "config.template",
				"guest.toolsRunningStatus",
			}},
			{Type: "HostSystem", PathSet: []string{"name", "runtime.connectionState", "runtime.inMaintenanceMode"}},
			{Type: "Task", PathSet: []string{"info.state", "info.name", "info.descriptionId", "info.progress"}},
		},
		ObjectSet: []types.ObjectSpec{{
			Obj: ref,
			SelectSet: []types.BaseSelectionSpec{
				&types.TraversalSpec{Type: "VirtualMachine", Path: "runtime.host"},
				&types.TraversalSpec{Type: "VirtualMachine", Path: "recentTask"},
			},
		}},
	})
	if isGone(err, ref) {
		return pool.Diagnosis{Gone: true}, nil
	}
	if err != nil {
		return pool.Diagnosis{}, err
	}
	var d pool.Diagnosis
	var tasks []string
	for _, o := range objects {
		switch o.Obj.Type {
		case "VirtualMachine":
			vm, err := asVM(o)
			if err != nil {
				return d, err
			}
			p.heard(vm)
			d.On = vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
			d.Question = question(vm)
			d.Template = vm.Config != nil && vm.Config.Template
			d.Tools = vm.Guest != nil && vm.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
			if s := vm.Runtime.ConnectionState; s != "" && s != types.VirtualMachineConnectionStateConnected {
				d.Problem = string(s)
			}
			if vm.Runtime.PowerState == types.VirtualMachinePowerStateSuspended {
				d.Problem = "suspended"
			}
		case "HostSystem":
			host := newPlace(o)
			if why := unusable(host); why != "" {
				d.Host = fmt.Sprintf("its host %s %s (%s)", host.name, why, revive(host))
			}
		case "Task":
			if text := underWay(o); text != "" {
				tasks = append(tasks, text)
			}
		}
	}
	slices.Sort(tasks)
	d.Tasks = strings.Join(tasks, ", ")
	return d, nil
}

// underWay describes a task that has not ended, or is "".
func underWay(o types.ObjectContent) string {
	props := newPlace(o).props
	state, _ := props["info.state"].(types.TaskInfoState)
	if state != types.TaskInfoStateQueued && state != types.TaskInfoStateRunning {
		return ""
	}
	name, _ := props["info.name"].(string)
	if name == "" {
		name, _ = props["info.descriptionId"].(string)
	}
	text := fmt.Sprintf("%s (%s, %s", name, o.Obj.Value, state)
	if percent, ok := props["info.progress"].(int32); ok && percent > 0 {
		text += fmt.Sprintf(" at %d %%", percent)
	}
	return text + ")"
}

// question is what vCenter asks about a VM, and how to answer, or "".
func question(vm mo.VirtualMachine) string {
	q := vm.Runtime.Question
	if q == nil {
		return ""
	}
	var choices []string
	for i, c := range q.Choice.ChoiceInfo {
		e := c.GetElementDescription()
		text := e.Key + " " + e.Label
		if int(q.Choice.DefaultIndex) == i {
			text += " (default)"
		}
		choices = append(choices, text)
	}
	name := vm.Name
	if name == "" {
		name = vm.Self.Value
	}
	return fmt.Sprintf("%q, to be answered with %s: in the vSphere client, or: govc vm.question -vm %s -answer ...",
		strings.TrimSpace(q.Text), strings.Join(choices, " or "), name)
}
