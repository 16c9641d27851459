package sshx_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing/fstest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// lab starts a simulated machine that lets key in, and says how to reach it. Yours are real.
func lab() (cfg sshx.Config, stop func()) {
	key, err := sshx.ParseKey([]byte(exampleKey), "")
	if err != nil {
		panic(err)
	}
	disk := sshtest.NewDisk()
	if err := disk.AddUser("admin", sshx.AuthorizedKey(key.PublicKey())); err != nil {
		panic(err)
	}
	if err := disk.WriteFile("/etc/sudoers.d/admin", []byte("admin ALL=(ALL) NOPASSWD: ALL\n"), 0o440); err != nil {
		panic(err)
	}
	host := sshtest.NewHost(disk)
	host.OnReboot = func() { host.Halt(); host.Boot() }
	var d net.Dialer
	host.Dial = d.DialContext
	host.Boot()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go host.ServeConn(conn)
		}
	}()
	pub, err := disk.ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
	if err != nil {
		panic(err)
	}
	cfg = sshx.Config{
		Name: "dis1", Address: l.Addr().String(), User: "admin", Keys: []ssh.Signer{key},
		HostKeys: sshx.HostKeys{Pinned: []string{string(pub)}},
	}
	return cfg, func() { l.Close(); host.Halt() }
}

// dialed is a connection to such a machine: what sshx.Dial returns for it.
func dialed(ctx context.Context) (c *sshx.Client, stop func()) {
	cfg, halt := lab()
	c, err := sshx.Dial(ctx, cfg)
	if err != nil {
		panic(err)
	}
	return c, func() { c.Close(); halt() }
}

