package pool

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goTest returns what go test prints without -v of packages of testdata that pass.
func goTest(t *testing.T, pkgs ...string) string {
	t.Helper()
	args := []string{"test", "-vet=off", "-ldflags=-w"} // linking is what costs most
	for _, pkg := range pkgs {
		args = append(args, "./testdata/"+pkg)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { // TestMain's, in which nothing is built yet
		return strings.HasPrefix(v, "XDG_CACHE_HOME=")
	})
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestGoTestIsToldWhatItMustKnow(t *testing.T) {
	t.Parallel()
	of := func(out, pkg string) string {
		for line := range strings.Lines(out) {
			if strings.Contains(line, "/testdata/"+pkg) {
				return line
			}
		}
		require.Fail(t, "no line", "%s in %s", pkg, out)
		return ""
	}
	first := goTest(t, "withmain", "without", "skips")
	assert.Contains(t, of(first, "skips"), "[no tests to run]")
	assert.NotContains(t, of(first, "withmain"), "[no tests to run]")
	again := goTest(t, "withmain", "without")
	assert.NotContains(t, of(again, "withmain"), "(cached)")
	assert.Contains(t, of(again, "without"), "(cached)", "else this test shows nothing")
}
