package vspheretest

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// What vcsim lets pass on its other endpoints: a token for whatever password, and a session of REST that
// outlives the service.

// restSession is the header, or cookie, that has the session of a request of REST.
const restSession = "vmware-api-session-id"

// barred answers a request to another endpoint whose password or session does not count, and reports
// whether it did.
func (s *Server) barred(w http.ResponseWriter, r *http.Request) bool {
	switch {
	case isREST(r) && !opensREST(r) && s.restEnded(r):
		http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/sts/") && !s.mayHaveToken(r):
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, xml.Header+`<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Body><S:Fault>`+
			`<faultcode xmlns:ns0="http://docs.oasis-open.org/ws-sx/ws-trust/200512">ns0:FailedAuthentication</faultcode>`+
			`<faultstring>Invalid credentials</faultstring></S:Fault></S:Body></S:Envelope>`)
	default:
		return false
	}
	return true
}

// isREST reports whether a request is one of REST, in either of its forms.
func isREST(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/rest/") || strings.HasPrefix(r.URL.Path, "/api/")
}

// opensREST reports whether a request opens a session of REST.
func opensREST(r *http.Request) bool {
	return r.Method == http.MethodPost && isREST(r) && strings.HasSuffix(r.URL.Path, "/session") && r.URL.RawQuery == ""
}

// restEnded reports whether a request has a session of REST that a restart has ended.
func (s *Server) restEnded(r *http.Request) bool {
	id := r.Header.Get(restSession)
	if c, err := r.Cookie(restSession); id == "" && err == nil {
		id = c.Value
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	live, known := s.rest[id]
	return known && !live
}

var sessionID = regexp.MustCompile(`[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// noteREST remembers the session that the answer to a request has opened.
func (s *Server) noteREST(r *http.Request, answer *reply) {
	if !opensREST(r) || answer.status >= 300 {
		return
	}
	if id := sessionID.Find(answer.body.Bytes()); id != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.rest == nil {
			s.rest = make(map[string]bool)
		}
		s.rest[string(id)] = true
	}
}

// mayHaveToken reports whether a request for a token has the right password, or none, as those have
// that are signed with a certificate.
func (s *Server) mayHaveToken(r *http.Request) bool {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	var env struct {
		Header struct {
			Security struct {
				UsernameToken *struct{ Username, Password string }
			}
		}
	}
	if err := xml.Unmarshal(data, &env); err != nil {
		return true // the endpoint says what is wrong with it
	}
	t := env.Header.Security.UsernameToken
	return t == nil || s.model.Map().SessionManager().ValidLogin(&types.Login{UserName: t.Username, Password: t.Password})
}
