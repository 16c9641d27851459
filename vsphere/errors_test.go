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

func TestExplainedErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	folder := types.ManagedObjectReference{Type: "Folder", Value: "group-v3"}
	name := func(types.ManagedObjectReference) string { return `Folder "vm"` }
	for _, c := range []struct {
		fault types.BaseMethodFault
		want  string
	}{
		{&types.InvalidLogin{}, "user name or password is wrong; check GOVC_USERNAME and GOVC_PASSWORD: said (InvalidLogin)"},
		{&types.NoPermission{Object: &folder, PrivilegeId: "Folder.Create"}, `the user lacks Folder.Create on Folder "vm"; give it in a role there: said (NoPermission)`},
		{&types.NoDiskSpace{Datastore: "ssd1"}, `datastore "ssd1" is full; free space there or choose another: said (NoDiskSpace)`},
		{&types.InsufficientStorageSpace{}, "the datastore has too little room; free some there or choose another: said (InsufficientStorageSpace)"},
		{&types.HostNotConnected{}, "vCenter does not reach the VM's host; see there what ails it: said (HostNotConnected)"},
		{&types.CannotAccessFile{}, "said (CannotAccessFile)"},
	} {
		err := explain(&taskError{&types.LocalizedMethodFault{Fault: c.fault, LocalizedMessage: "said"}}, name)
		assert.EqualError(t, err, c.want)
		assert.EqualError(t, explain(err, name), c.want, "explained twice")
	}
	assert.ErrorContains(t, explain(&statusError{503}, name), "has no session left")
	plain := errors.New("plain")
	assert.Equal(t, plain, explain(plain, name))
	assert.NoError(t, explain(nil, name))
}
