package main

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"regexp"
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

	"github.com/poolready/poolready/e2e/realguests"
)

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

// TestCloneAndLogIn does what a person does with the lines that the lab prints.
func TestCloneAndLogIn(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out, done := new(output), make(chan error, 1)
	go func() { done <- run(ctx, []string{"-addr", "127.0.0.1:0", "-jump", "127.0.0.1:0"}, out) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	for !strings.Contains(out.String(), "Ctrl-C") {
		select {
		case err := <-done:
			done <- nil
			if m, ok := errors.AsType[realguests.Missing](err); ok && os.Getenv("REALGUESTS_NEEDED") == "" {
				t.Skip(m)
			}
			require.NoError(t, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	env := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)='(.*)'$`).FindAllStringSubmatch(out.String(), -1) {
		env[m[1]] = m[2]
	}
	u, err := url.Parse(env["GOVC_URL"])
	require.NoError(t, err)
	sc := soap.NewClient(u, false)
	require.NoError(t, sc.SetRootCAs(env["GOVC_TLS_CA_CERTS"]))
	vc, err := vim25.NewClient(ctx, sc)
	require.NoError(t, err)
	c := &govmomi.Client{Client: vc, SessionManager: session.NewManager(vc)}
	require.NoError(t, c.Login(ctx, url.UserPassword(env["GOVC_USERNAME"], env["GOVC_PASSWORD"])))
	t.Cleanup(c.CloseIdleConnections)

	f := find.NewFinder(vc)
	dc, err := f.Datacenter(ctx, env["GOVC_DATACENTER"])
	require.NoError(t, err)
	f.SetDatacenter(dc)
	template, err := f.VirtualMachine(ctx, "e2e-template-debian12")
	require.NoError(t, err)
	pool, err := f.ResourcePool(ctx, env["GOVC_RESOURCE_POOL"])
	require.NoError(t, err)
	folders, err := dc.Folders(ctx)
	require.NoError(t, err)
	ref := pool.Reference()
	task, err := template.Clone(ctx, folders.VmFolder, "vm1", types.VirtualMachineCloneSpec{
		Location: types.VirtualMachineRelocateSpec{Pool: &ref}, PowerOn: true,
	})
	require.NoError(t, err)
	require.NoError(t, task.Wait(ctx))
	vm, err := f.VirtualMachine(ctx, "vm1")
	require.NoError(t, err)
	addr, err := vm.WaitForIP(ctx, true)
	require.NoError(t, err)

	config := regexp.MustCompile(`ssh -F (\S+)`).FindStringSubmatch(out.String())[1]
	var release []byte
	require.Eventually(t, func() bool { // sshd starts after the network
		cmd := exec.CommandContext(ctx, "ssh", "-F", config, addr, "cat /etc/os-release /proc/1/comm")
		release, err = cmd.Output()
		return err == nil
	}, time.Minute, 200*time.Millisecond)
	assert.Contains(t, string(release), "ID=debian\n")
	assert.True(t, strings.HasSuffix(string(release), "\nsystemd\n"), string(release))
}
