package pool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// acquisitionsEnv is how many acquisitions TestManyProcessesShareASet makes, by eight processes;
// without, it makes a few, by three.
const acquisitionsEnv = "POOLREADY_ACQUISITIONS"

// chaosLease is short enough to be over a few times, and long enough for a busy machine to keep it.
const chaosLease = 4 * time.Second

func init() {
	pool.AddChild("share", func(*testing.M) { shareChild() })
	pool.AddChild("build", func(*testing.M) { buildChild() })
	pool.AddChild("hold", func(*testing.M) { holdChild() })
}

// shareChild is a process that acquires a pool again and again. It shows on the guest itself that
// it is alone: it makes a directory that must not be there, and that must still be there at the
// end. It never removes it, so a pool that was not reset shows, too.
func shareChild() {
	spec, provider := labSpec()
	set, err := pool.Open(context.Background(), spec)
	must(err)
	want, err := strconv.Atoi(os.Getenv("CHILD_WANT"))
	must(err)
	for i := range want {
		say("want")
		useOnce(set, fmt.Sprintf("Test%d", i))
	}
	must(set.Close())
	_ = provider.Close(context.Background()) // vCenter may be away, and the session ends by itself
	os.Exit(0)
}

func useOnce(set *pool.Set, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	ft := &fakeT{T: noT{}, name: name, ctx: ctx}
	p := ft.acquire(set)
	if p == nil {
		say("violation: starved:", strings.Join(ft.errs, "; "))
		return
	}
	say("got", p.Number)
	defer ft.end()
	me := fmt.Sprint(os.Getpid(), "-", name)
	for _, h := range p.Hosts() {
		if out, err := h.Script(ctx, "mkdir /var/holder || { cat /var/holder/who >&2; exit 9; }\necho "+me+" > /var/holder/who"); err != nil {
			excuse(p, h, "mark: "+out, err)
			return
		}
	}
	time.Sleep(time.Duration(mrand.IntN(60)) * time.Millisecond)
	for _, h := range p.Hosts() {
		if out, err := h.Run(ctx, "cat", "/var/holder/who"); err != nil || out != me {
			excuse(p, h, "check: "+out, err)
			return
		}
	}
}

// excuse accepts that work on a pool fails if its lease is lost, and only then.
func excuse(p *pool.Pool, h *pool.Host, what string, err error) {
	_, again := h.Run(context.Background(), "true")
	if errors.Is(again, pool.ErrLeaseLost) {
		say("lost", p.Number)
		return
	}
	say("violation:", h.Name, what, err, "then:", again)
}

// buildChild is a process that makes the set ready, and no more.
func buildChild() {
	spec, provider := labSpec()
	set, err := pool.Open(context.Background(), spec)
	if err != nil {
		say("failed", errors.Is(err, pool.ErrLeaseLost), err)
		os.Exit(1)
	}
	say("built", len(set.Pools()))
	must(set.Close())
	must(provider.Close(context.Background()))
	os.Exit(0)
}

// holdChild is a process that works on a pool, on its guests and in vCenter, until that fails.
func holdChild() {
	spec, _ := labSpec()
	set, err := pool.Open(context.Background(), spec)
	must(err)
	ft := &fakeT{T: noT{}, name: "TestHold", ctx: context.Background()}
	p := ft.acquire(set)
	if p == nil {
		must(errors.New(ft.errs[0]))
	}
	con := p.Host("con")
	for first := true; ; first = false {
		if _, err = con.Script(context.Background(), "echo "+fmt.Sprint(os.Getpid())+" >> /var/mine"); err == nil {
			err = con.ConnectNIC(context.Background(), 0, true)
		}
		if err != nil {
			say("stopped", errors.Is(err, pool.ErrLeaseLost), err)
			os.Exit(0)
		}
		if first {
			say("holding", p.Number)
		}
	}
}

// noT is the rest of a T in a process without a *testing.T.
type noT struct{ pool.T }

