// Package e2etest provides a vCenter whose machines run the con/dis system's operating system, on
// its networks, all of it simulated: what package e2e tests itself on, and what
// examples/simlab serves to other processes.
//
//	topology := e2e.DefaultTopology()
//	srv := e2etest.NewServer(t, e2etest.Site{
//		Template:   topology.Template,
//		Reserved:   topology.Reservations(),
//		NameServer: topology.NameServer,
//	})
//	topology.RunnerKey = sshx.AuthorizedKey(srv.ClientKey.PublicKey())
//	set := pool.Ensure(t, e2etest.On(t, srv, topology.Spec(nil, sshx.Config{})))
//
// # The guests
//
// They look like RHEL 9 to shell scripts: systemctl, nmcli, ip, firewall-cmd, dnf, dig and
// what else a script needs to make a connected and a disconnected host, with the exit codes and
// the output of the real ones. Those from Site.Debian look like a Debian 12 server, with apt-get,
// dpkg-query, ifupdown, systemd-networkd and NetworkManager if it is installed; Ubuntu's netplan,
// snaps and systemd-resolved are not simulated. An option that is not simulated ends a command with
// exit code 64 and a message, never with success. The networks are modelled: whether a host reaches
// another, a name server or the internet follows from its NICs, VLANs, addresses, routes and
// firewall.
//
// # A product of one's own
//
// Site.Commands are simulated programs, which listen and dial on the modelled network, and
// Site.Packages bring them, with files and units, by dnf and apt-get. A unit file on a machine, of a
// package or written by a recipe, is started by systemctl and at boot as it says: Type simple, exec
// and oneshot, ExecStart, ExecStartPre, ExecReload, User, WorkingDirectory, Environment,
// EnvironmentFile, StateDirectory and its kin, Restart, RestartSec, RemainAfterExit, and
// WantedBy=multi-user.target or default.target, with drop-ins. Every other directive that makes a
// difference is refused, with 64, and so is to start a unit again whose file changed while it ran.
// journalctl -u has what the programs print, but not what systemd adds. A service that ran when a
// snapshot with memory was taken runs in the resumed machine: its Command is called again, with
// Proc.Resumed. testdata/product is a test of a product, of 60 lines.
//
// # The site
//
// The lab's port group has a gateway, 10.0.1.1, a DHCP server for 10.0.0.0/20, and a server of
// names and time; the external one has a router to the internet, which is a few addresses and
// names, a package mirror and a page; the private one carries VLANs and nothing else.
package e2etest
