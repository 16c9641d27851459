package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// Dial connects and logs in once, through all hops of cfg.Jump. It ends when ctx does, or after
// cfg.Timeout for each hop. Errors: *HostKeyError, *AuthError, or *DialError for all else.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg.Jump = slices.Clone(cfg.Jump)
	return dial(ctx, &cfg)
}

// dial is Dial. Keys of machines that it logged in to, and that were trusted on first use, it pins
// in given, and in its Jump.
func dial(ctx context.Context, given *Config) (*Client, error) {
	cfg := given.filled()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("sshx: %s: %w", cfg.Name, err)
	}
	dialer := cfg.Dialer
	if dialer == nil {
		dialer = &net.Dialer{}
	}
	var hops []*Client
	for i, j := range cfg.Jump {
		j = j.filled()
		hop, err := dialHop(ctx, j, dialer)
		if err != nil {
			closeHops(hops)
			return nil, &jumpError{host: cfg.Name, hop: j.Name, err: err}
		}
		given.Jump[i].HostKeys = hop.next.HostKeys
		hops = append(hops, hop)
		dialer = hop
	}
	c, err := dialHop(ctx, cfg, dialer)
	if err != nil {
		closeHops(hops)
		return nil, err
	}
	given.HostKeys = c.next.HostKeys
	c.next.Jump = slices.Clone(given.Jump)
	c.hops = hops
	return c, nil
}

// A jumpError is the failure of one of the jump hosts on the way to host.
type jumpError struct {
	host, hop string
	err       error
}

func (e *jumpError) Error() string {
	return fmt.Sprintf("sshx: %s: jump: %v", e.host, unprefixed(e.err))
}
func (e *jumpError) Unwrap() error { return e.err }

var errNoLogin = errors.New("no login")

// closeHops closes the connections of a chain, innermost first.
func closeHops(hops []*Client) {
	for _, h := range slices.Backward(hops) {
		h.Close()
	}
}

// dialHop connects to one machine over dialer.
func dialHop(ctx context.Context, cfg Config, dialer Dialer) (*Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("%w within %s", errNoLogin, cfg.Timeout))
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", cfg.Address)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return nil, &DialError{Host: cfg.Name, Address: cfg.Address, User: cfg.User, Cause: cfg.redactErr(unprefixed(err))}
	}
	setUserTimeout(conn, cfg.DeadAfter)
	return handshake(ctx, cfg, conn)
}

// handshake makes a Client of a network connection, which it closes when it fails.
func handshake(ctx context.Context, cfg Config, conn net.Conn) (*Client, error) {
	keys := offered(cfg.Keys)
	trust, err := newTrust(cfg)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("sshx: %s: %w", cfg.Name, err)
	}
	for _, err := range trust.known.unreadable {
		cfg.Logf("%s: WARNING: %v", cfg.Name, err)
	}
	log := &login{trust: trust}
	all := ssh.SupportedAlgorithms() // the default leaves out some that hardened machines insist on
	w := watch(conn)
	// Closing is what ends a handshake for sure: a connection through a jump host knows no deadline.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	sc, chans, reqs, err := ssh.NewClientConn(w, trust.addr, &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: all.KeyExchanges, Ciphers: all.Ciphers, MACs: all.MACs},
		User:              cfg.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(keys...), ssh.KeyboardInteractive(log.answer)},
		AuthCallback:      log.auth,
		BannerCallback:    log.saw,
		HostKeyCallback:   trust.check,
		HostKeyAlgorithms: trust.algorithms(),
	})
	if !stop() && err == nil {
		sc.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, log.fault(ctx, cfg, keys, err)
	}
	c := newClient(cfg, w, ssh.NewClient(sc, chans, reqs), trust.got, cfg.said(log.banner()))
	if trust.learned {
		pin := AuthorizedKey(c.hostKey)
		cfg.Logf("%s: WARNING: host key %s trusted on first use; pin it: %s", cfg.Name, fingerprint(c.hostKey), pin)
		c.next.HostKeys.TrustOnFirstUse, c.next.HostKeys.Pinned = false, []string{pin}
	}
	return c, nil
}

// login notes what happens on the way in.
type login struct {
	trust *trust

	mu      sync.Mutex
	banners strings.Builder
	refused bool // at least one method other than "none" was tried and refused, or none is possible
	allowed []string
	passed  []string // methods that were accepted, but are not enough
	asked   []string // what keyboard-interactive asked
}

// errQuestions is a login that asks what keys do not answer.
var errQuestions = errors.New("the login asks questions")

// answer answers a machine that has no questions, as some have after a key.
func (l *login) answer(_, _ string, questions []string, _ []bool) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(questions) > 0 {
		for _, q := range questions {
			l.asked = append(l.asked, clean(q))
		}
		return nil, errQuestions
	}
	return nil, nil
}

func (l *login) saw(message string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.banners.Len() < 4096 {
		l.banners.WriteString(message)
	}
	return nil
}

func (l *login) banner() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.banners.String()
}

// auth is called before each attempt to log in, with what was tried so far.
func (l *login) auth(ctx *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed, l.passed = ctx.AllowedMethods, ctx.PartialSuccessMethods
	l.refused = len(l.passed) > 0 || slices.Contains(ctx.TriedMethods, "publickey") || !slices.Contains(ctx.AllowedMethods, "publickey")
	return nil, nil
}

// fault gives a failed handshake its type.
func (l *login) fault(ctx context.Context, cfg Config, keys []ssh.Signer, err error) error {
	l.mu.Lock()
	refused, allowed, passed, asked := l.refused, l.allowed, l.passed, l.asked
	l.mu.Unlock()
	if l.trust.err != nil {
		return l.trust.err
	}
	if ne, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok && l.trust.knowsSomething() && strings.Contains(ne.Error(), "host key") {
		t := l.trust
		return &HostKeyError{Host: cfg.Name, Want: t.want(), Cause: err}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
		refused = false
	}
	// A peer that hangs up during the login has refused nothing: pam_nologin does so while a
	// machine boots. "Too many" comes as a disconnect in place of an answer.
	if refused && !hungUp(err) && !errors.Is(err, errSign) || strings.Contains(err.Error(), "Too many authentication failures") {
		e := &AuthError{Host: cfg.Name, User: cfg.User, Allowed: allowed, Passed: passed, Asked: asked, Banner: cfg.said(l.banner()), Cause: cfg.redactErr(err)}
		for _, k := range keys {
			e.Offered = append(e.Offered, fingerprint(k.PublicKey()))
		}
		return e
	}
	return &DialError{
		Host: cfg.Name, Address: cfg.Address, User: cfg.User, Banner: cfg.said(l.banner()),
		Reached: l.trust.got != nil, Cause: cfg.redactErr(err),
	}
}

// hungUp reports whether err is the end of a network connection.
func hungUp(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return isNet || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// clean makes foreign text fit for one line of a log: no control characters, blanks joined, at
// most 500 bytes.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "") + "..."
	}
	return s
}