func (noT) Helper()             {}
func (noT) Logf(string, ...any) {}
func (noT) FailNow()            { panic("FailNow") }

// chaos is the parent's view of its children.
type chaos struct {
	*standing

	mu         sync.Mutex
	got        int
	worst      int // how often others got a pool while one waited
	lost       int
	kills      int
	stops      int
	restarts   int
	violations []string
	tail       []string
	running    map[*os.Process]bool
	heard      int // of getting on
}

// slot runs children one after the other until want acquisitions are made.
func (c *chaos) slot(ctx context.Context, want int) {
	for want > 0 && ctx.Err() == nil {
		want -= c.run(ctx, want)
	}
}

func (c *chaos) run(ctx context.Context, want int) (made int) {
	cmd := process(ctx, "share", append(c.env(chaosLease), fmt.Sprint("CHILD_WANT=", want))...)
	out, err := cmd.StdoutPipe()
	require.NoError(c.t, err)
	require.NoError(c.t, cmd.Start())
	c.mu.Lock()
	c.running[cmd.Process] = true
	c.mu.Unlock()
	began := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		word, _, _ := strings.Cut(line, " ")
		c.mu.Lock()
		c.tail = append(c.tail, fmt.Sprintf("%d %s", cmd.Process.Pid, line))
		switch word {
		case "want":
			c.heard++
			began = c.got
		case "got":
			c.worst = max(c.worst, c.got-began)
			c.got++
			c.heard++
			made++
		case "lost":
			c.lost++
		case "violation:", "error":
			c.violations = append(c.violations, fmt.Sprintf("%d %s", cmd.Process.Pid, line))
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	delete(c.running, cmd.Process)
	c.mu.Unlock()
	_ = cmd.Wait() // killed, as a rule
	return made
}

// disturb kills, stops and wakes children at random, and restarts vCenter, until ctx ends; once for
// each that gets on, so that a slow machine is not disturbed more than a fast one.
func (c *chaos) disturb(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	heard := 0
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(500+mrand.IntN(1000)) * time.Millisecond):
		}
		c.mu.Lock()
		var all []*os.Process
		for p := range c.running {
			all = append(all, p)
		}
		if len(all) == 0 || c.heard == heard {
			c.mu.Unlock()
			continue
		}
		heard = c.heard
		victim := all[mrand.IntN(len(all))]
		switch n % 4 {
		case 0:
			_ = victim.Signal(syscall.SIGSTOP)
			c.stops++
			wg.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(chaosLease + time.Second):
				}
				_ = victim.Signal(syscall.SIGCONT)
			})
		case 2:
			c.tell("restart 200ms")
			c.restarts++
		default:
			_ = victim.Kill()
			c.kills++
		}
		n++
		c.mu.Unlock()
	}
}

