package vspheretest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// vcsim trusts its clients: what a request leaves out, or names wrongly, makes it panic, in the call
// or in a task's goroutine, which ends the process. So requests are checked here, as a real vCenter
// does that: what is required must be there, and references must be to what there is, of the right
// kind.

// references says what kind of object a field of that name refers to.
var references = map[string][]string{
	"Datacenter":       {"Datacenter"},
	"SourceDatacenter": {"Datacenter"},
	"DestDatacenter":   {"Datacenter"},
	"Datastore":        {"Datastore"},
	"Host":             {"HostSystem"},
	"Pool":             {"ResourcePool"},
	"ResourcePool":     {"ResourcePool"},
	"Snapshot":         {"VirtualMachineSnapshot"},
	"Vm":               {"VirtualMachine"},
	"VmRef":            {"VirtualMachine"},
	"StoragePod":       {"StoragePod"},
}

// maxSamples is how much is told of each performance counter at once: a week's, every 5 minutes.
const maxSamples = 2016

// unsound returns what is wrong with a request before anybody looks at it, or nil.
func unsound(ctx *simulator.Context, body any) types.BaseMethodFault {
	if q, ok := body.(*types.QueryPerf); ok { // vcsim makes up as many samples as fit the time
		for i := range q.QuerySpec {
			if s := &q.QuerySpec[i]; s.MaxSample <= 0 || s.MaxSample > maxSamples {
				s.MaxSample = maxSamples
			}
		}
	}
	return check(ctx, reflect.ValueOf(body), "")
}

// check walks a request. path is where v is in it: "spec.location.pool".
func check(ctx *simulator.Context, v reflect.Value, path string) types.BaseMethodFault {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return check(ctx, v.Elem(), path)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil
		}
		for i := range v.Len() {
			if isNil(v.Index(i)) {
				return invalid(path)
			}
			if f := check(ctx, v.Index(i), path); f != nil {
				return f
			}
		}
	case reflect.Struct:
		return checkFields(ctx, v, path)
	}
	return nil
}

func isNil(v reflect.Value) bool {
	return (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil()
}

// isScalar reports whether t is a pointer to a number or the like, or any type at all, whose tags do
// not report whether it is required.
func isScalar(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && (t.Elem().Kind() != reflect.Struct || t.Elem() == timeType) ||
		t.Kind() == reflect.Interface && t.NumMethod() == 0
}

func invalid(path string) types.BaseMethodFault {
	return &types.InvalidArgument{
		RuntimeFault:    because(fmt.Sprintf("A specified parameter was not correct: %s", path)),
		InvalidProperty: path,
	}
}

func checkFields(ctx *simulator.Context, v reflect.Value, path string) types.BaseMethodFault {
	t := v.Type()
	if t == timeType || !strings.HasPrefix(t.PkgPath(), "github.com/vmware/govmomi/") {
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		at := path
		if !f.Anonymous {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			at = strings.TrimPrefix(path+"."+name, ".")
		}
		x := v.Field(i)
		if _, opts, _ := strings.Cut(f.Tag.Get("xml"), ","); isNil(x) && !isScalar(f.Type) && f.Tag.Get("xml") != "" && !strings.Contains(opts, "omitempty") {
			return invalid(at)
		}
		if f.Name != "This" && !f.Anonymous {
			if fault := checkReferences(ctx, x, f, at); fault != nil {
				return fault
			}
		}
		if fault := check(ctx, x, at); fault != nil {
			return fault
		}
	}
	return nil
}

var referenceType = reflect.TypeFor[types.ManagedObjectReference]()

func checkReferences(ctx *simulator.Context, v reflect.Value, f reflect.StructField, path string) types.BaseMethodFault {
	kinds := references[f.Name]
	one := func(x reflect.Value) types.BaseMethodFault {
		ref := x.Interface().(types.ManagedObjectReference)
		if ref.Value == "" && ref.Type == "" && strings.Contains(f.Tag.Get("xml"), "omitempty") {
			return nil
		}
		if get(ctx, ref) == nil {
			if len(kinds) == 0 && ref.Value != "" {
				return nil // a listing, a permission or an event may name what was there once
			}
			return &types.ManagedObjectNotFound{Obj: ref}
		}
		if len(kinds) > 0 && !slices.ContainsFunc(kinds, func(k string) bool { return derives(ref.Type, k) }) {
			return invalid(path)
		}
		return nil
	}
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	switch {
	case v.Type() == referenceType:
		return one(v)
	case v.Kind() == reflect.Slice && v.Type().Elem() == referenceType:
		for i := range v.Len() {
			if f := one(v.Index(i)); f != nil {
				return f
			}
		}
	}
	return nil
}
