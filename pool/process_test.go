package pool_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/vsphere"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

func init() { pool.AddChild("vcenter", func(*testing.M) { serveLab() }) }

// A lab is a vCenter in a process of its own, as other processes know it.
type lab struct {
	Dir, URL, Jump, JumpKey string // Dir has the key that logs in, and the certificate
	HostKeys                []string
}

const labEnv = "CHILD_LAB"

// serveLab is that process. It does what it is told, line by line, until its input ends.
func serveLab() {
	dir := os.Getenv(labEnv)
	srv := sshguest.NewUnstartedServer(nil)
	srv.Templates = []vspheretest.Template{{Path: "templates/rhel9", DiskGiB: 10}}
	srv.Latency = vspheretest.Fast()
	if text := os.Getenv("CHILD_SCALE"); text != "" { // of its latencies; it is a cluster then
		scale, err := strconv.ParseFloat(text, 64)
		must(err)
		srv.Latency, srv.Hosts = vspheretest.Brisk(), 4
		srv.Latency.Scale = scale
	}
	srv.StateDir, srv.JumpAddr = dir, "127.0.0.1:0"
	srv.Start()
	must(os.WriteFile(filepath.Join(dir, "ca.pem"), srv.CA, 0o600))
	text, err := json.Marshal(lab{dir, srv.URL.String(), srv.Jump, srv.JumpKey, srv.HostKeys})
	must(err)
	fmt.Println(string(text))
	told := 0 // requests
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch what, arg, _ := strings.Cut(lines.Text(), " "); what {
		case "restart": // vCenter's service is away for so long
			down, err := time.ParseDuration(arg)
			must(err)
			srv.Restart(down)
		case "lose": // the answers to all writes to that VM
			srv.Inject(vspheretest.Fault{Method: "ReconfigVM_Task", Name: arg, Times: -1, Effect: vspheretest.LoseReply})
		case "calls": // since the last time, by method
			all := srv.Requests()
			text, err := json.Marshal(count(methods(all[min(told, len(all)):])))
			must(err)
			told = len(all)
			fmt.Println(string(text))
			continue
		}
		fmt.Println("done")
	}
	os.Exit(0) // nobody needs its state
}

func must(err error) {
	if err != nil {
		say("error", err)
		os.Exit(1)
	}
}

// say prints one line, for the process that started this one.
func say(words ...any) {
	fmt.Println(strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintln(words...), "\n"), "\n", " | "))
}

// spec is a con/dis set in the lab, for the process that this is.
func (l lab) spec(lease time.Duration, logf func(string, ...any)) (pool.Spec, *vsphere.Provider, error) {
	key, err := vspheretest.SSHKey(l.Dir, "id_ed25519")
	if err != nil {
		return pool.Spec{}, nil, err
	}
	provider, err := vsphere.New(vsphere.Config{URL: l.URL, CACerts: filepath.Join(l.Dir, "ca.pem")})
	if err != nil {
		return pool.Spec{}, nil, err
	}
	vm := func(role string, nic int) func(int) pool.VM {
		return func(n int) pool.VM {
			return pool.VM{
				Name: fmt.Sprint(role, n), Folder: fmt.Sprint("pool", n),
				NICs: []pool.NIC{{MAC: fmt.Sprintf("00:50:56:%02x:%02x:%02x", 1+n>>8, n&255, nic)}},
			}
		}
	}
	keys := []ssh.Signer{key}
	return pool.Spec{
		Name: "lab", Provider: provider, Pools: 3, Logf: logf, Limits: pool.Limits{Lease: lease},
		SSH: sshx.Config{
			Keys: keys, HostKeys: sshx.HostKeys{Pinned: l.HostKeys},
			Jump: []sshx.Config{{Address: l.Jump, User: "lab", Keys: keys, HostKeys: sshx.HostKeys{Pinned: []string{l.JumpKey}}}},
		},
		Golden: pool.Golden{Template: "templates/rhel9", VM: pool.VM{Name: "golden", Folder: "golden"}, Expect: time.Minute},
		Roles: []pool.Role{
			{Name: "con", VM: vm("con", 1), Expect: time.Minute, Steps: []pool.Step{pool.Script("serve", "echo served > /etc/served")}},
			{
				Name: "dis", VM: vm("dis", 2), Expect: time.Minute,
				Needs: []pool.Need{{Name: "service", Role: "con", Do: func(ctx context.Context, _, con *pool.Host) error {
					_, err := con.Run(ctx, "cat", "/etc/served")
					return err
				}}},
				Steps: []pool.Step{{Name: "half", Version: "1", Do: func(ctx context.Context, h *pool.Host) error {
					if os.Getenv("CHILD_HALF") == "" {
						return nil
					}
					say("half", h.Name) // and no further
					_, err := h.Run(ctx, "sleep", "60")
					return err
				}}},
			},
		},
	}, provider, nil
}

