package sshx_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// A contender does one piece of work some way.
type contender struct {
	name string
	do   func(b *testing.B) error
}

// race lets all contenders do the same work, in turns, and reports how much longer each took than
// the first: x_scp of 1.9 means that scp takes 1.9 times as long as sshx. Of five rounds the
// median counts, since others use the machine too. Only ratios mean anything.
func race(b *testing.B, amount float64, unit string, contenders []contender) {
	b.Helper()
	ratios := make([][]float64, len(contenders))
	took := make([]time.Duration, len(contenders))
	rounds := 0
	for b.Loop() {
		for range 5 {
			rounds++
			var now time.Duration
			for i, c := range contenders {
				begun := time.Now()
				require.NoError(b, c.do(b), c.name)
				d := time.Since(begun)
				if i == 0 {
					now = d
				}
				took[i] += d
				ratios[i] = append(ratios[i], d.Seconds()/now.Seconds())
			}
		}
	}
	b.ReportMetric(0, "ns/op") // of all together: no use to anybody
	b.ReportMetric(amount*float64(rounds)/took[0].Seconds(), unit)
	for i, c := range contenders[1:] {
		slices.Sort(ratios[i+1])
		median := ratios[i+1][rounds/2]
		b.ReportMetric(median, "x_"+c.name)
		work, where, _ := strings.Cut(strings.TrimPrefix(b.Name(), "Benchmark"), "/")
		if want, ok := targets[work+" "+c.name]; ok {
			results = append(results, result{work, strings.ReplaceAll(where, "_", " "), c.name, median, want})
		}
	}
}

// targets say how many times as long as sshx others shall take, on a machine that does nothing else.
var targets = map[string]float64{
	"Commands ssh+ControlMaster": 2, "Scripts ssh+ControlMaster": 2, "Tree tar|ssh": 1, "Tree rsync": 1.5, "Upload scp": 1.5,
}

// A result is a median beside its target.
type result struct {
	work, where, against string
	median, target       float64
}

var results []result

// printResults prints what has a target, as one table.
func printResults() {
	if len(results) == 0 {
		return
	}
	fmt.Printf("\n| %-8s | %-22s | %-17s | times | target |\n|---|---|---|---|---|\n", "work", "where", "against")
	for _, r := range results {
		fmt.Printf("| %-8s | %-22s | %-17s | %5.2f | %6.1f |\n", r.work, r.where, r.against, r.median, r.target)
	}
}

