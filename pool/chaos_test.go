package pool_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// acquisitionsEnv is how many acquisitions TestManyProcessesShareASet makes; 0 means few.
const acquisitionsEnv = "POOLREADY_ACQUISITIONS"

const chaosLease = 3 * time.Second

func init() { pool.AddChild("share", shareChild) }

// chaosSpec is a con/dis set whose golden lets in a key that child processes have.
func chaosSpec(provider pool.Provider, ssh sshx.Config, authorized string, logf func(string, ...any)) pool.Spec {
	vm := func(role string) func(int) pool.VM {
		return func(n int) pool.VM { return pool.VM{Name: fmt.Sprint(role, n), Folder: fmt.Sprint("pool", n)} }
	}
	return pool.Spec{
		Name: "lab", Provider: provider, Pools: 3, SSH: ssh, Logf: logf, Limits: pool.Limits{Lease: chaosLease},
		Golden: pool.Golden{
			Template: "templates/rhel9", VM: pool.VM{Name: "golden", Folder: "golden"}, Expect: time.Minute,
			Steps: []pool.Step{pool.Script("key", "echo '"+authorized+"' >> /root/.ssh/authorized_keys")},
		},
		Roles: []pool.Role{
			{Name: "con", VM: vm("con"), Expect: time.Minute, Steps: []pool.Step{pool.Script("serve", "echo served > /etc/served")}},
			{Name: "dis", VM: vm("dis"), Expect: time.Minute, Needs: []pool.Need{{Name: "service", Role: "con", Do: func(ctx context.Context, _, con *pool.Host) error {
				_, err := con.Run(ctx, "cat", "/etc/served")
				return err
			}}}},
		},
	}
}

// relay passes connections on to the lab network: each begins with a line that names the address.
func relay(t *testing.T, to sshx.Dialer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { near.Close() })
				defer stop()
				defer near.Close()
				r := bufio.NewReader(near)
				addr, err := r.ReadString('\n')
				if err != nil {
					return
				}
				far, err := to.DialContext(ctx, "tcp", strings.TrimSpace(addr))
				if err != nil {
					return
				}
				defer far.Close()
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(far, r); far.Close() })
				both.Go(func() { _, _ = io.Copy(near, far); near.Close() })
				both.Wait()
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

type relayDialer string

func (d relayDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", string(d))
	if err == nil {
		_, err = fmt.Fprintln(c, address)
	}
	return c, err
}

// shareChild is a process that acquires a pool again and again. It shows on the guest itself that it is alone:
// it makes a directory that must not be there, and that must still be there at the end. It never
// removes it, so a pool that was not reset shows, too.
func shareChild(*testing.M) {
	env := os.Getenv
	seed, _ := hex.DecodeString(env("CHILD_KEY"))
	key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
	check := func(err error) {
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " | "))
			os.Exit(1)
		}
	}
	check(err)
	provider, err := vsphere.New(vsphere.Config{URL: env("CHILD_URL"), CACerts: env("CHILD_CA")})
	check(err)
	cfg := sshx.Config{Keys: []ssh.Signer{key}, Dialer: relayDialer(env("CHILD_RELAY")), HostKeys: sshx.HostKeys{Pinned: strings.Split(env("CHILD_HOSTKEYS"), ",")}}
	set, err := pool.Open(context.Background(), chaosSpec(provider, cfg, env("CHILD_AUTHORIZED"), func(f string, a ...any) {
		fmt.Println("log", strings.ReplaceAll(fmt.Sprintf(f, a...), "\n", " | "))
	}))
	check(err)
	want, err := strconv.Atoi(env("CHILD_WANT"))
	check(err)
	for i := range want {
		fmt.Println("want")
		useOnce(set, fmt.Sprintf("Test%d", i))
	}
	check(set.Close())
	_ = provider.Close(context.Background()) // vCenter may be away, and the session ends by itself
	fmt.Println("done")
	os.Exit(0)
}

func useOnce(set *pool.Set, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	ft := &fakeT{T: noT{}, name: name, ctx: ctx}
	p := ft.acquire(set)
	if p == nil {
		fmt.Println("violation: starved:", strings.ReplaceAll(strings.Join(ft.errs, "; "), "\n", " | "))
		return
	}
	fmt.Println("got", p.Number)
	defer func() {
		ft.end()
		fmt.Println("gave", p.Number)
	}()
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
		fmt.Println("lost", p.Number)
		return
	}
	fmt.Println("violation:", h.Name, what, strings.ReplaceAll(fmt.Sprint(err), "\n", " | "), "then:", again)
}

