// Package pooltest helps to test what is built on package pool.
//
// # Specs
//
// NewProvider returns a hypervisor in memory. A Spec is opened there as it is, with the Provider and
// SSH of the test in place of the lab's:
//
//	func TestSpec(t *testing.T) {
//		p := pooltest.NewProvider(t, "templates/rhel9")
//		spec := lab.Spec()
//		spec.Provider, spec.SSH = p, p.SSH()
//		set, err := pool.Open(t.Context(), spec)
//		...
//	}
//
// # Providers
//
// TestProvider is the conformance suite of a [pool.Provider]: what the interface promises, as
// named cases that every provider passes, the simulated hypervisor's and the real one's alike.
//
//	func TestConformance(t *testing.T) {
//		pooltest.TestProvider(t, newProvider(t), pooltest.Env{Template: "templates/rhel9"})
//	}
//
// The suite works in sets of its own, whose names no one else has, and removes what it made. It
// makes one full clone of the template and dozens of linked ones. Some promises, such as those
// about lost answers, wrong passwords, missing privileges, copies and questions, need help from Env
// and are skipped without it.
//
// [Suite.Check] runs one case on its own. With a provider that breaks one promise on purpose it
// shows that the suite can fail.
package pooltest
