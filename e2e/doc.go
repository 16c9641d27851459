// Package e2e is the con/dis system: pools of a connected and a disconnected host each, as
// end-to-end tests of products for air-gapped sites need them. It is poolready's own main job,
//
//	go test ./e2e -run Pools -v
//
// and meant to be copied: a Topology says what the hosts are called and how they are connected,
// Spec turns it into a pool.Spec, and scripts/ holds every step and every check as a shell script
// that an administrator can read, run by hand, and change.
//
// # The hosts
//
// Pool N has conN, which is connected to the internet, and disN, which is not. Both are linked
// clones of one golden VM. Each has three NICs: one in the lab's network, where tests log in; one
// in a private trunk, which carries a VLAN between con and dis; one that leads out, which is down
// on dis. con serves names, time and, until dis is cut off, the way out to its dis.
//
// # Operating systems
//
// Templates are RHEL 9 or what is like it, or Debian 12 or Ubuntu; con and dis may differ
// (Topology.On; "os" and "dis-os" in a file). Scripts choose by /etc/os-release. A template lets
// the runner's key in as root, on its first NIC, and has sudo, open-vm-tools and a way to its
// mirror. On Debian and Ubuntu
//
//   - NetworkManager configures the network where it runs, as on RHEL. Where it does not, as on servers,
//     systemd-networkd does: files of ifupdown and netplan are put aside under another name;
//   - firewalld is installed and is the firewall, with the rules that RHEL has. ufw must not be active;
//   - apt no longer does anything in the background, so that no host changes by itself;
//   - the line of 127.0.1.1 goes from /etc/hosts, since dnsmasq would serve it;
//   - cloud-init, where it is, is disabled: it would configure every clone's network again.
//
// Users are administrators by files in sudoers.d, whatever the group for that is called. What
// Ubuntu has beside Debian (netplan, systemd-resolved) follows its documentation, and has been run
// nowhere yet.
//
// What RHEL's branch of the scripts calls has been run as far as Debian 12 has the programs, on real
// guests (e2e/realguests):
//
//   - nmcli 1.42: -g FIELD connection show, connection add of type ethernet, modify of every property
//     used, up, down, delete; NetworkManager --print-config; reload of NetworkManager;
//   - firewall-cmd 1.3: --reload, --list-all and --permanent --list-all on a zone's file that a script
//     has written;
//   - chronyc 4.3: waitsync, -c -n sources, accheck; podman 4.3: ps and rm; sudo, visudo, dnsmasq --test,
//     hostnamectl, timedatectl, sysctl; systemctl add-wants.
//
// Unconfirmed are: dnf install, update, remove, clean all and --setopt=*.skip_if_unavailable=0; rpm -q and
// -qa; needs-restarting -r; xfs_growfs; SELinux's view of files that scripts replace; chronyc makestep
// on a clock of the guest's own; connection add of type vlan where the kernel that runs containers
// lacks 802.1Q; that RHEL's units are called sshd and chronyd, and its files as in steps/time.sh.
//
// Mirrors limit the rate. Two hosts update at a time, and one that is turned away asks again after
// "retry-pause" seconds. Each process has its own two: others that build on the same vCenter are
// not counted, so give several of them at once a mirror of your own.
//
// # Names of the outside
//
// con's dnsmasq asks the lab's name server for what it does not know, so that dis can resolve names
// of the outside even after the internet has been cut off. With Topology.OutsideNames "refused" it
// refuses them to everybody, and con itself asks the lab's server besides. What the lab's own name
// server answers dis, which reaches it on the lab's network, is the lab's to decide.
//
// # The air gap
//
// dis's internet NIC is disconnected in the hypervisor, and stays so at power on
// (pool.NIC.Unplugged); its interface is down, and it has no default route. Probes show that
// nothing gets through (scripts/checks/internet.sh), and on con that they find a way out where
// there is one. All that is checked before pool-ready and by the operation verify; cable, interface, routes
// and probes after every reset, too. A pool with a leak is not leased: the evidence is in the error
// and in the status. The cable is part of what every plan compares, so that a run that would only
// reuse a dis notices one that was plugged in by hand.
//
// # Operations
//
// With the name of an operation after -args, the tests' binary runs no tests but does one thing with
// the set; see pool.Main. scripts/facts.sh lists what there is on a host: the operation diff and
// pool.Pool.Watch, for a test that wants to leave nothing, report the changes by name.
//
// # The topology
//
// A YAML file (-topology FILE) says what differs from DefaultTopology, an environment variable
// E2E_KEY wins over it, and a flag -set key=value over both; -print-topology lists all keys, and
// where each value is from. Names, MACs, addresses, datastores and folders of single pools are
// below "pool-N" (see Override):
//
//	pools: 4
//	pool-2:
//	  con-name: bastion2
//	  con-macs: [00:50:56:01:02:01, 00:50:56:01:02:02, 00:50:56:01:02:03]
//	  con-lab: 10.0.2.25
//	  datastore: Datastore4-2
//
// Teams on one vCenter give their sets different names, which have MACs of their own, addresses of their own
// ("pool-base", and DHCP reservations for them) and, in one private network, a "vlan" or "vlan-prefix" of
// their own. One that shares an address or a VLAN's with another's set is refused before anything is
// touched; see pool.NIC.Claims.
//
// # Where it runs
//
// With GOVC_URL in the environment, on that vCenter. E2E_SSH_KEY names the private key file that
// logs in to the template as root, and E2E_SHARE_KEY, if it is not empty, gives it to the hosts,
// too; E2E_KNOWN_HOSTS the file with host keys of the template and of jump hosts (without, the
// first ones shown are trusted, which is said); E2E_SSH_JUMP lists jump hosts as ssh -J has them;
// E2E_EXPECT is how long one VM takes to be made ready where no record tells yet (half an hour for
// golden, ten minutes for others, for which go test needs a -timeout). examples/simlab is a
// simulated vCenter to try that on. [SpecFromEnv] reads it all, for other packages; examples/suites
// has some.
//
// Without GOVC_URL, on an embedded one (vsphere/vspheretest), whose guests run the same scripts
// against simulated administration commands on a modelled network (e2e/e2etest). What the
// simulation cannot show is said there.
package e2e
