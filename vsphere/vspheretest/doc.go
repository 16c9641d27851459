// Package vspheretest provides a vCenter to test against: govmomi's simulator, vcsim, made to
// behave as the real thing where it matters to programs that build, snapshot and revert VMs.
//
//	srv := vspheretest.NewServer(t)
//	c, err := govmomi.NewClient(ctx, srv.URL, true)
//
// Reverts revert, linked clones hang on their snapshot, names collide, changeVersion is
// compared, busy VMs refuse, guests boot and are seen late, and every power-on starts a guest
// that can be reached over SSH through Server.DialContext.
package vspheretest
