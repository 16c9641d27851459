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
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/poolready/poolready/pool"
)

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
