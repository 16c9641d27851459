package vspheretest

import (
	"bytes"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// dispatch has vcsim answer a request. What makes it panic is told as what it does not simulate, and
// no lock of the objects concerned stays taken.
func (s *Server) dispatch(re *reply, r *http.Request, c *call) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.logf("vspheretest: %s: vcsim: %v\n%s", c.req.Method, p, debug.Stack())
		*re = reply{header: make(http.Header), status: http.StatusOK}
		if c.req.Object.Type == "" {
			http.Error(re, c.req.Method+" is not simulated in this form", http.StatusNotImplemented)
			return
		}
		s.unlock(c.req.Object)
		f := &types.NotSupported{RuntimeFault: because(c.req.Method + " is not simulated in this form")}
		writeFault(re, f)
	}()
	if r.URL.Path == screenPath {
		s.screen(re, r)
		return
	}
	if s.barred(re, r) {
		return
	}
	s.model.Service.ServeMux.ServeHTTP(re, r)
	s.noteREST(r, re)
	if re.status == http.StatusInternalServerError {
		body := worded(re.body.Bytes())
		re.body = *bytes.NewBuffer(body)
	}
	if older(r.Header.Get("SOAPAction"), "6.9.1") {
		re.body = *bytes.NewBuffer(newer.ReplaceAll(re.body.Bytes(), nil))
	}
}

// newer matches properties that came with version 6.9.1 of the API and are always sent. vCenter answers
// in the version that it is asked in, and a client such as pyvmomi dies of what it does not know.
var newer = regexp.MustCompile(`<(?:tenantManager|siteInfoManager|hwVersion|maxSupportedVmMemory)\b[^>]*>[^<]*</\w+>`)

// older reports whether a request's SOAPAction, "urn:vim25/6.7", names a version before another one.
func older(action, version string) bool {
	_, v, ok := strings.Cut(strings.Trim(action, `"`), "/")
	if !ok {
		return false
	}
	a, b := strings.Split(v, "."), strings.Split(version, ".")
	for i := range min(len(a), len(b)) {
		x, err := strconv.Atoi(a[i])
		y, _ := strconv.Atoi(b[i])
		if err != nil || x != y {
			return err == nil && x < y
		}
	}
	return len(a) < len(b)
}

// unlock gives an object a new lock: the old one belongs to a call that has panicked.
func (s *Server) unlock(ref types.ManagedObjectReference) {
	ctx := s.context(nil)
	obj := ctx.Map.Get(ref)
	ctx.Map.Remove(ctx, ref)
	if obj != nil {
		ctx.Map.Put(obj)
	}
	if h, ok := obj.(simulator.RegisterObject); ok {
		ctx.Map.AddHandler(h)
	}
}

// plain makes a call of a request that is not of vSphere's main API: to another endpoint, or for a
// file. A file on a datastore and the picture of a console are for those who are logged in.
func (s *Server) plain(w http.ResponseWriter, r *http.Request, c *call) {
	c.req.Method = r.Method + " " + r.URL.Path
	if (strings.HasPrefix(r.URL.Path, "/folder/") || r.URL.Path == screenPath) && !s.mayRead(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
		return
	}
	s.pass(w, r, c)
}

// mayRead reports whether a request carries a session, a ticket, or a name and password.
func (s *Server) mayRead(r *http.Request) bool {
	if c, err := r.Cookie(soap.SessionCookieName); err == nil && s.inSession(c.Value) {
		return true
	}
	if c, err := r.Cookie("vmware_cgi_ticket"); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.tickets[c.Value]
	}
	user, password, ok := r.BasicAuth()
	return ok && s.model.Map().SessionManager().ValidLogin(&types.Login{UserName: user, Password: password})
}

func (s *Server) inSession(key string) bool {
	ctx := s.context(nil)
	sm := ctx.Session.Get(*contentOf(ctx.Map).SessionManager).(*simulator.SessionManager)
	for _, u := range sm.SessionList {
		if u.Key == key {
			return true
		}
	}
	return false
}

// AcquireGenericServiceTicket gives a client a ticket for one who does not have its session, such as
// a host that serves a file.
func (v *verbs) AcquireGenericServiceTicket(ctx *simulator.Context, req *types.AcquireGenericServiceTicket) soap.HasFault {
	res := ctx.Map.SessionManager().AcquireGenericServiceTicket(req).(*methods.AcquireGenericServiceTicketBody)
	if res.Res != nil {
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		if v.s.tickets == nil {
			v.s.tickets = make(map[string]bool)
		}
		v.s.tickets[res.Res.Returnval.Id] = true
	}
	return res
}