// Processes share three pools of a vCenter that is a process, too, are killed and stopped at random
// while it restarts and the answer to every write to the ledger is lost, and never do two hold one
// pool, as each finds on the guests themselves; nobody starves, and all pools are ready at the end.
// make chaos runs it at full size.
func TestManyProcessesShareASet(t *testing.T) {
	t.Parallel()
	total, _ := strconv.Atoi(os.Getenv(acquisitionsEnv))
	processes := 8
	if total == 0 {
		total, processes = 9, 3
	}
	c := &chaos{standing: startLab(t), running: map[*os.Process]bool{}}
	set, spec := c.open(time.Minute)
	for _, shard := range []string{"build", "pool-1", "pool-2", "pool-3", "queue-1"} {
		c.tell("lose lab-ledger-" + shard)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	disturbing, calm := context.WithCancel(ctx)
	var trouble, wg sync.WaitGroup
	trouble.Go(func() { c.disturb(disturbing) })
	for n := range processes {
		want := total / processes
		if n < total%processes {
			want++
		}
		wg.Go(func() { c.slot(ctx, want) })
	}
	wg.Wait()
	calm()
	trouble.Wait()
	if !assert.Empty(t, c.violations) || !assert.GreaterOrEqual(t, c.got, total, "all processes got all they wanted") {
		t.Log(strings.Join(c.tail, "\n"))
	}
	assert.LessOrEqual(t, c.worst, 4*processes, "nobody waits while the others take many turns")
	t.Logf("%d acquisitions by %d processes at once in %s; %d kills, %d stops, %d restarts of vCenter, %d leases lost while in use; %d turns of others at worst while one waited",
		c.got, processes, time.Since(began).Round(time.Second), c.kills, c.stops, c.restarts, c.lost, c.worst)

	var numbers []int
	for n := range 3 {
		ft := testOf(t, fmt.Sprint("TestLast", n))
		p := ft.acquire(set)
		require.NotNil(t, p, "%v", ft.errs)
		defer ft.end()
		numbers = append(numbers, p.Number)
		for _, h := range p.Hosts() {
			_, err := h.Run(t.Context(), "test", "-e", "/var/holder")
			assert.Error(t, err, "%s is clean", h.Name)
		}
	}
	slices.Sort(numbers)
	assert.Equal(t, []int{1, 2, 3}, numbers)
	work, err := pool.MakePlan(t.Context(), spec)
	require.NoError(t, err)
	assert.False(t, work.Builds(), "%s", work)
}

// A process that is stopped while it works on a pool, and wakes when that is another's, does
// nothing more to it, neither to its guests nor in vCenter. A change that it had sent off, or was
// about to, when it was stopped is a task that vCenter refuses, since the VM has changed since.
func TestAStoppedProcessNoticesBeforeItTouchesAnything(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	set, _ := s.open(time.Minute)
	c := s.talk("hold", 3*chaosLease)
	var n int
	_, err := fmt.Sscan(c.await("holding"), &n)
	require.NoError(t, err)
	require.NoError(t, c.Process.Signal(syscall.SIGSTOP))
	var p *pool.Pool
	for i := range 3 { // it has one of three
		ft := testOf(t, fmt.Sprint("TestNext", i))
		q := ft.acquire(set)
		require.NotNil(t, q, "%v", ft.errs)
		defer ft.end()
		if q.Number == n {
			p = q
		}
	}
	require.NotNil(t, p)
	p.Host("con").MustRun(t, "mkdir", "/var/holder")
	before := s.history()
	require.NoError(t, c.Process.Signal(syscall.SIGCONT))
	assert.Regexp(t, "^true .*the lease on the pool is lost", c.await("stopped"))
	_ = c.Wait()
	p.Host("con").MustRun(t, "test", "-d", "/var/holder")
	_, err = p.Host("con").Run(t.Context(), "test", "-e", "/var/mine")
	require.Error(t, err, "it did nothing to the guest")
	effects := func(history []string) []string {
		return slices.DeleteFunc(onVMs(history), func(e string) bool { return strings.HasPrefix(e, "VirtualMachine.reconfigure ") })
	}
	assert.Contains(t, before, "VmReconfigured "+p.Host("con").VM.Name, "what took effect is in the history")
	assert.Equal(t, effects(before), effects(s.history()), "nor to the VM")
}

// onVMs are the events about VMs of pools and golden.
func onVMs(history []string) []string {
	return slices.DeleteFunc(history, func(e string) bool { return strings.Contains(e, "lab-ledger-") })
}

func TestManyProcessesBuildASetOnce(t *testing.T) {
	t.Parallel()
	s := startLab(t)
	var all []*talker
	for range 4 {
		all = append(all, s.talk("build", time.Minute))
	}
	waited := 0
	for _, c := range all {
		assert.Equal(t, "3", c.await("built"))
		require.NoError(t, c.Wait())
		if strings.Contains(strings.Join(c.said, "\n"), "waiting for another process, which builds the set (for ") {
			waited++
		}
	}
	assert.Positive(t, waited, "who waits says for whom")
	s.builtOnce()
}

// builtOnce says that every VM was cloned once, and made ready once.
func (s *standing) builtOnce() {
	s.t.Helper()
	h := s.history()
	for _, vm := range seven {
		for what, want := range map[string]int{"VmCloned ": 1, "VirtualMachine.createSnapshot ": 1, "VmRemoved ": 0} {
			n := 0
			for _, e := range h {
				if e == what+vm {
					n++
				}
			}
			assert.Equal(s.t, want, n, "%s%s", what, vm)
		}
	}
}

func TestABuilderThatStopsHalfWayIsTakenOver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		signal syscall.Signal
	}{
		{"killed", syscall.SIGKILL},
		{"stopped, until it is over", syscall.SIGSTOP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startLab(t)
			c := s.talk("build", 3*chaosLease, "CHILD_HALF=1")
			c.await("half")
			require.NoError(t, c.Process.Signal(tt.signal))
			next := s.talk("build", time.Minute)
			assert.Contains(t, next.await("log"), "plan for set")
			assert.Equal(t, "3", next.await("built"))
			require.NoError(t, next.Wait())
			said := strings.Join(next.said, "\n")
			if tt.signal == syscall.SIGKILL {
				assert.NotContains(t, said, "another process", "one that is gone on this machine is not waited for")
			} else {
				assert.Regexp(t, `another process, which builds the set \(for \S+\): held by \S+ pid \d+ \S+ \(building.*\) since`, said)
			}
			before := s.history()
			count := func(e string) (n int) {
				for _, is := range before {
					if is == e {
						n++
					}
				}
				return n
			}
			for _, vm := range []string{"golden", "con1", "con2", "con3"} {
				assert.Equal(t, 1, count("VmCloned "+vm), "%s was ready, and stays", vm)
			}
			for _, vm := range []string{"dis1", "dis2", "dis3"} {
				assert.Equal(t, 2, count("VmCloned "+vm), "%s was half built, and is replaced", vm)
				assert.Equal(t, 1, count("VirtualMachine.createSnapshot "+vm), vm)
			}
			if tt.signal == syscall.SIGSTOP {
				require.NoError(t, c.Process.Signal(syscall.SIGCONT))
				assert.Contains(t, c.await("failed"), "true")
				assert.Equal(t, onVMs(before), onVMs(s.history()), "it noticed before it touched anything")
			}
			_ = c.Wait()
		})
	}
}

