package pool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
)

func init() {
	pool.AddChild("operate", func(m *testing.M) {
		pool.Main(m, func(t pool.T) {
			spec, provider := labSpec()
			spec.Logf = nil
			t.Cleanup(func() { must(provider.Close(context.WithoutCancel(t.Context()))) })
			if os.Getenv("CHILD_CHANGED") != "" {
				spec.Roles[0].Steps = append(spec.Roles[0].Steps, pool.Script("more", "exit 1"))
			}
			other := spec
			other.Name = "other"
			if os.Getenv("CHILD_OTHER") != "" && pool.Ensure(t, other).Pools() != nil {
				t.Errorf("it is not the set that is meant")
			}
			pool.Ensure(t, spec)
			t.Fatalf("setup went on")
		})
	})
	pool.AddChild("operate on nothing", func(m *testing.M) {
		pool.Main(m, func(t pool.T) {
			if os.Getenv("CHILD_FAILS") != "" {
				t.Fatalf("no template")
			}
		})
	})
}

// An operator runs a test binary as a person does.
type operator struct {
	t   *testing.T
	env []string
}

// run returns what went to standard output and to standard error, and the exit code.
func (o operator) run(mode string, args ...string) (out, errs string, code int) {
	o.t.Helper()
	exe, err := os.Executable()
	require.NoError(o.t, err)
	cmd := exec.CommandContext(o.t.Context(), exe, args...)
	cmd.Env = append(append(os.Environ(), pool.ChildEnv+"="+mode, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")), o.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		require.True(o.t, ok, "%v", err)
		code = exit.ExitCode()
	}
	return stdout.String(), stderr.String(), code
}

func TestOperationsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	o := operator{t: t}
	for want, args := range map[string][]string{
		`unknown operation "stats"`:                {"stats"},
		"verify   run all checks":                  {"-test.v", "help"},
		"keep: it needs -pools":                    {"keep"},
		"release: it needs -pools":                 {"release"},
		"rebuild: it needs -role, -pools, or both": {"rebuild"},
		"a new golden rebuilds the whole set":      {"rebuild", "-role", "golden", "-pools", "1"},
		"flag provided but not defined: -yes":      {"plan", "-yes"},
		"flag provided but not defined: -pools":    {"destroy", "-pools", "1"},
		`"0-2" is no choice of pools`:              {"status", "-pools", "0-2"},
		"keep: -for is -1h0m0s":                    {"keep", "-pools", "1", "-for", "-1h"},
		"ssh: it needs a host":                     {"ssh"},
		"exec: it needs a command":                 {"exec"},
		`status: unknown argument "now"`:           {"status", "now"},
		"status runs no tests: leave -run out":     {"-test.run", "Pools", "status"},
	} {
		out, errs, code := o.run("operate on nothing", args...)
		assert.Equal(t, 2, code, args)
		assert.Empty(t, out, args)
		assert.Contains(t, errs, want)
	}
	_, errs, code := o.run("operate on nothing", "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "setup did not call pool.Ensure")
	_, errs, code = operator{t, []string{"CHILD_FAILS=1"}}.run("operate on nothing", "status")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "no template\n")
	assert.NotContains(t, errs, "no test was run")
}

