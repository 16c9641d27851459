package main

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/event"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// asProgram is set in the environment of a test binary that is to be the program.
const asProgram = "SIMLAB_TEST_MAIN"

// output is what the lab prints, while it prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// serve starts the program, in this process; stop interrupts it.
func serve(t *testing.T, args ...string) (env map[string]string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := new(output)
	done := make(chan error, 1)
	args = append(args, "-addr", "127.0.0.1:0", "-jump", "127.0.0.1:0", "-latency", "fast", "-hosts", "1")
	go func() { done <- run(ctx, args, out) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Ctrl-C") }, 20*time.Second, time.Millisecond)
	env = exports(out.String())
	return env, sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

// exports are the lines to paste.
func exports(said string) map[string]string {
	env := make(map[string]string)
	for line := range strings.Lines(said) {
		if assign, ok := strings.CutPrefix(line, "export "); ok {
			name, value, _ := strings.Cut(strings.TrimSpace(assign), "=")
			env[name] = strings.Trim(value, "'")
		}
	}
	return env
}

// login is what govc does with the environment.
func login(t *testing.T, env map[string]string) *find.Finder {
	t.Helper()
	u, err := url.Parse(env["GOVC_URL"])
	require.NoError(t, err)
	sc := soap.NewClient(u, false)
	require.NoError(t, sc.SetRootCAs(env["GOVC_TLS_CA_CERTS"]))
	vc, err := vim25.NewClient(t.Context(), sc)
	require.NoError(t, err)
	c := &govmomi.Client{Client: vc, SessionManager: session.NewManager(vc)}
	require.NoError(t, c.Login(t.Context(), url.UserPassword(env["GOVC_USERNAME"], env["GOVC_PASSWORD"])))
	t.Cleanup(c.CloseIdleConnections)
	f := find.NewFinder(vc)
	dc, err := f.Datacenter(t.Context(), env["GOVC_DATACENTER"])
	require.NoError(t, err)
	return f.SetDatacenter(dc)
}

func TestLabIsAsItWasAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env, stop := serve(t, "-state", dir, "-template", "templates/rhel9", "-resource-pool", "e2e", "-guests", "plain")
	defer stop()
	f := login(t, env)
	tmpl, err := f.VirtualMachine(t.Context(), "/Datacenter/vm/templates/rhel9")
	require.NoError(t, err)
	pool, err := f.ResourcePool(t.Context(), env["GOVC_RESOURCE_POOL"])
	require.NoError(t, err)
	folder, err := f.Folder(t.Context(), "vm")
	require.NoError(t, err)
	ref := pool.Reference()
	task, err := tmpl.Clone(t.Context(), folder, "vm1", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &ref}})
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
	for _, file := range []string{env["E2E_SSH_KEY"], env["E2E_KNOWN_HOSTS"], env["GOVC_TLS_CA_CERTS"], dir + "/ssh_config"} {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.NotEmpty(t, data)
	}
	stop()

	env, stop = serve(t, "-state", dir, "-template", "templates/rhel9", "-resource-pool", "e2e", "-guests", "plain")
	defer stop()
	_, err = login(t, env).VirtualMachine(t.Context(), "/Datacenter/vm/vm1")
	assert.NoError(t, err)
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-latency", "slow"}, {"-nonsense"}, {"word"}, {"-factor", "0"}, {"-pools", "-1"}, {"-guests", "none"}, {"-hosts", "-1"}, {"-disk", "0"}} {
		assert.Error(t, run(t.Context(), append([]string{"-state", t.TempDir()}, args...), new(output)), "%q", args)
	}
	err := run(t.Context(), []string{"-state", t.TempDir(), "-hosts", "0", "-latency", "slow", "-guests", "none"}, new(output))
	for _, name := range []string{"-hosts", "-latency", "-guests"} {
		assert.ErrorContains(t, err, name, "all at once")
	}
	out := new(output)
	assert.NoError(t, run(t.Context(), []string{"-help"}, out))
	assert.Contains(t, out.String(), "-factor")
}

func TestOneLabAtATime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	env, stop := serve(t, "-state", dir, "-guests", "plain")
	defer stop()
	known, err := os.ReadFile(env["E2E_KNOWN_HOSTS"])
	require.NoError(t, err)
	assert.Equal(t, "template", env["E2E_TEMPLATE"])

	second := func(args ...string) error {
		return run(t.Context(), append(args, "-guests", "plain", "-jump", "127.0.0.1:0"), new(output))
	}
	assert.ErrorContains(t, second("-state", dir, "-addr", "127.0.0.1:0"), dir+" is in use by another simlab")
	after, err := os.ReadFile(env["E2E_KNOWN_HOSTS"])
	require.NoError(t, err)
	assert.Equal(t, string(known), string(after), "the first one's files are as they were")
	u, err := url.Parse(env["GOVC_URL"])
	require.NoError(t, err)
	assert.ErrorContains(t, second("-state", t.TempDir(), "-addr", u.Host), "is another simlab running?")
	stop()
	_, stop = serve(t, "-state", dir, "-guests", "plain")
	stop()
}

func TestSlowLabsAskForATimeout(t *testing.T) {
	t.Parallel()
	said := func(args ...string) string {
		l, err := configure(append(args, "-state", t.TempDir()), new(output))
		require.NoError(t, err)
		defer l.unlock()
		return timeout(l.expect)
	}
	assert.Empty(t, said())
	assert.Empty(t, said("-latency", "fast"))
	assert.Equal(t, " -timeout 43m0s", said("-latency", "realistic"))
	assert.Empty(t, said("-latency", "realistic", "-factor", "0.1"))
}