// Every write to the ledger is done and its answer lost, and still everybody knows what is theirs.
func TestSharingSurvivesTheLossOfEveryAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	sets := []*pool.Set{r.open(r.shared(1, 20*time.Second)), r.open(r.shared(1, 20*time.Second))}
	var all []*vspheretest.Injection
	for _, shard := range []string{"pool-1", "queue-1"} {
		all = append(all, r.Inject(vspheretest.Fault{Method: "ReconfigVM_Task", Name: "lab-ledger-" + shard, Times: -1, Effect: vspheretest.LoseReply}))
	}
	var mu sync.Mutex
	holding := 0
	var wg sync.WaitGroup
	for i, set := range sets {
		for n := range 2 {
			wg.Go(func() {
				ft := testOf(t, fmt.Sprintf("Test%d%d", i, n))
				p := ft.acquire(set)
				if !assert.NotNil(t, p, "%v", ft.errs) {
					return
				}
				mu.Lock()
				holding++
				assert.Equal(t, 1, holding)
				mu.Unlock()
				_, err := p.Host("con").Run(t.Context(), "mkdir", "/var/holder")
				assert.NoError(t, err)
				mu.Lock()
				holding--
				mu.Unlock()
				ft.end()
				assert.Empty(t, ft.errs)
			})
		}
	}
	wg.Wait()
	for _, i := range all {
		assert.Positive(t, i.Hits())
		i.Remove()
	}
}
