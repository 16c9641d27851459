package vspheretest

import (
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// BuildMu is held by tests that start a vcsim themselves.
var BuildMu = &buildMu

// An AnyMethod is one that the Server has, on the objects of some type.
type AnyMethod struct {
	Type, Name string
	Request    reflect.Type // types.CloneVM_Task and so on
}

// objects are all objects of the main API.
func (s *Server) objects() iter.Seq2[types.ManagedObjectReference, any] {
	return func(yield func(types.ManagedObjectReference, any) bool) {
		for _, o := range s.model.Map().AllReference("") {
			tasks, locked := o.(*simulator.TaskManager) // Reference copies all of it
			if locked {
				tasks.Lock()
			}
			ref := o.Reference()
			if locked {
				tasks.Unlock()
			}
			if ref.Type != "Verbs" && ref.Type != "Hub" && !yield(ref, o) {
				return
			}
		}
	}
}

// Objects lists all objects of the main API.
func (s *Server) Objects() (refs []types.ManagedObjectReference) {
	for ref := range s.objects() {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(a, b types.ManagedObjectReference) int { return strings.Compare(a.String(), b.String()) })
	return refs
}

// AnyMethods lists all methods of the main API that the Server has.
func (s *Server) AnyMethods() (all []AnyMethod) {
	seen := make(map[AnyMethod]bool)
	add := func(kind string, obj any, only map[string]bool) {
		t := reflect.TypeOf(obj)
		for i := range t.NumMethod() {
			m := t.Method(i)
			if m.Type.NumOut() != 1 || m.Type.Out(0) != reflect.TypeFor[soap.HasFault]() || m.Type.NumIn() < 2 {
				continue
			}
			req := m.Type.In(m.Type.NumIn() - 1)
			if m.Type.NumIn() == 3 && m.Type.In(1) != reflect.TypeFor[*simulator.Context]() || req.Kind() != reflect.Pointer || req.Elem().Kind() != reflect.Struct {
				continue
			}
			name := req.Elem().Name()
			if only != nil && !only[name] {
				continue
			}
			if a := (AnyMethod{kind, name, req.Elem()}); !seen[a] {
				seen[a] = true
				all = append(all, a)
			}
		}
	}
	for ref, o := range s.objects() {
		add(ref.Type, o, nil)
	}
	for kind, names := range ours {
		add(kind, s.verbs, names)
	}
	slices.SortFunc(all, func(a, b AnyMethod) int { return strings.Compare(a.Type+a.Name, b.Type+b.Name) })
	return all
}

// Awaited reports whether a wait is to be woken by a change of this task alone.
func (s *Server) Awaited(task types.ManagedObjectReference) bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.waiting[task] != nil
}
