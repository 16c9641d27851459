package vsphere

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

const (
	maxCalls    = 32              // SOAP calls in flight, the long poll not counted
	maxLogins   = 3               // in a row for one call
	loginPause  = time.Minute     // between logins once one was refused that had been accepted before
	callTimeout = 3 * time.Minute // for vCenter's answer to one call

	logoutTimeout = 10 * time.Second
)

var errClosed = errors.New("the provider is closed")

// session is the one session of a Provider with its vCenter. It logs in when first used, and
// again whenever vCenter no longer knows it.
type session struct {
	end      endpoint
	patience time.Duration // how long an unreachable vCenter is waited for once it was reached
	timeout  time.Duration // for the answer to one call; 0 means callTimeout

	health health
	slots  chan struct{} // of calls in flight
	calls  callCounts

	lock   chan struct{} // holds one token; guards what follows, while logging in too
	client *vim25.Client // nil until first connected; each login has a copy
	conn   *conn         // nil: log in first
	denied error         // the login was refused
	retry  time.Time     // when to try again after that; zero is never
	known  bool          // the same user and password were accepted before
	closed bool

	ended chan struct{} // closed by close
	once  sync.Once
}

// conn is one login's worth of a session. What lives in the session on the server, such as
// collectors and views, belongs to a conn and dies with it.
type conn struct {
	*vim25.Client
	key  string        // names the session to vCenter
	lost chan struct{} // closed when vCenter was found to have ended it
}

