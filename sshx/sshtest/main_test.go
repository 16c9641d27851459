package sshtest

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newHost returns a booted machine with a user admin, who may do everything through sudo.
func newHost(t *testing.T, change ...func(h *Host)) *Host {
	t.Helper()
	d := NewDisk()
	require.NoError(t, d.AddUser("admin"))
	require.NoError(t, d.WriteFile("/etc/sudoers.d/admin", []byte("admin ALL=(ALL) NOPASSWD: ALL\n"), 0o440))
	h := NewHost(d)
	for _, f := range change {
		f(h)
	}
	h.Boot()
	t.Cleanup(h.Halt)
	return h
}

// muteConn sends nothing once on.
type muteConn struct {
	net.Conn
	on atomic.Bool
}

func (c *muteConn) Write(b []byte) (int, error) {
	if c.on.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}
