package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// suite lists the files of govc's tests that are run, without their ending.
var suite = []string{
	"cli", "cluster", "datacenter", "device", "disk", "events", "fields", "folder", "ls", "network", "object",
	"pool", "session", "snapshot", "tasks", "vm",
}

// exceptions names the tests that pass on vcsim only, and why: lines "FILE / TEST / REASON".
const exceptions = "testdata/exceptions.txt"

// TestGovcSuite runs govc's tests, of a checkout of govmomi in GOVMOMI, on vcsim and on simlab. See
// "make govc-suite".
func TestGovcSuite(t *testing.T) {
	checkout := os.Getenv("GOVMOMI")
	if checkout == "" {
		t.Skip("GOVMOMI is not set: a checkout of govmomi v0.56.0 with govc's tests")
	}
	for _, tool := range []string{"bats", "jq", "xmlstarlet"} {
		_, err := exec.LookPath(tool)
		require.NoError(t, err, "install %s", tool)
	}
	checkout, err := filepath.Abs(checkout)
	require.NoError(t, err)
	excepted := readExceptions(t)
	paths := map[string]string{"vcsim": t.TempDir(), "simlab": t.TempDir()}
	for kind, dir := range paths {
		build(t, ".", filepath.Join(dir, "bin", "govc"), "./govc")
		if kind == "vcsim" {
			buildVcsim(t, checkout, filepath.Join(dir, "bin", "vcsim"))
		} else {
			build(t, "../..", filepath.Join(dir, "bin", "vcsim"), "./examples/simlab")
		}
	}

	theirs := flagsOf(t, filepath.Join(paths["vcsim"], "bin", "vcsim"))
	assert.Contains(t, theirs, "api-version")
	assert.Subset(t, flagsOf(t, filepath.Join(paths["simlab"], "bin", "vcsim")), theirs, "simlab takes or refuses each of vcsim's flags")

	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "file\tvcsim passes\tof\tsimlab passes\tof\tvcsim only")
	var stock, ours int
	for _, file := range suite {
		got := make(map[string]map[string]bool)
		var mu sync.Mutex
		var both sync.WaitGroup
		for kind, dir := range paths {
			both.Go(func() {
				passed := bats(t, checkout, file, dir)
				mu.Lock()
				defer mu.Unlock()
				got[kind] = passed
			})
		}
		both.Wait()
		var only int
		for test, passed := range got["vcsim"] {
			name := file + " / " + test
			switch {
			case passed && !got["simlab"][test]:
				only++
				assert.Contains(t, excepted, name, "passes on vcsim and not here")
			case excepted[name] != "":
				assert.Fail(t, "an exception that is none: "+name)
			}
			delete(excepted, name)
		}
		a, b := count(got["vcsim"]), count(got["simlab"])
		stock, ours = stock+a, ours+b
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\n", file, a, len(got["vcsim"]), b, len(got["simlab"]), only)
	}
	fmt.Fprintf(w, "all\t%d\t\t%d\t\t\n", stock, ours)
	require.NoError(t, w.Flush())
	t.Logf("\n%s", table.String())
	assert.Empty(t, excepted, "exceptions for tests that there are not")
}

var flagName = regexp.MustCompile(`(?m)^  -(\S+)`)

// flagsOf returns the names of a program's flags, as its -h lists them.
func flagsOf(t *testing.T, program string) (names []string) {
	t.Helper()
	out, _ := exec.CommandContext(t.Context(), program, "-h").CombinedOutput() // with whatever status
	for _, m := range flagName.FindAllStringSubmatch(string(out), -1) {
		names = append(names, m[1])
	}
	return names
}

func count(passed map[string]bool) (n int) {
	for _, ok := range passed {
		if ok {
			n++
		}
	}
	return n
}

var tap = regexp.MustCompile(`^(not )?ok \d+ (.*?)(?: # (?:skip|timeout).*)?$`)

// bats runs a file of tests with the programs in dir, and returns which passed; skipped ones are not
// among them.
func bats(t *testing.T, checkout, file, dir string) map[string]bool {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	home := filepath.Join(dir, "home", file)
	assert.NoError(t, os.MkdirAll(home, 0o700))
	cmd := exec.CommandContext(ctx, "bats", "-t", filepath.Join(checkout, "govc", "test", file+".bats"))
	cmd.Dir = home // empty: patterns in the tests match file names
	cmd.Env = append(os.Environ(), "GOPATH="+dir, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"),
		"HOME="+home, "TMPDIR="+home, "BATS_TEST_TIMEOUT=60", "USER=user")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.Output()
	passed := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if m := tap.FindStringSubmatch(line); m != nil && !strings.Contains(line, " # skip") {
			passed[m[2]] = m[1] == ""
		}
	}
	if os.Getenv("GOVC_SUITE_VERBOSE") != "" {
		t.Logf("%s with %s: %v\n%s", file, dir, err, out)
	}
	assert.NotEmpty(t, passed, "%s: %v", file, err)
	return passed
}

// readExceptions reads the names of tests, and the reasons.
func readExceptions(t *testing.T) map[string]string {
	t.Helper()
	f, err := os.Open(exceptions)
	require.NoError(t, err)
	defer f.Close()
	all := make(map[string]string)
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(line, " / ", 3)
		require.Len(t, parts, 3, "%s: %q", exceptions, line)
		all[parts[0]+" / "+parts[1]] = parts[2]
	}
	return all
}

// build builds a program; dir is that of its module.
func build(t *testing.T, dir, to string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", to}, args...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// buildVcsim builds vcsim from the checkout's file, as a program of this module.
func buildVcsim(t *testing.T, checkout, to string) {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{
		"Replace": map[string]string{filepath.Join(here, "vcsim", "main.go"): filepath.Join(checkout, "vcsim", "main.go")},
	})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	build(t, ".", to, "-overlay", file, "./vcsim")
}