func newSession(end endpoint, patience time.Duration) *session {
	s := &session{
		end: end, patience: patience, slots: make(chan struct{}, maxCalls),
		lock: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	s.lock <- struct{}{}
	return s
}

// acquire takes the lock, unless ctx ends first.
func (s *session) acquire(ctx context.Context) error {
	select {
	case <-s.lock:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) release() { s.lock <- struct{}{} }

// current returns the live login, logging in if there is none.
func (s *session) current(ctx context.Context) (*conn, error) {
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	defer s.release()
	switch {
	case s.closed:
		return nil, errClosed
	case s.conn != nil:
		return s.conn, nil
	case s.denied != nil && (s.retry.IsZero() || time.Now().Before(s.retry)):
		return nil, s.denied
	}
	if s.client == nil {
		client, err := s.dial(ctx)
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", s.end.url.Host, explain(err, refName))
		}
		s.client = client
	}
	// A login begins without a cookie: with that of a session whose answer was lost on the way,
	// vCenter says that the login is invalid, since there is one already.
	client := s.fresh()
	user, password := s.end.user()
	res, err := methods.Login(ctx, client, &types.Login{
		This:     *client.ServiceContent.SessionManager,
		UserName: user,
		Password: password,
		Locale:   "en_US",
	})
	if err != nil {
		err = fmt.Errorf("log in to %s: %w", s.end.url.Host, explain(err, refName))
		if classify(err) == permanent && len(faults(err)) > 0 {
			// Lest the account be locked, it is not repeated: never, if nothing says that the
			// password is right, and not soon, if a vCenter that starts up does not know it yet.
			s.denied = err
			if s.known {
				s.retry = time.Now().Add(loginPause)
			}
		}
		return nil, err
	}
	s.known, s.denied = true, nil
	s.conn = &conn{Client: client, key: res.Returnval.Key, lost: make(chan struct{})}
	return s.conn, nil
}

// dial reaches the vCenter and makes sure that it is one.
func (s *session) dial(ctx context.Context) (*vim25.Client, error) {
	uncached(s.end.url.Host)
	sc := s.soap(nil)
	t := sc.DefaultTransport()
	t.DialTLSContext = nil // govmomi's ignores the context
	t.TLSClientConfig = s.end.tls()
	t.MaxIdleConns = 2 * maxCalls
	t.MaxIdleConnsPerHost = 2 * maxCalls

	limit := s.limiter(sc)
	client := &vim25.Client{Client: sc, RoundTripper: limit}
	var err error
	if client.ServiceContent, err = methods.GetServiceContent(ctx, limit); err != nil {
		t.CloseIdleConnections()
		return nil, err
	}
	if !client.IsVC() {
		t.CloseIdleConnections()
		return nil, refuse("this is %s, not a vCenter: a host by itself can neither clone VMs nor keep them in folders; "+
			"set GOVC_URL to the vCenter that manages it", client.ServiceContent.About.FullName)
	}
	sc.Version = s.end.version
	if sc.Version == "" {
		sc.Version = negotiated(ctx, sc)
	}
	return client, nil
}

// soap returns a SOAP client without cookies, on t if that is not nil.
func (s *session) soap(t http.RoundTripper) *soap.Client {
	sc := soap.NewClient(s.end.url, s.end.insecure)
	sc.UserAgent = "poolready"
	sc.Namespace, sc.Version = "urn:"+vim25.Namespace, vim25.Version
	if t == nil {
		t = statusTripper{sc.DefaultTransport()}
	}
	sc.Client.Transport = t
	return sc
}

// fresh returns a copy of the client that has no cookies.
func (s *session) fresh() *vim25.Client {
	sc := s.soap(s.client.Client.Client.Transport)
	sc.Version = s.client.Version
	return &vim25.Client{
		Client: sc, ServiceContent: s.client.ServiceContent,
		RoundTripper: s.limiter(sc),
	}
}

// drop notes that vCenter no longer knows the login c, unless ctx ends while somebody logs in.
func (s *session) drop(ctx context.Context, c *conn) {
	if s.acquire(ctx) != nil {
		return
	}
	defer s.release()
	if s.conn == c {
		s.conn = nil
		close(c.lost)
	}
}

// do calls f with a live login, and again after logging in anew if vCenter did not know it.
func (s *session) do(ctx context.Context, f func(c *conn) error) error {
	for try := 1; ; try++ {
		c, err := s.current(ctx)
		if err != nil {
			return err
		}
		err = f(c)
		if err == nil || classify(err) != loggedOut || try == maxLogins {
			return err
		}
		s.drop(ctx, c)
	}
}

// read is do for calls that change nothing: they are repeated while the connection breaks, and for
// a while if a vCenter that has not answered yet is starting up.
func (s *session) read(ctx context.Context, f func(c *conn) error) error {
	b := s.backoff()
	start, first := backoff{patience: s.patience / 5}, backoff{patience: s.patience / 60}
	oddities := 0
	for {
		err := s.do(ctx, f)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return s.health.blame(ctx, err)
		}
		if !s.reached(ctx) {
			switch c := classify(err); {
			case startingUp(err):
				if !start.wait(ctx, err) {
					return start.over(err)
				}
			case c == unknown, c == again && !nameless(err):
				if !first.wait(ctx, err) {
					return first.over(err)
				}
			default:
				return err
			}
			continue
		}
		switch classify(err) {
		case again, unknown, busy:
			if odd(err) {
				oddities++
			}
		default:
			return err
		}
		if oddities == maxOddities || !b.wait(ctx, err) {
			return b.over(err)
		}
	}
}

func (s *session) backoff() backoff { return backoff{patience: s.patience, health: &s.health} }

// reached tells whether the vCenter ever answered. One that did is waited for when it is away; one
// that did not is more likely misconfigured.
func (s *session) reached(ctx context.Context) bool {
	if s.acquire(ctx) != nil {
		return false
	}
	defer s.release()
	return s.client != nil
}

// retrieve reads properties, all pages of them. A missing property is left out of its object;
// MissingSet says why.
func (s *session) retrieve(ctx context.Context, specs ...types.PropertyFilterSpec) ([]types.ObjectContent, error) {
	specs, skipped := unskip(specs)
	var doubted *conn
	var objects []types.ObjectContent
	err := s.read(ctx, func(c *conn) error {
		var err error
		objects, err = mo.RetrievePropertiesEx(ctx, c, types.RetrievePropertiesEx{
			This: c.ServiceContent.PropertyCollector, SpecSet: specs,
		})
		if err != nil {
			return err
		}
		for _, o := range objects {
			for _, m := range o.MissingSet {
				if _, ok := m.Fault.Fault.(*types.NotAuthenticated); !ok {
					continue
				}
				if skipped(o) && doubted != nil && doubted != c {
					continue // to a new session too: it may not read this one, and need not
				}
				doubted = c
				return soap.WrapVimFault(m.Fault.Fault)
			}
		}
		return nil
	})
	return slices.DeleteFunc(objects, skipped), err
}

