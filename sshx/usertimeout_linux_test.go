package sshx

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A peer that takes nothing more looks, to the kernel, as one that is gone does.
func TestKernelGivesUpOnAPeerThatAcknowledgesNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	peer, err := l.Accept()
	require.NoError(t, err)
	defer peer.Close()
	setUserTimeout(watch(conn), time.Hour) // ours, not the kernel's: as it is
	setUserTimeout(conn, 300*time.Millisecond)
	begun := time.Now()
	_, err = io.Copy(conn, zeros{})
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
	assert.Less(t, time.Since(begun), time.Minute)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
