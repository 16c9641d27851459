package pool_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func init() {
	pool.AddChild("view", func(m *testing.M) {
		pool.Main(m, func(t pool.T) {
			spec, _ := labSpec()
			spec.Logf, spec.Pools = nil, 2
			spec.Roles = spec.Roles[:1]
			spec.Roles[0].Steps = append(spec.Roles[0].Steps, pool.Script("slow", "sleep 1"))
			if os.Getenv("CHILD_FAIL") != "" {
				spec.Roles[0].VM = named(spec.Roles[0].VM)
				spec.Roles[0].Checks = []pool.Check{pool.ScriptCheck("whole", "con1", `echo "$NAME"`)}
			}
			pool.Ensure(t, spec)
		})
	})
}

// named gives VMs their names in their environment.
func named(of func(int) pool.VM) func(int) pool.VM {
	return func(n int) pool.VM {
		vm := of(n)
		vm.Env = map[string]string{"NAME": vm.Name}
		return vm
	}
}

// viewed runs the setup of a set in a process, and returns what it prints.
func viewed(t *testing.T, s *standing, how func(*exec.Cmd), env ...string) string {
	t.Helper()
	cmd := process(t.Context(), "view", append(s.env(time.Minute), env...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	how(cmd)
	if err := cmd.Run(); err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError), out.String())
	}
	return out.String()
}

// A tested is the result of one test, as go test -json has it.
type tested struct {
	action, output string
	elapsed        float64
}

// testsIn are the tests in what a test binary prints for go test -json.
func testsIn(t *testing.T, output string) map[string]tested {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "test2json", "-t")
	cmd.Stdin = strings.NewReader(output)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "XDG_CACHE_HOME=") }) // it is ours
	lines, err := cmd.Output()
	if err != nil {
		t.Skipf("go tool test2json: %v", err)
	}
	all := map[string]tested{}
	for d := json.NewDecoder(bytes.NewReader(lines)); ; {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := d.Decode(&e); err == io.EOF {
			return all
		}
		require.NoError(t, err)
		r := all[e.Test]
		if e.Action == "output" {
			r.output += e.Output
		} else {
			r.action, r.elapsed = e.Action, e.Elapsed
		}
		all[e.Test] = r
	}
}

func TestGoTestJSONShowsSetupAsTests(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	asJSON := func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, "-test.v=test2json") }
	out := viewed(t, s, asJSON, "CHILD_FAIL=1")
	got := testsIn(t, out)
	results := map[string]string{}
	for name, r := range got {
		if strings.HasPrefix(name, "TestMain") {
			results[name] = r.action
		}
	}
	assert.Equal(t, map[string]string{
		"TestMain": "fail", "TestMain/lab/golden": "pass", "TestMain/lab/golden/golden": "pass", "TestMain/lab/clone_con": "pass",
		"TestMain/lab/clone_con/con1": "pass", "TestMain/lab/clone_con/con2": "pass", "TestMain/lab/ready_con/con1": "pass", "TestMain/lab/ready_con/con2": "fail",
	}, results)
	failed := got["TestMain/lab/ready_con/con2"]
	for _, w := range []string{`check "whole": want "con1", got "con2"`, "look: ssh -F ", "evidence: "} {
		assert.Contains(t, failed.output, w)
		assert.Equal(t, 1, strings.Count(out, w), "it is said once: %s", w)
	}
	assert.Contains(t, got["TestMain"].output, "view_test.go:")
	assert.Contains(t, got["TestMain"].output, "see TestMain/lab/ready_con/con2")
	assert.Greater(t, got["TestMain/lab/ready_con/con1"].elapsed, 1.0)
	assert.Contains(t, got[""].output, "no test was run", "what follows is not setup's")

	out = viewed(t, s, asJSON)
	got = testsIn(t, out)
	assert.Equal(t, "pass", got["TestMain"].action)
	assert.Equal(t, "pass", got["TestMain/lab/ready_con"].action)
	assert.Contains(t, got["TestMain"].output, "2 of 2 pools ready")
	assert.NotContains(t, got["TestMain/lab/ready_con/con2"].output, "of 2 pools ready")

	plain := viewed(t, s, func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, "-test.v=true") })
	assert.NotContains(t, plain, "TestMain/lab")
	assert.NotContains(t, plain, "\x16")
}

