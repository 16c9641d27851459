package sshx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Ready says what WaitReady waits for, beyond a command that runs.
type Ready struct {
	// Address, if set, is asked before each attempt and replaces Config.Address. Its error is
	// taken for a machine that has no address yet.
	Address func(ctx context.Context) (string, error)
	// AuthGrace is how long refused logins, and a login shell that runs nothing, are put down to
	// a machine that is still starting, counted from when its sshd first answered, or each jump
	// host's; 0 means 90 s. With PreviousBootID, the sshd of the old boot does not count.
	AuthGrace time.Duration
	// PreviousBootID is a boot id that must have gone, or "".
	PreviousBootID string
	// FirstBoot expects a machine that makes its host keys now: a wrong one, which otherwise
	// ends the wait at once, is taken for one that will be replaced. It is never accepted. Jump
	// hosts are past that.
	FirstBoot bool
	// SystemState waits until systemd, where there is one, says running or degraded. Without it,
	// a machine may be ready for root, whom pam_nologin lets in, before it is for others.
	SystemState bool
	// CloudInit waits until cloud-init, where there is one, is done. Its failure ends the wait.
	CloudInit bool
	// Settle is how long the connection must last and the boot id stay the same once all else
	// holds: for machines that restart their network or themselves after the first boot. 0 is not
	// at all.
	Settle time.Duration
	// Moved, if set, says with each value that the machine may answer now, or at another address: a
	// pause between two attempts ends, and an attempt that has connected to nothing yet, or to an
	// address that Address no longer returns, is given up for the next one.
	Moved <-chan struct{}
	// Report is told of each change of state, and only of changes.
	Report func(state string)

	hurry time.Duration // divides all pauses, for tests; 0 means 1
}

// WaitReady tries to connect until the machine answers a command and satisfies ready, ctx ends, or
// trying on is pointless: a wrong host key, a login refused for longer than Ready.AuthGrace, no
// algorithm in common, a key that does not sign, a Config with faults. The first attempt is made
// at once; later ones follow after 1 to 5 s, after 0.2 to 1 s while the machine refuses connections or
// has no route and there is no jump host, and after 5 s or more when sshd answered but did not let us
// in, since OpenSSH bars addresses that knock too often. Its error is a *NotReadyError.
func WaitReady(ctx context.Context, cfg Config, ready Ready) (*Client, error) {
	cfg.Jump = slices.Clone(cfg.Jump)
	return waitReady(ctx, &cfg, ready)
}

// waitReady is WaitReady, and pins in cfg what dial does.
func waitReady(ctx context.Context, cfg *Config, ready Ready) (*Client, error) {
	setDefault(&ready.AuthGrace, 90*time.Second)
	w := &waiter{cfg: cfg, ready: ready, begun: time.Now(), seen: map[string]time.Time{}}
	if ready.Address != nil && cfg.Address == "" && cfg.Name == "" {
		return nil, errors.New("sshx: wait until ready: Config.Name must be set where Config.Address is not")
	}
	for {
		w.tries++
		w.moved = false
		c, err := w.attempt(ctx)
		if err == nil {
			w.to("ready")
			return c, nil
		}
		if p, ok := errors.AsType[*pointless](err); ok {
			return nil, w.failed(p.err, p.err)
		}
		if ctx.Err() != nil {
			cause := context.Cause(ctx)
			if w.last != nil && errors.Is(err, cause) {
				err = w.last // the attempt that ctx cut short says less than the one before it
			}
			return nil, w.failed(err, cause)
		}
		if w.moved {
			continue
		}
		w.to(stateOf(err))
		if err := w.rest(ctx, err); err != nil {
			return nil, w.failed(w.last, err)
		}
	}
}

// pause waits between two looks.
func (w *waiter) pause(ctx context.Context, d time.Duration) error {
	return sleep(ctx, d/max(w.ready.hurry, 1))
}

