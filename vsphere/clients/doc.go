// Package clients has tests of vspheretest with programs of others: govc, pyvmomi, and the tests that
// govmomi has for govc. It is a module of its own, so that what govc imports stays here.
package clients
