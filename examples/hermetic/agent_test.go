package hermetic

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/access"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// agentctl is the product's command, simulated. It knows: install VERSION, version, enroll
// --name-file FILE, status. What it keeps is on the machine's disk, so that snapshots and clones
// carry it; what it does not know ends with exit code 64 and a message, so that no recipe passes
// because an argument was passed over.
func agentctl(_ context.Context, p *sshtest.Proc) int {
	const versionFile, nameFile = "/var/lib/agent/version", "/var/lib/agent/name"
	args := p.Args[1:]
	version, err := p.ReadFile(versionFile)
	switch {
	case len(args) == 2 && args[0] == "install":
		if err := p.WriteFile(versionFile, []byte(args[1]+"\n"), 0o644); err != nil {
			return p.Fail(1, "%v", err)
		}
		return 0
	case slices.Equal(args, []string{"version"}), slices.Equal(args, []string{"status"}), len(args) == 3 && args[0] == "enroll" && args[1] == "--name-file":
	default:
		return p.NotSimulated(fmt.Sprint(args))
	}
	if err != nil {
		return p.Fail(1, "not installed")
	}
	switch args[0] {
	case "version":
		fmt.Fprint(p.Stdout, string(version))
	case "status":
		if _, err := p.ReadFile(nameFile); err != nil {
			fmt.Fprintln(p.Stdout, "unknown")
			return 3
		}
		fmt.Fprintln(p.Stdout, "enrolled")
	case "enroll":
		name, err := p.ReadFile(args[2])
		if err == nil {
			err = p.WriteFile(nameFile, name, 0o600)
		}
		if err != nil {
			return p.Fail(1, "%v", err)
		}
	}
	return 0
}

// vcenter is an embedded one, whose guests know the command.
func vcenter(t *testing.T, agentctl sshtest.Command) (pool.Provider, sshx.Config) {
	t.Helper()
	srv := vspheretest.NewUnstartedServer(t)
	srv.OS = &sshguest.OS{Commands: map[string]sshtest.Command{"agentctl": agentctl}}
	srv.Latency = vspheretest.Fast()
	srv.Start()
	cfg, login := access.Config(srv)
	p, err := vsphere.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		assert.NoError(t, p.Close(ctx))
	})
	return p, login
}

func TestRecipeMakesAgentsReady(t *testing.T) {
	t.Parallel()
	provider, login := vcenter(t, agentctl)
	set, err := pool.Open(t.Context(), Spec(provider, login, 2, "1.0"))
	require.NoError(t, err)
	defer set.Close()
	assert.Len(t, set.Checks(), 4)
	for _, c := range set.Checks() {
		assert.True(t, c.OK(), "%s: %s", c.Host, c)
	}
	for _, p := range set.Pools() {
		assert.Equal(t, "1.0", p.Host("agent").MustRun(t, "agentctl", "version"))
	}

	// A new version is installed on new clones of the same golden.
	work, err := pool.MakePlan(t.Context(), Spec(provider, login, 2, "1.1"))
	require.NoError(t, err)
	var actions []pool.Action
	for _, item := range work.Items {
		actions = append(actions, item.Action)
	}
	assert.Equal(t, []pool.Action{pool.ActionReuse, pool.ActionRebuild, pool.ActionRebuild}, actions, "%s", work)
}

func TestChecksFindWhatIsBroken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, command, check string }{
		{"an enrolment that does nothing", "enroll", "status"},
		{"an old version that stays", "install", "version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			provider, login := vcenter(t, func(ctx context.Context, p *sshtest.Proc) int {
				switch {
				case p.Args[1] == tt.command && tt.command == "install":
					p.Args[2] = "0.9"
				case p.Args[1] == tt.command:
					return 0
				}
				return agentctl(ctx, p)
			})
			_, err := pool.Open(t.Context(), Spec(provider, login, 1, "1.0"))
			var failed *pool.HostError
			require.ErrorAs(t, err, &failed)
			assert.Equal(t, "agent1", failed.Host)
			assert.ErrorContains(t, failed, fmt.Sprintf("%q", tt.check))
		})
	}
}