func TestFlagsOfTheTopologyArePassedOn(t *testing.T) {
	t.Parallel()
	env, stop := serve(t, "-state", t.TempDir(), "-template", "images/rhel9", "-pools", "5", "-network", "more")
	defer stop()
	assert.Equal(t, "images/rhel9", env["E2E_TEMPLATE"])
	assert.Equal(t, "5", env["E2E_POOLS"])
	f := login(t, env)
	_, err := f.VirtualMachine(t.Context(), "/Datacenter/vm/images/rhel9")
	assert.NoError(t, err)
	for _, network := range []string{"Lab Network", "Private Network", "External Network", "more"} {
		_, err := f.Network(t.Context(), network)
		assert.NoError(t, err)
	}
}

// program builds a program or, of a package of tests, its binary.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", append(args[:1:1], append([]string{"-o", file}, args[1:]...)...)...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return file
}

// A process is a simlab in a process of its own.
type process struct {
	cmd  *exec.Cmd
	out  *output
	env  map[string]string
	stop func() // as Ctrl-C does
}

func startProcess(t *testing.T, file string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(file, args...), out: new(output)}
	p.cmd.Env = without(os.Environ(), "E2E_")
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	require.NoError(t, p.cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	p.stop = sync.OnceFunc(func() {
		assert.NoError(t, p.cmd.Process.Signal(os.Interrupt))
		select {
		case err := <-ended:
			assert.NoError(t, err, "%s", p.out)
		case <-time.After(30 * time.Second):
			assert.Fail(t, "simlab does not end", "%s", p.out)
			_ = p.cmd.Process.Kill()
			<-ended //nolint:errcheck // that it ended counts
		}
	})
	t.Cleanup(p.stop)
	require.Eventually(t, func() bool { return strings.Contains(p.out.String(), "Ctrl-C") }, 30*time.Second, 5*time.Millisecond)
	p.env = exports(p.out.String())
	return p
}

// without is an environment without the variables that begin with one of the prefixes.
func without(env []string, prefixes ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e, p) })
	})
}

// e2e runs the tests that "go test ./e2e -run Pools -v" does, with go test's own timeout and the
// lines pasted, but the variables named.
func (p *process) e2e(t *testing.T, file string, but ...string) (said string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), file, "-test.run", "Pools", "-test.v", "-test.timeout", "10m")
	cmd.Dir = filepath.Join("..", "..", "e2e")
	cmd.Env = p.pasted(but...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pasted is the environment of a terminal into which the lines were pasted, but the variables
// named.
func (p *process) pasted(but ...string) []string {
	env := without(os.Environ(), "E2E_", "GOVC_")
	for name, value := range p.env {
		if !slices.Contains(but, name) {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// clones counts what vCenter remembers to have cloned.
func clones(t *testing.T, env map[string]string) (n int) {
	t.Helper()
	vm, err := login(t, env).VirtualMachine(t.Context(), "/Datacenter/vm/"+template)
	require.NoError(t, err)
	list, err := event.NewManager(vm.Client()).QueryEvents(t.Context(), types.EventFilterSpec{EventTypeId: []string{"VmClonedEvent"}})
	require.NoError(t, err)
	return len(list)
}

const template = "e2e-template-rhel9"

var hosts = []string{"e2e-golden-rhel9", "con1", "con2", "con3", "dis1", "dis2", "dis3"}

func TestSecondRunOfOtherProcessesReusesEverything(t *testing.T) {
	if testing.Short() {
		t.Skip("builds two programs and seven VMs")
	}
	t.Parallel()
	simlab := program(t, "simlab", "build", "-ldflags=-s -w", ".")
	tests := program(t, "e2e.test", "test", "-ldflags=-s -w", "-c", "../../e2e")
	args := []string{"-state", t.TempDir(), "-addr", "127.0.0.1:0", "-jump", "127.0.0.1:0", "-factor", "0.2"}
	reused := func(said string) {
		t.Helper()
		for _, host := range hosts {
			assert.Regexp(t, `(?m)^.*\b`+host+`\b.*\breuse\b`, said)
		}
		assert.NotContains(t, said, "clone ")
	}

	p := startProcess(t, simlab, args...)
	assert.Contains(t, p.out.String(), "# then: go test ./e2e -run Pools -v\n")
	said, err := p.e2e(t, tests, "E2E_EXPECT")
	require.Error(t, err, "without a word on how fast this lab is, go test's own timeout is too short\n%s", said)
	assert.Contains(t, said, "nothing was touched: run go test with -timeout")
	assert.Zero(t, clones(t, p.env))

	began := time.Now()
	said, err = p.e2e(t, tests)
	first := time.Since(began)
	require.NoError(t, err, "%s", said)
	assert.Equal(t, len(hosts), clones(t, p.env))

	began = time.Now()
	said, err = p.e2e(t, tests)
	second := time.Since(began)
	require.NoError(t, err, "%s", said)
	reused(said)
	assert.Equal(t, len(hosts), clones(t, p.env), "it made no clone")
	assert.Less(t, second, first/2)
	t.Logf("built in %s, reused in %s", first, second)
	p.stop()

	p = startProcess(t, simlab, args...)
	said, err = p.e2e(t, tests)
	require.NoError(t, err, "%s", said)
	reused(said)
	assert.Zero(t, clones(t, p.env), "events are not kept, and no clone was made since")
}
