package e2etest

import (
	"fmt"
	"net/netip"
	"path"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/e2e/internal/lab"
	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A Site says what the lab has for a topology. The zero value is one with the default names and
// without reservations.
type Site struct {
	// Template is its inventory path, below the VM folder; "" means "e2e-template-rhel9". It is of
	// the RHEL 9 kind, and its disk has 20 GiB.
	Template string
	// Debian is the inventory path of a second template, which is of the Debian 12 kind; "" is
	// none.
	Debian string
	// LabNetwork, PrivateNetwork and ExternalNetwork are port groups; "" means "Lab Network",
	// "Private Network" and "External Network". The template has one NIC, in the first.
	LabNetwork, PrivateNetwork, ExternalNetwork string
	// Reserved maps MACs to the addresses that the lab's DHCP server keeps for them. All others get
	// one of 10.0.8.0/22.
	Reserved map[string]netip.Addr
	// NameServer answers questions for names and for the time; the zero value means 10.0.1.8.
	NameServer netip.Addr
	// Commands are simulated programs of your own, by name, on every machine: a product's, say. One
	// that a package of Packages brings is there while that is installed; one that is named like a
	// program of the simulation replaces it. They listen and dial on the modelled network with
	// sshtest.Proc's Listen and DialContext; systemctl starts them by unit files on the machine. A
	// program that is uploaded, compiled for x86-64, is simulated by the command of its file's name.
	Commands map[string]sshtest.Command
	// Packages are packages of your own, by name, which the mirrors have for dnf and apt-get.
	Packages map[string]Package
	// Key logs in to the template as root; nil means a fresh one. vspheretest.SSHKey makes one
	// that lasts, for a StateDir.
	Key ssh.Signer
}

// A Package is one of your own, the same for every system.
type Package struct {
	// Version is what rpm and dpkg-query tell, without blanks; "" means "1.0-1".
	Version string
	// Commands are those of Site.Commands that it brings.
	Commands []string
	// Files are the others that it brings, by absolute path. A file that begins with "#!" is
	// executable. Unit files are in /usr/lib/systemd/system: as their distributions do, Debian
	// enables and starts their services when the package is installed, and RHEL does not.
	Files map[string]string
}

// NewServer starts a vCenter for the site, with the defaults of package vspheretest, and closes
// it when the test ends. Its ClientKey logs in to the template, whose HostKeys are known.
func NewServer(t vspheretest.T, site Site) *vspheretest.Server {
	t.Helper()
	s := NewUnstartedServer(t, site)
	s.Start()
	return s
}

// NewUnstartedServer returns one whose fields can be changed before Start; see Configure. t may
// be nil, in a program: then the caller calls Close, and Start panics if it cannot start.
func NewUnstartedServer(t vspheretest.T, site Site) *vspheretest.Server {
	s := vspheretest.NewUnstartedServer(t)
	site.Configure(s)
	return s
}

// Configure sets the fields of an unstarted Server that the site is made of: OS, ClientKey and
// Templates; and it puts the site's port groups before those that Networks has. It panics if Commands
// or Packages have a fault.
func (site Site) Configure(s *vspheretest.Server) {
	for _, f := range []struct {
		field *string
		value string
	}{
		{&site.Template, "e2e-template-rhel9"},
		{&site.LabNetwork, "Lab Network"},
		{&site.PrivateNetwork, "Private Network"},
		{&site.ExternalNetwork, "External Network"},
	} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	if site.Key == nil {
		key, err := vspheretest.SSHKey("", "")
		if err != nil {
			panic(fmt.Sprintf("e2etest: make a key: %v", err)) // crypto/rand does not fail
		}
		site.Key = key
	}
	s.ClientKey = site.Key
	options := lab.Options{
		LabNetwork: site.LabNetwork, PrivateNetwork: site.PrivateNetwork, ExternalNetwork: site.ExternalNetwork,
		Reserved: site.Reserved, NameServer: site.NameServer,
		AuthorizedKey: string(ssh.MarshalAuthorizedKey(site.Key.PublicKey())),
	}
	options.Commands, options.Packages = site.Commands, map[string]lab.Package{}
	for name, p := range site.Packages {
		options.Packages[name] = lab.Package(p)
	}
	if err := options.Validate(); err != nil {
		panic(fmt.Sprintf("e2etest: Site: %v", err))
	}
	if site.Debian != "" {
		options.Debian = []string{path.Base(site.Debian)}
	}
	s.OS = lab.New(options)
	s.Networks = append([]string{site.LabNetwork, site.PrivateNetwork, site.ExternalNetwork}, s.Networks...)
	s.Templates = []vspheretest.Template{{Path: site.Template, Networks: s.Networks[:1:1]}}
	if site.Debian != "" {
		s.Templates = append(s.Templates, vspheretest.Template{Path: site.Debian, Networks: s.Networks[:1:1], GuestID: "debian12_64Guest"})
	}
}
