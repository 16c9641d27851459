package vsphere

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// The fault matrix: each method that a build, or the reuse of what was built, calls, its first and its
// third call, meets each fault. `make faults` tries all of them, CI every sampleth.
const sample = 29

var matrixEffects = []vspheretest.Effect{
	vspheretest.LoseReply, vspheretest.FailTaskAfter(&types.HostCommunication{}), vspheretest.Status(503),
	vspheretest.ExpireSession, vspheretest.Drop, vspheretest.Truncate, vspheretest.Stall(-1),
}

// A faultCase is one fault of the matrix.
type faultCase struct {
	phase  string // "build" or "reuse"
	method string
	nth    int
	effect vspheretest.Effect
	always bool // every call from the nth on
}

func (c faultCase) String() string {
	s := fmt.Sprintf("%s %s %d %s", c.phase, c.method, c.nth, c.effect)
	if c.always {
		s += " always"
	}
	return strings.ReplaceAll(s, " ", "-")
}

// matrixLab is a vCenter with simulated machines, and what a user of it has.
type matrixLab struct {
	*vspheretest.Server
	cfg Config
}

func newMatrixLab(t *testing.T) *matrixLab {
	srv := sshguest.NewUnstartedServer(t)
	srv.Templates = []vspheretest.Template{{Path: "templates/rhel9", DiskGiB: 10}}
	srv.Latency = vspheretest.Fast()
	srv.Start()
	return &matrixLab{srv, configOf(srv)}
}

// spec is a con and a dis that needs it, for a new Provider, as another process has one. call bounds
// each call; 0 is as long as ever.
func (l *matrixLab) spec(t *testing.T, call time.Duration) pool.Spec {
	intervals := quick()
	intervals.outage, intervals.call = 5*time.Second, call
	cfg := l.cfg
	cfg.TaskTimeout = time.Minute
	end, err := cfg.parse(fieldNames)
	require.NoError(t, err)
	p := newProvider(cfg, end, intervals)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_ = p.Close(ctx) // a fault of Logout never fails anything
	})
	vm := func(role string, nic int) func(int) pool.VM {
		return func(n int) pool.VM {
			return pool.VM{
				Name: fmt.Sprint(role, n), Folder: fmt.Sprint("pool", n),
				NICs: []pool.NIC{{MAC: fmt.Sprintf("00:50:56:09:%02x:%02x", n, nic)}},
			}
		}
	}
	return pool.Spec{
		Name: "lab", Provider: p, Pools: 1, Logf: func(string, ...any) {},
		SSH: sshx.Config{Keys: []ssh.Signer{l.ClientKey}, Dialer: l.Server, HostKeys: sshx.HostKeys{Pinned: l.HostKeys}},
		Golden: pool.Golden{
			Template: "templates/rhel9", VM: pool.VM{Name: "golden", Folder: "golden"}, Expect: time.Second,
			Steps: []pool.Step{pool.Script("base", "echo base > /etc/base")},
		},
		Roles: []pool.Role{
			{Name: "con", VM: vm("con", 1), Expect: time.Second, Steps: []pool.Step{pool.Script("serve", "echo served > /etc/served")}},
			{
				Name: "dis", VM: vm("dis", 2), Expect: time.Second, Steps: []pool.Step{pool.Script("use", "echo used > /etc/used")},
				Needs: []pool.Need{{Name: "service", Role: "con", Do: func(ctx context.Context, _, con *pool.Host) error {
					_, err := con.Run(ctx, "cat", "/etc/served")
					return err
				}}},
			},
		},
	}
}

// phases are what is done under a fault.
var phases = map[string]func(ctx context.Context, spec pool.Spec) error{
	"build": open,
	"reuse": func(ctx context.Context, spec pool.Spec) error {
		if err := open(ctx, spec); err != nil {
			return err
		}
		return pool.Reset(ctx, spec)
	},
}

func open(ctx context.Context, spec pool.Spec) error {
	set, err := pool.Open(ctx, spec)
	if err != nil {
		return err
	}
	return set.Close()
}

