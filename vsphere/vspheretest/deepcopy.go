package vspheretest

import (
	"reflect"
	"sync"
	"time"
)

// deepCopy returns a copy of v that shares no memory with it. It is for the plain data of the
// vSphere API: no maps, channels, functions or cycles.
func deepCopy[T any](v T) T {
	unshare(reflect.ValueOf(&v).Elem())
	return v
}

var timeType = reflect.TypeFor[time.Time]()

// unshare puts copies in the place of what v refers to.
func unshare(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return
		}
		old := v.Elem()
		fresh := reflect.New(old.Type())
		fresh.Elem().Set(old)
		unshare(fresh.Elem())
		if v.Kind() == reflect.Interface {
			fresh = fresh.Elem()
		}
		v.Set(fresh)
	case reflect.Slice:
		if v.IsNil() {
			return
		}
		s := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		reflect.Copy(s, v)
		if refers(v.Type().Elem()) {
			for i := range s.Len() {
				unshare(s.Index(i))
			}
		}
		v.Set(s)
	case reflect.Struct:
		for _, i := range referring(v.Type()) {
			unshare(v.Field(i))
		}
	}
}

// refers reports whether values of a type refer to others.
func refers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface, reflect.Slice:
		return true
	case reflect.Struct:
		return len(referring(t)) > 0
	}
	return false
}

var referringFields sync.Map // by type

// referring lists the fields of a struct that refer to something.
func referring(t reflect.Type) []int {
	if have, ok := referringFields.Load(t); ok {
		return have.([]int)
	}
	var list []int
	for i := range t.NumField() {
		if f := t.Field(i); t != timeType && f.IsExported() && refers(f.Type) {
			list = append(list, i)
		}
	}
	referringFields.Store(t, list)
	return list
}
