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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func TestOperationsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	json := new(strings.Builder)
	for _, test := range []struct {
		op   Operation
		only []int
		want string
	}{
		{Operation{Name: "stats"}, nil, `there is no operation "stats", but plan, status, verify,`},
		{Operation{Name: "plan", Yes: true}, nil, "plan does not take -yes"},
		{Operation{Name: "reset", JSON: json}, nil, "reset does not take -json-to"},
		{Operation{Name: "status", Role: Con}, nil, "status does not take -role"},
		{Operation{Name: "verify", For: time.Hour}, nil, "verify does not take -for"},
		{Operation{Name: "destroy", OlderThan: time.Hour}, nil, "destroy does not take -older-than"},
		{Operation{Name: "keep"}, nil, "keep needs -pools"},
		{Operation{Name: "keep", For: -time.Hour}, []int{1}, "below 0"},
		{Operation{Name: "release"}, nil, "release needs -pools"},
		{Operation{Name: "destroy"}, []int{1}, "destroy is about the whole set"},
		{Operation{Name: "sweep", Yes: true}, []int{1}, "sweep is about the whole set"},
		{Operation{Name: "rebuild"}, nil, "rebuild needs -role golden, con or dis, or -pools, or both"},
		{Operation{Name: "rebuild", Role: "god"}, nil, `not "god"`},
		{Operation{Name: "rebuild", Role: Golden}, []int{1}, "not only some pools"},
	} {
		assert.ErrorContains(t, test.op.Validate(test.only), test.want)
		assert.ErrorContains(t, test.op.Run(t.Context(), pool.Spec{Only: test.only}, nil), test.want, "nothing is touched: there is no provider")
	}
	for _, op := range []Operation{{Name: "sweep", Yes: true, OlderThan: time.Hour}, {Name: "rebuild", Role: Golden}, {Name: "verify", JSON: json}} {
		assert.NoError(t, op.Validate(nil))
	}
	assert.NoError(t, Operation{Name: "rebuild", Role: Dis}.Validate([]int{2}))
}

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
	do := func(op Operation, spec pool.Spec) (string, error) {
		var out strings.Builder
		err := op.Run(t.Context(), spec, &out)
		return out.String(), err
	}
	ok := func(op Operation, spec pool.Spec) string {
		t.Helper()
		out, err := do(op, spec)
		require.NoError(t, err, out)
		return out
	}
	child := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
		cmd.Env = append(os.Environ(), e.server.Env()...)
		cmd.Env = append(cmd.Env, "E2E_SSH_KEY="+filepath.Join(dir, "key"), "E2E_SSH_JUMP=lab@"+e.server.Jump, "E2E_POOLS=2", "E2E_RETRY_PAUSE=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	t.Run("of nothing", func(t *testing.T) {
		assert.Contains(t, ok(Operation{Name: "plan"}, spec), "con1              clone  does not exist")
		assert.Contains(t, ok(Operation{Name: "status"}, only(2)), "not ready")
		out, err := do(Operation{Name: "verify"}, spec)
		require.ErrorContains(t, err, "4 checks failed")
		assert.Contains(t, out, `dis2: check "ready": clone: does not exist`)
		_, err = do(Operation{Name: "reset"}, spec)
		assert.ErrorContains(t, err, "nothing was touched: con1 is not ready: clone: does not exist")
		assert.Contains(t, ok(Operation{Name: "sweep", Yes: true}, spec), "0 VMs")
		assert.Contains(t, ok(Operation{Name: "destroy", Yes: true}, spec), "is gone: 0 VMs")
		assert.Empty(t, e.history(t))
	})
	set := e.open(t, spec)

	t.Run("verify", func(t *testing.T) {
		var text strings.Builder
		assert.Contains(t, ok(Operation{Name: "verify", JSON: &text}, only(1)), fmt.Sprintf("con1  %d", len(checks[Con])))
		var report pool.Report
		require.NoError(t, json.Unmarshal([]byte(text.String()), &report))
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
		assert.Contains(t, ok(Operation{Name: "plan"}, spec), "reset  NIC 3 ("+dis.VM.NICs[extNIC].MAC+"), which was unplugged")
		out, err := do(Operation{Name: "verify"}, only(1))
		require.Error(t, err)
		assert.Contains(t, out, `dis1: check "internet": want "open: none`)
		assert.Contains(t, out, `got "open: icmp6 tcp443-6\n`, "the evidence")
		for _, check := range []string{"ready", "default-route", "ext-link", "unplugged"} {
			assert.Contains(t, out, `dis1: check "`+check+`"`)
		}
		assert.Contains(t, ok(Operation{Name: "status"}, only(1)), "verify: dis1", "it is not lent before it was reset")
		assert.Contains(t, ok(Operation{Name: "reset"}, only(1)), "clean")

		// One that comes back with every reset: the reset itself finds it.
		leaky := only(1)
		leaky.Limits.Checks = 1
		leaky.Roles = append([]pool.Role{}, spec.Roles...)
		leaky.Roles[1].AfterReset = append([]pool.Check{{Name: "somebody", Version: "1", Do: func(ctx context.Context, h *pool.Host) (string, error) {
			dis = h
			leak(t)
			return "", nil
		}}}, spec.Roles[1].AfterReset...)
		_, err = do(Operation{Name: "reset"}, leaky)
		require.ErrorContains(t, err, `check "internet": want "open: none`)
		require.ErrorContains(t, err, `got "open: icmp6 tcp443-6\n`)
		failed, ok2 := errors.AsType[*pool.HostError](err)
		require.True(t, ok2, "it is the infrastructure's failure")
		assert.Equal(t, "dis1 prove clean", failed.Host+" "+failed.Stage)
		assert.Contains(t, ok(Operation{Name: "status"}, only(1)), "broken", "nobody gets it")
	})
	t.Run("rebuild cures it, and the air gap is in the hypervisor", func(t *testing.T) {
		h := e.during(t, func() { ok(Operation{Name: "rebuild", Role: Dis}, only(1)) })
		assert.Contains(t, h, "cloned dis1")
		assert.NotContains(t, h, "cloned dis2")
		assert.Contains(t, ok(Operation{Name: "status"}, only(1)), "clean")
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
		out := ok(Operation{Name: "diff"}, only(2))
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
		ok(Operation{Name: "reset"}, only(2))
	})
	t.Run("what is in use by another is left alone", func(t *testing.T) {
		t.Run("holder", func(t *testing.T) {
			other := e.open(t, only(2)) // with another provider
			p := other.Acquire(t)
			for _, op := range []Operation{{Name: "reset"}, {Name: "rebuild", Role: Dis}, {Name: "keep"}, {Name: "destroy", Yes: true}} {
				s := only(p.Number)
				if op.Name == "destroy" {
					s.Only = nil
				}
				_, err := do(op, s)
				assert.ErrorContains(t, err, "TestOperations", op.Name)
			}
			assert.Contains(t, ok(Operation{Name: "verify"}, only(p.Number)), "skipped: pool 2 is held by")
		})
		for range 2 {
			out := ok(Operation{Name: "keep", For: time.Hour}, only(2))
			assert.Contains(t, out, "kept")
			assert.Regexp(t, `dis2: ssh -F \S+ dis2`, out)
		}
		_, err := do(Operation{Name: "destroy", Yes: true}, spec)
		assert.ErrorContains(t, err, "nothing was removed: pool 2 is kept until")
		for range 2 {
			assert.NotContains(t, ok(Operation{Name: "release"}, only(2)), "kept")
		}
	})
	t.Run("as processes", func(t *testing.T) {
		file := filepath.Join(dir, "status.json")
		out, err := child("-op", "status", "-json-to", file)
		require.NoError(t, err, out)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var st pool.Status
		require.NoError(t, json.Unmarshal(data, &st))
		assert.Len(t, st.Pools, 2)
		out, err = child("-op", "verify", "-pools", "1")
		require.NoError(t, err, out)
		assert.Contains(t, out, "dis1")
		for want, args := range map[string][]string{
			"nobody could be asked for the set's name": {"-op", "destroy"},
			"destroy is about the whole set":           {"-op", "destroy", "-yes", "-pools", "1"},
			"-op runs no tests":                        {"-op", "status", "-test.run", "Pools"},
			"-yes is for -op":                          {"-yes"},
			`there is no operation "kill"`:             {"-op", "kill"},
		} {
			out, err := child(args...)
			assert.Error(t, err)
			assert.Contains(t, out, want)
		}
		assert.Contains(t, ok(Operation{Name: "plan"}, spec), "dis2              reuse")
	})
	t.Run("sweep", func(t *testing.T) {
		fewer := spec
		fewer.Pools = 1
		for range 2 {
			out := ok(Operation{Name: "sweep"}, fewer)
			assert.Contains(t, out, "con2: to be removed")
			assert.Contains(t, out, "nothing was removed: -yes removes them")
		}
		assert.Contains(t, ok(Operation{Name: "sweep", Yes: true, OlderThan: time.Hour}, fewer), "spared")
		assert.Contains(t, ok(Operation{Name: "sweep", Yes: true}, fewer), "dis2: removed")
		assert.Contains(t, ok(Operation{Name: "sweep", Yes: true}, fewer), "0 VMs")
		assert.NotContains(t, e.vmNames(t), "con2")
	})
	t.Run("destroy asks for the name", func(t *testing.T) {
		answer := func(s string, err error) func(string) (string, error) {
			return func(q string) (string, error) {
				assert.Contains(t, q, "every VM of set \"poolready-e2e\"")
				return s, err
			}
		}
		_, err := do(Operation{Name: "destroy"}, spec)
		assert.ErrorContains(t, err, "nobody to ask")
		_, err = do(Operation{Name: "destroy", Ask: answer("", os.ErrNotExist)}, spec)
		assert.ErrorIs(t, err, os.ErrNotExist)
		_, err = do(Operation{Name: "destroy", Ask: answer("yes", nil)}, spec)
		assert.ErrorContains(t, err, `nothing was removed: "yes" is not the name of set "poolready-e2e"`)
		assert.Contains(t, e.vmNames(t), "con1")
		assert.Contains(t, ok(Operation{Name: "destroy", Ask: answer("poolready-e2e", nil)}, spec), "is gone: 3 VMs")
		assert.Contains(t, ok(Operation{Name: "destroy", Yes: true}, spec), "is gone: 0 VMs", "twice")
		assert.Equal(t, []string{topology.Template}, e.vmNames(t))
	})
}
