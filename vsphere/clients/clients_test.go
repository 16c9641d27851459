package clients

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// serve starts a Server with vcsim's inventory: VMs that are on, DC0_H0_VM0 and three more.
func serve(t *testing.T) *vspheretest.Server {
	t.Helper()
	srv := vspheretest.NewUnstartedServer(t)
	srv.Model, srv.Latency = simulator.VPX(), vspheretest.Fast()
	srv.Start()
	return srv
}

// command returns one that is configured for the Server as govc is.
func command(t *testing.T, srv *vspheretest.Server, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(srv.Env(), "HOME="+t.TempDir(), "PATH="+os.Getenv("PATH"))
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

func TestGovc(t *testing.T) {
	t.Parallel()
	srv := serve(t)
	bin := filepath.Join(t.TempDir(), "govc")
	build(t, ".", bin, "./govc")
	govc := func(args ...string) string {
		t.Helper()
		out, err := command(t, srv, bin, args...).CombinedOutput()
		require.NoError(t, err, "govc %s: %s", strings.Join(args, " "), out)
		return string(out)
	}
	fails := func(args ...string) string {
		t.Helper()
		out, err := command(t, srv, bin, args...).CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "govc %s: %s", strings.Join(args, " "), out)
		return string(out)
	}

	assert.Contains(t, govc("about"), "API type:     VirtualCenter")
	assert.Contains(t, govc("ls", "vm"), "/DC0/vm/DC0_H0_VM0")
	govc("vm.power", "-off", "DC0_H0_VM0")
	govc("vm.clone", "-vm", "DC0_H0_VM0", "-on=false", "-annotation", "a clone", "copy")
	govc("snapshot.create", "-vm", "copy", "clean")
	govc("vm.change", "-vm", "copy", "-annotation", "changed")
	govc("vm.power", "-on", "copy")
	govc("snapshot.revert", "-vm", "copy", "clean")
	assert.Equal(t, "a clone\n", govc("collect", "-s", "vm/copy", "config.annotation"))
	assert.Equal(t, "poweredOff\n", govc("collect", "-s", "vm/copy", "runtime.powerState"))
	assert.Contains(t, govc("snapshot.tree", "-vm", "copy"), "clean")

	// What took down the connection, or never came back.
	assert.Contains(t, govc("events", "vm/DC0_C0_*"), "is powered on")
	assert.NotContains(t, fails("snapshot.export", "-vm", "copy", "-d", t.TempDir(), "enoent"), "EOF")
	for _, args := range [][]string{
		{"snapshot.export", "-vm", "copy", "-d", t.TempDir(), "clean"},
		{"guest.ps", "-vm", "DC0_C0_RP0_VM0", "-l", "root:pass"},
		{"guest.run", "-vm", "DC0_C0_RP0_VM0", "-l", "root:pass", "/bin/true"},
	} {
		out, _ := command(t, srv, bin, args...).CombinedOutput()
		assert.NotContains(t, string(out), "EOF", "govc %s", args[0])
	}

	govc("vm.destroy", "copy")
	assert.NotContains(t, govc("ls", "vm"), "copy")
}

func TestPyvmomi(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3" // Debian's, which has its packages
	if err := exec.CommandContext(t.Context(), python, "-W", "ignore", "-c", "import pyVim.connect").Run(); err != nil {
		t.Skip("python3-pyvmomi is not installed")
	}
	out, err := command(t, serve(t), python, "-W", "ignore", "testdata/vms.py").CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "all is well")
}
