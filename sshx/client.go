package sshx

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Client is one SSH connection to one machine, made by Dial or WaitReady. It may be
// used from any goroutine. It never connects again: when the connection has ended, every method
// returns an error, and what was running ends with a *DisconnectedError.
type Client struct {
	cfg     Config // filled
	next    Config // filled, with the keys pinned that were trusted on first use
	conn    *watched
	ssh     *ssh.Client
	hostKey ssh.PublicKey
	banner  string
	hops    []*Client     // that the connection goes through, first hop first
	gate    chan struct{} // one entry for each session that is open, or being opened or closed
	spare   spare
	guard   guard
	live    atomic.Int32  // sessions that are not closed from both sides
	shell   atomic.Int32  // shellUnknown and so on
	probing chan struct{} // held while the login shell is probed
	probed  chan struct{} // closed once it is known to run commands

	refusedFor time.Duration

	stop context.CancelCauseFunc // ends what keeps the connection
	life context.Context         // ends with the connection; its cause says why
	done chan struct{}

	wg      sync.WaitGroup // all goroutines; each ends with the connection at the latest
	mu      sync.Mutex     // guards closing
	closing bool           // no more goroutines are started from outside of wg
}

// spawn runs f on a goroutine that Close waits for; f must end when the connection does. It
// returns false, and does not run f, once Close was called.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return false
	}
	c.wg.Go(f)
	return true
}

// newClient takes over a connection that is logged in.
func newClient(cfg Config, conn *watched, sc *ssh.Client, hostKey ssh.PublicKey, banner string) *Client {
	c := &Client{cfg: cfg, next: cfg, conn: conn, ssh: sc, hostKey: hostKey, banner: banner, refusedFor: refusedFor}
	c.gate = make(chan struct{}, cfg.Sessions)
	c.done = make(chan struct{})
	c.probing, c.probed = make(chan struct{}, 1), make(chan struct{})
	c.life, c.stop = context.WithCancelCause(context.Background())
	conn.poisonWith(func() { _, _, _ = sc.SendRequest("keepalive@openssh.com", false, nil) })
	c.wg.Go(func() {
		err := sc.Wait()
		if err == nil {
			err = ErrClosed
		}
		c.stop(err) // Close and the pulse came first, if it was them
		conn.Close()
		close(c.done)
	})
	c.wg.Go(func() {
		p := pulse{every: cfg.KeepAlive, dead: cfg.DeadAfter, last: conn.lastRead}
		// The answer to keepalive@openssh.com is a refusal, and as good as any.
		p.ask = func() { _, _, _ = sc.SendRequest("keepalive@openssh.com", true, nil) }
		p.run(c.life, func() {
			c.stop(fmt.Errorf("%w: silent for %s", ErrDead, round(time.Since(conn.lastRead()))))
			conn.Close() // a graceful goodbye would wait for the peer
		})
	})
	return c
}

// Close ends the connection and everything that runs on it, commands included, and then the
// connections to the jump hosts. Closing twice does nothing. It does not wait for the peer, but for
// a Write to Cmd.Stdout or Stderr that is under way, so that these must not call it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closing = true
	c.stop(ErrClosed)
	c.mu.Unlock()
	c.conn.Close()
	c.ssh.Close()
	c.wg.Wait()
	closeHops(c.hops)
	return nil
}

// Done is closed when the connection has ended, by Close or because the peer is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection lives, and then why it ended: ErrClosed, ErrDead,
// io.EOF when the peer hung up, or the network's error.
func (c *Client) Err() error {
	if c.life.Err() == nil {
		return nil
	}
	return context.Cause(c.life)
}

// Config returns what the Client was made from, with its defaults filled in.
func (c *Client) Config() Config { return c.cfg }

// pinned returns the Config for another connection to the same machine.
func (c *Client) pinned() Config { return c.next }

// HostKey returns the key by which the machine proved itself: a *ssh.Certificate if that was a
// host certificate.
func (c *Client) HostKey() ssh.PublicKey { return c.hostKey }

