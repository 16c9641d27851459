package lab

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLabOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	l := New(Options{AuthorizedKey: "ssh-ed25519 AAAA runner", Debian: []string{"m4"}})
	first := boot(t, l, 1, nil) // takes the first address
	m := boot(t, l, 2, nil)
	m.hw.DiskGiB = 60
	m.HardwareChanged(m.hw)
	m.run("growpart /dev/sda 2 && xfs_growfs /")
	m.run("hostnamectl set-hostname con1 && firewall-cmd --permanent --add-service=dns && dnf -y install tmux")
	m.run("nmcli connection modify 'Wired connection 3' ipv4.never-default yes")
	look := `hostnamectl --static; firewall-cmd --list-services; rpm -q tmux; df --output=size /
nmcli -g ipv4.never-default connection show 'Wired connection 3'; cat /etc/machine-id /etc/ssh/ssh_host_*
ip -4 -o addr show dev ens192; ls -l /root/.ssh /etc/NetworkManager/system-connections`
	m.run("systemctl restart firewalld")
	before := m.run(look)
	disk, err := l.SaveDisk(m.machine.Disk) // it is in use
	require.NoError(t, err)
	rest, err := l.Save()
	require.NoError(t, err)
	first.Kill()
	m.Kill()

	again := New(Options{AuthorizedKey: "ssh-ed25519 BBBB other", Debian: []string{"m4"}})
	require.NotEqual(t, l.HostKeys(), again.HostKeys())
	require.NoError(t, again.Load(rest))
	assert.Equal(t, l.HostKeys(), again.HostKeys(), "clones have the template's")
	d, err := again.LoadDisk(disk)
	require.NoError(t, err)
	n := boot(t, again, 2, d) // first now, with the address that it had
	assert.Equal(t, before, n.run(look))
	assert.Contains(t, boot(t, again, 3, nil).run("cat /root/.ssh/authorized_keys"), "AAAA", "the template is the one that was saved")

	assert.Equal(t, "12.5", boot(t, again, 4, nil).run("cat /etc/debian_version"))
	assert.Len(t, again.HostKeys(), 4, "of both templates")

	assert.Error(t, again.Load([]byte("{}")))
	_, err = again.LoadDisk([]byte("not a disk"))
	assert.Error(t, err)
}
