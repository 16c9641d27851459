package vsphere

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// explained is an error in the words of the administrator who can cure it.
type explained struct {
	msg string
	err error
}

func (e *explained) Error() string { return e.msg }
func (e *explained) Unwrap() error { return e.err }

// explain adds to a fault what it means here and the remedy, if known. name gives managed
// objects the names that people know them by.
func explain(err error, name func(types.ManagedObjectReference) string) error {
	if err == nil {
		return nil
	}
	if errors.As(err, new(*explained)) {
		return err
	}
	if msg := remedy(err, name); msg != "" {
		return &explained{msg: msg + ": " + plain(err), err: err}
	}
	if text := plain(err); text != err.Error() {
		return &explained{msg: text, err: err}
	}
	return err
}

// remedy says in a few words what err means and what to do, or "".
func remedy(err error, name func(types.ManagedObjectReference) string) string {
	for _, f := range faults(err) {
		switch f := f.(type) {
		case *types.InvalidLogin:
			return "user name or password is wrong; check GOVC_USERNAME and GOVC_PASSWORD"
		case *types.NoPermission:
			return "the user lacks " + privileges(f, name) + "; give it in a role there"
		case *types.RestrictedVersion:
			return "the license allows no changes through the API; use a vCenter with a full license"
		case *types.QuestionPending:
			return fmt.Sprintf("vCenter waits for an answer to a question: %q; answer it in the vSphere client, or: govc vm.question", f.Text)
		case *types.NoCompatibleHost:
			return "no host can run it: " + perHost(f, name)
		case *types.InvalidHostConnectionState:
			return onHost(f.Host, name) + " is not connected; check its state in vCenter"
		case *types.InvalidHostState:
			return onHost(f.Host, name) + " is in maintenance mode or not connected; check its state in vCenter, or use another resource pool"
		case *types.InvalidDatastoreState:
			return fmt.Sprintf("datastore %q is in maintenance mode or not accessible; check it in vCenter, or choose another", f.DatastoreName)
		case *types.EncryptionKeyRequired:
			return "the VM is encrypted, and no key provider has its key; configure one in vCenter, or use a source that is not encrypted"
		case *types.NotEnoughLicenses:
			return "vCenter or the host has no license left for it; add one or free one"
		case *types.SnapshotLocked:
			return "another program holds the VM's snapshots, as a backup does while it runs; wait for it to end"
		case *types.DatabaseError:
			return "vCenter's database failed; check its disk space and services (VAMI)"
		case *types.FileLocked:
			return fmt.Sprintf("another VM or host has file %s open; find it with: vmfsfilelockinfo -p FILE, or wait if a backup runs", f.File)
		case *types.ResourceInUse:
			return fmt.Sprintf("%s %q is in use, as by a linked clone or a backup; free it first", first(f.Type, "what it needs"), f.Name)
		case *types.Timedout:
			return "vCenter or the host gave up waiting; check the host's load and its tasks in vCenter"
		case *types.NoDiskSpace:
			return fmt.Sprintf("datastore %q is full; free space there or choose another", f.Datastore)
		case *types.InsufficientStorageSpace:
			return "the datastore has too little room; free some there or choose another"
		case types.BaseInsufficientResourcesFault:
			return "the hosts or the resource pool have too little left for it; free some, lower reservations, or choose another resource pool"
		case *types.TooManySnapshotLevels:
			return "the VM has too many snapshots on top of each other; remove some"
		case types.BaseInvalidDeviceSpec:
			return fmt.Sprintf("device change %d of the specification is refused (%s)", f.GetInvalidDeviceSpec().DeviceIndex, typeName(f))
		case *types.MethodDisabled:
			return "vCenter has disabled the operation on it, as a rule because another program owns it"
		case types.BaseTaskInProgress:
			return "another task is in progress there; wait for it to end or cancel it"
		case types.BaseHostCommunication:
			return "vCenter does not reach the VM's host; check the host's state in vCenter"
		case *types.ManagedObjectNotFound:
			return name(f.Obj) + " does not exist"
		case *types.NotAuthenticated:
			return "vCenter refuses the session even after logging in again"
		}
	}
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) && len(verify.UnverifiedCertificates) > 0 {
		return fmt.Sprintf("the vCenter's certificate is not trusted; set GOVC_TLS_CA_CERTS to its authority's, or put \"host:port %s\" in a file and set GOVC_TLS_KNOWN_HOSTS to it",
			soap.ThumbprintSHA256(verify.UnverifiedCertificates[0]))
	}
	if untrusted(err) != nil {
		return "no trusted TLS connection; check the URL's scheme, host and port"
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return "vCenter cannot be reached; check GOVC_URL and the network"
	}
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusNotFound {
		return "there is no vCenter API at that address; check GOVC_URL"
	}
	if startingUp(err) {
		return "vCenter is not up yet, or has no session left (programs that do not log out take them)"
	}
	return ""
}

