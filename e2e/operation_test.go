package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestOperations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := vspheretest.SSHKey(dir, "key")
	require.NoError(t, err)
	topology := DefaultTopology()
	topology.Pools = 2
	e := newEmbeddedFor(t, key, topology, fast, func(s *vspheretest.Server) { s.JumpAddr = "127.0.0.1:0" })
	spec := e.spec(t)
	only := func(n ...int) pool.Spec { s := spec; s.Only = n; return s }
	// Each operation is a process of this test binary, as a person starts it.
	var errs strings.Builder // what the last one said beside its result
	process := func(pools int, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), e.server.Env()...)
		cmd.Env = append(cmd.Env, "E2E_SSH_KEY="+filepath.Join(dir, "key"), "E2E_SSH_JUMP=lab@"+e.server.Jump, fmt.Sprint("E2E_POOLS=", pools), "E2E_RETRY_PAUSE=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal
		var out strings.Builder
		errs.Reset()
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			return out.String(), fmt.Errorf("%w: %s", err, errs.String())
		}
		return out.String(), nil
	}
	do := func(args ...string) (string, error) { return process(2, args...) }
	ok := func(args ...string) string {
		t.Helper()
		out, err := do(args...)
		require.NoError(t, err, out)
		return out
	}

	t.Run("of nothing", func(t *testing.T) {
		assert.Contains(t, ok("plan"), "con1              clone  does not exist")
		assert.Contains(t, ok("status", "-pools", "2"), "not ready")
		out, err := do("verify")
		require.ErrorContains(t, err, "4 checks failed")
		assert.Contains(t, out, `dis2: check "ready": it is not built yet`)
		_, err = do("reset")
		assert.ErrorContains(t, err, "nothing was touched: con1 is not ready: it is not built yet")
		_, err = do("keep", "-pools", "1")
		require.ErrorContains(t, err, "keep pool 1 of set")
		_, err = do("exec", "-pools", "2", "true")
		require.ErrorContains(t, err, "pool 2: it is not built yet")
		assert.Contains(t, ok("status"), "absent", "nothing is leased that is not there")
		assert.Contains(t, ok("sweep", "-yes"), "0 VMs")
		assert.Contains(t, ok("destroy", "-yes"), "0 VMs of set")
		assert.Empty(t, e.history(t))
	})
	set := e.open(t, spec)

	t.Run("verify", func(t *testing.T) {
		assert.Contains(t, ok("verify", "-pools", "1"), fmt.Sprintf("con1  %d", len(checks[Con])))
		var report pool.Report
		require.NoError(t, json.Unmarshal([]byte(ok("verify", "-pools", "1", "-json")), &report))
		require.Len(t, report.Hosts, 2)
		assert.Len(t, report.Hosts[1].Checks, len(checks[Dis])+1, "the hypervisor's cable, too")
	})
	t.Run("a dis whose NIC is plugged in by hand", func(t *testing.T) {
		dis := set.Pools()[0].Host(Dis)
		leak := func(t *testing.T) {
			e.plugIn(t, dis.Name, dis.VM.NICs[extNIC].MAC)
			_, err := dis.Script(t.Context(), "#!/bin/sh\nip link set dev \"$EXT_IF\" up\n")
			require.NoError(t, err)
		}
		leak(t)
		assert.Contains(t, ok("plan"), "reset  NIC 3 ("+dis.VM.NICs[extNIC].MAC+"), which was unplugged")
		out, err := do("verify", "-pools", "1")
		require.Error(t, err)
		assert.Contains(t, out, `dis1: check "internet": want "open: none`)
		assert.Contains(t, out, `got "open: icmp6 tcp443-6\n`, "the evidence")
		for _, check := range []string{"ready", "default-route", "ext-link", "unplugged"} {
			assert.Contains(t, out, `dis1: check "`+check+`"`)
		}
		assert.Contains(t, ok("status", "-pools", "1"), "verify: dis1", "it is not lent before it was reset")
		assert.Contains(t, ok("reset", "-pools", "1"), "clean")

		// One that comes back with every reset: the reset itself finds it.
		leaky := only(1)
		leaky.Limits.Checks = 1
		leaky.Roles = append([]pool.Role{}, spec.Roles...)
		leaky.Roles[1].AfterReset = append([]pool.Check{{Name: "somebody", Version: "1", Do: func(ctx context.Context, h *pool.Host) (string, error) {
			dis = h
			leak(t)
			return "", nil
		}}}, spec.Roles[1].AfterReset...)
		err = pool.Reset(t.Context(), leaky)
		require.ErrorContains(t, err, `check "internet": want "open: none`)
		require.ErrorContains(t, err, `got "open: icmp6 tcp443-6\n`)
		failed, ok2 := errors.AsType[*pool.HostError](err)
		require.True(t, ok2, "it is the infrastructure's failure")
		assert.Equal(t, "dis1 prove clean", failed.Host+" "+failed.Stage)
		assert.Contains(t, ok("status", "-pools", "1"), "broken", "nobody gets it")
	})
	t.Run("rebuild cures it, and the air gap is in the hypervisor", func(t *testing.T) {
		h := e.during(t, func() { ok("rebuild", "-role", Dis, "-pools", "1") })
		assert.Contains(t, h, "cloned dis1")
		assert.NotContains(t, h, "cloned dis2")
		assert.Contains(t, ok("status", "-pools", "1"), "clean")
		e.testAirGap(t, e.open(t, only(1)))
	})
	t.Run("diff tells what the recipe did, and what was done since", func(t *testing.T) {
		set.Close()
		set = e.open(t, only(2))
		_, err := set.Pools()[0].Host(Con).Script(t.Context(), `#!/bin/sh
set -eu
useradd intruder
firewall-cmd -q --add-port=5000/tcp
systemctl -q disable chronyd
dnf -y -q remove tmux
rm /etc/dnsmasq.d/poolready.conf
`)
		require.NoError(t, err)
		out := ok("diff", "-pools", "2")
		recipe, since, found := strings.Cut(out, "con2: 9 changes since it became ready")
		require.True(t, found, out)
		since, _, _ = strings.Cut(since, "dis2: ")
		assert.Contains(t, recipe, "con2: changed: unit dnsmasq.service: disabled -> enabled")
		assert.Contains(t, recipe, "con2: new: port udp 0.0.0.0:53")
		for _, want := range []string{
			"con2: gone: package tmux-", "con2: new: passwd intruder x:", "con2: new: group intruder x:",
			"con2: changed: firewall now ports:  -> 5000/tcp",
			"con2: changed: unit chronyd.service: enabled -> disabled",
			"con2: gone: file /etc/dnsmasq.d/poolready.conf", "con2: changed: file /etc/passwd:",
		} {
			assert.Contains(t, since, want)
		}
		assert.Contains(t, out, "dis2: 0 changes since it became ready")
		ok("reset", "-pools", "2")
	})
	t.Run("what is in use by another is left alone", func(t *testing.T) {
		t.Run("holder", func(t *testing.T) {
			other := e.open(t, only(2)) // with another provider
			p := other.Acquire(t)
			n := fmt.Sprint(p.Number)
			for _, op := range [][]string{
				{"reset", "-pools", n}, {"rebuild", "-role", Dis, "-pools", n}, {"keep", "-pools", n}, {"exec", "-pools", n, "true"}, {"destroy", "-yes"},
			} {
				_, err := do(op...)
				assert.ErrorContains(t, err, "TestOperations", op[0])
			}
			assert.Contains(t, ok("verify", "-pools", fmt.Sprint(p.Number)), "skipped: pool 2 is held by")
		})
		for range 2 {
			out := ok("keep", "-for", "1h", "-pools", "2")
			assert.Contains(t, out, "kept")
			assert.Regexp(t, `dis2: ssh -F \S+ dis2`, out)
		}
		_, err := do("destroy", "-yes")
		assert.ErrorContains(t, err, "nothing was removed: pool 2 is kept until")
		for range 2 {
			assert.NotContains(t, ok("release", "-pools", "2"), "kept")
		}
	})
	t.Run("what makes no sense is refused", func(t *testing.T) {
		for want, args := range map[string][]string{
			"cannot ask for the set's name":           {"destroy"},
			"runs no tests: leave -run out":           {"-test.run", "Pools", "status"},
			`unknown operation "kill"`:                {"kill"},
			"-role god: want one of golden, con, dis": {"rebuild", "-role", "god"},
		} {
			_, err := do(args...)
			assert.ErrorContains(t, err, want)
		}
		assert.Contains(t, ok("plan"), "dis2              reuse")
		err := unknownVariables([]string{"HOME=/", "E2E_MTUU=1", "E2E_MTU=1", "E2E_POOL_2_CON_NAME=x", "E2E_SSH_KEY=y"})
		assert.ErrorContains(t, err, "E2E_MTUU: unknown variable")
		assert.NotContains(t, err.Error(), "\n", "the others are known")
	})
	t.Run("sweep", func(t *testing.T) {
		fewer := func(args ...string) string {
			out, err := process(1, args...)
			require.NoError(t, err, out)
			return out
		}
		for range 2 {
			out := fewer("sweep")
			assert.Contains(t, out, "con2: to be removed")
			assert.Contains(t, out, "nothing was removed: -yes removes them")
		}
		assert.Contains(t, fewer("sweep", "-yes", "-older-than", "1h"), "spared")
		assert.Contains(t, fewer("sweep", "-yes"), "dis2: removed")
		assert.Contains(t, fewer("sweep", "-yes"), "0 VMs")
		assert.NotContains(t, e.vmNames(t), "con2")
	})
	t.Run("destroy", func(t *testing.T) {
		assert.Contains(t, e.vmNames(t), "con1")
		assert.Contains(t, ok("destroy", "-yes"), "3 VMs of set")
		assert.Contains(t, ok("destroy", "-yes"), "0 VMs of set", "twice")
		assert.Equal(t, []string{topology.Template}, e.vmNames(t))
	})
}
