package sshguest_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

func TestTreesSurviveTheirJourney(t *testing.T) {
	t.Parallel()
	d := sshtest.NewDisk()
	require.NoError(t, d.AddUser("steve"))
	require.NoError(t, d.WriteFile("/home/steve/x", []byte("1"), 0o640))
	require.NoError(t, d.Chown("/home/steve/x", "steve", "wheel"))
	require.NoError(t, d.Chtimes("/home/steve/x", time.Unix(1_700_000_000, 0)))
	d.SetSize(60 << 30)
	first, err := sshguest.DumpTree(d)
	require.NoError(t, err)
	back, err := sshguest.LoadTree(first)
	require.NoError(t, err)
	size, _ := back.Usage()
	assert.EqualValues(t, 60<<30, size)
	second, err := sshguest.DumpTree(back)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(first, second))
}
