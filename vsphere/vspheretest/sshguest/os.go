package sshguest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// An OS is that of a plain machine, for one Server. Its fields are set before the Server starts. The
// zero value lets root in with the Server's ClientKey, which it makes if there is none.
type OS struct {
	// Commands are on all machines, besides or instead of those of package sshtest: what a product
	// brings, say. What they keep belongs on their Host's Disk, with which it is cloned, snapshotted and
	// reverted. They listen and dial on the machines' network with sshtest.Proc's Listen and
	// DialContext.
	Commands map[string]sshtest.Command
	// LeaseByMachineID makes the machines known to the DHCP server by their /etc/machine-id, as
	// systemd-networkd and many cloud images do, instead of by MAC: clones of a template with a filled
	// one get one address.
	LeaseByMachineID bool

	srv    *vspheretest.Server
	bridge bool          // tools list one
	disk   *sshtest.Disk // that every VM that is not a clone starts with
	lan    vspheretest.LAN
}

// Start makes it a vspheretest.Starter.
func (o *OS) Start(s *vspheretest.Server) error {
	if o.srv != nil {
		return errors.New("it runs on another Server already")
	}
	o.srv = s
	o.bridge = s.Model == nil && s.Load == "" // programs for vcsim's inventory expect no containers
	if s.ClientKey == nil {
		key, err := vspheretest.SSHKey(s.StateDir, "id_ed25519")
		if err != nil {
			return err
		}
		s.ClientKey = key
	}
	o.disk = sshtest.NewDisk()
	if err := o.disk.MkdirAll("/root/.ssh", 0o700); err != nil {
		return err
	}
	return o.disk.WriteFile("/root/.ssh/authorized_keys", ssh.MarshalAuthorizedKey(s.ClientKey.PublicKey()), 0o600)
}

// HostKeys returns the public host keys of the disk that templates start with.
func (o *OS) HostKeys() (keys []string) {
	files, err := o.disk.ReadDir("/etc/ssh")
	if err != nil {
		return nil
	}
	for _, f := range files {
		if line, err := o.disk.ReadFile("/etc/ssh/" + f.Name()); err == nil && strings.HasSuffix(f.Name(), "_key.pub") {
			keys = append(keys, strings.TrimSpace(string(line)))
		}
	}
	return keys
}

// saved is what an OS keeps beside its machines' disks.
type saved struct {
	Disk []byte
	LAN  *vspheretest.LAN
}

// Save makes it a vspheretest.StateSaver, with the three methods that follow.
func (o *OS) Save() ([]byte, error) {
	disk, err := DumpTree(o.disk)
	if err != nil {
		return nil, err
	}
	return json.Marshal(saved{disk, &o.lan})
}

// Load takes back what Save returned.
func (o *OS) Load(data []byte) error {
	st := saved{LAN: &o.lan}
	if err := json.Unmarshal(data, &st); err != nil {
		return err
	}
	disk, err := LoadTree(st.Disk)
	if err != nil {
		return fmt.Errorf("disk of templates: %w; was the state made with another OS?", err)
	}
	o.disk = disk
	return nil
}

// SaveDisk returns what LoadDisk makes an equal disk of.
func (o *OS) SaveDisk(d vspheretest.Disk) ([]byte, error) { return DumpTree(d.(disk).Disk) }

// LoadDisk returns a disk that SaveDisk has seen.
func (o *OS) LoadDisk(data []byte) (vspheretest.Disk, error) {
	d, err := LoadTree(data)
	return disk{d}, err
}

type disk struct{ *sshtest.Disk }

func (d disk) Clone() vspheretest.Disk { return disk{d.Disk.Clone()} }

// Install returns a disk that lets root in with the Server's key, and has the Server's host keys.
func (o *OS) Install(vspheretest.Hardware) vspheretest.Disk { return disk{o.disk.Clone()} }

// customFile is where a machine keeps the addresses that it was customized with, one NIC a line; an
// empty line means DHCP.
const customFile = "/etc/network/addresses"

// Customize makes it a vspheretest.Customizer.
func (o *OS) Customize(on vspheretest.Disk, c vspheretest.Customization) error {
	d := on.(disk)
	if c.HostName != "" {
		if err := d.WriteFile("/etc/hostname", []byte(c.HostName+"\n"), 0o644); err != nil {
			return err
		}
	}
	var lines strings.Builder
	for _, n := range c.NICs {
		if n.Addr.IsValid() {
			lines.WriteString(n.Addr.String())
		}
		lines.WriteString("\n")
	}
	if err := d.MkdirAll("/etc/network", 0o755); err != nil {
		return err
	}
	return d.WriteFile(customFile, []byte(lines.String()), 0o644)
}

// Boot starts a machine with the NICs that it has.
func (o *OS) Boot(m *vspheretest.Machine) vspheretest.Guest {
	g := o.newGuest(m)
	g.boot()
	return g
}

// Resume makes it a vspheretest.Resumer.
func (o *OS) Resume(m *vspheretest.Machine, data []byte) (vspheretest.Guest, error) {
	var then memory
	if err := json.Unmarshal(data, &then); err != nil {
		return nil, err
	}
	g := o.newGuest(m)
	g.reverts = then.Reverts
	return g, g.host.Resume(then.Host)
}
