package vspheretest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// adminUser is who Server.Client logs in as; it is its user agent too.
const adminUser = "administrator@vspheretest"

// A Request is one SOAP call that a client made. Those of Server.Client do not count.
type Request struct {
	Method string                       // as in the API: "CloneVM_Task"
	Object types.ManagedObjectReference // what it was called on
	// Name is the name of the VM, folder, ... that Object is, or the VM's if it is a snapshot;
	// "" for managers, views and other objects without a name.
	Name    string
	Body    any // *types.CloneVMRequestType and so on, as the client sent it
	Time    time.Time
	Session string // the session's key; "" before the login
}

// Requests returns all calls so far, in the order in which they came in.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// A call is a Request that is being served.
type call struct {
	ctx   context.Context // ends when the client has gone, or the Server closes
	admin bool
	req   Request
	names []string // Name, and the name that the call gives to something
}

func (s *Server) handler() http.Handler {
	svc := s.model.Service
	svc.RegisterSDK(s.model.Map(), vim25.Path+"/vimService")
	svc.ServeMux.HandleFunc(vim25.Path+"/vimServiceVersions.xml", svc.ServiceVersions)
	svc.ServeMux.HandleFunc("/about", svc.About)
	return http.HandlerFunc(s.serve)
}

// serve is the way in for every HTTP request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		http.Error(w, "closed", http.StatusServiceUnavailable)
		return
	}
	s.work.Add(1)
	s.mu.Unlock()
	defer s.work.Done()

	next := s.model.Service.ServeMux
	if r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, vim25.Path) {
		next.ServeHTTP(w, r)
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	method, err := simulator.UnmarshalBody(types.TypeFunc(), data)
	if err != nil {
		next.ServeHTTP(w, r) // vcsim says what is wrong with it
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()

	c := &call{ctx: ctx, admin: r.UserAgent() == adminUser, req: Request{
		Method: method.Name, Object: method.This, Name: s.nameOf(method.This), Body: method.Body, Time: time.Now(),
	}}
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		c.req.Session = cookie.Value
	}
	c.names = append(newNames(method.Body), c.req.Name)
	id := s.enter(c)
	defer s.leave(id)
	// vcsim gives no way from a call to its HTTP request; the user agent gets through.
	r.Header.Set("User-Agent", r.UserAgent()+id)
	if !c.admin && sleep(ctx, s.lat.RPC) != nil {
		return
	}
	next.ServeHTTP(w, r)
}

func (s *Server) enter(c *call) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ncall++
	id = fmt.Sprintf(" (call %d)", s.ncall)
	s.calls[id] = c
	if !c.admin {
		s.requests = append(s.requests, c.req)
	}
	return id
}

func (s *Server) leave(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, id)
}

// call returns the call that ctx serves. It is nil for calls without a session.
func (s *Server) call(ctx *simulator.Context) *call {
	if ctx.Session == nil {
		return nil
	}
	ua := ctx.Session.UserAgent
	i := strings.LastIndex(ua, " (call ")
	if i < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[ua[i:]]
}

// newNames lists the names that a request gives to things.
func newNames(body any) []string {
	switch b := body.(type) {
	case *types.CloneVM_Task:
		return []string{b.Name}
	case *types.CreateVM_Task:
		return []string{b.Config.Name}
	case *types.CreateFolder:
		return []string{b.Name}
	case *types.Rename_Task:
		return []string{b.NewName}
	}
	return nil
}

// nameOf returns the inventory name of ref, or of the VM that it is a snapshot of, or "".
func (s *Server) nameOf(ref types.ManagedObjectReference) (name string) {
	ctx := s.context(nil)
	obj := ctx.Map.Get(ref)
	if snap, ok := obj.(*simulator.VirtualMachineSnapshot); ok {
		return s.nameOf(snap.Vm)
	}
	if e, ok := obj.(mo.Entity); ok {
		ctx.WithLock(ref, func() { name = entityName(e) })
	}
	return name
}

// entityName is e's name; the caller holds e's lock.
func entityName(e mo.Entity) string {
	switch x := e.(type) {
	case *mo.Network:
		return x.Name
	case *simulator.DistributedVirtualPortgroup:
		return x.Name
	case *simulator.DistributedVirtualSwitch:
		return x.Name
	}
	return e.Entity().Name
}

func (s *Server) errorLog() *log.Logger { return log.New(logWriter{s}, "", 0) }

type logWriter struct{ s *Server }

func (w logWriter) Write(p []byte) (int, error) {
	w.s.logf("vspheretest: %s", bytes.TrimSpace(p))
	return len(p), nil
}
