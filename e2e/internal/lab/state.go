package lab

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

var _ vspheretest.StateSaver = (*Lab)(nil)

// A keep is what a lab keeps beside its guests' disks: the templates, whose host keys clones
// have, and what DHCP servers have given to whom. Reservations and port groups come from Options
// each time; all else in a running guest is lost, as in a power failure.
type keep struct {
	Template []byte
	Debian   []byte                           // template of the Debian kind, if there is one
	Leases   map[string]map[string]netip.Addr // by port group and client
}

// Save implements vspheretest.StateSaver.
func (l *Lab) Save() ([]byte, error) {
	k := keep{Leases: l.net.Leases()}
	var err error
	if k.Template, err = sshguest.DumpTree(l.rhel); err != nil {
		return nil, fmt.Errorf("lab: template: %w", err)
	}
	if l.debian != nil {
		if k.Debian, err = sshguest.DumpTree(l.debian); err != nil {
			return nil, fmt.Errorf("lab: template: %w", err)
		}
	}
	return json.Marshal(k)
}

// Load implements vspheretest.StateSaver. Templates are those that were saved: of the Options,
// AuthorizedKey and Prepare no longer have an effect.
func (l *Lab) Load(data []byte) error {
	var k keep
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	template, err := sshguest.LoadTree(k.Template)
	if err != nil {
		return fmt.Errorf("lab: template: %w", err)
	}
	if len(k.Debian) > 0 { // without, that of New stays
		if l.debian, err = sshguest.LoadTree(k.Debian); err != nil {
			return fmt.Errorf("lab: template: %w", err)
		}
	}
	l.rhel = template
	l.net.SetLeases(k.Leases)
	return nil
}

// SaveDisk implements vspheretest.StateSaver.
func (l *Lab) SaveDisk(d vspheretest.Disk) ([]byte, error) {
	return sshguest.DumpTree(d.(Disk).Disk)
}

// LoadDisk implements vspheretest.StateSaver.
func (l *Lab) LoadDisk(data []byte) (vspheretest.Disk, error) {
	d, err := sshguest.LoadTree(data)
	if err != nil {
		return nil, err
	}
	return Disk{d}, nil
}
