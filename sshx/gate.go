package sshx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// notYet is a machine that answers but is not ready, in a word for Report.
type notYet struct {
	state string
	err   error
}

func (n *notYet) Error() string { return n.err.Error() }
func (n *notYet) Unwrap() error { return n.err }

// gateTimeout bounds one look through a gate: a machine that is starting may take long over it.
const gateTimeout = 20 * time.Second

// gates waits, over one connection, until everything that Ready asks for holds.
func (w *waiter) gates(ctx context.Context, c *Client) error {
	wait := 250 * time.Millisecond
	var settled time.Time // since when all has held
	bootID := ""
	for {
		id, err := w.look(ctx, c)
		switch ny, ok := errors.AsType[*notYet](err); {
		case err == nil && settled.IsZero():
			settled, bootID = time.Now(), id
			if w.ready.Settle > 0 {
				w.to("settling")
			}
		case err == nil && id != bootID:
			return &notYet{"restarting", errors.New("the boot id changed")}
		case ok:
			settled = time.Time{}
			w.last = err
			w.to(ny.state)
			if errors.Is(err, errOldBoot) {
				delete(w.seen, "") // the sshd that counts is the next one
				return err         // what follows will come over another connection
			}
		case err != nil:
			return err
		}
		if !settled.IsZero() && time.Since(settled) >= w.ready.Settle {
			return nil
		}
		if !settled.IsZero() {
			wait = min(wait, w.ready.Settle-time.Since(settled))
		}
		select {
		case <-c.Done():
			return c.ended("wait until ready")
		default:
		}
		if err := w.pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 2*time.Second)
	}
}

var errOldBoot = errors.New("the machine has not restarted yet")

// lookScript prints what the gates ask, one line each.
const lookScript = `cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo none
if [ -z "$SYSTEM" ] || [ ! -d /run/systemd/system ]; then echo none; else
	s=$(systemctl is-system-running 2>/dev/null) || :
	case $s in
	starting|initializing) s="$s $(systemctl list-jobs --no-legend 2>/dev/null | head -n 3 | tr -s ' \n' '  ')" ;;
	esac
	echo "${s:-unknown}"
fi
if [ -z "$CLOUD" ] || ! command -v cloud-init >/dev/null 2>&1; then echo none; else
	s=$(cloud-init status 2>/dev/null) || :
	s=${s#status: }
	echo "${s:-unknown}" | head -n 1
fi
`

// look asks once, and returns the boot id, which is "" on a machine that has none.
func (w *waiter) look(ctx context.Context, c *Client) (bootID string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, gateTimeout, fmt.Errorf("no answer within %s", gateTimeout))
	defer cancel()
	cmd := Cmd{Name: "look", Script: lookScript, Separate: true, Env: map[string]string{"SYSTEM": flag(w.ready.SystemState), "CLOUD": flag(w.ready.CloudInit)}}
	res, err := c.Run(ctx, cmd)
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(res.Stdout)), "\n")
	if len(lines) != 3 {
		return "", &notYet{"odd answer", fmt.Errorf("the machine answered %q", clean(string(res.Stdout)))}
	}
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	if isUUID(lines[0]) {
		bootID = lines[0]
	}
	if not := w.ready.PreviousBootID; not != "" {
		switch bootID {
		case "":
			return "", &notYet{"no boot id", fmt.Errorf("boot id %q is not a UUID", clean(lines[0]))}
		case not:
			return "", &notYet{"not restarted yet", errOldBoot}
		}
	}
	if err := systemUp(lines[1]); err != nil {
		return "", err
	}
	return bootID, cloudInitDone(lines[2])
}

func flag(b bool) string {
	if b {
		return "y"
	}
	return ""
}

// systemUp judges what systemctl is-system-running said.
func systemUp(s string) error {
	state, jobs, _ := strings.Cut(s, " ")
	switch state {
	case "none", "running", "degraded":
		return nil
	case "maintenance":
		return &pointless{errors.New("the system is in maintenance mode (rescue or emergency); look at its console")}
	}
	err := fmt.Errorf("system is %s", clean(state))
	if jobs = clean(jobs); jobs != "" {
		err = fmt.Errorf("%w, waiting for: %s", err, jobs)
	}
	return &notYet{"system " + clean(state), err}
}

// cloudInitDone judges what cloud-init status said.
func cloudInitDone(s string) error {
	switch {
	case s == "none", s == "done", s == "disabled", strings.HasPrefix(s, "degraded done"):
		return nil
	case strings.HasPrefix(s, "error"):
		return &pointless{errors.New(`cloud-init failed; look at "cloud-init status --long" and /var/log/cloud-init.log`)}
	}
	return &notYet{"cloud-init " + clean(s), fmt.Errorf("cloud-init is %s", clean(s))}
}

// stateOf names the state of a machine by the error of an attempt, without anything that changes
// from one attempt to the next.
func stateOf(err error) string {
	if ny, ok := errors.AsType[*notYet](err); ok {
		return ny.state
	}
	if je, ok := errors.AsType[*jumpError](err); ok {
		return "jump host " + je.hop + ": " + stateOf(je.err)
	}
	said := func(s, banner string) string {
		if banner != "" {
			return s + ": " + banner
		}
		return s
	}
	if ae, ok := errors.AsType[*AuthError](err); ok {
		return said("login refused", ae.Banner)
	}
	if _, ok := errors.AsType[*HostKeyError](err); ok {
		return "host key not yet right"
	}
	if se, ok := errors.AsType[*StartError](err); ok {
		return said("no login", clean(se.Text))
	}
	de, ok := errors.AsType[*DialError](err)
	if !ok {
		if _, slow := errors.AsType[*CanceledError](err); slow {
			return "no answer"
		}
		return "connection lost"
	}
	if oc, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		return fmt.Sprintf("not reached: %v (%s)", oc.Reason, clean(oc.Message))
	}
	ne, isNet := errors.AsType[net.Error](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case de.Reached:
		return said("sshd hangs up", de.Banner)
	case isDNS && dns.IsNotFound:
		return "no such name"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), isNet && ne.Timeout(), errors.Is(err, errNoLogin):
		return "silent"
	case hungUp(err):
		return "hangs up"
	}
	return "no SSH"
}

// A backoff says how long to wait between attempts.
type backoff struct{ last time.Duration }

const (
	backoffNone = 200 * time.Millisecond // while nothing answers, up to backoffMin
	backoffMin  = time.Second
	backoffMax  = 5 * time.Second
)

// next returns the wait after an attempt that ended with err: 1 s, growing by half up to 5 s, each
// a little more or less, so that many waiters do not knock together. A machine without a route, or on
// which no program listens, is only starting: without jump hosts, which each attempt logs in to, it is
// tried again after 0.2 s, growing up to 1 s. An attempt that sshd may count against us (knocked) is
// followed by 5 to 6 s: OpenSSH 9.8 and later bar an address that collects 15 s of penalties, of which
// each refused login is 5, and they lapse with time.
func (b *backoff) next(err error, jumps bool) (wait time.Duration, knocked bool) {
	_, refused := errors.AsType[*AuthError](err)
	_, wrong := errors.AsType[*HostKeyError](err)
	if de, ok := errors.AsType[*DialError](err); refused || wrong || ok && de.Reached {
		return backoffMax + rand.N(time.Second), true
	}
	least, most := backoffMin, backoffMax
	if starting := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH); starting && !jumps {
		least, most = backoffNone, backoffMin
	}
	b.last = min(max(b.last*3/2, least), most)
	return b.last*9/10 + rand.N(b.last/5), false
}
