package vsphere

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Faults have three forms; what they mean does not depend on it.
func forms(f types.BaseMethodFault, value any) map[string]error {
	s := &soap.Fault{Code: "ServerFaultCode", String: "said"}
	s.Detail.Fault = value
	return map[string]error{
		"of a method":   soap.WrapSoapFault(s),
		"of a property": soap.WrapVimFault(f),
		"of a task":     &taskError{&types.LocalizedMethodFault{Fault: f, LocalizedMessage: "said"}},
	}
}

func TestFaultsHaveTheSameClassInEveryForm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault types.BaseMethodFault
		value any // as it comes out of SOAP
		want  class
	}{
		{&types.NotAuthenticated{}, types.NotAuthenticated{}, loggedOut},
		{&types.NoPermission{}, types.NoPermission{}, permanent},
		{&types.TaskInProgress{}, types.TaskInProgress{}, busy},
		{&types.VAppTaskInProgress{}, types.VAppTaskInProgress{}, busy},
		{&types.ConcurrentAccess{}, types.ConcurrentAccess{}, busy},
		{&types.InvalidState{}, types.InvalidState{}, busy},
		{&types.InvalidPowerState{}, types.InvalidPowerState{}, permanent},
		{&types.InvalidHostState{}, types.InvalidHostState{}, permanent},
		{&types.InvalidHostConnectionState{}, types.InvalidHostConnectionState{}, busy},
		{&types.QuestionPending{}, types.QuestionPending{}, permanent},
		{&types.NotEnoughLicenses{}, types.NotEnoughLicenses{}, permanent},
		{&types.InsufficientMemoryResourcesFault{}, types.InsufficientMemoryResourcesFault{}, permanent},
		{&types.SnapshotLocked{}, types.SnapshotLocked{}, busy},
		{&types.FileLocked{}, types.FileLocked{}, busy},
		{&types.ResourceInUse{}, types.ResourceInUse{}, busy},
		{&types.DatabaseError{}, types.DatabaseError{}, unknown},
		{&types.Timedout{}, types.Timedout{}, unknown},
		{&types.HostCommunication{}, types.HostCommunication{}, unknown},
		{&types.HostNotConnected{}, types.HostNotConnected{}, unknown},
		{&types.ManagedObjectNotFound{}, types.ManagedObjectNotFound{}, gone},
		{&types.DuplicateName{}, types.DuplicateName{}, permanent},
		{&types.NoDiskSpace{}, types.NoDiskSpace{}, permanent},
		{&types.InvalidLogin{}, types.InvalidLogin{}, permanent},
		{&types.GenericVmConfigFault{VmConfigFault: types.VmConfigFault{VimFault: types.VimFault{MethodFault: types.MethodFault{
			FaultCause: &types.LocalizedMethodFault{Fault: &types.TaskInProgress{}},
		}}}}, types.GenericVmConfigFault{VmConfigFault: types.VmConfigFault{VimFault: types.VimFault{MethodFault: types.MethodFault{
			FaultCause: &types.LocalizedMethodFault{Fault: &types.TaskInProgress{}},
		}}}}, busy},
	} {
		for form, err := range forms(c.fault, c.value) {
			assert.Equal(t, c.want, classify(err), "%T %s", c.fault, form)
			assert.Equal(t, c.want, classify(fmt.Errorf("wrapped: %w", explain(err, refName))), "%T %s, explained", c.fault, form)
		}
	}
}

func TestOtherErrorsHaveClasses(t *testing.T) {
	t.Parallel()
	post := func(err error) error { return &url.Error{Op: "Post", URL: "https://vc/sdk", Err: err} }
	for _, c := range []struct {
		name string
		err  error
		want class
	}{
		{"refused connection", post(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), again},
		{"reset connection", post(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), unknown},
		{"answer that breaks off", post(io.ErrUnexpectedEOF), unknown},
		{"503", post(&statusError{503}), unknown},
		{"404", post(&statusError{404}), permanent},
		{"untrusted certificate", post(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), permanent},
		{"no answer in time", fmt.Errorf("%w: %w", errNoAnswer, context.DeadlineExceeded), unknown},
		{"end of the caller's context", post(context.Canceled), permanent},
		{"vanished task", errVanished, unknown},
		{"failed wait", &lostError{&statusError{404}}, unknown},
		{"our own refusal", refuse("no such name"), permanent},
		{"closed provider", errClosed, permanent},
	} {
		assert.Equal(t, c.want, classify(c.err), c.name)
	}
}

