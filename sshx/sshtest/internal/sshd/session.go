package sshd

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/internal/wire"
	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// A session is a session channel.
type session struct {
	c    *guestConn
	ch   ssh.Channel
	env  map[string]string
	pty  *terminal
	task *machine.Task // once a command runs
	deaf bool          // to signals: the command is forced, or a subsystem
}

// serve handles the channel's requests until the client has closed it and the command's output has
// ended.
func (s *session) serve(reqs <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.ch.Close()
	s.env = map[string]string{}
	for r := range reqs {
		ok := false
		switch r.Type {
		case "env":
			ok = s.task == nil && s.setenv(r.Payload)
		case "pty-req":
			t, parsed := parseTerminal(r.Payload)
			if ok = parsed && s.pty == nil && s.task == nil && s.c.d.is("permittty", s.c.who); ok {
				s.pty = t
			}
		case "window-change":
			ok = true
		case "signal":
			s.signal(r.Payload)
		case "shell", "exec", "subsystem":
			if ok = s.task == nil && s.start(r, &wg); ok {
				continue // start has replied
			}
		}
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
	}
	if s.task == nil {
		return
	}
	// The client has closed the channel. Without a terminal the command is not told, which may
	// notice when it reads or writes; with one it gets a hangup.
	s.task.Out.BreakOff()
	s.task.Err.BreakOff()
	if s.pty != nil {
		s.task.Kill(machine.SIGHUP)
	}
}

func (s *session) setenv(payload []byte) bool {
	var m struct{ Name, Value string }
	if ssh.Unmarshal(payload, &m) != nil {
		return false
	}
	for pattern := range strings.FieldsSeq(s.c.d.get("acceptenv", s.c.who)) {
		if ok, _ := path.Match(pattern, m.Name); ok {
			s.env[m.Name] = m.Value
			return true
		}
	}
	return false
}

// signal reaches the process group, unless sshd ignores the request: for root before OpenSSH 9.8,
// and for subsystems and forced commands.
func (s *session) signal(payload []byte) {
	var m struct{ Name string }
	if ssh.Unmarshal(payload, &m) != nil || s.task == nil || s.c.b.Host.Faults().IgnoreSignals || s.deaf {
		return
	}
	if s.c.who.UID == 0 && !s.c.b.Host.Config().RootSignals() {
		return
	}
	for _, sig := range machine.Signals {
		if sig.Name == m.Name {
			s.task.Kill(sig)
		}
	}
}

// start runs what a request asks for, and reports whether it could. It replies if so.
func (s *session) start(r *ssh.Request, wg *sync.WaitGroup) bool {
	var m struct{ Text string }
	if r.Type != "shell" && ssh.Unmarshal(r.Payload, &m) != nil {
		return false
	}
	subsystem := r.Type == "subsystem"
	if subsystem {
		name := m.Text
		if m.Text = s.c.d.subsystem(name, s.c.who); m.Text == "" || s.c.b.Host.Faults().NoSFTP {
			return false
		}
	}
	out, errs := machine.NewOutput(), machine.NewOutput()
	if s.pty != nil {
		errs = out
	}
	b := s.c.b
	if !b.Enter() {
		return false
	}
	t := b.NewTask(out, errs, nil)
	t.Terminal = s.pty != nil
	p := t.Login(s.c.who.Account)
	if s.pty != nil {
		p.Env["TERM"] = s.pty.term
	}
	maps.Copy(p.Env, s.env)
	p.Env["SSH_CONNECTION"] = connectionVar(s.c)
	if f := strings.Fields(p.Env["SSH_CONNECTION"]); len(f) == 4 {
		p.Env["SSH_CLIENT"] = f[0] + " " + f[1] + " " + f[3]
	}
	s.deaf = subsystem || s.c.forced != ""
	if s.c.forced != "" {
		p.Env["SSH_ORIGINAL_COMMAND"], m.Text = m.Text, s.c.forced
	}
	stdin, stdinW, err := os.Pipe()
	if err != nil {
		b.Leave()
		return false
	}
	t.Keep(stdin)
	t.SetKeyboard(stdin)
	p.Stdin = stdin
	s.task = t
	if r.WantReply {
		_ = r.Reply(true, nil)
	}
	wg.Go(func() {
		defer stdinW.Close()
		if !b.Host.Faults().StallWindow {
			_, _ = io.Copy(stdinW, s.ch)
			_, _ = io.Copy(io.Discard, s.ch) // the command reads no more, but the client need not know
			return
		}
		<-t.Ctx.Done()
	})
	var outputs sync.WaitGroup
	said := make(chan struct{}) // all of stderr
	late := b.Host.Faults().StdoutLast && errs != out
	send := func(w io.Writer, o *machine.Output) {
		outputs.Go(func() {
			switch {
			case late && o == out:
				<-said
			case o == errs:
				defer close(said)
			}
			if s.pty != nil && s.pty.crs {
				w = crlf{w}
			}
			if _, err := io.Copy(w, o); err != nil {
				o.BreakOff()
			}
		})
	}
	send(s.ch, out)
	if errs != out {
		send(s.ch.Stderr(), errs)
	}
	for _, o := range []*machine.Output{out, errs} {
		o.OnEPIPE(func() { t.Kill(machine.SIGPIPE) })
	}
	// The command belongs to the machine, not to the channel: it runs on when that is closed.
	exited := make(chan ending, 1)
	go func() {
		defer b.Leave()
		exited <- s.c.run(t.Ctx, p, m.Text, subsystem)
		t.Release()
	}()
	wg.Go(func() { s.finish(exited, &outputs) })
	return true
}