// rest waits between two attempts, of which the last one ended with err.
func (w *waiter) rest(ctx context.Context, err error) error {
	d, knocked := w.back.next(err, len(w.cfg.Jump) > 0)
	t := time.NewTimer(d / max(w.ready.hurry, 1))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return nil
		case <-w.ready.Moved:
			if !knocked || w.elsewhere(ctx) {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// elsewhere reports whether the machine is at another address than that of the last attempt.
func (w *waiter) elsewhere(ctx context.Context) bool {
	if w.ready.Address == nil {
		return false
	}
	addr, err := w.ready.Address(ctx)
	return err != nil || addr != w.addr
}

// A waiter is one call of WaitReady.
type waiter struct {
	cfg    *Config
	ready  Ready
	begun  time.Time
	tries  int
	states []State
	last   error
	banner string
	seen   map[string]time.Time // when sshd first answered, by the names of jump hosts; "" is the machine
	back   backoff
	addr   string // of the last attempt
	moved  bool   // the last attempt was given up, since the machine may be elsewhere
}

// pointless is an error after which there is no use in trying.
type pointless struct{ err error }

func (p *pointless) Error() string { return p.err.Error() }

// to notes, and reports, a state that differs from the last one.
func (w *waiter) to(text string) {
	if n := len(w.states); n > 0 && w.states[n-1].Text == text {
		return
	}
	w.states = append(w.states, State{After: time.Since(w.begun), Text: text})
	w.states = w.states[max(0, len(w.states)-20):]
	if w.ready.Report != nil {
		w.ready.Report(text)
	}
}

func (w *waiter) failed(last, cause error) error {
	return &NotReadyError{
		Host: w.cfg.filled().Name, Took: time.Since(w.begun), Tries: w.tries, States: w.states, Banner: w.banner,
		Last: last, Cause: cause,
	}
}

// attempt connects, and stays until the machine is ready or the connection is of no more use.
func (w *waiter) attempt(ctx context.Context) (*Client, error) {
	cfg := *w.cfg
	if w.ready.Address != nil {
		addr, err := w.ready.Address(ctx)
		if err == nil && addr == "" {
			err = errors.New("it has none")
		}
		if err != nil {
			w.last = &notYet{state: "no address", err: fmt.Errorf("address: %w", err)}
			return nil, w.last
		}
		cfg.Address = addr
	}
	if err := cfg.filled().validate(); err != nil {
		return nil, &pointless{err}
	}
	w.addr = cfg.Address
	c, err := w.dial(ctx, &cfg)
	if !w.ready.FirstBoot {
		w.cfg.HostKeys = cfg.HostKeys
	}
	if err == nil {
		w.reached("", c.banner)
		if err = w.gates(ctx, c); err == nil {
			w.cfg.HostKeys = cfg.HostKeys
			return c, nil
		}
		c.Close()
	}
	if w.moved {
		return nil, err
	}
	err = w.judge(err)
	if ctx.Err() == nil {
		w.last = err
	}
	return nil, err
}

// dial dials, unless the machine moves meanwhile.
func (w *waiter) dial(ctx context.Context, cfg *Config) (*Client, error) {
	if w.ready.Moved == nil {
		return dial(ctx, cfg)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	through := &noting{Dialer: cfg.Dialer}
	if through.Dialer == nil {
		through.Dialer = &net.Dialer{}
	}
	done := make(chan struct{})
	var c *Client
	var err error
	go func() {
		defer close(done)
		noted := *cfg
		noted.Dialer = through
		c, err = dial(ctx, &noted)
		cfg.HostKeys = noted.HostKeys
		if c != nil {
			c.next.Dialer = cfg.Dialer
		}
	}()
	for {
		select {
		case <-done:
			w.moved = w.moved && err != nil
			return c, err
		case <-w.ready.Moved:
			if !through.connected.Load() || w.elsewhere(ctx) {
				w.moved = true
				cancel(errMoved)
			}
		}
	}
}

var errMoved = errors.New("the machine may be elsewhere")

// A noting is a Dialer that notes that it has connected.
type noting struct {
	Dialer

	connected atomic.Bool
}

func (n *noting) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := n.Dialer.DialContext(ctx, network, address)
	if err == nil {
		n.connected.Store(true)
	}
	return conn, err
}

// reached notes that an sshd answered.
func (w *waiter) reached(hop, banner string) {
	if w.seen[hop].IsZero() {
		w.seen[hop] = time.Now()
	}
	if banner != "" && hop == "" {
		w.banner = banner
	}
}

// judge says which errors are final.
func (w *waiter) judge(err error) error {
	hop := ""
	if je, ok := errors.AsType[*jumpError](err); ok {
		hop = je.hop
	}
	if de, ok := errors.AsType[*DialError](err); ok && de.Reached {
		w.reached(hop, de.Banner)
	}
	if hk, ok := errors.AsType[*HostKeyError](err); ok {
		w.reached(hop, "")
		if w.ready.FirstBoot && hk.Changed() && hop == "" {
			return err
		}
		return &pointless{err}
	}
	if _, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok || errors.Is(err, errSign) {
		return &pointless{err}
	}
	ae, refused := errors.AsType[*AuthError](err)
	_, noShell := errors.AsType[*StartError](err)
	if refused {
		w.reached(hop, ae.Banner)
		if strings.Contains(ae.Cause.Error(), "Too many authentication failures") {
			return &pointless{err}
		}
	}
	if (refused || noShell) && time.Since(w.seen[hop]) > w.ready.AuthGrace {
		return &pointless{err}
	}
	return err
}

// sleep waits for d, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Reboot restarts the machine and returns a new connection to it once it has a new boot id and
// satisfies ready; ready.PreviousBootID is set by Reboot. The Client is closed as soon as the machine
// has taken the request. The login user must be root, or may use sudo, without a password or with
// Config.SudoPassword.
//
// The machine must show one of the host keys that are known, or, if it was trusted on first use,
// the same as now.
func (c *Client) Reboot(ctx context.Context, ready Ready) (*Client, error) {
	fail := func(err error) error {
		return fmt.Errorf("sshx: %s: reboot: %w", c.cfg.Name, c.bare(err))
	}
	old, err := c.BootID(ctx)
	if err != nil {
		return nil, fail(err)
	}
	// Debian's users have no sbin in their PATH.
	_, err = c.Run(ctx, Cmd{Name: "reboot", Script: "PATH=$PATH:/usr/sbin:/sbin\nexec reboot\n", User: "root"})
	if err != nil && !goingDown(err) {
		return nil, fail(err)
	}
	cfg := c.pinned()
	c.Close()
	ready.PreviousBootID = old
	next, err := WaitReady(ctx, cfg, ready)
	if err != nil {
		return nil, fail(err)
	}
	return next, nil
}

// goingDown reports whether err is what a command sees of a machine that is shutting down: the
// connection goes, or everything is killed, sometimes by a shell that tells so with 255.
func goingDown(err error) bool {
	if _, ok := errors.AsType[*DisconnectedError](err); ok {
		return true
	}
	ee, ok := errors.AsType[*ExitError](err)
	return ok && (ee.Signal != "" || ee.Code == 255 || ee.Code == 129 || ee.Code == 137 || ee.Code == 143)
}
