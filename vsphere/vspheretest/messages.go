package vspheretest

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// soapFault is the answer to a call that is refused.
func soapFault(f types.BaseMethodFault) *soap.Fault { return simulator.Fault(faultMessage(f), f) }

// powerStates are the power states as vCenter's messages name them.
var powerStates = map[types.VirtualMachinePowerState]string{
	poweredOn: "Powered on", poweredOff: "Powered off", suspended: "Suspended",
}

// faultMessage is what vCenter says of a fault, in meaning: that of its kind, with what the fault
// names. What the Server has to say for itself, such as what it does not simulate, comes first.
func faultMessage(f types.BaseMethodFault) string {
	if m := f.GetMethodFault(); m != nil {
		for _, l := range m.FaultMessage {
			if l.Key == ownMessage && l.Message != "" {
				return l.Message
			}
		}
	}
	switch f := f.(type) {
	case *types.DuplicateName:
		return fmt.Sprintf("The name '%s' already exists.", f.Name)
	case *types.InvalidPowerState:
		return fmt.Sprintf("The attempted operation cannot be performed in the current state (%s).", powerStates[f.ExistingState])
	case *types.InvalidArgument:
		return "A specified parameter was not correct: " + f.InvalidProperty
	case *types.ManagedObjectNotFound:
		return fmt.Sprintf("The object '%s:%s' has already been deleted or has not been completely created.", f.Obj.Type, f.Obj.Value)
	case *types.ResourceInUse:
		return fmt.Sprintf("The resource '%s' is in use.", f.Name)
	case *types.FileAlreadyExists:
		return fmt.Sprintf("Cannot complete the operation because the file or folder %s already exists", f.File)
	case *types.FileNotFound:
		return fmt.Sprintf("File %s was not found", f.File)
	case *types.FileLocked:
		return fmt.Sprintf("Unable to access file %s since it is locked", f.File)
	case *types.CannotAccessFile:
		return "Unable to access file " + f.File
	case *types.InvalidDatastorePath:
		return fmt.Sprintf("Invalid datastore path '%s'.", f.DatastorePath)
	case *types.InaccessibleDatastore:
		return fmt.Sprintf("Datastore '%s' is not accessible.", f.Name)
	case *types.InvalidName:
		return fmt.Sprintf("The name '%s' is invalid.", f.Name)
	case *types.AlreadyExists:
		return fmt.Sprintf("The specified key, name, or identifier '%s' already exists.", f.Name)
	case *types.InvalidDeviceBacking:
		return fmt.Sprintf("Incompatible device backing specified for device '%d'.", f.DeviceIndex)
	case *types.InvalidDeviceOperation:
		return fmt.Sprintf("Invalid operation for device '%d'.", f.DeviceIndex)
	case *types.InvalidDeviceSpec:
		return fmt.Sprintf("Invalid configuration for device '%d'.", f.DeviceIndex)
	case *types.CannotAccessNetwork:
		return fmt.Sprintf("Currently connected network interface '%s' uses network '%s', which is not accessible.", f.Device, f.Backing)
	case *types.CannotAccessVmDevice:
		return fmt.Sprintf("Virtual device '%s' uses backing '%s', which is not accessible.", f.Device, f.Backing)
	case *types.GenericVmConfigFault:
		return f.Reason
	case *types.MethodNotFound:
		return fmt.Sprintf("The method %s is not implemented by %s.", f.Method, f.Receiver.Type)
	}
	kind := fmt.Sprintf("%T", f)[len("*types."):]
	if text, ok := faultMessages[kind]; ok {
		return text
	}
	return kind
}

// faultMessages are those of kinds that name nothing.
var faultMessages = map[string]string{
	"ConcurrentAccess":                 "The operation cannot complete due to concurrent modification by another operation.",
	"CpuHotPlugNotSupported":           "CPU hot plug is not supported for this virtual machine.",
	"DatabaseError":                    "A database error has occurred.",
	"HostCommunication":                "Unable to communicate with the remote host.",
	"HostNotConnected":                 "Unable to communicate with the remote host, since it is disconnected.",
	"HostNotReachable":                 "Unable to communicate with the remote host, since it is not reachable.",
	"InsufficientCpuResourcesFault":    "The available CPU resources in the parent resource pool are insufficient for the operation.",
	"InsufficientMemoryResourcesFault": "The available Memory resources in the parent resource pool are insufficient for the operation.",
	"InsufficientResourcesFault":       "The operation cannot be allowed at the current time because of insufficient resources.",
	"InvalidFolder":                    "The target folder is invalid.",
	"InvalidHostConnectionState":       "The operation is not allowed in the current connection state of the host.",
	"InvalidHostState":                 "The operation is not allowed in the current state of the host.",
	"InvalidLogin":                     "Cannot complete login due to an incorrect user name or password.",
	"InvalidState":                     "The operation is not allowed in the current state.",
	"InvalidVmConfig":                  "The virtual machine configuration is invalid.",
	"MemoryHotPlugNotSupported":        "Memory hot plug is not supported for this virtual machine.",
	"MethodDisabled":                   "The method is disabled.",
	"NoCompatibleHost":                 "No host is compatible with the virtual machine.",
	"NoDiskSpace":                      "There is not enough space on the datastore.",
	"NoPermission":                     "Permission to perform this operation was denied.",
	"NotAuthenticated":                 "The session is not authenticated.",
	"NotEnoughLicenses":                "There are not enough licenses installed to perform the operation.",
	"NotFound":                         "The object or item referred to could not be found.",
	"NotSupported":                     "The operation is not supported on the object.",
	"QuestionPending":                  "The operation cannot be performed because a question is pending.",
	"RequestCanceled":                  "The task was canceled by a user.",
	"SnapshotLocked":                   "The virtual machine's snapshots are locked.",
	"TaskInProgress":                   "Another task is already in progress.",
	"Timedout":                         "Operation timed out.",
	"TooManySnapshotLevels":            "Snapshot hierarchy is too deep.",
	"ToolsUnavailable":                 "Cannot complete operation because VMware Tools is not running in this virtual machine.",
	"VmConfigFault":                    "Virtual machine configuration error.",
}

// ownMessage is the key of what the Server says for itself.
const ownMessage = "vspheretest"

// because is a fault's reason in the Server's own words.
func because(text string) types.RuntimeFault {
	return types.RuntimeFault{MethodFault: types.MethodFault{FaultMessage: []types.LocalizableMessage{{Key: ownMessage, Message: text}}}}
}

const noText = "<faultstring></faultstring>"

// worded gives the text to an answer with a fault that has none, as vcsim's do.
func worded(body []byte) []byte {
	if !bytes.Contains(body, []byte(noText)) {
		return body
	}
	var env struct {
		Body struct {
			Fault *soap.Fault `xml:"Fault"`
		} `xml:"Body"`
	}
	d := xml.NewDecoder(bytes.NewReader(body))
	d.TypeFunc = types.TypeFunc()
	if err := d.Decode(&env); err != nil || env.Body.Fault == nil {
		return body
	}
	x := reflect.ValueOf(env.Body.Fault.VimFault())
	if !x.IsValid() {
		return body
	}
	p := reflect.New(x.Type())
	p.Elem().Set(x)
	f, ok := p.Interface().(types.BaseMethodFault)
	if !ok {
		return body
	}
	var text strings.Builder
	_ = xml.EscapeText(&text, []byte(faultMessage(f)))
	return bytes.Replace(body, []byte(noText), []byte("<faultstring>"+text.String()+"</faultstring>"), 1)
}