// each runs one n times, some at a time.
func each(n, width int, one func() error) error {
	var wg sync.WaitGroup
	errs := make(chan error, n)
	jobs := make(chan bool, n)
	for range n {
		jobs <- true
	}
	close(jobs)
	for range width {
		wg.Go(func() {
			for range jobs {
				if err := one(); err != nil {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// A bench is a real server at some distance, our connection to it, and the tools' way there.
type bench struct {
	*sshd
	c      *sshx.Client
	bare   *ssh.Client // what package ssh does without us: the floor
	rtt    time.Duration
	host   string
	port   string
	common []string // options of ssh and scp
	dst    string   // on the machine; on tmpfs, if there is one
}

// rtts runs f at both distances.
func rtts(b *testing.B, f func(b *testing.B, m *bench)) {
	for _, rtt := range []time.Duration{0, 10 * time.Millisecond} {
		b.Run(fmt.Sprintf("rtt=%s", rtt), func(b *testing.B) { f(b, newBench(b, rtt)) })
	}
}

func newBench(b *testing.B, rtt time.Duration) *bench {
	b.Helper()
	m := &bench{sshd: newSSHD(b), rtt: rtt}
	cfg := m.config(b)
	cfg.Sessions = 8
	if rtt > 0 {
		cfg.Address = far(b, m.addr, rtt)
	}
	c, err := sshx.Dial(b.Context(), cfg)
	require.NoError(b, err)
	b.Cleanup(func() { c.Close() })
	m.c = c
	m.bare, err = ssh.Dial("tcp", cfg.Address, &ssh.ClientConfig{
		User: cfg.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(cfg.Keys...)}, HostKeyCallback: ssh.FixedHostKey(m.sshd.host.PublicKey()),
	})
	require.NoError(b, err)
	b.Cleanup(func() { m.bare.Close() })
	m.host, m.port, err = net.SplitHostPort(cfg.Address)
	require.NoError(b, err)
	m.dst = b.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "sshx-bench"); err == nil {
		m.dst = dir
		b.Cleanup(func() { os.RemoveAll(dir) })
	}
	pub, err := os.ReadFile(m.tmp + "/host.pub")
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(m.tmp+"/known_hosts", append([]byte("m1 "), pub...), 0o600))
	m.common = []string{"-F", "none"}
	for _, o := range []string{
		"IdentityFile=" + m.tmp + "/id", "IdentitiesOnly=yes", "UserKnownHostsFile=" + m.tmp + "/known_hosts",
		"HostKeyAlias=m1", "BatchMode=yes", "LogLevel=ERROR", "ControlPath=" + m.tmp + "/ctl",
	} {
		m.common = append(m.common, "-o", o)
	}
	if _, err := exec.LookPath("ssh"); err == nil {
		m.master(b)
	}
	return m
}

// master starts the connection that all tools share.
func (m *bench) master(b *testing.B) {
	b.Helper()
	require.NoError(b, m.tool(b, nil, "ssh", append(m.common, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-p", m.port, m.user+"@"+m.host, "true")...))
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = exec.CommandContext(ctx, "ssh", append(m.common, "-O", "exit", "-p", m.port, m.user+"@"+m.host)...).Run()
	})
}

func (m *bench) tool(b *testing.B, stdin io.Reader, name string, args ...string) error {
	cmd := exec.CommandContext(b.Context(), name, args...)
	cmd.Stdin = stdin
	cmd.WaitDelay = time.Second
	// A pipe would be held by the master that ssh leaves in the background.
	if out, err := os.Create(m.tmp + "/said"); err == nil {
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
	}
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(m.tmp + "/said")
		return fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return nil
}

func (m *bench) ssh(args ...string) []string {
	return append(append(m.common[:len(m.common):len(m.common)], "-p", m.port, m.user+"@"+m.host), args...)
}

// session is a session of package ssh alone. Refused, it is opened again.
func (m *bench) session(command string, stdin io.Reader) error {
	for {
		s, err := m.bare.NewSession()
		if _, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		defer s.Close()
		s.Stdin = stdin
		return s.Run(command)
	}
}

// with keeps the contenders whose tools this machine has.
func with(b *testing.B, ours contender, tools map[string][]contender) []contender {
	b.Helper()
	all := append([]contender{ours}, tools[""]...)
	for _, tool := range []string{"ssh", "scp", "rsync", "tar"} {
		if len(tools[tool]) == 0 {
			continue
		}
		if _, err := exec.LookPath(tool); err != nil {
			b.Logf("%s is not installed: not compared", tool)
			continue
		}
		all = append(all, tools[tool]...)
	}
	return all
}

// BenchmarkCommands runs true, one and eight at a time. For us that is a program, for a login
// shell that gets a line it is no process at all: hence two floors, without anything that would
// end the command when the connection is lost. At a distance, eight at a time are bound by sshd's MaxSessions of
// 10, for us as for the floors: a session is taken for a round trip more than its command takes.
func BenchmarkCommands(b *testing.B) {
	rtts(b, func(b *testing.B, m *bench) {
		for _, width := range []int{1, 8} {
			n := 32
			if m.rtt > 0 && width == 1 {
				n = 16
			}
			b.Run(fmt.Sprintf("%d at a time", width), func(b *testing.B) {
				many := func(one func() error) error { return each(n, width, one) }
				race(b, float64(n), "cmd/s", with(b, contender{"sshx", func(b *testing.B) error {
					return many(func() error {
						_, err := m.c.Run(b.Context(), sshx.Cmd{Args: []string{"true"}})
						return err
					})
				}}, map[string][]contender{
					"": {
						{"x/crypto_builtin", func(*testing.B) error {
							return many(func() error { return m.session("true", nil) })
						}},
						{"x/crypto_program", func(*testing.B) error {
							return many(func() error { return m.session("exec /bin/true", nil) })
						}},
					},
					"ssh": {{"ssh+ControlMaster", func(b *testing.B) error {
						return many(func() error {
							return exec.CommandContext(b.Context(), "ssh", m.ssh("true")...).Run()
						})
					}}},
				}))
			})
		}
	})
}

// BenchmarkScripts runs a script of one line, one and eight at a time: what it costs to be
// delivered, and to be killable.
func BenchmarkScripts(b *testing.B) {
	rtts(b, func(b *testing.B, m *bench) {
		for _, width := range []int{1, 8} {
			n := 8 * width
			b.Run(fmt.Sprintf("%d at a time", width), func(b *testing.B) {
				race(b, float64(n), "cmd/s", with(b, contender{"sshx", func(b *testing.B) error {
					return each(n, width, func() error {
						_, err := m.c.Run(b.Context(), sshx.Cmd{Script: "true\n"})
						return err
					})
				}}, map[string][]contender{
					"": {{"x/crypto_program", func(*testing.B) error {
						return each(n, width, func() error { return m.session("exec /bin/sh -c true", nil) })
					}}},
					"ssh": {{"ssh+ControlMaster", func(b *testing.B) error {
						return each(n, width, func() error {
							cmd := exec.CommandContext(b.Context(), "ssh", m.ssh("sh -s")...)
							cmd.Stdin = strings.NewReader("true\n")
							return cmd.Run()
						})
					}}},
				}))
			})
		}
	})
}

// BenchmarkUpload sends one big file, to where there is none: scp writes over one that is there
// without letting go of its place on the disk, which nobody can do who replaces it as a whole.
func BenchmarkUpload(b *testing.B) {
	rtts(b, func(b *testing.B, m *bench) {
		mib := 128
		if m.rtt > 0 {
			mib = 48
		}
		block := make([]byte, 1<<20)
		_, _ = rand.Read(block)
		src := m.dst + "/source"
		require.NoError(b, os.WriteFile(src, bytes.Repeat(block, mib), 0o600))
		target := m.user + "@" + m.host + ":" + m.dst
		from := func(send func(f *os.File) error) error {
			f, err := os.Open(src)
			if err != nil {
				return err
			}
			defer f.Close()
			return send(f)
		}
		race(b, float64(mib), "MiB/s", with(b, contender{"sshx", func(b *testing.B) error {
			os.Remove(m.dst + "/sshx")
			return from(func(f *os.File) error {
				return m.c.Put(b.Context(), m.dst+"/sshx", f, sshx.PutOptions{VerifyUpTo: -1})
			})
		}}, map[string][]contender{
			"": {{"x/crypto_cat", func(*testing.B) error {
				os.Remove(m.dst + "/cat")
				return from(func(f *os.File) error { return m.session("cat >"+m.dst+"/cat", f) })
			}}},
			"scp": {{"scp", func(b *testing.B) error {
				os.Remove(m.dst + "/scp")
				return m.tool(b, nil, "scp", append(m.common, "-q", "-P", m.port, src, target+"/scp")...)
			}}},
			"rsync": {{"rsync", func(b *testing.B) error {
				os.Remove(m.dst + "/rsync")
				return m.tool(b, nil, "rsync", "-a", "-e", m.shell(), src, target+"/rsync")
			}}},
			"tar": {{"tar|ssh", func(b *testing.B) error {
				os.Remove(m.dst + "/tar/source")
				return m.tarSSH(b, m.dst, "source")
			}}},
		}))
	})
}

// shell is the ssh command for rsync.
func (m *bench) shell() string { return "ssh " + strings.Join(m.common, " ") + " -p " + m.port }

func (m *bench) tarSSH(b *testing.B, dir, what string) error {
	dst := m.dst + "/tar"
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	tar := exec.CommandContext(b.Context(), "tar", "-C", dir, "-cf", "-", what)
	out, err := tar.StdoutPipe()
	if err != nil {
		return err
	}
	if err := tar.Start(); err != nil {
		return err
	}
	if err := m.tool(b, out, "ssh", m.ssh("tar -xpf - -C "+dst)...); err != nil {
		return err
	}
	return tar.Wait()
}

// BenchmarkTree sends many small files to where there are none.
func BenchmarkTree(b *testing.B) {
	rtts(b, func(b *testing.B, m *bench) {
		const files = 1000
		src := b.TempDir() + "/source"
		data := make([]byte, 4096)
		for i := range files {
			_, _ = rand.Read(data)
			name := fmt.Sprintf("%s/%02d/%d", src, i%20, i)
			require.NoError(b, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(b, os.WriteFile(name, data, 0o644))
		}
		target := m.user + "@" + m.host + ":" + m.dst
		// Removing is as much part of each; nobody may find files of the round before.
		fresh := func(name string) string {
			os.RemoveAll(m.dst + "/" + name)
			return m.dst + "/" + name
		}
		tools := map[string][]contender{
			"rsync": {{"rsync", func(b *testing.B) error {
				fresh("rsync")
				return m.tool(b, nil, "rsync", "-a", "-e", m.shell(), src+"/", target+"/rsync")
			}}},
			"tar": {{"tar|ssh", func(b *testing.B) error {
				fresh("tar")
				return m.tarSSH(b, filepath.Dir(src), "source")
			}}},
		}
		if m.rtt == 0 { // it takes 50 s at 10 ms
			tools["scp"] = []contender{{"scp", func(b *testing.B) error {
				fresh("scp")
				return m.tool(b, nil, "scp", append(m.common, "-q", "-r", "-P", m.port, src, target+"/scp")...)
			}}}
		}
		race(b, files, "files/s", with(b, contender{"sshx", func(b *testing.B) error {
			return m.c.PutTree(b.Context(), fresh("sshx"), os.DirFS(src), sshx.PutOptions{})
		}}, tools))
	})
}

// far puts a server at a distance: a proxy that keeps everything for half of rtt, each way.
func far(b testing.TB, addr string, rtt time.Duration) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			away, err := net.Dial("tcp", addr)
			if err != nil {
				near.Close()
				continue
			}
			wg.Go(func() { delay(away, near, rtt/2) })
			wg.Go(func() { delay(near, away, rtt/2) })
		}
	})
	b.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// delay copies from src to dst, d later.
func delay(dst, src net.Conn, d time.Duration) {
	type chunk struct {
		at   time.Time
		data []byte
	}
	free := make(chan []byte, 64)
	chunks := make(chan chunk, 4096)
	go func() {
		defer close(chunks)
		for {
			var buf []byte
			select {
			case buf = <-free:
			default:
				buf = make([]byte, 64<<10)
			}
			n, err := src.Read(buf)
			if n > 0 {
				chunks <- chunk{time.Now().Add(d), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		time.Sleep(time.Until(c.at))
		if _, err := dst.Write(c.data); err != nil {
			src.Close()
		}
		select {
		case free <- c.data[:cap(c.data)]:
		default:
		}
	}
	dst.Close()
}
