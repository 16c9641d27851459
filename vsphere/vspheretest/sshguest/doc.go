// Package sshguest provides the machines of package sshtest as guests of a vspheretest.Server: with
// root, a shell and an SSH server, on a flat network on which all of them reach each other.
//
//	srv := sshguest.NewServer(t)
//	cfg, login := access.Config(srv) // or srv.ClientKey, srv.HostKeys and srv.DialContext
//
// It is a package of its own so that programs for vCenter alone need neither of shell and SFTP.
package sshguest

import "github.com/poolready/poolready/vsphere/vspheretest"

// NewServer starts a Server with defaults and an OS, and closes it when the test ends.
func NewServer(t vspheretest.T) *vspheretest.Server {
	t.Helper()
	s := NewUnstartedServer(t)
	s.Start()
	return s
}

// NewUnstartedServer returns a Server with an OS, whose fields can be set before Start. t may be nil, in
// a program; see vspheretest.NewUnstartedServer.
func NewUnstartedServer(t vspheretest.T) *vspheretest.Server {
	s := vspheretest.NewUnstartedServer(t)
	s.OS = new(OS)
	return s
}
