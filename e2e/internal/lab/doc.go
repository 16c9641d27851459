// Package lab is the lab that the con/dis system lives in, simulated: the operating system of its
// machines (vspheretest.OS), the networks they are plugged into, and what else is there: DHCP
// and name servers, a time server, a package mirror, the internet.
//
// A guest is a machine of package sshtest with the administration commands of a RHEL 9: systemctl,
// nmcli, ip, firewall-cmd, sysctl, timedatectl, chronyc, hostnamectl, dnf, rpm, ping, dig, getent,
// curl, ssh, ss, podman and others; or of a Debian 12 server, with apt-get, dpkg-query, networkctl
// and ifupdown instead. They act on one model: what nmcli writes decides addresses and routes, what
// firewall-cmd opens can be reached, what dnsmasq's files say is answered. What lasts is on the
// guest's disk, in the files where the system has it (where that is a binary database, in a text
// file instead), so that snapshots, reverts and clones carry it; what a reboot forgets is
// forgotten.
//
// Each command knows the forms that its doc comment lists. Anything else ends it with exit
// code 64 and a message, so that no script passes because an argument was passed over.
package lab