// serverVersion is how the SSH server calls itself.
func (c *Client) serverVersion() string { return clean(string(c.ssh.ServerVersion())) }

// HostKeys reads, over this connection, all public host keys of the machine, in
// authorized_keys form without comments, sorted: what to pin for its clones.
func (c *Client) HostKeys(ctx context.Context) ([]string, error) {
	res, err := c.Run(ctx, Cmd{Name: "read host keys", Script: "cat /etc/ssh/ssh_host_*_key.pub\n"})
	if err != nil {
		return nil, err
	}
	var keys []string
	for line := range strings.Lines(string(res.Stdout)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("sshx: %s: read host keys: %q: %w", c.cfg.Name, line, err)
		}
		keys = append(keys, AuthorizedKey(k))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if len(keys) == 0 {
		return nil, fmt.Errorf("sshx: %s: read host keys: none in /etc/ssh", c.cfg.Name)
	}
	return keys, nil
}

// BootID returns the kernel's boot id, a UUID that changes with every boot. A snapshot taken with
// memory brings the old one back when the machine is reverted to it.
func (c *Client) BootID(ctx context.Context) (string, error) {
	id, err := c.Output(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	if !isUUID(id) {
		return "", fmt.Errorf("sshx: %s: boot id %q is not a UUID", c.cfg.Name, clean(id))
	}
	return id, nil
}

// isUUID keeps error messages and half lines from being taken for a boot id.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (r == '-') || !dash && !strings.ContainsRune("0123456789abcdef", r) {
			return false
		}
	}
	return true
}

// ended returns the error of an operation on a connection that is gone.
func (c *Client) ended(what string) error {
	return fmt.Errorf("sshx: %s: %s: %w: %w", c.cfg.Name, what, errGone, context.Cause(c.life))
}

var errGone = errors.New("the connection has ended")

// An Observation is one thing that was done with a machine: a command that Run ran, or a transfer. Its texts
// are without secrets.
type Observation struct {
	Host  string    // Config.Name
	At    time.Time // when it began
	Took  time.Duration
	What  string // the words of the command, "put /etc/hosts", or the name and text of a script
	User  string // that it ran as, if that is not the one who logs in
	Code  int    // the exit code; -1 if it is not known
	Out   []byte // what it printed, as in Result; it must not be changed
	Fault error  // why it did not end with exit code 0, or nil
}

// observe tells Config.Observe of a thing that was done.
func (c *Client) observe(at time.Time, cmd Cmd, res Result, err error) {
	if c.cfg.Observe == nil {
		return
	}
	o := Observation{Host: c.cfg.Name, At: at, Took: time.Since(at), User: cmd.User, Code: res.ExitCode, Out: res.Stdout, Fault: c.cfg.redactErr(err)}
	if len(res.Stderr) > 0 {
		o.Out = append(append([]byte(nil), res.Stdout...), res.Stderr...)
	}
	if _, exited := errors.AsType[*ExitError](err); err != nil && !exited {
		o.Code = -1
	}
	switch {
	case cmd.Script == "":
		words := make([]string, len(cmd.Args))
		for i, a := range cmd.Args {
			if words[i] = a; strings.ContainsAny(a, " \t\n'\"\\$*?;|&<>()") || a == "" {
				words[i] = fmt.Sprintf("%q", a)
			}
		}
		o.What = c.cfg.Redact(strings.Join(words, " "))
	case cmd.Name != "":
		o.What = c.cfg.Redact(cmd.Name)
	default:
		o.What = c.cfg.Redact(cmd.Script)
	}
	c.cfg.Observe(o)
}

// observeTransfer is observe for a file, or a tree of them.
func (c *Client) observeTransfer(at time.Time, what, path string, err error) {
	if c.cfg.Observe == nil {
		return
	}
	o := Observation{Host: c.cfg.Name, At: at, Took: time.Since(at), What: c.cfg.Redact(what + " " + path), Fault: c.cfg.redactErr(err)}
	if err != nil {
		o.Code = -1
	}
	c.cfg.Observe(o)
}
