package lab

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// What administrators type daily has the output of the real commands.
func TestCommandsOfEveryDay(t *testing.T) {
	t.Parallel()
	m := own(t)
	m.HardwareChanged(m.hw)
	assert.Equal(t, "DEVICE  TYPE      STATE                   CONNECTION         \n"+
		"ens192  ethernet  connected               Wired connection 1 \n", firstLines(m.run("nmcli device"), 2))
	assert.Contains(t, m.run("nmcli -t -f DEVICE,STATE device"), "ens192:connected\n")
	assert.Contains(t, m.run("nmcli -t -f DEVICE,TYPE,STATE,CONNECTION dev status"), "lo:loopback:connected (externally):lo")
	assert.Contains(t, m.run("nmcli -t -f NAME,DEVICE con show"), "Wired connection 1:ens192")
	assert.Contains(t, m.run("ss -tln"), "0.0.0.0:22 ")
	assert.Contains(t, m.run("ss -tln"), "Local Address:Port")
	assert.Contains(t, m.run("firewall-cmd --list-all"), "services: cockpit dhcpv6-client ssh")
	assert.Contains(t, m.run("systemctl status sshd"), "active (running)")
	m.unit("shop", "ExecStart=/usr/bin/shopd --port 8080")
	m.run("systemctl start shop")
	assert.Equal(t, "active", m.run("systemctl show -p ActiveState --value shop"))
	assert.Equal(t, "SubState=running", m.run("systemctl show --property=SubState shop.service"))
	assert.Equal(t, m.run("pgrep shopd"), m.run("systemctl show shop -p MainPID --value"))
	assert.Equal(t, "LoadState=not-found", m.run("systemctl show -p LoadState no-such-unit"))
}

// firstLines returns the first n lines.
func firstLines(s string, n int) string {
	for i := range s {
		if s[i] == '\n' {
			if n--; n == 0 {
				return s[:i+1]
			}
		}
	}
	return s
}