// Wait for a machine, install something as root, and look at the result.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cfg, stop := lab()
	defer stop()
	c, err := sshx.WaitReady(ctx, cfg, sshx.Ready{Report: func(state string) { fmt.Println("dis1:", state) }})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.Run(ctx, sshx.Cmd{
		Name: "greeting", User: "root", Env: map[string]string{"WHO": "the lab"},
		Script: "set -eu\necho \"welcome to $WHO\" >/etc/motd\n",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	motd, err := c.Output(ctx, "cat", "/etc/motd")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(motd)
	// Output:
	// dis1: ready
	// welcome to the lab
}

// Log in with the keys of the caller's ssh-agent. More than five need a choice: OpenSSH hangs up at
// the sixth.
func ExampleConfig_agent() {
	cfg, stop := lab()
	defer stop()
	conn := sshAgent() // net.Dial("unix", os.Getenv("SSH_AUTH_SOCK"))
	defer conn.Close() // after the last login, those of jump hosts included
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg.Keys = keys
	c, err := sshx.Dial(context.Background(), cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Println("logged in")
	// Output: logged in
}

// sshAgent connects to an agent that holds the example's key.
func sshAgent() net.Conn {
	key, err := ssh.ParseRawPrivateKey([]byte(exampleKey))
	if err != nil {
		panic(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		panic(err)
	}
	ours, theirs := net.Pipe()
	go func() { _ = agent.ServeAgent(ring, theirs) }()
	return ours
}

// Tell what went wrong.
func ExampleExitError() {
	ctx := context.Background()
	cfg, stop := lab()
	defer stop()
	c, err := sshx.Dial(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, err = c.Run(ctx, sshx.Cmd{Name: "install", Script: "echo 'no space left' >&2\nexit 100\n"})
	if ee, ok := errors.AsType[*sshx.ExitError](err); ok {
		fmt.Printf("%s on %s: code %d: %s", ee.Cmd, ee.Host, ee.Code, ee.Output)
	}
	_, err = c.Run(ctx, sshx.Cmd{Args: []string{"true"}, Dir: "/nowhere"})
	_, ran := errors.AsType[*sshx.ExitError](err)
	_, started := errors.AsType[*sshx.StartError](err)
	fmt.Println("it ran:", ran, "it could not start:", started)
	// Output:
	// "install" on dis1: code 100: no space left
	// it ran: false it could not start: true
}

// Files and trees; here a tree that is embedded in the test binary.
func ExampleClient_PutTree() {
	ctx := context.Background()
	c, stop := dialed(ctx)
	defer stop()
	files := fstest.MapFS{ // an embed.FS, usually
		"app.conf":      {Data: []byte("port = 8080\n")},
		"conf.d/a.conf": {Data: []byte("a = 1\n")},
	}
	if err := c.PutTree(ctx, "/etc/app", files, sshx.PutOptions{User: "root", Mode: 0o640}); err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Put(ctx, "/etc/app/motto", strings.NewReader("whole or not at all\n"), sshx.PutOptions{Owner: "admin"}); err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Get(ctx, "/etc/app/motto", os.Stdout, sshx.GetOptions{}); err != nil {
		fmt.Println(err)
	}
	// Output: whole or not at all
}

// A long job that cuts the connection it was started over.
func ExampleClient_Detach() {
	ctx := context.Background()
	cfg, stop := lab()
	defer stop()
	c, err := sshx.Dial(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	job, err := c.Detach(ctx, sshx.Cmd{Name: "upgrade", User: "root", Script: "echo begun\nsleep 0.3\necho done\n"})
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Close() // the network goes down, say
	_, err = job.Follow(ctx, os.Stdout)
	fmt.Println("error:", err)
	// Output:
	// begun
	// done
	// error: <nil>
}

// A job that another process started: its ID is all that it takes.
func ExampleClient_Job() {
	ctx := context.Background()
	c, stop := dialed(ctx)
	defer stop()
	started, err := c.Detach(ctx, sshx.Cmd{Script: "echo collected >/tmp/report\n"})
	if err != nil {
		fmt.Println(err)
		return
	}
	id := started.ID() // to a file, say; the other process reads it
	if _, err := c.Job(id, "").Wait(ctx); err != nil {
		fmt.Println(err)
		return
	}
	report, err := c.Output(ctx, "cat", "/tmp/report")
	fmt.Println(report, err)
	// Output: collected <nil>
}

// Bring home the logs of a failed test.
func ExampleClient_GetTree() {
	ctx := context.Background()
	c, stop := dialed(ctx)
	defer stop()
	_, err := c.Run(ctx, sshx.Cmd{User: "root", Script: "mkdir -p -m 700 /var/log/app/old; echo crashed >/var/log/app/old/1.log"})
	if err != nil {
		fmt.Println(err)
		return
	}
	dir, err := os.MkdirTemp("", "logs") // t.ArtifactDir(), in a test
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := c.GetTree(ctx, "/var/log/app", dir, sshx.GetOptions{User: "root"}); err != nil {
		fmt.Println(err)
		return
	}
	text, err := os.ReadFile(dir + "/old/1.log")
	fmt.Print(string(text))
	if err != nil {
		fmt.Println(err)
	}
	// Output: crashed
}

// Look around as root, without commands whose output would have to be parsed.
func ExampleClient_SFTP() {
	ctx := context.Background()
	c, stop := dialed(ctx)
	defer stop()
	files, err := c.SFTP(ctx, "root")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer files.Close()
	info, err := files.Stat("/etc/shadow")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(info.Mode())
	// Output: ----------
}

// Trust a new machine once, and know it from then on.
func ExampleClient_HostKey() {
	ctx := context.Background()
	cfg, stop := lab()
	defer stop()
	cfg.HostKeys = sshx.HostKeys{TrustOnFirstUse: true}
	c, err := sshx.Dial(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	c.Close()
	cfg.HostKeys = sshx.HostKeys{Pinned: []string{sshx.Pin(c.HostKey())}} // kept in a file, say
	again, err := sshx.Dial(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer again.Close()
	fmt.Println("the same machine")
	// Output: the same machine
}

// Reach a service that only the machine can see.
func ExampleClient_DialContext() {
	ctx := context.Background()
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello from inside")
	})}
	go func() { _ = web.Serve(inside) }()
	defer web.Close()

	c, stop := dialed(ctx)
	defer stop()
	transport := &http.Transport{DialContext: c.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + inside.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: hello from inside <nil>
}

// Restart a machine: the new connection is to a new boot.
func ExampleClient_Reboot() {
	ctx := context.Background()
	cfg, stop := lab()
	defer stop()
	c, err := sshx.Dial(ctx, cfg)
	if err != nil {
		fmt.Println(err)
		return
	}
	before, _ := c.BootID(ctx)
	c, err = c.Reboot(ctx, sshx.Ready{SystemState: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	after, err := c.BootID(ctx)
	fmt.Println(before != after, err)
	// Output: true <nil>
}

// exampleKey opens nothing but the simulated machine above.
const exampleKey = `-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACCC5fvuSLy/bFMoHRfuNGGbXuCmZgQv60m8EtiQC34XtAAAAIgqOzTOKjs0
zgAAAAtzc2gtZWQyNTUxOQAAACCC5fvuSLy/bFMoHRfuNGGbXuCmZgQv60m8EtiQC34XtA
AAAEBX7FL+QtMCPX44+tM59q9JHROwVjYrTNkGYNFnHsgvgoLl++5IvL9sUygdF+40YZte
4KZmBC/rSbwS2JALfhe0AAAAAAECAwQF
-----END OPENSSH PRIVATE KEY-----
`
