// Package suites shows packages of tests that share one set of pools: files and service, by way of
// lab. Its own test runs them, and examples/quickstart, as go test does, at the same time on one
// vCenter.
package suites

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPackagesShareOneSet(t *testing.T) {
	if testing.Short() {
		t.Skip("builds four programs and eight VMs")
	}
	t.Parallel()
	dir := t.TempDir()
	golang(t, "build", "-ldflags=-s -w", "-o", dir+"/simlab", "../simlab")
	golang(t, "test", "-ldflags=-s -w", "-c", "-o", dir+"/", "./files", "./service", "../quickstart")
	env := simlab(t, dir)

	packages := map[string]string{"files": "files", "service": "service", "quickstart": "../quickstart"}
	said := map[string]*bytes.Buffer{}
	var all sync.WaitGroup
	for name, at := range packages {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, name+".test"), "-test.v", "-test.timeout=10m")
		cmd.Dir, cmd.Env = at, append(clean(), env...)
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		said[name] = out
		require.NoError(t, cmd.Start())
		all.Go(func() { assert.NoError(t, cmd.Wait(), "%s: %s", name, out) })
	}
	all.Wait()
	if t.Failed() {
		return
	}

	clones := map[string]int{}
	held := map[string]*lease{} // by shard
	users := map[string]bool{}  // of pools, by program
	for _, e := range events(t, env) {
		switch e := e.(type) {
		case *types.VmClonedEvent:
			clones[e.Vm.Name]++
		case *types.VmReconfiguredEvent:
			next, ok := leaseIn(e.ConfigSpec)
			if !ok || !strings.Contains(e.Vm.Name, "-ledger-pool-") {
				continue
			}
			if last := held[e.Vm.Name]; last != nil && next != nil && last.Token != next.Token {
				assert.False(t, e.CreatedTime.Before(last.ExpiresAt), "%s: taken by %s at %s, from %s", e.Vm.Name, next.Holder, e.CreatedTime, last.Holder)
			}
			if held[e.Vm.Name] = next; next != nil && strings.Contains(next.Purpose, "Test") {
				users[next.Holder[strings.LastIndex(next.Holder, " ")+1:]] = true // it ends with the program
			}
		}
	}
	assert.Equal(t, map[string]int{
		"e2e-golden-rhel9": 1, "con1": 1, "con2": 1, "dis1": 1, "dis2": 1,
		"quickstart-golden": 1, "quickstart-web1": 1, "quickstart-web2": 1,
	}, clones)
	for _, name := range []string{"files", "service"} {
		assert.True(t, users[name], "%s is among %v", name, users)
	}
	built := 0
	for _, name := range []string{"files", "service"} {
		if strings.Contains(said[name].String(), "dis2 is pool-ready") {
			built++
		}
	}
	assert.Equal(t, 1, built, "one builds, the other waits and reuses:\n%s\n%s", said["files"], said["service"])
}

// golang runs the go command.
func golang(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// clean is the environment without a vCenter.
func clean() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "GOVC_") && !strings.HasPrefix(e, "E2E_") {
			env = append(env, e)
		}
	}
	return env
}

var export = regexp.MustCompile(`(?m)^export (\w+)='(.*)'$`)

// simlab starts a vCenter, as a process, and returns the variables that it says to set.
func simlab(t *testing.T, dir string) (env []string) {
	t.Helper()
	cmd := exec.Command(dir+"/simlab", "-state", dir+"/state", "-addr", "127.0.0.1:0", "-jump", "127.0.0.1:0", "-latency", "fast", "-pools", "2")
	out := filepath.Join(dir, "simlab.out")
	f, err := os.Create(out)
	require.NoError(t, err)
	defer f.Close()
	cmd.Env, cmd.Stdout, cmd.Stderr = clean(), f, f
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, cmd.Process.Signal(os.Interrupt))
		assert.NoError(t, cmd.Wait())
	})
	var said []byte
	require.Eventually(t, func() bool {
		said, _ = os.ReadFile(out)
		return bytes.Contains(said, []byte("Ctrl-C"))
	}, 30*time.Second, 5*time.Millisecond)
	for _, m := range export.FindAllSubmatch(said, -1) {
		env = append(env, string(m[1])+"="+string(m[2]))
	}
	return env
}

// events are those of vCenter, in order.
func events(t *testing.T, env []string) []types.BaseEvent {
	t.Helper()
	get := func(name string) string {
		for _, e := range env {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		require.Fail(t, "simlab does not say", "%s", name)
		return ""
	}
	u, err := url.Parse(get("GOVC_URL"))
	require.NoError(t, err)
	sc := soap.NewClient(u, false)
	require.NoError(t, sc.SetRootCAs(get("GOVC_TLS_CA_CERTS")))
	vc, err := vim25.NewClient(t.Context(), sc)
	require.NoError(t, err)
	defer vc.CloseIdleConnections()
	c := &govmomi.Client{Client: vc, SessionManager: session.NewManager(vc)}
	require.NoError(t, c.Login(t.Context(), url.UserPassword(get("GOVC_USERNAME"), get("GOVC_PASSWORD"))))
	list, err := event.NewManager(vc).QueryEvents(t.Context(), types.EventFilterSpec{EventTypeId: []string{"VmClonedEvent", "VmReconfiguredEvent"}})
	require.NoError(t, err)
	event.Sort(list)
	return list
}

// A lease is what the ledger says of who holds a pool.
type lease struct {
	Holder, Purpose, Token string
	ExpiresAt              time.Time
}

// leaseIn returns the lease that a write to the ledger leaves, nil if nobody's, and whether it is
// such a write.
func leaseIn(spec types.VirtualMachineConfigSpec) (*lease, bool) {
	for _, o := range spec.ExtraConfig {
		v := o.GetOptionValue()
		text, isText := v.Value.(string)
		var entry struct{ Lease *lease }
		if isText && v.Key == "poolready.value.entry" && json.Unmarshal([]byte(text), &entry) == nil {
			return entry.Lease, true
		}
	}
	return nil, false
}
