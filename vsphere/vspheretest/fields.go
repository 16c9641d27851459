package vspheretest

import (
	"path"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// fields returns the properties that set selects of the object ref, as vcsim's property collector
// does, which copies them by way of XML: half of what reading an inventory costs. It reports false
// for what it leaves to vcsim: all properties of an object, elements of arrays, and no session.
func fields(ctx *simulator.Context, ref types.ManagedObjectReference, set []types.PropertySpec) (content types.ObjectContent, ok bool) {
	if ctx.Session == nil {
		return content, false
	}
	content.Obj, ok = ref, true
	seen := make(map[string]bool)
	ctx.WithLock(ref, func() {
		obj := managed(get(ctx, ref))
		if !obj.IsValid() {
			ok = false
			return
		}
		for _, p := range set {
			if !isA(obj.Type(), ref.Type, p.Type) {
				continue
			}
			if isTrue(p.All) {
				ok = false
				return
			}
			for _, name := range p.PathSet {
				if seen[name] {
					continue
				}
				seen[name] = true
				val, known := field(obj, name)
				if !known {
					ok = false
					return
				}
				if val != nil {
					content.PropSet = append(content.PropSet, types.DynamicProperty{Name: name, Val: val})
				}
			}
		}
	})
	return content, ok
}

// managed returns the type of package mo that vcsim's objects wrap, in their first fields.
func managed(obj mo.Reference) reflect.Value {
	if o, ok := obj.(interface{ Get() mo.Reference }); ok {
		obj = o.Get()
	}
	v := reflect.ValueOf(obj)
	for v.IsValid() {
		switch {
		case v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface:
			v = v.Elem()
		case path.Base(v.Type().PkgPath()) == "mo":
			return v
		case v.Kind() != reflect.Struct || v.NumField() == 0:
			return reflect.Value{}
		default:
			v = v.Field(0)
		}
	}
	return v
}

// isA reports whether an object of type t, known as kind, is a want.
func isA(t reflect.Type, kind, want string) bool {
	if kind == want || t.Name() == want {
		return true
	}
	f, ok := t.FieldByName(want) // ManagedEntity, ComputeResource
	return ok && f.Anonymous
}

// field returns a copy of the property of that path, nil if it is not set.
func field(v reflect.Value, name string) (val any, known bool) {
	if strings.Contains(name, "[") {
		return nil, false
	}
	var t reflect.Type
	for part := range strings.SplitSeq(name, ".") {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct || part == "" {
			return nil, false
		}
		f, ok := v.Type().FieldByName(strings.ToUpper(part[:1]) + part[1:])
		if !ok {
			return nil, false
		}
		t, v = f.Type, v.FieldByIndex(f.Index)
		if (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil() || v.Kind() == reflect.String && v.Len() == 0 {
			return nil, true
		}
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Slice {
		return deepCopy(v.Interface()), true
	}
	kind := strings.TrimPrefix(t.Elem().Name(), "Base")
	kind = strings.ToUpper(kind[:1]) + kind[1:]
	array, ok := types.TypeFunc()("ArrayOf" + kind)
	if !ok {
		return nil, false
	}
	a := reflect.New(array).Elem()
	f := a.Field(0)
	if !v.CanConvert(f.Type()) {
		return nil, false
	}
	f.Set(v.Convert(f.Type()))
	return deepCopy(a.Interface()), true
}
