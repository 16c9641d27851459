package vspheretest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// anythingEnv is for how long TestNoCallEndsTheServer goes on, such as 10m, with other arguments
// each time.
const anythingEnv = "POOLREADY_ANYTHING"

// Every method of every kind of object is called without arguments and with wild ones. Each call has
// an answer, and the server goes on.
func TestNoCallEndsTheServer(t *testing.T) { // alone: vcsim keeps licences in a global, which every start writes
	seed, until := uint64(1), time.Now()
	if s := os.Getenv(anythingEnv); s != "" {
		d, err := time.ParseDuration(s)
		require.NoError(t, err)
		until, seed = until.Add(d), uint64(time.Now().UnixNano())
	}
	w := &wild{T: t}
	for w.calls == 0 || time.Now().Before(until) && !t.Failed() {
		w.seed, w.rand = seed, rand.New(rand.NewPCG(seed, 0))
		for n := 0; n >= 0 && !t.Failed(); {
			n = w.round(n)
		}
		seed++
	}
	t.Logf("%d calls", w.calls)
}

// A wild calls methods with arguments that nobody means.
type wild struct {
	*testing.T
	seed    uint64
	rand    *rand.Rand
	srv     *vspheretest.Server
	user    *govmomi.Client
	objects []types.ManagedObjectReference
	calls   int
}

// round calls some methods from the n-th on, with a Server of its own, and returns which is the next,
// or -1.
func (w *wild) round(n int) int {
	s := start(w.T, func(srv *vspheretest.Server) {
		srv.Latency = vspheretest.Fast()
		srv.Latency.RPC = 0
		srv.OnNotSimulated = func(string, error) {}
	})
	defer s.srv.Close()
	vm := s.full("vm")
	s.snapshot(vm, "snapshot")
	s.must(vm.PowerOn(s.ctx))
	s.full("off")
	w.srv, w.user = s.srv, s.login()
	all := s.srv.AnyMethods()
	const some = 200
	for i := n; i < min(n+some, len(all)); i++ {
		for _, empty := range []bool{true, false, false} {
			w.objects = s.srv.Objects()
			if !w.try(all[i], empty) {
				return -1
			}
		}
	}
	if n+some >= len(all) {
		return -1
	}
	return n + some
}

// try calls a method. It returns false if something was wrong with that.
func (w *wild) try(m vspheretest.AnyMethod, empty bool) bool {
	req := reflect.New(m.Request)
	if !empty {
		w.fill(req.Elem(), 0)
	}
	this := w.reference(m.Type)
	if this.Value == "" {
		return true // a call before has removed the last one
	}
	req.Elem().FieldByName("This").Set(reflect.ValueOf(this))
	w.calls++
	err := w.call(m.Name, req.Interface())
	if err == nil {
		for range 3 {
			if _, err = methods.GetCurrentTime(context.Background(), w.user); err == nil {
				return true
			}
			_ = w.user.Login(context.Background(), w.srv.URL.User) // it was logged out, as it has asked for
		}
		err = fmt.Errorf("afterwards: %w", err)
	}
	text, _ := xml.MarshalIndent(req.Interface(), "", " ")
	w.Errorf("seed %d: %s of %s: %v\n%s", w.seed, m.Name, this, err, text)
	return false
}

// call posts a request, and says what is wrong with the answer.
func (w *wild) call(name string, req any) error {
	var body bytes.Buffer
	body.WriteString(`<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>`)
	if err := xml.NewEncoder(&body).EncodeElement(req, xml.StartElement{Name: xml.Name{Space: "urn:vim25", Local: name}}); err != nil {
		return nil // it cannot be sent
	}
	body.WriteString(`</soapenv:Body></soapenv:Envelope>`)
	limit := 20 * time.Second
	waits := strings.HasPrefix(name, "WaitForUpdates")
	if waits {
		limit = 50 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, w.user.URL().String(), &body)
	if err != nil {
		return err
	}
	hr.Header.Set("Content-Type", "text/xml")
	hr.Header.Set("SOAPAction", "urn:vim25/8.0.3.0")
	res, err := w.user.Client.Client.Client.Do(hr)
	if waits && errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode != http.StatusOK && !bytes.Contains(answer, []byte("Fault>")):
		return fmt.Errorf("%s: %s", res.Status, answer)
	}
	return nil
}

