package vsphere

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/vsphere/internal/inprocess"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestResultsOnAVCenterAreNotCached(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	none := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "GOVC_") })
	run := func(env []string) string {
		cmd := exec.CommandContext(t.Context(), "go", "test", "./testdata/login")
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	for range 2 {
		assert.NotContains(t, run(append(none[:len(none):len(none)], l.Env()...)), "(cached)")
	}
	counts, _ := l.counts()
	assert.Equal(t, 2, counts["Login"])
	run(none)
	assert.Contains(t, run(none), "(cached)", "else this test shows nothing")

	assert.True(t, inprocess.Has(l.URL.Host), "what this process serves is no reason")
	l.Close()
	assert.False(t, inprocess.Has(l.URL.Host))
}
