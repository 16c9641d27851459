package sshx

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// ErrDead is the cause of a connection's end when the peer no longer answered.
var ErrDead = errors.New("the peer no longer answers")

// ErrClosed is the cause of a connection's end when Close was called on our side.
var ErrClosed = errors.New("the connection was closed on our side")

// An ExitError is a command that ran and ended with another exit code than 0.
type ExitError struct {
	Host   string
	Cmd    string // Cmd.Name or Args, shortened
	Code   int    // 128+N after signal N
	Signal string // "TERM", if it is known that a signal ended it
	Took   time.Duration
	Output []byte // the end of Result.Stderr, or of Result.Stdout if there is none
}

// Error names the command, its code, and the last lines of output.
func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		how = "killed by SIG" + e.Signal
	}
	return fmt.Sprintf("sshx: %s: run %s: %s after %s%s", e.Host, e.Cmd, how, round(e.Took), tail(e.Output))
}

// A DisconnectedError is a command whose end is not known, since the connection was lost
// first: it may have run to its end, or in part, or not at all.
type DisconnectedError struct {
	Host    string
	Cmd     string
	Started bool // the command is known to have started
	Took    time.Duration
	Output  []byte // the end of its output so far
	Cause   error  // why the connection ended: ErrDead, io.EOF, ...
}

func (e *DisconnectedError) Error() string {
	state := "not known to have started"
	if e.Started {
		state = "started, end unknown"
	}
	return fmt.Sprintf("sshx: %s: run %s: disconnected after %s (%s): %v%s", e.Host, e.Cmd, round(e.Took), state, e.Cause, tail(e.Output))
}

// Unwrap returns the cause.
func (e *DisconnectedError) Unwrap() error { return e.Cause }

// A CanceledError is a command that was cancelled, because its context ended or its Stdin failed.
type CanceledError struct {
	Host   string
	Cmd    string
	Killed bool // it is known to be gone; otherwise it may still run
	Took   time.Duration
	Output []byte // the end of its output so far
	Cause  error  // the context's cause, or the reader's error
}

func (e *CanceledError) Error() string {
	state := "killed"
	if !e.Killed {
		state = "it may still run"
	}
	return fmt.Sprintf("sshx: %s: run %s: %v after %s; %s%s", e.Host, e.Cmd, e.Cause, round(e.Took), state, tail(e.Output))
}

// Unwrap returns the cause.
func (e *CanceledError) Unwrap() error { return e.Cause }

// A SudoError is a command that did not start because sudo refused.
type SudoError struct {
	Host string
	User string // who was to run it
	Cmd  string
	Text string // what sudo said
}

func (e *SudoError) Error() string {
	hint := ""
	switch {
	case strings.Contains(e.Text, "password is required"), strings.Contains(e.Text, "authentication is required"): // sudo-rs
		hint = "; give the login user NOPASSWD in sudoers, or set Config.SudoPassword"
	case strings.Contains(e.Text, "must have a tty"):
		hint = "; remove requiretty from sudoers"
	}
	return fmt.Sprintf("sshx: %s: run %s as %s: %s%s", e.Host, e.Cmd, e.User, e.Text, hint)
}

// A StartError is a command that did not start because of the host: no space for the script, no
// such directory, no shell, a restricted account.
type StartError struct {
	Host string
	Cmd  string
	Code int    // exit code of what ran in its place
	Text string // what the machine said
}

func (e *StartError) Error() string {
	text := e.Text
	if text == "" {
		text = fmt.Sprintf("the login shell ended with exit status %d and said nothing", e.Code)
	}
	return fmt.Sprintf("sshx: %s: run %s: did not start: %s", e.Host, e.Cmd, text)
}

// An InterruptedError is a job that the machine's restart ended.
type InterruptedError struct {
	Host   string
	Cmd    string
	ID     string
	Output []byte // the end of its log
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("sshx: %s: job %s: interrupted by a reboot; its directory is left in place%s", e.Host, e.Cmd, tail(e.Output))
}

// A JobLostError is a job that ended without leaving an exit code.
type JobLostError struct {
	Host   string
	Cmd    string
	ID     string
	Gone   bool   // nothing of it is left on the machine; otherwise its processes were killed
	Output []byte // the end of its log
}

func (e *JobLostError) Error() string {
	how := "it was killed from outside"
	if e.Gone {
		how = "nothing of it is left on the machine"
	}
	return fmt.Sprintf("sshx: %s: job %s (%s): %s%s", e.Host, e.Cmd, e.ID, how, tail(e.Output))
}

// A SessionError is a session that the machine refused over and over, while none of ours was open.
type SessionError struct {
	Host  string
	Took  time.Duration
	Cause error
}

func (e *SessionError) Error() string {
	return fmt.Sprintf("sshx: %s: open session: refused for %s: %v", e.Host, round(e.Took), e.Cause)
}

// Unwrap returns the last refusal.
func (e *SessionError) Unwrap() error { return e.Cause }

// A HostKeyError is a machine that presented an untrusted host key.
type HostKeyError struct {
	Host string
	Want []ssh.PublicKey // known keys or authorities; empty if nothing was known
	Got  ssh.PublicKey   // nil if the machine has no key of a kind that is known
	// Cause says more, such as why a certificate was not accepted; it may be nil.
	Cause error
}

