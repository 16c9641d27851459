package vspheretest

import (
	"path"
	"reflect"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// fields returns the properties that set selects of the object ref, as vcsim's property collector
// does, which copies them by way of XML: half of what reading an inventory costs. It returns nil if
// there is no such object, or if set is for others. It reports false for what it leaves to vcsim:
// elements of arrays, unknown properties, and no session.
func fields(ctx *simulator.Context, ref types.ManagedObjectReference, set []types.PropertySpec) (*types.ObjectContent, bool) {
	if ctx.Session == nil {
		return nil, false
	}
	if get(ctx, ref) == nil {
		return nil, true
	}
	r := reading{content: types.ObjectContent{Obj: ref}, ok: true}
	described := false
	ctx.WithLock(ref, func() {
		obj := managed(get(ctx, ref))
		for _, p := range set {
			if p.Type != ref.Type && (!obj.IsValid() || !isA(obj.Type(), p.Type)) {
				continue // such objects are only passed through
			}
			described = true
			switch {
			case !obj.IsValid():
				r.ok = false
			case isTrue(p.All):
				r.all(obj, obj.Type())
			default:
				for _, name := range p.PathSet {
					r.one(obj, name)
				}
			}
		}
	})
	if !described {
		return nil, true
	}
	return &r.content, r.ok
}

// A reading is what was read of an object so far.
type reading struct {
	content types.ObjectContent
	ok      bool
}

// one reads the property of a path.
func (r *reading) one(obj reflect.Value, name string) {
	for _, have := range r.content.PropSet {
		if have.Name == name {
			return
		}
	}
	val, known := field(obj, name)
	if !known {
		r.ok = false
	} else if val != nil {
		r.content.PropSet = append(r.content.PropSet, types.DynamicProperty{Name: name, Val: val})
	}
}

// all reads all properties that are fields of t, the type of obj or of what it embeds. One that hides
// another is read once, and not twice as by vcsim: a network's name.
func (r *reading) all(obj reflect.Value, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Anonymous:
			r.all(obj, f.Type)
		case f.Name != "Self":
			r.one(obj, strings.ToLower(f.Name[:1])+f.Name[1:])
		}
	}
}

// managed returns the type of package mo that vcsim's objects wrap, in their first fields.
func managed(obj mo.Reference) reflect.Value {
	if o, ok := obj.(interface{ Get() mo.Reference }); ok {
		obj = o.Get()
	}
	v := reflect.ValueOf(obj) // invalid for nil
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

// isA reports whether objects of type t are of another type, too: ManagedEntity, ComputeResource.
func isA(t reflect.Type, want string) bool {
	return t.Name() == want || fieldOf(t, want).Anonymous
}

// A fieldName names a field of a struct.
type fieldName struct {
	of   reflect.Type
	name string
}

var fieldsByName sync.Map // of fieldNames

// fieldOf is t.FieldByName, whose Type is nil if there is none, and which takes long.
func fieldOf(t reflect.Type, name string) reflect.StructField {
	key := fieldName{t, name}
	if f, ok := fieldsByName.Load(key); ok {
		return f.(reflect.StructField)
	}
	f, _ := t.FieldByName(name)
	if f.Type != nil { // so that clients cannot make it grow
		fieldsByName.Store(key, f)
	}
	return f
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
		f := fieldOf(v.Type(), strings.ToUpper(part[:1])+part[1:])
		if f.Type == nil {
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
	switch kind {
	case "uint8":
		kind = "Byte"
	case "int16":
		kind = "Short"
	case "int32":
		kind = "Int"
	case "int64":
		kind = "Long"
	}
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