// reference returns an object of that type, or of any.
func (w *wild) reference(kind string) types.ManagedObjectReference {
	var all []types.ManagedObjectReference
	for _, o := range w.objects {
		if kind == "" || o.Type == kind {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return types.ManagedObjectReference{}
	}
	return all[w.rand.IntN(len(all))]
}

var (
	wildStrings = []string{
		"", "x", "vm", "off", "template", "Datastore1", "VM Network", "[Datastore1]", "[Datastore1] vm/vm.vmx", "[Datastore1] vm/vm.vmdk",
		"[Datastore1] ../..", "[", "]", "a/b", "..", "50%", "%2f", "2000", "-1", "00:50:56:00:00:01", "zz", "guest.net", "config.hardware.device[2000]",
		"config", "name", "poweredOn", "add", "edit", "create", "*", "\x01", "é", strings.Repeat("n", 100), "name[", `config.extraConfig["a"]`, "bootOptions.x",
	}
	wildInts = []int64{0, 1, -1, 2, 4, 7, 100, 1000, 2000, 4000, 1 << 20, 1<<31 - 1, -1 << 31}
	// wildTypes stand for those that an interface of the API allows.
	wildTypes = []any{
		&types.VirtualDeviceConfigSpec{}, &types.VirtualDisk{}, &types.VirtualVmxnet3{}, &types.VirtualE1000{}, &types.VirtualCdrom{}, &types.VirtualDevice{},
		&types.VirtualFloppy{}, &types.VirtualSerialPort{}, &types.ParaVirtualSCSIController{}, &types.VirtualIDEController{}, &types.VirtualAHCIController{},
		&types.VirtualPCIPassthrough{}, &types.VirtualTPM{}, &types.VirtualUSB{}, &types.VirtualDiskFlatVer2BackingInfo{}, &types.VirtualDiskSparseVer2BackingInfo{},
		&types.VirtualDiskRawDiskMappingVer1BackingInfo{}, &types.VirtualEthernetCardNetworkBackingInfo{}, &types.VirtualEthernetCardOpaqueNetworkBackingInfo{},
		&types.VirtualEthernetCardDistributedVirtualPortBackingInfo{}, &types.VirtualCdromIsoBackingInfo{}, &types.VirtualCdromRemotePassthroughBackingInfo{},
		&types.Description{}, &types.OptionValue{}, &types.MethodFault{}, &types.EventEx{}, &types.GeneralUserEvent{}, &types.CustomizationLinuxPrep{},
		&types.CustomizationSysprep{}, &types.CustomizationFixedName{}, &types.CustomizationVirtualMachineName{}, &types.CustomizationFixedIp{},
		&types.CustomizationDhcpIpGenerator{}, &types.CustomizationLinuxOptions{}, &types.SelectionSpec{}, &types.TraversalSpec{}, &types.ClusterConfigSpecEx{},
		&types.HostMountInfo{}, &types.DVSConfigSpec{}, &types.VMwareDVSConfigSpec{}, &types.VirtualMachineDefinedProfileSpec{}, &types.AlarmSpec{},
		&types.OrAlarmExpression{}, &types.EventAlarmExpression{}, &types.AlarmTriggeringAction{}, &types.SendEmailAction{}, &types.OnceTaskScheduler{},
		&types.MethodAction{}, &types.NamePasswordAuthentication{}, &types.GuestAuthentication{}, &types.GuestProgramSpec{}, &types.GuestPosixFileAttributes{},
		&types.VmConfigFileQuery{}, &types.FileQuery{}, &types.FileBackedVirtualDiskSpec{}, &types.VirtualDiskSpec{}, &types.ClusterRuleInfo{}, &types.ClusterAffinityRuleSpec{},
		&types.ClusterGroupInfo{}, &types.ClusterVmGroup{}, &types.StorageDrsConfigSpec{}, &types.CryptoSpecEncrypt{}, &types.TaskReasonUser{},
		&types.VMwareDVSPortSetting{}, &types.DVSTrafficShapingPolicy{}, &types.ConfigTarget{},
	}
)

// fill makes v something, deeper down less and less.
func (w *wild) fill(v reflect.Value, depth int) {
	if depth > 9 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if w.rand.IntN(2+depth/3) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			w.fill(v.Elem(), depth+1)
		}
	case reflect.Interface:
		w.fillInterface(v, depth)
	case reflect.Slice:
		n := w.rand.IntN(3)
		s := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			w.fill(s.Index(i), depth+1)
		}
		v.Set(s)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[types.ManagedObjectReference]() {
			if ref := w.reference(""); w.rand.IntN(8) > 0 {
				v.Set(reflect.ValueOf(ref))
			}
			return
		}
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(w.rand.Int64N(2e9), 0).UTC()))
			return
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if kind, ok := wildKinds[f.Name]; ok && w.rand.IntN(4) > 0 { // what belongs there, as a rule
				ref := w.reference(kind)
				switch x := v.Field(i).Addr().Interface().(type) {
				case *types.ManagedObjectReference:
					*x = ref
					continue
				case **types.ManagedObjectReference:
					if w.rand.IntN(3) > 0 {
						*x = &ref
					}
					continue
				}
			}
			w.fill(v.Field(i), depth+1)
		}
	case reflect.String:
		v.SetString(wildStrings[w.rand.IntN(len(wildStrings))])
	case reflect.Bool:
		v.SetBool(w.rand.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(wildInts[w.rand.IntN(len(wildInts))])
	case reflect.Uint8:
		v.SetUint(uint64(w.rand.IntN(256)))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(w.rand.Float64())
	}
}

// wildKinds are what fields refer to.
var wildKinds = map[string]string{
	"Pool": "ResourcePool", "Host": "HostSystem", "Datastore": "Datastore", "Folder": "Folder", "Snapshot": "VirtualMachineSnapshot",
	"Vm": "VirtualMachine", "Datacenter": "Datacenter",
}

func (w *wild) fillInterface(v reflect.Value, depth int) {
	if v.NumMethod() == 0 {
		switch w.rand.IntN(4) {
		case 0:
			v.Set(reflect.ValueOf("x"))
		case 1:
			v.Set(reflect.ValueOf(int32(w.rand.IntN(3))))
		case 2:
			v.Set(reflect.ValueOf(true))
		}
		return
	}
	var fit []reflect.Type
	for _, x := range wildTypes {
		if t := reflect.TypeOf(x); t.AssignableTo(v.Type()) {
			fit = append(fit, t.Elem())
		}
	}
	if len(fit) == 0 || w.rand.IntN(6) == 0 {
		return
	}
	p := reflect.New(fit[w.rand.IntN(len(fit))])
	w.fill(p.Elem(), depth+1)
	v.Set(p)
}