func (e *HostKeyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sshx: %s: host key ", e.Host)
	if e.Got != nil {
		b.WriteString(fingerprint(e.Got) + " ")
	}
	switch {
	case e.Cause != nil:
		fmt.Fprintf(&b, "not accepted: %v", e.Cause)
	case len(e.Want) == 0:
		b.WriteString("not known; set HostKeys.Pinned, Authorities or KnownHosts (or TrustOnFirstUse, for the first connection)")
	default:
		b.WriteString("does not match: ")
	}
	if len(e.Want) > 0 {
		var want []string
		for _, k := range e.Want {
			want = append(want, fingerprint(k))
		}
		if e.Cause != nil {
			b.WriteString("; ")
		}
		b.WriteString("known is " + strings.Join(want, ", "))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *HostKeyError) Unwrap() error { return e.Cause }

// Changed reports whether another key was known: the machine was rebuilt, or is another one.
func (e *HostKeyError) Changed() bool { return len(e.Want) > 0 }

// An AuthError is a login that was refused.
type AuthError struct {
	Host    string
	User    string
	Offered []string // fingerprints of the keys that were offered
	Allowed []string // the methods that the machine accepts, as far as it said
	Passed  []string // the methods that it accepted already, but wants another after
	Asked   []string // what it asked by keyboard-interactive, which is not answered
	Banner  string   // what it said before
	Cause   error
}

func (e *AuthError) Error() string {
	s := fmt.Sprintf("sshx: %s: log in as %s: refused", e.Host, e.User)
	if len(e.Offered) > 0 {
		s += "; offered " + strings.Join(e.Offered, ", ")
	}
	switch {
	case len(e.Passed) > 0:
		s += "; it accepted " + strings.Join(e.Passed, ", ") + ", and then wants " + strings.Join(e.Allowed, ", ")
	case len(e.Allowed) > 0 && !slices.Contains(e.Allowed, "publickey"):
		s += "; it accepts only " + strings.Join(e.Allowed, ", ")
	}
	if len(e.Asked) > 0 {
		s += fmt.Sprintf("; it asks %q", e.Asked)
	}
	if e.Banner != "" {
		s += fmt.Sprintf("; it said %q", e.Banner)
	}
	return fmt.Sprintf("%s: %v", s, e.Cause)
}

// Unwrap returns the cause.
func (e *AuthError) Unwrap() error { return e.Cause }

// A DialError is a connection that did not come about, for another reason than the host key or
// the login.
type DialError struct {
	Host    string
	Address string
	User    string
	Banner  string // what the machine said before it hung up
	Reached bool   // its sshd answered: keys were exchanged
	Cause   error
}

func (e *DialError) Error() string {
	s := fmt.Sprintf("sshx: %s: dial %s as %s: %v", e.Host, e.Address, e.User, e.Cause)
	if e.Banner != "" {
		s += fmt.Sprintf("; it said %q", e.Banner)
	}
	return s
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Cause }

// A State is what WaitReady saw of a machine, from some time on.
type State struct {
	After time.Duration // since WaitReady began
	Text  string
}

// A NotReadyError is a machine that WaitReady gave up on.
type NotReadyError struct {
	Host   string
	Took   time.Duration
	Tries  int
	States []State // what it went through; at most the last 20
	Banner string  // the last that the machine said before a login, such as "System is booting up"
	// Last is the error of the last attempt, Cause why it was not repeated: the context's
	// cause, or the same as Last.
	Last, Cause error
}

func (e *NotReadyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "sshx: %s: not ready after %s and %d tries: ", e.Host, round(e.Took), e.Tries)
	if e.Last != nil && !errors.Is(e.Last, e.Cause) {
		fmt.Fprintf(&b, "%v: %v", e.Cause, unprefixed(e.Last))
	} else {
		fmt.Fprintf(&b, "%v", unprefixed(e.Cause))
	}
	if len(e.States) > 1 {
		b.WriteString(" [")
		for i, s := range e.States {
			if i > 0 {
				b.WriteString(" -> ")
			}
			fmt.Fprintf(&b, "%s at %s", s.Text, round(s.After))
		}
		b.WriteString("]")
	}
	return b.String()
}

// Unwrap returns Cause and Last.
func (e *NotReadyError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Cause, e.Last} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// unprefixed takes the package's prefix off an error that is about to become part of another.
func unprefixed(err error) error { return trimmed(err, "sshx: ") }

// unhosted takes that of the host off too.
func unhosted(host string, err error) error { return trimmed(err, "sshx: "+host+": ") }

func trimmed(err error, prefix string) error {
	if err == nil || !strings.HasPrefix(err.Error(), prefix) {
		return err
	}
	return &inner{err, prefix}
}

type inner struct {
	err    error
	prefix string
}

func (e *inner) Error() string { return strings.TrimPrefix(e.err.Error(), e.prefix) }
func (e *inner) Unwrap() error { return e.err }

// round makes durations readable.
func round(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second)
	case d >= 100*time.Millisecond:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// tail returns ": " and the last lines of output, at most 2 KiB and 15 lines, or "".
func tail(output []byte) string {
	s := strings.TrimRight(strings.ToValidUTF8(string(output), "\uFFFD"), " \t\r\n")
	if len(s) > 2048 {
		s = s[len(s)-2048:]
		if i := strings.IndexByte(s, '\n'); i >= 0 {
			s = s[i+1:]
		}
	}
	lines := strings.Split(s, "\n")
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	if s == "" {
		return ""
	}
	if len(lines) > 1 {
		return ":\n" + strings.Join(lines, "\n")
	}
	return ": " + s
}

// bare takes "sshx: host: " off an error that becomes part of another of the same host, and
// secrets out of what the machine said in it.
func (c *Client) bare(err error) error { return c.cfg.redactErr(unhosted(c.cfg.Name, err)) }
