package vspheretest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// adminUser is who Server.Client logs in as; it is its user agent too.
const adminUser = "administrator@vspheretest"

// callMark precedes the number of a call in the user agent that vcsim sees.
const callMark = " (call "

// A Request is one SOAP call that a client made, or a request to another endpoint or for a file, of
// which only Method and Time are set. Those of Server.Client do not count.
type Request struct {
	Method string                       // as in the API: "CloneVM_Task"; or "GET /folder/x.iso"
	Object types.ManagedObjectReference // what it was called on
	// Name is the name of the VM, folder, ... that Object is, or the VM's if it is a snapshot;
	// "" for managers, views and other objects without a name.
	Name    string
	Body    any // *types.CloneVMRequestType and so on, as the client sent it
	Time    time.Time
	Session string // the session's key; "" before the login
}

// maxRequests is how many calls are remembered at least.
const maxRequests = 100_000

// Requests returns all calls so far, in the order in which they came in. Of very many, the oldest
// are forgotten: there are at least the last hundred thousand.
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
	meets []Effect // of injected Faults

	cancel context.CancelFunc // of ctx
	cut    bool               // no more replies; guarded by Server.mu
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

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, vim25.Path) {
		s.plain(w, r, &call{ctx: ctx, cancel: cancel, req: Request{Time: time.Now()}})
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	method, err := simulator.UnmarshalBody(types.TypeFunc(), data)
	if err != nil {
		s.plain(w, r, &call{ctx: ctx, cancel: cancel, req: Request{Time: time.Now()}}) // vcsim says what is wrong with it
		return
	}

	c := &call{ctx: ctx, cancel: cancel, admin: r.UserAgent() == adminUser, req: Request{
		Method: method.Name, Object: method.This, Name: s.nameOf(method.This), Body: method.Body, Time: time.Now(),
	}}
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		c.req.Session = cookie.Value
	}
	c.names = append(newNames(method.Body), c.req.Name)
	s.pass(w, r, c)
}

// pass takes the call through what every call goes through.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, c *call) {
	id := s.enter(c)
	defer s.leave(id)
	// vcsim gives no way from a call to its HTTP request; the user agent gets through.
	r.Header.Set("User-Agent", r.UserAgent()+id)
	if !c.admin && sleep(c.ctx, s.paced(s.lat.RPC)) != nil {
		return
	}
	s.answer(w, r, c)
}

// answer serves the call, with what goes wrong with it.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, c *call) {
	s.mu.Lock()
	down := !c.admin && time.Now().Before(s.downUntil)
	s.mu.Unlock()
	if down {
		http.Error(w, "503 Service Unavailable", http.StatusServiceUnavailable)
		return
	}
	c.meets = s.met(c)
	s.idle(c)
	for _, e := range c.meets {
		if e.act != nil {
			e.act(s, c)
		}
		if e.stall < 0 {
			<-c.ctx.Done()
		}
		if e.stall != 0 && sleep(c.ctx, e.stall) != nil {
			hangUp(w)
			return
		}
		switch {
		case e.drop:
			hangUp(w)
			return
		case e.status != 0:
			http.Error(w, http.StatusText(e.status), e.status)
			return
		case e.refuse != nil:
			writeFault(w, e.refuse)
			return
		}
	}
	reply := &reply{header: make(http.Header), status: http.StatusOK}
	s.dispatch(reply, r, c)
	s.used(c)

	s.mu.Lock()
	lost, cut := c.cut, false
	s.mu.Unlock()
	for _, e := range c.meets {
		lost, cut = lost || e.lose, cut || e.cut
	}
	switch {
	case lost:
		hangUp(w)
	case cut:
		reply.sendHalf(w)
	default:
		reply.send(w)
	}
}

// A reply is a response that can still be lost.
type reply struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *reply) Header() http.Header         { return r.header }
func (r *reply) WriteHeader(code int)        { r.status = code }
func (r *reply) Write(p []byte) (int, error) { return r.body.Write(p) }

func (r *reply) send(w http.ResponseWriter) {
	for k, v := range r.header {
		w.Header()[k] = v
	}
	w.WriteHeader(r.status)
	_, _ = w.Write(r.body.Bytes())
}

// sendHalf sends half of the reply and closes the connection.
func (r *reply) sendHalf(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	body := r.body.Bytes()
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n", r.status, http.StatusText(r.status), len(body))
	for _, cookie := range r.header.Values("Set-Cookie") {
		_, _ = fmt.Fprintf(conn, "Set-Cookie: %s\r\n", cookie)
	}
	_, _ = fmt.Fprintf(conn, "\r\n%s", body[:len(body)/2])
}

// hangUp closes the connection without a reply.
func hangUp(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}

// writeFault answers with a SOAP fault, as vcsim writes it.
func writeFault(w http.ResponseWriter, f types.BaseMethodFault) {
	kind := reflect.TypeOf(f).Elem().Name()
	var b bytes.Buffer
	b.WriteString(xml.Header + `<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">` +
		`<soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>`)
	_ = xml.EscapeText(&b, []byte(faultMessage(f)))
	b.WriteString(`</faultstring><detail>`)
	start := xml.StartElement{Name: xml.Name{Local: kind + "Fault"}, Attr: []xml.Attr{
		{Name: xml.Name{Local: "xmlns"}, Value: "urn:" + vim25.Namespace},
		{Name: xml.Name{Local: "xsi:type"}, Value: kind},
	}}
	if err := xml.NewEncoder(&b).EncodeElement(f, start); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	b.WriteString(`</detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>`)
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	_, _ = w.Write(b.Bytes())
}

// idle ends the call's session if it has not been used for SessionTimeout.
func (s *Server) idle(c *call) {
	if c.req.Session == "" || c.admin {
		return
	}
	s.mu.Lock()
	last, ok := s.lastUsed[c.req.Session]
	s.lastUsed[c.req.Session] = time.Now()
	s.mu.Unlock()
	if ok && time.Since(last) > s.SessionTimeout {
		s.expire(c.req.Session)
	}
}

func (s *Server) used(c *call) {
	if c.req.Session != "" {
		s.mu.Lock()
		s.lastUsed[c.req.Session] = time.Now()
		s.mu.Unlock()
	}
}

func (s *Server) enter(c *call) (id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ncall++
	id = fmt.Sprintf(callMark+"%d)", s.ncall)
	s.calls[id] = c
	if !c.admin {
		s.requests = append(s.requests, c.req)
		if len(s.requests) >= 2*maxRequests {
			s.requests = slices.Clone(s.requests[maxRequests:])
		}
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
	i := strings.LastIndex(ua, callMark)
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