// An ending is how a command ended: with a code, or by a signal.
type ending struct {
	code   int
	signal *machine.Signal
}

// run is what sshd does in the child: the user's shell with -c, or reading commands from stdin.
func (c *guestConn) run(ctx context.Context, p *machine.Proc, command string, subsystem bool) ending {
	h := c.b.Host
	if text, err := h.Disk.ReadFile("/etc/nologin"); err == nil && c.who.UID != 0 && !c.d.is("usepam", c.who) {
		_, _ = p.Stderr.Write(text)
		return ending{code: 254}
	}
	if subsystem && command == "internal-sftp" {
		p.Args = []string{"sftp-server"}
		return ending{code: ServeSFTP(ctx, p)}
	}
	shell := cmp.Or(p.Env["SHELL"], "/bin/sh")
	p.Args = []string{shell, "-l"}
	if k, ok := wire.ParseDirect(command); ok && wire.SuitsDirect(shell) {
		k.Direct = false // the same by way of another shell
		command = k.Command()
	}
	if len(command) >= machine.MaxArg {
		fmt.Fprintf(p.Stderr, "%s: %s\n", shell, disk.Reason(syscall.E2BIG)) // sshd itself, before there is a shell
		return ending{code: 1}
	}
	if command != "" {
		if rc, err := p.ReadFile(p.Env["HOME"] + "/.bashrc"); err == nil && len(rc) > 0 && path.Base(shell) == "bash" {
			command = ". ~/.bashrc\n" + command // bash does so when sshd starts it, interactive or not
		}
		p.Args = []string{shell, "-c", command}
	}
	code := h.Execute(ctx, p)
	by := p.Death.By.Load()
	if by != nil && code != by.ExitCode() {
		by = nil // it befell a subshell
	}
	return ending{code, by}
}

// finish tells the client how the command ended, at once, and closes the channel when its output
// has ended too: a background process may hold that for long.
func (s *session) finish(exited <-chan ending, outputs *sync.WaitGroup) {
	end := <-exited
	f := s.c.b.Host.Faults()
	if f.DropAtExit {
		_ = s.c.Conn.Close()
		return
	}
	if end.signal != nil {
		_, _ = s.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{end.signal.Name, false, "", ""}))
	} else {
		_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(end.code)}))
	}
	if f.DropAfterExit {
		_ = s.c.Conn.Close()
		return
	}
	outputs.Wait()
	machine.Sleep(s.c.b.Ctx, f.LateEOF)
	_ = s.ch.CloseWrite()
	_ = s.ch.Close()
}

func connectionVar(c *guestConn) string {
	var parts []string
	for _, a := range []net.Addr{c.RemoteAddr(), c.LocalAddr()} {
		host, port, err := net.SplitHostPort(a.String())
		if err != nil {
			host, port = "UNKNOWN", "65535"
		}
		parts = append(parts, host, port)
	}
	return strings.Join(parts, " ")
}

// crlf writes as a terminal does.
type crlf struct{ w io.Writer }

func (c crlf) Write(b []byte) (int, error) {
	if _, err := c.w.Write([]byte(strings.ReplaceAll(string(b), "\n", "\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}
