package vsphere

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
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
	end     endpoint
	outage  time.Duration // how long an unreachable vCenter is waited for once it was reached
	timeout time.Duration // for the answer to one call; 0 means callTimeout

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

func newSession(end endpoint, outage time.Duration) *session {
	s := &session{
		end: end, outage: outage, slots: make(chan struct{}, maxCalls),
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

// do calls f with a live login, and again after logging in again if vCenter did not know it.
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
	start, first := backoff{limit: s.outage / 5}, backoff{limit: s.outage / 60}
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

// reached reports whether the vCenter ever answered. One that did is waited for when it is away; one
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

// refName names an object by its reference, for lack of better.
func refName(ref types.ManagedObjectReference) string { return ref.Type + " " + ref.Value }