// unskip has the answer to specs show the objects that they start from and skip, and returns which
// objects of the answer those are. To a session that has ended vCenter reports every property as
// missing, so that nothing can be followed: without the object it starts from, such a reading looks
// like one that found nothing.
func unskip(specs []types.PropertyFilterSpec) (all []types.PropertyFilterSpec, skipped func(types.ObjectContent) bool) {
	starts := map[types.ManagedObjectReference]bool{}
	asked, added := map[string]bool{}, map[string]bool{}
	for _, spec := range specs {
		for _, p := range spec.PropSet {
			asked[p.Type] = true
		}
		spec.ObjectSet, spec.PropSet = slices.Clone(spec.ObjectSet), slices.Clone(spec.PropSet)
		for i, o := range spec.ObjectSet {
			if o.Skip == nil || !*o.Skip {
				continue
			}
			starts[o.Obj] = true
			spec.ObjectSet[i].Skip = nil
			if !slices.ContainsFunc(spec.PropSet, func(p types.PropertySpec) bool { return p.Type == o.Obj.Type }) {
				added[o.Obj.Type] = true
				spec.PropSet = append(spec.PropSet, types.PropertySpec{Type: o.Obj.Type, PathSet: []string{"name"}})
			}
		}
		all = append(all, spec)
	}
	return all, func(o types.ObjectContent) bool { return starts[o.Obj] || added[o.Obj.Type] && !asked[o.Obj.Type] }
}

// close logs out and ends every connection. Later calls return errClosed. A logout that fails is no
// error: vCenter ends a session that is not used.
func (s *session) close(ctx context.Context) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	defer s.release()
	if s.closed {
		return nil
	}
	s.closed = true
	s.once.Do(func() { close(s.ended) })
	if s.client == nil {
		return nil
	}
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(ctx, logoutTimeout)
		defer cancel()
		_, _ = methods.Logout(ctx, s.conn, &types.Logout{This: *s.client.ServiceContent.SessionManager})
		close(s.conn.lost)
		s.conn = nil
	}
	s.client.DefaultTransport().CloseIdleConnections()
	return nil
}

// tls trusts what the configuration trusts. Thumbprints count only for certificates that are
// otherwise fine but for their authority or host name.
func (e endpoint) tls() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.roots, InsecureSkipVerify: e.insecure}
	if e.insecure || len(e.thumbprints) == 0 {
		return cfg
	}
	cfg.InsecureSkipVerify = true // VerifyConnection does it
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: e.roots, DNSName: cs.ServerName, Intermediates: x509.NewCertPool()}
		for _, cert := range cs.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		leaf := cs.PeerCertificates[0]
		_, err := leaf.Verify(opts)
		if err == nil {
			return nil
		}
		var authority x509.UnknownAuthorityError
		var host x509.HostnameError
		if errors.As(err, &authority) || errors.As(err, &host) {
			if e.thumbprints[soap.ThumbprintSHA256(leaf)] || e.thumbprints[soap.ThumbprintSHA1(leaf)] {
				return nil
			}
			err = fmt.Errorf("its thumbprint is none of those configured: %w", err)
		}
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	return cfg
}

// statusTripper makes errors of answers that are no SOAP.
type statusTripper struct{ rt http.RoundTripper }

func (t statusTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.rt.RoundTrip(req)
	if err != nil || res.StatusCode == http.StatusOK || res.StatusCode == http.StatusInternalServerError {
		return res, err
	}
	res.Body.Close()
	return nil, &statusError{res.StatusCode}
}

