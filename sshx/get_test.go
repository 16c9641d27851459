package sshx_test

import (
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestGetTellsOfAFileThatChanged(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		name := m.dir(t) + "/f"
		old := strings.Repeat("x", 1<<20)
		m.write(t, name, old)
		var got strings.Builder
		require.NoError(t, c.Get(t.Context(), name, &got, sshx.GetOptions{Verify: true}))
		assert.Equal(t, sumOf(old), sumOf(got.String()))
		n := 0
		change := writer(func(p []byte) (int, error) {
			if n += len(p); n == len(old) {
				m.write(t, name, "new")
			}
			return len(p), nil
		})
		err := c.Get(t.Context(), name, change, sshx.GetOptions{Verify: true})
		ce, ok := errors.AsType[*sshx.ChangedError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, sshx.ChangedError{Host: "m1", Path: name, Got: sumOf(old), Want: sumOf("new")}, *ce)
		m.write(t, name, old)
		n = 0
		require.NoError(t, c.Get(t.Context(), name, change, sshx.GetOptions{}), "nobody asked")
	})
}

// sshd tells the exit status long before a slow reader has got all that is in its window.
func TestGetToASlowWriter(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, m)
		dir := m.dir(t)
		data := strings.Repeat("0123456789abcdef", 1<<15)
		m.write(t, dir+"/f", data)
		slow := time.NewTimer(3 * time.Second) // more than Cmd.WaitDelay
		var got strings.Builder
		require.NoError(t, c.Get(t.Context(), dir+"/f", writer(func(p []byte) (int, error) {
			if got.Len() == 0 {
				<-slow.C
			}
			return got.Write(p)
		}), sshx.GetOptions{}))
		assert.Equal(t, sumOf(data), sumOf(got.String()))
	})
}

func TestGetEndsWithItsWriter(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c := dial(t, m)
	f, err := os.Create(m.dir(t) + "/f")
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<40)) // days
	require.NoError(t, f.Close())
	broken := errors.New("broken")
	begun := time.Now()
	require.ErrorIs(t, c.Get(t.Context(), f.Name(), writer(func([]byte) (int, error) { return 0, broken }), sshx.GetOptions{}), broken)
	assert.Less(t, time.Since(begun), quick)
	require.NoError(t, c.Err())
}

func TestGetOfWhatIsNoFile(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c := dial(t, m)
	fifo := m.dir(t) + "/fifo"
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	for _, name := range []string{fifo, "/dev/zero"} {
		require.ErrorContains(t, c.Get(t.Context(), name, io.Discard, sshx.GetOptions{}), "is not a file")
	}
}
