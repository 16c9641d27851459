package sshtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// greeter serves HTTP on Args[1] until it is killed.
func greeter(ctx context.Context, p *Proc) int {
	l, err := p.Listen(ctx, "tcp", p.Args[1])
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	fmt.Fprintln(p.Stdout, "listening on", l.Addr())
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.URL.Query().Get("name"))
	})}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	_ = srv.Serve(l)
	return 0
}

// ask gets a page of the machine's own.
func ask(ctx context.Context, p *Proc) int {
	c := &http.Client{Transport: &http.Transport{DialContext: p.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Args[1], nil)
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return p.Fail(7, "%v", err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(p.Stdout, resp.Body)
	return 0
}

// newNet returns a server whose machine has both commands.
func newNet(t *testing.T) *Server {
	t.Helper()
	s := NewUnstartedServer(t)
	s.Commands = map[string]Command{"greeter": greeter, "ask": ask}
	s.Start()
	return s
}

func TestProgramsListenAndDial(t *testing.T) {
	t.Parallel()
	s := newNet(t)
	run := func(script string) string { out, _ := s.Run(t.Context(), script); return out }
	out := run(`greeter :8080 >/tmp/log 2>&1 & until grep -sq listening /tmp/log; do sleep 0.01; done; ask http://localhost:8080/?name=root`)
	assert.Equal(t, "hello root", out)
	assert.Contains(t, run("greeter :8080"), "address already in use")
	assert.Equal(t, "hello again", run("ask http://127.0.0.1:8080/?name=again"))
	assert.Contains(t, run("ask http://localhost:8081/"), "connection refused")
	assert.Contains(t, run("ask http://elsewhere:8080/"), "no route to host")

	// direct-tcpip reaches it as well, and a kill ends it.
	conn, err := dialServer(t, s, "admin").Dial("tcp", "localhost:8080")
	require.NoError(t, err)
	_, err = io.WriteString(conn, "GET /?name=ssh HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	page, err := io.ReadAll(conn)
	require.NoError(t, err)
	assert.Contains(t, string(page), "hello ssh")
	run("pkill greeter; while pgrep greeter; do sleep 0.01; done")
	assert.Contains(t, run("ask http://localhost:8080/"), "connection refused")
}

func TestLowPortsAreRoots(t *testing.T) {
	t.Parallel()
	s := newNet(t)
	out, code := s.RunAs(t.Context(), "admin", "greeter :80")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "permission denied")
	_, code = s.Run(t.Context(), "greeter :80 >/dev/null & until ask http://localhost/ 2>/dev/null; do sleep 0.01; done; kill $!")
	assert.Zero(t, code)
}

// A lockedBuffer may be written to and read at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestServicesOutliveLoginsAndSnapshots(t *testing.T) {
	t.Parallel()
	s := newNet(t)
	var log lockedBuffer
	spec := Service{Args: []string{"/usr/bin/greeter", ":8080"}, User: "admin", Env: map[string]string{"A": "b"}, Output: &log}
	r, err := s.Host.Start(spec)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "listening on 0.0.0.0:8080") }, 10*time.Second, time.Millisecond)
	assert.Positive(t, r.PID())
	out, _ := s.Run(t.Context(), "pgrep greeter")
	assert.Equal(t, fmt.Sprintln(r.PID()), out)

	disk, memory, err := s.SaveMemory()
	require.NoError(t, err)
	again := NewHost(disk)
	resumed := make(chan bool, 1)
	again.Commands = map[string]Command{"greeter": func(ctx context.Context, p *Proc) int { resumed <- p.Resumed; <-ctx.Done(); return 0 }}
	require.NoError(t, again.Resume(memory))
	defer again.Halt()
	spec.Resumed = true
	_, err = again.Start(spec)
	require.NoError(t, err)
	assert.True(t, <-resumed)

	r.Stop()
	<-r.Done()
	assert.Equal(t, 143, r.Code())
	_, err = s.Host.Start(Service{Args: []string{"greeter"}, User: "nobody-here"})
	require.Error(t, err)
	_, err = s.Host.Start(Service{Args: []string{"greeter"}, Dir: "/none"})
	require.Error(t, err)
	r, err = s.Host.Start(Service{Args: []string{"no-such-program"}})
	require.NoError(t, err)
	<-r.Done()
	assert.Equal(t, 127, r.Code())
}

func TestConnectionsEndWithTheirProgram(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	s.Commands = map[string]Command{"hold": func(ctx context.Context, p *Proc) int {
		l, err := p.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return 1
		}
		fmt.Fprintln(p.Stdout, l.Addr().(*net.TCPAddr).Port)
		if _, err := l.Accept(); err != nil {
			return 2
		}
		<-ctx.Done()
		return 0
	}}
	s.Start()
	var log lockedBuffer
	r, err := s.Host.Start(Service{Args: []string{"hold"}, Output: &log})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.HasSuffix(log.String(), "\n") }, 10*time.Second, time.Millisecond)
	conn, err := dialServer(t, s, "root").Dial("tcp", "127.0.0.1:"+strings.TrimSpace(log.String()))
	require.NoError(t, err)
	r.Kill()
	<-r.Done()
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = dialServer(t, s, "root").Dial("tcp", "127.0.0.1:"+strings.TrimSpace(log.String()))
	require.ErrorContains(t, err, "onnection refused")
}

// What an uploaded program does is for a Command of its name to say; without one that is refused,
// since a real machine would run it.
func TestCompiledProgramsAreSimulatedByName(t *testing.T) {
	t.Parallel()
	s := NewUnstartedServer(t)
	var refused []Refusal
	s.OnNotSimulated = func(r Refusal) { refused = append(refused, r) }
	s.Commands = map[string]Command{"agent": func(_ context.Context, p *Proc) int {
		fmt.Fprintln(p.Stdout, p.Args)
		return 3
	}}
	s.Start()
	elf := make([]byte, 100)
	copy(elf, "\x7fELF\x02\x01\x01")
	elf[18] = 62
	for _, name := range []string{"/opt/agent", "/opt/other"} {
		require.NoError(t, s.Disk().WriteFile(name, elf, 0o755))
	}
	elf[18] = 183 // arm64
	require.NoError(t, s.Disk().WriteFile("/opt/arm/agent", elf, 0o755))
	out, code := s.Run(t.Context(), "/opt/agent -x")
	assert.Equal(t, 3, code)
	assert.Equal(t, "[/opt/agent -x]\n", out)
	_, code = s.Run(t.Context(), "/opt/other")
	assert.Equal(t, 64, code)
	require.Len(t, refused, 1)
	assert.Equal(t, "other", refused[0].Command)
	out, code = s.Run(t.Context(), "/opt/arm/agent")
	assert.Equal(t, 126, code)
	assert.Contains(t, out, "Exec format error")
	assert.Len(t, refused, 1)
}
