package realguests

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// killMe is set in the environment of a test binary that boots a guest of the kind that it names, and
// waits to be killed.
const killMe = "REALGUESTS_TEST_KILL_ME"

func TestMain(m *testing.M) {
	if kind := os.Getenv(killMe); kind != "" {
		err := bootAndWait(context.Background(), Kind(kind))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// bootAndWait prints the directory of the run once a guest has an address.
func bootAndWait(ctx context.Context, kind Kind) error {
	s, err := Open(ctx, Options{Kind: kind, Topology: e2e.DefaultTopology().On("debian12", "debian12")})
	if err != nil {
		return err
	}
	hw := vspheretest.Hardware{Name: "debian", NICs: []vspheretest.HardwareNIC{
		{MAC: "00:50:56:00:00:01", Network: s.topology.LabNetwork, Connected: true},
	}}
	g := s.Boot(&vspheretest.Machine{Disk: s.Install(hw), Hardware: hw})
	for len(g.Info().NICs) == 0 || len(g.Info().NICs[0].Addrs) == 0 {
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println(s.dir)
	select {}
}

// TestNothingIsLeftAfterKill kills a process with a guest, and looks for what of it remains.
func TestNothingIsLeftAfterKill(t *testing.T) {
	openSite(
		t,
		Options{Kind: Kind(*kind), Topology: e2e.DefaultTopology().On("debian12", "debian12")},
	) // builds the image, or skips
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), killMe+"="+*kind)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	dir, err := bufio.NewReader(out).ReadString('\n')
	dir = strings.TrimSpace(dir)
	running := processesOf(dir)
	killed := cmd.Process.Kill()
	_ = cmd.Wait()
	require.NoError(t, err)
	require.NoError(t, killed)

	require.NotEmpty(t, running, "the guest ran")
	assert.Eventually(
		t,
		func() bool { return len(processesOf(dir)) == 0 },
		10*time.Second,
		20*time.Millisecond,
		"processes: %v",
		processesOf(dir),
	)
	mounts, err := os.ReadFile("/proc/self/mounts")
	require.NoError(t, err)
	assert.NotContains(t, string(mounts), dir)
	_, err = os.Stat(dir)
	require.NoError(t, err, "the directory is there until somebody sweeps")

	require.NoError(t, sweep(filepath.Dir(dir)))
	_, err = os.Stat(dir)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.Empty(t, cgroupsOf(dir))
}

// processesOf are those that have a run's directory in their arguments or are in its cgroups.
func processesOf(dir string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f)
		groups, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cgroup"))
		if err == nil &&
			(strings.Contains(string(line), dir) || strings.Contains(string(groups), cgroupPrefix(dir))) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}