var escape = regexp.MustCompile(`\x1b\[(\d*)([A-Za-z])`)

// screen is what a terminal has after a text: of what moves its cursor it knows lines up, and to erase all
// from there.
func screen(t *testing.T, text string) []string {
	t.Helper()
	var lines []string
	row := 0
	for line := range strings.Lines(strings.ReplaceAll(text, "\r", "")) {
		for m := escape.FindStringSubmatchIndex(line); m != nil; m = escape.FindStringSubmatchIndex(line) {
			require.Zero(t, m[0], "%q: it is at a line's beginning", line)
			n, _ := strconv.Atoi(line[m[2]:m[3]])
			switch line[m[4]:m[5]] {
			case "A":
				row -= n
			case "J":
				lines = lines[:row]
			default:
				require.Failf(t, "unknown sequence", "%q", line)
			}
			line = line[m[1]:]
		}
		require.GreaterOrEqual(t, row, 0)
		lines = append(lines[:row], strings.TrimSpace(line))
		row++
	}
	return lines
}

func TestATerminalShowsALineForEachHost(t *testing.T) {
	t.Parallel()
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip("no script, which has a terminal")
	}
	onTerminal := func(cmd *exec.Cmd) {
		cmd.Args = []string{script, "-qec", "stty cols 100 rows 30; exec " + cmd.Path + " '-test.run=^$'", "/dev/null"}
		cmd.Path = script
	}
	s := startLab(t)
	rebuild := func() {
		spec, provider, err := s.spec(time.Minute, t.Logf)
		require.NoError(t, err)
		defer func() { assert.NoError(t, provider.Close(t.Context())) }()
		_, err = pool.Destroy(t.Context(), spec)
		require.NoError(t, err)
	}
	out := viewed(t, s, onTerminal, "TERM=xterm", "NO_COLOR=1")
	assert.Contains(t, out, "\x1b[2A", "two lines are written again")
	assert.Regexp(t, `con1: ready con, \d+s of about 1m0s: step "slow"`, out)
	left := screen(t, out)
	for _, want := range []string{"golden 1/1: golden is golden-ready", "ready con 1/2: con", "ready con 2/2: con", "2 of 2 pools ready"} {
		assert.True(t, slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, want) }), "%s in\n%s", want, strings.Join(left, "\n"))
		assert.Equal(t, 1, strings.Count(out, want), want)
	}
	assert.False(t, slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, "of about") }), strings.Join(left, "\n"))

	for _, env := range []string{"TERM=dumb", "POOLREADY_PROGRESS=plain"} {
		rebuild()
		out := viewed(t, s, onTerminal, "TERM=xterm", env)
		assert.NotContains(t, out, "\x1b", env)
		assert.Contains(t, out, "ready con 2/2: con", env)
	}
	rebuild()
	out = viewed(t, s, func(*exec.Cmd) {}, "TERM=xterm")
	assert.NotContains(t, out, "\x1b", "it is no terminal")
}

// A printingT is a fakeT with the Output of a *testing.T, and with attributes.
type printingT struct {
	*fakeT
	out   bytes.Buffer
	attrs map[string]string
}

func (p *printingT) Output() io.Writer      { return &p.out }
func (p *printingT) Attr(key, value string) { p.attrs[key] = value }

func TestLinesHaveThePlaceOfTheirTest(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(1)
	spec.Logf = nil
	p := &printingT{fakeT: testOf(t, "TestMirror"), attrs: map[string]string{}}
	_, _, line, _ := runtime.Caller(0)
	set := pool.Ensure(p, spec)
	at := fmt.Sprintf("view_test.go:%d: ", line+1)
	for l := range strings.Lines(p.out.String()) {
		assert.Regexp(t, "^("+regexp.QuoteMeta(at)+"|    )", l)
	}
	assert.Contains(t, p.out.String(), "ready dis 1/1: dis1 is pool-ready")

	set.Acquire(p)
	assert.Equal(t, "lab/1", p.attrs["poolready.pool"])
	assert.Equal(t, "con1,dis1", p.attrs["poolready.hosts"])
	assert.Equal(t, "0s", p.attrs["poolready.reset"], "it was clean")
	wait, err := time.ParseDuration(p.attrs["poolready.wait"])
	require.NoError(t, err)
	assert.Less(t, wait, time.Minute)
	p.end()
}