func (s *session) limiter(rt soap.RoundTripper) *limiter {
	return &limiter{rt: rt, slots: s.slots, held: pool.CheckLease, health: &s.health, calls: &s.calls, timeout: s.timeout}
}

// callCounts are how many calls of each method were made.
type callCounts struct {
	mu sync.Mutex // guards what follows
	n  map[string]int
}

func (c *callCounts) add(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[method]++
}

func (c *callCounts) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.n)
}

// limiter bounds the calls in flight and how long each may take, lets none go out under a lease
// that is over, names the call in its error, and notes whether vCenter answers.
type limiter struct {
	rt     soap.RoundTripper
	slots  chan struct{}
	held   func(context.Context) error // pool.CheckLease
	health *health
	calls  *callCounts

	timeout time.Duration // for the answer to one call; 0 means callTimeout
}

func (l *limiter) RoundTrip(ctx context.Context, req, res soap.HasFault) error {
	timeout := cmp.Or(l.timeout, callTimeout)
	if wait, ok := req.(*methods.WaitForUpdatesExBody); ok {
		if o := wait.Req.Options; o != nil && o.MaxWaitSeconds != nil {
			timeout = time.Duration(*o.MaxWaitSeconds)*time.Second + timeout/6
		}
	} else {
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := l.held(ctx); err != nil { // by now: there may have been a login and a wait for a place
		return err
	}
	l.calls.add(methodOf(req))
	call, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := l.rt.RoundTrip(call, req, res)
	if err == nil {
		l.health.heard(nil)
		return nil
	}
	if call.Err() != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err = fmt.Errorf("%w in %v: %w", errNoAnswer, timeout, err)
	}
	err = &callError{method: methodOf(req), err: err}
	if len(faults(err)) > 0 { // which is an answer, too
		l.health.heard(nil)
	} else {
		l.health.heard(err)
	}
	return err
}

// callError is an error of one SOAP call.
type callError struct {
	method string
	err    error
}

func (e *callError) Error() string { return e.method + ": " + e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// methodOf is the API's name of the call with that body: "CloneVM_Task".
func methodOf(body any) string { return strings.TrimSuffix(typeName(body), "Body") }

// backoff spaces repetitions of one call, from 50 ms doubling to 5 s, until patience is used up, by
// the clock since the first failure, or vCenter as a whole has not answered for that long.
type backoff struct {
	patience time.Duration
	health   *health // nil: only this call counts

	pause time.Duration
	began time.Time // zero until the first failure
	told  time.Time // when a notice was given last
	tries int
}

// wait pauses before the next try, after err; it returns false if there should be none.
func (b *backoff) wait(ctx context.Context, err error) bool {
	now := time.Now()
	if b.began.IsZero() {
		b.began, b.told = now, now
	}
	b.tries++
	b.pause = min(max(2*b.pause, 50*time.Millisecond), 5*time.Second)
	if now.Sub(b.began)+b.pause > b.patience || b.health != nil && b.health.silent() > b.patience {
		return false
	}
	if now.Sub(b.told) >= noticeAfter {
		b.told = now
		pool.Notice(ctx, "vCenter: %v; trying again since %s (%s), up to %s", err, clockTime(b.began), brief(now.Sub(b.began)), brief(b.patience))
	}
	return sleep(ctx, b.pause)
}

// over is err with how long and how often was tried.
func (b *backoff) over(err error) error {
	if b.tries < 2 || errors.As(err, new(*overError)) {
		return err
	}
	return &overError{err: err, tries: b.tries, since: b.began}
}

// overError is the last error of a call that was repeated.
type overError struct {
	err   error
	tries int
	since time.Time
}

func (e *overError) Error() string {
	return fmt.Sprintf("%v (tried %d times since %s, for %s)", e.err, e.tries, clockTime(e.since), brief(time.Since(e.since)))
}

func (e *overError) Unwrap() error { return e.err }

// sleep waits for d; it returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// refName names an object by its reference, for lack of better.
func refName(ref types.ManagedObjectReference) string { return ref.Type + " " + ref.Value }