func TestFaultsCarryTheirCauseAndARemedy(t *testing.T) {
	t.Parallel()
	messages := func(texts ...string) (m types.MethodFault) {
		for _, text := range texts {
			m.FaultMessage = append(m.FaultMessage, types.LocalizableMessage{Message: text})
		}
		return m
	}
	folder := types.ManagedObjectReference{Type: "Folder", Value: "group-v3"}
	host := types.ManagedObjectReference{Type: "HostSystem", Value: "host-22"}
	name := func(ref types.ManagedObjectReference) string {
		return map[string]string{"Folder": `Folder "vm"`, "HostSystem": `HostSystem "esx1"`}[ref.Type]
	}
	for _, c := range []struct {
		fault types.BaseMethodFault
		says  []string // facts, and what a remedy names
	}{
		{&types.InvalidLogin{}, []string{"GOVC_USERNAME", "GOVC_PASSWORD", "InvalidLogin"}},
		{&types.NoPermission{Object: &folder, PrivilegeId: "Folder.Create"}, []string{"Folder.Create", `Folder "vm"`, "role"}},
		{&types.NoDiskSpace{Datastore: "ssd1"}, []string{"ssd1", "free space"}},
		{&types.InsufficientStorageSpace{}, []string{"datastore", "free"}},
		{&types.HostNotConnected{}, []string{"host", "check", "HostNotConnected"}},
		{&types.CannotAccessFile{FileFault: types.FileFault{File: "[ds] a.vmdk"}}, []string{"[ds] a.vmdk"}},
		{&types.GenericVmConfigFault{
			VmConfigFault: types.VmConfigFault{VimFault: types.VimFault{MethodFault: messages("no room for the swap file", "an error came from the host")}},
			Reason:        "module failed to start",
		}, []string{"module failed to start", "no room for the swap file", "an error came from the host"}},
		{&types.VmConfigFault{VimFault: types.VimFault{MethodFault: types.MethodFault{FaultCause: &types.LocalizedMethodFault{
			LocalizedMessage: "the disk chain is broken", Fault: &types.CannotAccessFile{FileFault: types.FileFault{File: "[ds] b.vmdk"}},
		}}}}, []string{"VmConfigFault", "the disk chain is broken", "[ds] b.vmdk"}},
		{&types.NoCompatibleHost{Host: []types.ManagedObjectReference{host}, Error: []types.LocalizedMethodFault{
			{LocalizedMessage: "CPU requirements are not met", Fault: &types.CpuIncompatible{}},
		}}, []string{`HostSystem "esx1": CPU requirements are not met`, "CpuIncompatible"}},
		{&types.InvalidHostState{Host: &host}, []string{`HostSystem "esx1"`, "maintenance"}},
		{&types.InvalidHostConnectionState{InvalidHostState: types.InvalidHostState{Host: &host}}, []string{`HostSystem "esx1"`, "not connected"}},
		{&types.QuestionPending{Text: "moved or copied?"}, []string{"moved or copied?", "govc vm.question"}},
		{&types.InvalidDatastoreState{DatastoreName: "ds-a"}, []string{"ds-a", "maintenance"}},
		{&types.InvalidArgument{InvalidProperty: "spec.location.host"}, []string{"spec.location.host"}},
		{&types.CannotAccessVmDevice{Device: "CD/DVD drive 1", Backing: "[iso] a.iso"}, []string{"CD/DVD drive 1", "[iso] a.iso"}},
		{&types.InsufficientMemoryResourcesFault{Unreserved: 1 << 20, Requested: 1 << 30}, []string{"1048576", "1073741824", "resource pool"}},
		{&types.DeviceNotSupported{Device: "Virtual TPM", Reason: "key provider missing"}, []string{"Virtual TPM", "key provider missing"}},
		{&types.EncryptionKeyRequired{}, []string{"encrypted", "key provider"}},
		{&types.NotEnoughLicenses{}, []string{"license"}},
		{&types.SnapshotLocked{}, []string{"backup"}},
		{&types.DatabaseError{}, []string{"database"}},
		{&types.FileLocked{FileFault: types.FileFault{File: "[ds] c.vmdk"}}, []string{"[ds] c.vmdk", "backup"}},
		{&types.Timedout{}, []string{"gave up waiting", "tasks"}},
		{&types.ResourceInUse{Type: "VirtualDisk", Name: "con9"}, []string{"con9", "VirtualDisk", "free"}},
		{&types.MissingPowerOnConfiguration{VAppConfigFault: types.VAppConfigFault{
			VimFault: types.VimFault{MethodFault: messages("no power-on order is set")},
		}}, []string{"MissingPowerOnConfiguration", "no power-on order is set"}},
	} {
		err := explain(&taskError{&types.LocalizedMethodFault{Fault: c.fault, LocalizedMessage: "said"}}, name)
		for _, fact := range append(c.says, "said") {
			assert.ErrorContains(t, err, fact, "%T", c.fault)
		}
		assert.Equal(t, err, explain(err, name), "%T explained twice", c.fault)
	}
	assert.ErrorContains(t, explain(&statusError{503}, name), "has no session left")
	plain := errors.New("plain")
	assert.Equal(t, plain, explain(plain, name))
	assert.NoError(t, explain(nil, name))
}