// privileges names the missing ones and where.
func privileges(f *types.NoPermission, name func(types.ManagedObjectReference) string) string {
	var all []string
	for _, m := range f.MissingPrivileges {
		all = append(all, fmt.Sprintf("%s on %s", strings.Join(m.PrivilegeIds, ", "), name(m.Entity)))
	}
	if len(all) == 0 && f.PrivilegeId != "" {
		all = append(all, f.PrivilegeId)
		if f.Object != nil {
			all[0] += " on " + name(*f.Object)
		}
	}
	if len(all) == 0 {
		return "a privilege"
	}
	return strings.Join(all, "; ")
}

// perHost lists what NoCompatibleHost says of each host.
func perHost(f *types.NoCompatibleHost, name func(types.ManagedObjectReference) string) string {
	var all []string
	for i, e := range f.Error {
		text := localized(e)
		if i < len(f.Host) {
			text = name(f.Host[i]) + ": " + text
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return "vCenter does not say why"
	}
	return strings.Join(all, "; ")
}

func onHost(ref *types.ManagedObjectReference, name func(types.ManagedObjectReference) string) string {
	if ref == nil {
		return "the host"
	}
	return name(*ref)
}

// plain is what vCenter said: the text without SOAP's fault code, the fault's type, what the fault
// itself tells, and all of that of its causes.
func plain(err error) string {
	text := err.Error()
	fs := faults(err)
	if len(fs) == 0 {
		return text
	}
	before, rest, found := strings.Cut(text, "ServerFaultCode: ")
	if found {
		text = before + rest
	}
	return withDetails(strings.TrimSpace(text), fs)
}

// localized is plain for a fault by itself.
func localized(f types.LocalizedMethodFault) string {
	if f.Fault == nil {
		return f.LocalizedMessage
	}
	return withDetails(f.LocalizedMessage, faults(&taskError{&f}))
}

// withDetails adds to the text of a fault what it lacks of the fault and its causes.
func withDetails(text string, fs []types.BaseMethodFault) string {
	add := func(part string, format string) {
		if part != "" && !strings.Contains(text, part) {
			text = strings.TrimSpace(text + fmt.Sprintf(format, part))
		}
	}
	for i, f := range fs {
		kind := typeName(f)
		if d := details(f); d != "" {
			kind += ": " + d
		}
		add(kind, " (%s)")
		m := f.GetMethodFault()
		if m == nil {
			continue
		}
		for _, msg := range m.FaultMessage {
			add(msg.Message, "; %s")
		}
		if c := m.FaultCause; c != nil && i+1 < len(fs) {
			add(c.LocalizedMessage, "; because: %s")
		}
	}
	return text
}

// details are the fields of a fault that hold plain values: "file [ds] a.vmdk, reason ...".
func details(f types.BaseMethodFault) string {
	var all []string
	var collect func(v reflect.Value)
	collect = func(v reflect.Value) {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		for i := range v.NumField() {
			field, value := v.Type().Field(i), v.Field(i)
			if field.Type == reflect.TypeFor[types.MethodFault]() {
				continue
			}
			switch x := value.Interface().(type) {
			case string:
				if x != "" {
					all = append(all, fmt.Sprintf("%s %q", field.Name, x))
				}
			case int32, int64:
				if !value.IsZero() {
					all = append(all, fmt.Sprintf("%s %d", field.Name, x))
				}
			case types.ManagedObjectReference:
				if x.Value != "" {
					all = append(all, field.Name+" "+refName(x))
				}
			case *types.ManagedObjectReference:
				if x != nil {
					all = append(all, field.Name+" "+refName(*x))
				}
			default:
				if field.Anonymous && value.Kind() == reflect.Struct {
					collect(value)
				}
			}
		}
	}
	collect(reflect.ValueOf(f))
	return strings.Join(all, ", ")
}

func typeName(v any) string {
	t := reflect.TypeOf(v)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}
