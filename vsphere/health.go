package vsphere

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
)

// noticeAfter is how long a failure has to last until a notice is given, and the interval of further
// notices.
const noticeAfter = 10 * time.Second

// health is whether vCenter answers, seen over all calls. Its zero value is a vCenter that does.
type health struct {
	mu    sync.Mutex
	since time.Time // of the first failure since the last answer; zero if it answers
	last  time.Time // of the last failure
	err   error     // its error
}

// heard notes the end of a call: an answer, if err is nil.
func (h *health) heard(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.since, h.err = time.Time{}, nil
		return
	case h.since.IsZero(), time.Since(h.last) > 2*callTimeout: // no call was made meanwhile
		h.since = time.Now()
	}
	h.last, h.err = time.Now(), err
}

// silent returns how long vCenter has answered nothing; 0 if it answers.
func (h *health) silent() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		return 0
	}
	return time.Since(h.since)
}

// String says since when vCenter does not answer, and what calls end with, or is "".
func (h *health) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		return ""
	}
	return fmt.Sprintf("vCenter has not answered since %s (%s): %v", clockTime(h.since), brief(time.Since(h.since)), h.err)
}

// blame adds to the error of a context that vCenter does not answer, if that is so.
func (h *health) blame(ctx context.Context, err error) error {
	if s := h.String(); s != "" && ctx.Err() != nil && !errors.As(err, new(*silentError)) {
		return &silentError{err: err, msg: s}
	}
	return err
}

// silentError is the error of a wait while vCenter did not answer.
type silentError struct {
	err error
	msg string
}

func (e *silentError) Error() string { return e.err.Error() + "; " + e.msg }
func (e *silentError) Unwrap() error { return e.err }

func clockTime(t time.Time) string { return t.Format(time.TimeOnly) }

// brief formats a duration for people.
func brief(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}

// nameless reports whether err is that of a host name that does not exist.
func nameless(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

// negotiated is the API version to speak: the server's, or that of this program if the server's is
// newer or unknown.
func negotiated(ctx context.Context, sc *soap.Client) string {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	u := sc.URL()
	u.Path = vim25.Path + "/vimServiceVersions.xml"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return vim25.Version
	}
	res, err := sc.Client.Do(req)
	if err != nil {
		return vim25.Version
	}
	defer res.Body.Close()
	var all struct {
		Namespaces []struct {
			Name    string `xml:"name"`
			Version string `xml:"version"`
		} `xml:"namespace"`
	}
	if xml.NewDecoder(res.Body).Decode(&all) != nil {
		return vim25.Version
	}
	for _, ns := range all.Namespaces {
		if ns.Name == "urn:"+vim25.Namespace && older(ns.Version, vim25.Version) {
			return ns.Version
		}
	}
	return vim25.Version
}

// older reports whether version a, such as "7.0.3.0", is before b.
func older(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		part := func(s []string) (n int) {
			if i < len(s) {
				n, _ = strconv.Atoi(s[i])
			}
			return n
		}
		if x, y := part(as), part(bs); x != y {
			return x < y
		}
	}
	return false
}