// matrix makes the cases from what a build and a reuse call when nothing goes wrong.
func matrix(t *testing.T) (all []faultCase) {
	l := newMatrixLab(t)
	for _, phase := range []string{"build", "reuse"} {
		before := len(l.Requests())
		require.NoError(t, phases[phase](t.Context(), l.spec(t, 0)))
		calls := map[string]int{}
		for _, r := range l.Requests()[before:] {
			calls[r.Method]++
		}
		var methods []string
		for m := range calls {
			methods = append(methods, m)
		}
		slices.Sort(methods)
		for _, m := range methods {
			for _, nth := range []int{1, 3} {
				for _, e := range matrixEffects {
					late := strings.HasPrefix(e.String(), "fail task")
					if calls[m] >= nth && (!late || strings.HasSuffix(m, "_Task")) {
						all = append(all, faultCase{phase: phase, method: m, nth: nth, effect: e})
					}
				}
			}
			for _, e := range []vspheretest.Effect{vspheretest.Status(503), vspheretest.Drop, vspheretest.Refuse(&types.SystemError{Reason: "odd"})} {
				all = append(all, faultCase{phase: phase, method: m, nth: 1, effect: e, always: true})
			}
		}
	}
	return all
}

// bound is how long a case may take on a busy machine, and stalled how long a call is waited for that
// gets no answer.
const (
	bound   = 4 * time.Minute
	stalled = 5 * time.Second
)

// One fault is survived: everything is ready in the end, or the error is one that somebody can do
// something with, soon. What always fails ends in such an error. And afterwards, without the fault,
// the next run makes everything ready, with no VM too many.
func TestFaultMatrix(t *testing.T) {
	t.Parallel()
	cases := matrix(t)
	whole := os.Getenv("POOLREADY_FAULTS") != ""
	var mu sync.Mutex
	errs := 0
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			h := fnv.New32a()
			_, _ = h.Write([]byte(c.String()))
			if !whole && h.Sum32()%sample != 0 {
				continue
			}
			t.Run(c.String(), func(t *testing.T) {
				t.Parallel()
				if c.try(t) {
					mu.Lock()
					errs++
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d cases in all; %d of those tried ended in an error", len(cases), errs)
}

func (c faultCase) try(t *testing.T) (failed bool) {
	l := newMatrixLab(t)
	ctx := within(t, bound)
	if c.phase == "reuse" {
		require.NoError(t, open(ctx, l.spec(t, 0)))
	}
	f := vspheretest.Fault{Method: c.method, Nth: c.nth, Effect: c.effect}
	if c.always {
		f.Times = -1
	}
	in := l.Inject(f)
	call := time.Duration(0)
	if strings.HasPrefix(c.effect.String(), "stall") {
		call = stalled
	}
	err := phases[c.phase](ctx, l.spec(t, call))
	in.Remove()
	require.NoError(t, ctx.Err(), "it ended within its bound: %v", err)
	if err != nil {
		t.Logf("%v", err)
		assert.NotErrorIs(t, err, context.Canceled)
		assert.ErrorContains(t, err, "vsphere: ", "it names the operation")
		assert.LessOrEqual(t, len(err.Error()), 4000, "it is one error")
		if !c.always {
			assert.NoError(t, err, "one fault is survived")
		}
	}

	again := l.spec(t, 0)
	require.NoError(t, open(ctx, again), "the next run, without the fault")
	inv, invErr := again.Provider.Inventory(ctx, "lab")
	require.NoError(t, invErr)
	var names []string
	for _, vm := range inv.VMs {
		names = append(names, vm.Name)
		assert.Len(t, vm.Snapshots, 1, vm.Name)
	}
	slices.Sort(names)
	if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "golden-g") }) { // a second generation
		assert.Equal(t, []string{"con1", "dis1", "golden"}, names)
	}
	return err != nil && !errors.Is(err, context.Canceled)
}
