package e2etest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A module of somebody else's has its own product tested by 60 lines, at first try.
func TestAProductInAModuleOfItsOwn(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/product/product_test.go")
	require.NoError(t, err)
	assert.LessOrEqual(t, bytes.Count(text, []byte("\n")), 60)
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir := t.TempDir()
	mod, err := os.ReadFile(root + "/go.mod")
	require.NoError(t, err)
	_, rest, _ := bytes.Cut(mod, []byte("\n")) // the same Go and dependencies, so that nothing is fetched
	mod = fmt.Appendf(nil, "module example.com/product\n%s\nrequire github.com/poolready/poolready v0.0.0\nreplace github.com/poolready/poolready => %s\n", rest, root)
	sum, err := os.ReadFile(root + "/go.sum")
	require.NoError(t, err)
	for name, data := range map[string][]byte{"product_test.go": text, "go.mod": mod, "go.sum": sum} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-mod=mod", "-v", "./...")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOWORK=off", "GOVC_URL=")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "--- PASS: TestTheShopIsOpenToDis")
}

// web serves a page on port 80.
func web(ctx context.Context, p *sshtest.Proc) int {
	l, err := p.Listen(ctx, "tcp", ":80")
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })}
	return p.Fail(0, "%v", srv.Serve(l))
}

func TestCommandsAreOnTheSitesMachines(t *testing.T) {
	t.Parallel()
	srv := e2etest.NewUnstartedServer(t, e2etest.Site{Commands: map[string]sshtest.Command{
		"one": web,
		"two": func(_ context.Context, p *sshtest.Proc) int { fmt.Fprintln(p.Stdout, "two"); return 0 },
	}})
	srv.Latency = vspheretest.Fast()
	srv.Start()
	tmpl, folder, pool := vm(t, srv, "/Datacenter/vm/e2e-template-rhel9")
	ref := pool.Reference()
	task, err := tmpl.Clone(t.Context(), folder, "vm1", types.VirtualMachineCloneSpec{Location: types.VirtualMachineRelocateSpec{Pool: &ref}, PowerOn: true})
	require.NoError(t, err)
	require.NoError(t, task.Wait(t.Context()))
	m, _, _ := vm(t, srv, "/Datacenter/vm/vm1")
	ip, err := m.WaitForIP(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "two\n", run(t, srv, m, ip, "two"))
	assert.Equal(t, "/usr/bin/one\n", run(t, srv, m, ip, "sh", "-c", "command -v one"))
}

func TestFaultsOfASiteAreTold(t *testing.T) {
	t.Parallel()
	defer func() { assert.Contains(t, fmt.Sprint(recover()), `Packages["curl"]`) }()
	e2etest.NewUnstartedServer(t, e2etest.Site{Packages: map[string]e2etest.Package{"curl": {}}})
}

func TestExampleSite(t *testing.T) {
	t.Parallel()
	askDis(t)
}
