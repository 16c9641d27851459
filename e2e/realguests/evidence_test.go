package realguests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

// A failing is a test that fails, and keeps what is said to its log.
type failing struct {
	pool.T
	said     strings.Builder
	cleanups []func()
}

func (f *failing) Failed() bool                    { return true }
func (f *failing) Cleanup(g func())                { f.cleanups = append(f.cleanups, g) }
func (f *failing) Logf(format string, args ...any) { fmt.Fprintf(&f.said, format+"\n", args...) }
func (f *failing) end() {
	for _, g := range slices.Backward(f.cleanups) {
		g()
	}
}

// testFailed has a test fail: what is collected of real machines before they are reset says what happened,
// and the command that is printed logs in to them.
func (s *system) testFailed(t *testing.T) {
	f := &failing{T: t}
	p := s.set.Acquire(f)
	for _, h := range p.Hosts() {
		s.script(t, h, `logger -t mirror "sync begins on $HOST_NAME"
systemd-run -q --unit=mirror-sync sh -c 'echo "mirror: no route to upstream" >&2; exit 3'`)
		if s.site.kind == VMs {
			s.script(t, h, "echo '<3>mirror: a fault of the kernel' >/dev/kmsg")
		}
		_, err := h.Run(t.Context(), "sh", "-c", "echo the mirror is broken; exit 9")
		require.Error(t, err)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", h.Look()+" 'cat /etc/hostname /proc/1/comm'").Output()
		require.NoError(t, err, h.Look())
		assert.Equal(t, h.Name+"\nsystemd\n", string(out))
	}
	f.end()

	said := f.said.String()
	found := regexp.MustCompile(`(?m)^ *evidence: (.+)$`).FindStringSubmatch(said)
	require.NotNil(t, found, said)
	t.Cleanup(func() { os.RemoveAll(found[1]) })
	assert.NotContains(t, said, "evidence is incomplete")
	for _, h := range p.Hosts() {
		assert.Contains(t, said, "log in to "+h.Name+": "+h.Look()+"\n")
		for file, want := range map[string][]string{
			"journal.txt":    {"mirror[", "sync begins on " + h.Name, "mirror: no route to upstream", "mirror-sync.service: Main process exited, code=exited, status=3"},
			"transcript.txt": {"exit 9 after", "| the mirror is broken"},
			"ports.txt":      {":22 ", `"sshd"`, `"chronyd"`},
			"processes.txt":  {"systemd-logind", "/usr/sbin/firewalld"},
			"space.txt":      {" /\n", "MemAvailable:"},
			"kernel.txt":     nil,
		} {
			data, err := os.ReadFile(filepath.Join(found[1], h.Name, file))
			require.NoError(t, err)
			if file == "kernel.txt" && s.site.kind == VMs {
				want = []string{"mirror: a fault of the kernel"}
			}
			for _, w := range want {
				assert.Contains(t, string(data), w, "%s of %s", file, h.Name)
			}
		}
	}
	status, err := os.ReadFile(filepath.Join(found[1], "status.txt"))
	require.NoError(t, err)
	assert.Contains(t, string(status), `"holder"`)
}
