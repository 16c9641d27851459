package vspheretest_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// greet serves a line to each connection on port 8080; hear prints what ADDRESS:PORT serves.
func greet(ctx context.Context, p *sshtest.Proc) int {
	l, err := p.Listen(ctx, "tcp", ":8080")
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return 0
		}
		fmt.Fprintln(conn, "hello")
		_ = conn.Close()
	}
}

func hear(ctx context.Context, p *sshtest.Proc) int {
	conn, err := p.DialContext(ctx, "tcp", p.Args[1])
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	_, _ = io.Copy(p.Stdout, conn)
	return 0
}

func TestPlainMachinesReachEachOther(t *testing.T) {
	t.Parallel()
	s := start(t, func(srv *vspheretest.Server) {
		srv.OS = &sshguest.OS{Commands: map[string]sshtest.Command{"greet": greet, "hear": hear}}
	})
	a, b := s.full("a"), s.full("b")
	addr, c := s.boot(a)
	other, d := s.boot(b)
	_, err := try(c, "nohup greet >/dev/null 2>&1 & until hear localhost:8080 2>/dev/null; do sleep 0.01; done")
	require.NoError(t, err)
	assert.Equal(t, "hello", s.run(d, "hear "+addr+":8080"))
	out, err := try(d, "hear "+addr+":8081")
	require.Error(t, err)
	assert.Contains(t, out, "connection refused")
	out, err = try(c, "hear "+other+":8080")
	require.Error(t, err)
	assert.Contains(t, out, "connection refused")

	// From outside, and through a machine as a jump host, it is the same.
	for _, dial := range []func() (io.ReadCloser, error){
		func() (io.ReadCloser, error) { return s.srv.DialContext(s.ctx, "tcp", addr+":8080") },
		func() (io.ReadCloser, error) { return d.Dial("tcp", addr+":8080") },
	} {
		conn, err := dial()
		require.NoError(t, err)
		line, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.Equal(t, "hello\n", string(line))
		require.NoError(t, conn.Close())
	}
}
