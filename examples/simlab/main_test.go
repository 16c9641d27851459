package main

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// lab starts the program; stop interrupts it.
func lab(t *testing.T, args ...string) (env map[string]string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := new(output)
	done := make(chan error, 1)
	args = append(args, "-addr", "127.0.0.1:0", "-jump", "127.0.0.1:0", "-latency", "fast", "-hosts", "1")
	go func() { done <- run(ctx, args, out) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Ctrl-C") }, 20*time.Second, time.Millisecond)
	env = make(map[string]string)
	for line := range strings.Lines(out.String()) {
		if assign, ok := strings.CutPrefix(line, "export "); ok {
			name, value, _ := strings.Cut(strings.TrimSpace(assign), "=")
			env[name] = strings.Trim(value, "'")
		}
	}
	return env, sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
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
	env, stop := lab(t, "-state", dir, "-template", "templates/rhel9", "-pool", "e2e")
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

	env, stop = lab(t, "-state", dir, "-template", "templates/rhel9", "-pool", "e2e")
	defer stop()
	_, err = login(t, env).VirtualMachine(t.Context(), "/Datacenter/vm/vm1")
	assert.NoError(t, err)
}

func TestFlagsAreChecked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-latency", "slow"}, {"-nonsense"}, {"word"}} {
		assert.Error(t, run(t.Context(), append([]string{"-state", t.TempDir()}, args...), new(output)), "%q", args)
	}
	out := new(output)
	assert.NoError(t, run(t.Context(), []string{"-help"}, out))
	assert.Contains(t, out.String(), "-factor")
}
