//go:build unix

package vspheretest_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

const leavesEnv = "VSPHERETEST_LEAVES"

// TestServerThatIsKilled is the process of TestLeftoversOfKilledProcessesAreRemoved.
func TestServerThatIsKilled(t *testing.T) {
	kind := os.Getenv(leavesEnv)
	if kind == "" {
		t.Skip("it is run by another test, in a process of its own")
	}
	srv := vspheretest.NewUnstartedServer(t)
	if kind == "model" {
		srv.Model = simulator.VPX()
	}
	srv.Start()
	_, _ = os.Stdout.WriteString("up\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func TestLeftoversOfKilledProcessesAreRemoved(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	// serve starts a process with a Server, which ends when end is called: killed, or by itself.
	serve := func(kind string) (end func(kill bool)) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestServerThatIsKilled$")
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp, leavesEnv+"="+kind)
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "up\n", line)
		return func(kill bool) {
			if kill {
				_ = cmd.Process.Kill()
			}
			_ = stdin.Close()
			err := cmd.Wait()
			assert.Equal(t, kill, err != nil, "%v", err)
		}
	}
	left := func(pattern string) []string {
		all, err := filepath.Glob(filepath.Join(tmp, pattern))
		require.NoError(t, err)
		return all
	}
	foreign := filepath.Join(tmp, "govcsim-of-another-program")
	require.NoError(t, os.Mkdir(foreign, 0o700))
	unlocked := filepath.Join(tmp, "vspheretest-0") // one that is being made, or of an older version
	require.NoError(t, os.Mkdir(unlocked, 0o700))

	serve("own")(true)
	serve("model")(true)
	require.Len(t, left("vspheretest-*"), 2, "the second removed what the first left")
	lives := serve("own")
	assert.Len(t, left("vspheretest-*"), 2)
	assert.Len(t, left("govcsim-*"), 2)
	serve("model")(false)
	assert.Len(t, left("vspheretest-*"), 2, "what is in use stays")
	assert.Len(t, left("govcsim-*"), 2)
	lives(false)
	assert.Equal(t, []string{unlocked}, left("vspheretest-*"))
	assert.Equal(t, []string{foreign}, left("govcsim-*"))
}
