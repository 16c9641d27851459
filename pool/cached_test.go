package pool

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goTest returns what go test prints without -v of a package of testdata that passes.
func goTest(t *testing.T, pkg string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "./testdata/"+pkg)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestResultsAreNotCached(t *testing.T) {
	t.Parallel()
	for range 2 {
		assert.NotContains(t, goTest(t, "withmain"), "(cached)")
	}
	goTest(t, "without")
	assert.Contains(t, goTest(t, "without"), "(cached)", "else this test shows nothing")
}

func TestGoTestSaysThatASetupSkipped(t *testing.T) {
	t.Parallel()
	assert.Contains(t, goTest(t, "skips"), "[no tests to run]")
	assert.NotContains(t, goTest(t, "withmain"), "[no tests to run]")
}