// labSpec is spec in a child process, which is told where the lab is and how long leases last.
func labSpec() (pool.Spec, *vsphere.Provider) {
	var l lab
	must(json.Unmarshal([]byte(os.Getenv(labEnv)), &l))
	lease, err := time.ParseDuration(os.Getenv("CHILD_LEASE"))
	must(err)
	spec, provider, err := l.spec(lease, func(f string, a ...any) { say("log", fmt.Sprintf(f, a...)) })
	must(err)
	return spec, provider
}

// A standing is a lab that this process has started.
type standing struct {
	lab
	t *testing.T

	mu   sync.Mutex // held while it is told something
	in   io.Writer
	from *bufio.Reader
}

func startLab(t *testing.T, env ...string) *standing {
	t.Helper()
	if raceDetector {
		t.Skip("several processes, of each of which the race detector sees but a part, would be too slow for leases of seconds")
	}
	dir := t.TempDir()
	cmd := process(context.Background(), "vcenter", append(env, labEnv+"="+dir)...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		assert.NoError(t, cmd.Wait())
	})
	s := &standing{t: t, in: in, from: bufio.NewReader(out)}
	line, err := s.from.ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(line), &s.lab), line)
	return s
}

// process is one of this test binary, of that mode.
func process(ctx context.Context, mode string, env ...string) *exec.Cmd {
	exe, err := os.Executable()
	must(err)
	cmd := exec.CommandContext(ctx, exe, "-test.run=^$")
	// The race detector would have each sleep for a second at its end.
	cmd.Env = append(append(os.Environ(), pool.ChildEnv+"="+mode, "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE")), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// tell has it do something, and returns its answer when it has.
func (s *standing) tell(line string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := fmt.Fprintln(s.in, line)
	require.NoError(s.t, err)
	answer, err := s.from.ReadString('\n')
	require.NoError(s.t, err)
	return answer
}

// calls are those that vCenter was asked for since the last time, by method.
func (s *standing) calls() map[string]int {
	n := map[string]int{}
	require.NoError(s.t, json.Unmarshal([]byte(s.tell("calls")), &n))
	return n
}

// env is what a child process must know.
func (s *standing) env(lease time.Duration) []string {
	text, err := json.Marshal(s.lab)
	require.NoError(s.t, err)
	return []string{labEnv + "=" + string(text), "CHILD_LEASE=" + lease.String()}
}

// open makes the set ready, from this process.
func (s *standing) open(lease time.Duration) (*pool.Set, pool.Spec) {
	s.t.Helper()
	spec, provider, err := s.spec(lease, s.t.Logf)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { assert.NoError(s.t, provider.Close(context.WithoutCancel(s.t.Context()))) })
	set, err := pool.Open(s.t.Context(), spec)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { set.Close() })
	return set, spec
}

// history is vCenter's own account of what happened to VMs.
func (s *standing) history() []string {
	s.t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(s.t, err)
	sc := soap.NewClient(u, false)
	require.NoError(s.t, sc.SetRootCAs(filepath.Join(s.Dir, "ca.pem")))
	vc, err := vim25.NewClient(s.t.Context(), sc)
	require.NoError(s.t, err)
	c := &govmomi.Client{Client: vc, SessionManager: session.NewManager(vc)}
	require.NoError(s.t, c.Login(s.t.Context(), u.User))
	defer c.CloseIdleConnections()
	defer func() { assert.NoError(s.t, c.Logout(s.t.Context())) }()
	return history(s.t, c)
}

// A child is a process that talks.
type talker struct {
	*exec.Cmd
	t     *testing.T
	lines *bufio.Scanner
	said  []string
}

// talk starts a process; it is killed with the test.
func (s *standing) talk(mode string, lease time.Duration, env ...string) *talker {
	s.t.Helper()
	c := &talker{t: s.t, Cmd: process(s.t.Context(), mode, append(s.env(lease), env...)...)}
	out, err := c.StdoutPipe()
	require.NoError(s.t, err)
	c.lines = bufio.NewScanner(out)
	require.NoError(s.t, c.Start())
	return c
}

// await reads what it says up to a line that begins so, and returns the rest of that.
func (c *talker) await(words string) string {
	c.t.Helper()
	for c.lines.Scan() {
		c.said = append(c.said, c.lines.Text())
		if rest, ok := strings.CutPrefix(c.lines.Text(), words); ok {
			return strings.TrimSpace(rest)
		}
	}
	require.Failf(c.t, "it ended", "without saying %q:\n%s", words, strings.Join(c.said, "\n"))
	return ""
}
