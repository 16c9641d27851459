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
// for this process; the Server must have been started, with an OS that one can log in to, such as that
// of package sshguest. Fields may be changed.
//
//	cfg, login := access.Config(srv)
//	provider, err := vsphere.New(cfg) // and Close it
func Config(s *vspheretest.Server) (vsphere.Config, sshx.Config) {
	login := sshx.Config{HostKeys: sshx.HostKeys{Pinned: s.HostKeys}, Dialer: dialer{s}, Keys: keys(s)}
	return vsphere.Config{URL: s.URL.String(), CACerts: s.CAFile}, login
}

func keys(s *vspheretest.Server) []ssh.Signer {
	if s.ClientKey == nil {
		return nil
	}
	return []ssh.Signer{s.ClientKey}
}

// A dialer dials on the Server's network.
type dialer struct{ *vspheretest.Server }

// JumpHosts returns the jump host for other programs than this one: the command that sshx's
// WriteOpenSSH returns so works while the Server runs. It returns nothing if there can be none.
func (d dialer) JumpHosts() []sshx.Config {
	addr, hostKey, err := d.JumpHost()
	if err != nil {
		if d.Logf != nil {
			d.Logf("vspheretest: %v", err)
		}
		return nil
	}
	return []sshx.Config{{
		Name: "jump", Address: addr, User: "lab", Keys: keys(d.Server), HostKeys: sshx.HostKeys{Pinned: []string{hostKey}},
	}}
}