// noT is the rest of a T in a process without a *testing.T.
type noT struct{ pool.T }

func (noT) Helper()             {}
func (noT) Logf(string, ...any) {}
func (noT) FailNow()            { panic("FailNow") }

// chaos is the parent's view of its children.
type chaos struct {
	t   *testing.T
	env []string

	mu         sync.Mutex
	got        int
	worst      int // how often others got a pool while one waited
	lost       int
	kills      int
	violations []string
	tail       []string
	running    map[*os.Process]bool
}

// slot runs children one after the other until want acquisitions are made.
func (c *chaos) slot(ctx context.Context, want int) {
	for want > 0 && ctx.Err() == nil {
		want -= c.run(ctx, want)
	}
}

func (c *chaos) run(ctx context.Context, want int) (made int) {
	exe, err := os.Executable()
	require.NoError(c.t, err)
	cmd := exec.CommandContext(ctx, exe, "-test.run=^$")
	cmd.Env = append(append(os.Environ(), pool.ChildEnv+"=share", "GORACE=atexit_sleep_ms=0", fmt.Sprint("CHILD_WANT=", want)), c.env...)
	out, err := cmd.StdoutPipe()
	require.NoError(c.t, err)
	cmd.Stderr = os.Stderr
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
			began = c.got
		case "got":
			c.worst = max(c.worst, c.got-began)
			c.got++
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

// disturb kills, stops and wakes children at random, and restarts vCenter, until ctx ends.
func (c *chaos) disturb(ctx context.Context, srv *vspheretest.Server) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 1; ; n++ {
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
		if len(all) == 0 {
			c.mu.Unlock()
			continue
		}
		victim := all[mrand.IntN(len(all))]
		switch n % 4 {
		case 0:
			_ = victim.Signal(syscall.SIGSTOP)
			wg.Go(func() {
				select {
				case <-ctx.Done():
				case <-time.After(chaosLease + time.Second):
				}
				_ = victim.Signal(syscall.SIGCONT)
			})
		case 2:
			srv.Restart(200 * time.Millisecond)
		default:
			_ = victim.Kill()
			c.kills++
		}
		c.mu.Unlock()
	}
}

// Eight processes share three pools, are killed and stopped at random while vCenter restarts, and
// never do two hold one pool, as each finds on the guests themselves; nobody starves, and all pools
// are ready at the end. POOLREADY_ACQUISITIONS says how many acquisitions there are; 300 take a few minutes.
func TestManyProcessesShareASet(t *testing.T) {
	t.Parallel()
	total, _ := strconv.Atoi(os.Getenv(acquisitionsEnv))
	processes := 8
	if total == 0 {
		total, processes = 9, 3
	}
	r := newRig(t, nil)
	seed := make([]byte, ed25519.SeedSize)
	_, err := rand.Read(seed)
	require.NoError(t, err)
	key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
	require.NoError(t, err)
	authorized := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
	provider, err := vsphere.New(vsphere.Config{URL: r.URL.String(), CACerts: r.CAFile})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, provider.Close(context.WithoutCancel(t.Context()))) })
	spec := chaosSpec(provider, sshx.Config{Keys: []ssh.Signer{r.ClientKey}, Dialer: r.Server, HostKeys: sshx.HostKeys{Pinned: r.HostKeys}}, authorized, r.logf)
	r.open(spec).Close()

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	c := &chaos{t: t, running: map[*os.Process]bool{}, env: []string{
		"CHILD_URL=" + r.URL.String(), "CHILD_CA=" + r.CAFile, "CHILD_RELAY=" + relay(t, r.Server),
		"CHILD_KEY=" + hex.EncodeToString(seed), "CHILD_AUTHORIZED=" + authorized, "CHILD_HOSTKEYS=" + strings.Join(r.HostKeys, ","),
	}}
	disturbing, calm := context.WithCancel(ctx)
	var trouble, wg sync.WaitGroup
	trouble.Go(func() { c.disturb(disturbing, r.Server) })
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
	t.Logf("%d acquisitions, %d kills, %d leases lost, %d turns of others at worst while one waited", c.got, c.kills, c.lost, c.worst)

	set := r.open(spec)
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