// All operations, of a test binary, on a set in a vCenter of its own.
func TestATestBinaryOperatesOnItsSet(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	s.open(10 * time.Second)
	o := operator{t, s.env(10 * time.Second)}
	ok := func(args ...string) string {
		t.Helper()
		out, errs, code := o.run("operate", args...)
		require.Zero(t, code, "%s\n%s", out, errs)
		assert.NotContains(t, errs, "no test was run")
		return out
	}
	read := func(v any, args ...string) {
		t.Helper()
		out := ok(args...)
		require.NoError(t, json.Unmarshal([]byte(out), v), out)
	}
	changed := operator{t, append(o.env, "CHILD_CHANGED=1")}

	var plan pool.Plan
	read(&plan, "plan", "-json", "-pools", "2")
	require.Len(t, plan.Items, 3)
	assert.Equal(t, pool.ActionReuse, plan.Items[2].Action)
	file := filepath.Join(t.TempDir(), "status.json")
	assert.Empty(t, ok("status", "-json", "-o", file))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var st pool.Status
	require.NoError(t, json.Unmarshal(data, &st))
	assert.Len(t, st.Pools, 3)
	assert.Contains(t, ok("verify", "-pools", "1"), "dis1")
	_, errs, code := o.run("operate", "status", "-pools", "9")
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, `status: -pools 9: set "lab" has the pools 1 to 3`)
	_, errs, code = o.run("operate", "logs", "-role", "cno")
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, "logs: -role cno: want one of con, dis")

	// A pool that is kept can be worked on, also when the recipe has changed.
	assert.Regexp(t, `con2: ssh -F \S+ con2`, ok("keep", "-pools", "2", "-for", "1h"))
	for _, o := range []operator{o, changed} {
		out, errs, code := o.run("operate", "exec", "-pools", "2", "-role", "con", "--", "sh", "-c", "echo $((6*7)); logger -t me hello")
		require.Zero(t, code, errs)
		assert.Equal(t, "== con2: ok\n42\n", out)
		out, errs, code = o.run("operate", "logs", "-pools", "2", "-role", "con", "-since", "1h")
		require.Zero(t, code, errs)
		assert.Contains(t, out, "me: hello")
	}
	if _, err := exec.LookPath("ssh"); err == nil {
		assert.Equal(t, "served\na b\n", ok("ssh", "con2", "sh", "-c", "cat /etc/served; echo 'a b'"))
	}
	assert.Regexp(t, `^ssh -F \S+ con2\n$`, ok("ssh", "con2"), "there is no terminal")
	var login struct{ Command []string }
	read(&login, "ssh", "-json", "con2", "echo", "a  b")
	assert.Equal(t, []string{"con2", "echo", "'a  b'"}, login.Command[len(login.Command)-3:], "ssh joins the words for the login shell")
	_, errs, code = o.run("operate", "ssh", "con2", "-pools", "2")
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, "ssh: flag -pools after the host")
	_, errs, code = o.run("operate", "exec", "con2", "ls")
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, "exec: con2 is a host")
	none := filepath.Join(t.TempDir(), "none", "file")
	_, errs, code = o.run("operate", "keep", "-pools", "1", "-o", none)
	assert.NotZero(t, code)
	assert.Contains(t, errs, "keep: nothing was done: -o: open "+none)
	_, errs, code = o.run("operate", "ssh", "con9")
	assert.Equal(t, 2, code)
	assert.Contains(t, errs, `unknown host "con9"`)
	read(&st, "release", "-pools", "2", "-json")
	assert.NotEqual(t, pool.StateKept, st.Pools[0].State)

	// One that was used counts as used, and one that fails says so.
	read(&st, "reset", "-pools", "3", "-json")
	assert.Equal(t, pool.StateClean, st.Pools[0].State)
	_, _, code = o.run("operate", "exec", "-pools", "3", "-role", "dis", "--", "false")
	assert.Equal(t, 1, code)
	read(&st, "status", "-pools", "3", "-json")
	assert.Equal(t, pool.StateDirty, st.Pools[0].State)
	assert.Equal(t, "exec by hand", st.Pools[0].LastUser)

	ok("rebuild", "-pools", "3", "-role", "dis")
	fewer := ok("sweep")
	assert.Contains(t, fewer, "0 VMs")

	_, errs, code = o.run("operate", "destroy")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "cannot ask for the set's name")
	two := operator{t, append(o.env, "CHILD_OTHER=1")}
	out, errs, code := two.run("operate", "plan", "-set", "lab")
	require.Zero(t, code, errs)
	assert.Contains(t, out, `plan for set "lab"`)
	_, errs, code = two.run("operate", "plan", "-set", "third")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, `-set third: unknown set; want one of "other", "lab"`)
	assert.Contains(t, ok("destroy", "-yes"), "golden")
	assert.Contains(t, ok("status"), "not ready")

	// Nothing is changed on hosts of a pool that cannot be leased, since its first build failed.
	_, _, code = changed.run("operate", "rebuild", "-pools", "1")
	require.Equal(t, 1, code)
	assert.Contains(t, ok("logs", "-pools", "1", "-role", "con"), "con1: ok", "dis1 is off")
	out, errs, code = o.run("operate", "exec", "-pools", "1", "-role", "con", "--", "true")
	assert.Equal(t, 1, code, out)
	assert.Contains(t, errs, "pool 1: it is not built yet")
}
