package pool

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestResultsAreNotCached(t *testing.T) {
	t.Parallel()
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"test"}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	for range 2 {
		assert.NotContains(t, run("./testdata/withmain"), "(cached)")
	}
	run("./testdata/without")
	assert.Contains(t, run("./testdata/without"), "(cached)", "else this test shows nothing")
}
