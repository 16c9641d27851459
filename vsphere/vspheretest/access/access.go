// Package access makes what poolready needs to use a vspheretest.Server: how to log in to its vCenter,
// and to its guests.
package access

import (
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// Config returns the configurations of a provider for the Server's vCenter, and of connections to its
// guests: with the Server's certificate, its ClientKey, and the host keys of its templates. Both are
// for this process; the Server must have been started. Fields may be changed.
//
//	cfg, login := access.Config(srv)
//	provider, err := vsphere.New(cfg) // and Close it
func Config(s *vspheretest.Server) (vsphere.Config, sshx.Config) {
	login := sshx.Config{HostKeys: sshx.HostKeys{Pinned: s.HostKeys}, Dialer: s}
	if s.ClientKey != nil {
		login.Keys = []ssh.Signer{s.ClientKey}
	}
	return vsphere.Config{URL: s.URL.String(), CACerts: s.CAFile}, login
}
