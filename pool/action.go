package pool

import (
	"fmt"
	"strings"
)

// An Action is what a plan does with one VM.
type Action string

// The actions, from none to most.
const (
	ActionReuse   Action = "reuse"    // it is ready and on (golden: it is ready)
	ActionPowerOn Action = "power on" // it is ready and off
	ActionReset   Action = "reset"    // it is ready, but a NIC is connected differently, or it must run and is off
	ActionFinish  Action = "finish"   // an interrupted golden: its steps are run again, on it
	ActionClone   Action = "clone"    // it does not exist
	ActionRebuild Action = "rebuild"  // it exists and is not, or no longer, what the Spec asks for
	ActionRemove  Action = "remove"   // an older golden, as soon as no clone depends on it
	ActionRefuse  Action = "refuse"   // something that we did not make is in the way
)

// An Item is one line of a plan.
type Item struct {
	VM     string `json:"vm"`
	Role   string `json:"role"` // "golden" or Role.Name
	Pool   int    `json:"pool"` // 0 for golden
	Action Action `json:"action"`
	Reason string `json:"reason"`
}

func (i Item) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s: %s: %s", i.VM, i.Action, i.Reason))
}

// RebuildOptions say what Rebuild rebuilds.
type RebuildOptions struct {
	// Layer is "golden" for a new golden and, from it, every VM; the name of a role for that role's VMs
	// and those that need them; "" for all VMs of the pools, from the existing golden.
	Layer string
}

func (o *RebuildOptions) includes(layer string) bool {
	return o != nil && (o.Layer == layer || o.Layer == "" && layer != "golden")
}

// requested is the reason of what is rebuilt since Rebuild was called.
const requested = "requested"
