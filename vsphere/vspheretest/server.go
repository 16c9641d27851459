package vspheretest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/vsphere/internal/inprocess"
)

// T is the part of *testing.T that a Server uses.
type T interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// A Server is a vCenter with a cluster, on the loopback interface. Its exported fields up to
// Logf are set between NewUnstartedServer and Start, the others are set by Start. Methods may be
// called from any goroutine.
type Server struct {
	// Model describes the inventory as vcsim's programs do: simulator.VPX(), simulator.ESX(), or
	// one with other counts. It is only read, and must not have been created. nil means what the
	// fields from Datacenter to Folders say, which must not be set together with a Model; Templates
	// may be, and there are none by themselves. VMs of the Model are on if it says Autostart.
	Model *simulator.Model
	// Load is a directory that "govc object.save" wrote, which the inventory is read from; Model then
	// says no more than whether it is a vCenter's (nil or simulator.VPX()) or an ESXi host's.
	Load string
	// Datacenter and Cluster are names; "" means "Datacenter" and "Cluster".
	Datacenter, Cluster string
	// Hosts is the number of ESXi hosts in the cluster; 0 means 3.
	Hosts int
	// Datastores are shared by all hosts; none means "Datastore1".
	Datastores []string
	// Networks are standard port groups on all hosts; none means "VM Network".
	Networks []string
	// ResourcePools are made below the cluster's root pool, "Resources". None is fine.
	ResourcePools []string
	// Folders are VM folders that exist from the start, as paths below the VM folder.
	Folders []string
	// Templates exist from the start; none means one with the Path "template" and defaults.
	Templates []Template
	// OS is what the VMs run; nil means a bare machine on a LAN, which boots, has addresses that its
	// tools tell, and refuses every connection. Package sshguest has machines to log in to.
	OS OS
	// OnNotSimulated is called when a machine refuses what it does not simulate, whatever the script
	// that asked makes of the exit code. It must not wait for the machine. nil fails the test, or
	// tells Logf if there is no test. Machines of package sshtest refuse with a *sshtest.Refusal.
	OnNotSimulated func(vm string, refusal error)
	// Latency is how long operations take; the zero value means Brisk.
	Latency Latency
	// Username and Password log in; "" means "user" and "pass".
	Username, Password string
	// AnyLogin accepts any user name and password, as vcsim does by itself.
	AnyLogin bool
	// SessionTimeout is how long a session lives without a call; 0 means 30 minutes.
	SessionTimeout time.Duration
	// DescriptionLimit is how many bytes of a snapshot's description are stored; the rest is cut off
	// without a word. 0 means all.
	DescriptionLimit int
	// Limits is how much vCenter and its hosts do at once; the zero value means theirs.
	Limits Limits
	// Standalone makes the Server present itself as an ESXi host without a vCenter, which cannot
	// clone, has no templates of its own, folders or custom attributes, and calls itself HostAgent.
	Standalone bool
	// StateDir is a directory that VMs, snapshots, disks, keys and the certificate are kept in from
	// one Server to the next; it is made if it does not exist. Templates are made only the first
	// time. "" keeps nothing. The OS must be a StateSaver.
	StateDir string
	// JumpAddr is where to serve the SSH jump host, through which other processes reach the guests;
	// "" serves none. ":0" on an address means a free port.
	JumpAddr string
	// AuthorizedKeys are let in by the jump host, in authorized_keys form, besides ClientKey's.
	AuthorizedKeys []string
	// Addr is where to listen; "" means a free port of 127.0.0.1.
	Addr string
	// PlainHTTP serves without TLS; CA, CAFile and Thumbprint prove nothing then.
	PlainHTTP bool
	// ProxyAddr is where to serve the HTTP proxy through which extensions log in with a certificate;
	// a vCenter has it on port 80. "" serves none. govmomi finds its port in the URL.
	ProxyAddr string
	// Logf receives what helps to debug a test; nil discards it.
	Logf func(format string, args ...any)

	// URL is that of the SDK, with user and password.
	URL *url.URL
	// CA is the certificate, in PEM, that proves the server's identity; CAFile is a file that holds
	// it.
	CA     []byte
	CAFile string
	// Thumbprint is the SHA-1 thumbprint of the server's certificate, as govc's known_hosts has it.
	Thumbprint string
	// Jump is the address of the jump host, "host:port", and JumpKey its host key, in
	// authorized_keys form. Any user name is accepted.
	Jump, JumpKey string
	// ClientKey logs in to the machines, as root, if their OS lets it in, and to the jump host. It may
	// be set before Start, by the OS at the latest.
	ClientKey ssh.Signer
	// HostKeys are the public host keys of templates, in authorized_keys form. Clones have the
	// same ones. It is empty if the OS has no method HostKeys() []string.
	HostKeys []string

	t     T
	lat   Latency
	model *simulator.Model
	at    estate
	hub   hub
	verbs *verbs
	index index

	http     *simulator.Server
	dir      string
	release  func() // of the claim on dir; nil: not claimed
	adminPwd string
	notHere  func() // tells that this process no longer serves it

	life     context.Context // ends with Close
	cancel   context.CancelFunc
	work     sync.WaitGroup // tasks, guests and the HTTP server
	closed   bool
	saveMu   sync.Mutex // held while the state is written
	up       bool       // started, so that there is something to save
	restored bool       // from StateDir
	jumpMu   sync.Mutex // held while the jump host starts or is closed
	jump     *jump
	proxy    *http.Server

	pace atomic.Uint64 // float64 bits of Slow's factor; 0 is 1

	lab lab

	histMu  sync.Mutex // guards what follows
	events  []record   // only appended to
	tasks   []*simulator.Task
	owned   map[types.ManagedObjectReference]bool // the tasks that are the Server's
	formats map[string]*template.Template         // of events' texts, by type

	mu sync.Mutex // guards what follows

	vms   map[types.ManagedObjectReference]*vm
	freed chan struct{}   // closed, and replaced, when a VM stops being busy
	names map[string]bool // folder/name pairs that a running operation has taken
	dirs  map[string]bool // the VMs' directories on the datastores

	parked  map[string]parked // by .vmx
	tickets map[string]bool   // that were given out
	rest    map[string]bool   // sessions of REST, and whether they live

	calls    map[string]*call
	requests []Request
	admins   []*govmomi.Client
	lastUsed map[string]time.Time                                // by session
	cancels  map[types.ManagedObjectReference]context.CancelFunc // of the tasks that can be cancelled
	queue    queue

	injections []*Injection
	denied     []string // privileges
	downUntil  time.Time

	lastVersion                                                     time.Time
	ncall, nvalue, nmac, nbusy, nhost, nsnap, ndelta, nstray, nname int
}

// NewServer starts a Server with defaults and closes it when the test ends.
func NewServer(t T) *Server {
	t.Helper()
	s := NewUnstartedServer(t)
	s.Start()
	return s
}

// NewUnstartedServer returns a Server whose fields can be set before Start. It is closed when
// the test ends. t may be nil, in a program: then Start panics if it cannot start, and the
// caller calls Close.
func NewUnstartedServer(t T) *Server {
	s := &Server{
		t:        t,
		vms:      make(map[types.ManagedObjectReference]*vm),
		calls:    make(map[string]*call),
		names:    make(map[string]bool),
		dirs:     make(map[string]bool),
		cancels:  make(map[types.ManagedObjectReference]context.CancelFunc),
		freed:    make(chan struct{}),
		owned:    make(map[types.ManagedObjectReference]bool),
		formats:  make(map[string]*template.Template),
		lastUsed: make(map[string]time.Time),
	}
	s.index.of, s.index.have = make(map[*vm][]key), make(map[key]map[*vm]bool)
	s.hub.s, s.hub.waiting = s, make(map[types.ManagedObjectReference]chan struct{})
	s.lab.changed = make(chan struct{})
	s.life, s.cancel = context.WithCancel(context.Background())
	if t != nil {
		t.Helper()
		t.Cleanup(s.Close)
	}
	return s
}

// sweep is what the first Server of a process does for those of processes that were killed.
var sweep sync.Once

// Start builds the inventory and serves it. It ends the test if that fails.
func (s *Server) Start() {
	if s.t != nil {
		s.t.Helper()
	}
	if err := s.start(); err != nil {
		s.Close()
		if s.t == nil {
			panic("vspheretest: " + err.Error())
		}
		s.t.Fatalf("vspheretest: start: %v", err)
	}
}

func (s *Server) start() (err error) {
	if s.http != nil {
		return errors.New("server already started")
	}
	if err := s.defaults(); err != nil {
		return err
	}
	s.lat = s.Latency.scaled()
	s.adminPwd = randomHex(16)
	sweep.Do(func() { removeLeftovers(os.TempDir()) })
	if s.dir, err = os.MkdirTemp("", "vspheretest-"); err != nil {
		return err
	}
	cert, err := s.certificate()
	if err != nil {
		return err
	}
	s.CA, s.Thumbprint, s.CAFile = cert.pem, cert.thumbprint, filepath.Join(s.dir, "ca.pem")
	if err := os.WriteFile(s.CAFile, s.CA, 0o600); err != nil {
		return err
	}
	on, err := s.build()
	if err != nil {
		return err
	}
	if s.release, err = claim(s.dir, s.simulatorDirs()); err != nil {
		return err
	}
	if k, ok := s.OS.(interface{ HostKeys() []string }); ok {
		s.HostKeys = k.HostKeys()
	}

	if err := s.listen(cert.tls); err != nil {
		return fmt.Errorf("listen on %s: %w", s.Addr, err)
	}
	if err := s.serveJump(); err != nil {
		return err
	}
	if err := s.serveProxy(); err != nil {
		return err
	}
	s.resume(on)
	s.up = true
	return s.autostart()
}

// Close ends all calls, tasks and guests and returns when nothing of the Server is still running.
// It may be called again.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	admins := s.admins
	s.mu.Unlock()

	if s.up && s.StateDir != "" {
		if err := s.Save(); err != nil {
			s.logf("vspheretest: %v", err)
		}
	}
	s.cancel()
	s.closeJump()
	if s.proxy != nil {
		_ = s.proxy.Close()
	}
	for _, c := range admins {
		c.CloseIdleConnections()
	}
	if s.http != nil {
		// Handlers end by themselves, as they all watch s.life; their replies are not waited for.
		s.notHere()
		_ = s.http.Config.Close()
		s.http.Close()
	}
	s.lab.reset()
	for _, v := range s.allVMs() {
		s.stopGuest(v)
	}
	s.work.Wait()
	if s.model != nil {
		for _, dir := range s.simulatorDirs() {
			_ = os.RemoveAll(dir)
		}
		s.model.Remove()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
	if s.release != nil {
		s.release()
	}
}

// simulatorDirs returns the directories that vcsim has made; for a Model it makes a second one and
// forgets the first. What is loaded may name those of another process, which are not ours.
func (s *Server) simulatorDirs() (dirs []string) {
	if s.Load != "" || s.model.Service == nil {
		return nil
	}
	for _, o := range s.model.Map().OptionManager().Setting {
		if o := o.GetOptionValue(); o.Key == "vcsim.home" {
			dirs = append(dirs, fmt.Sprint(o.Value))
		}
	}
	return dirs
}

// goWork runs f on a goroutine that Close waits for. It does nothing once the Server is closed.
func (s *Server) goWork(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.work.Go(f)
}

// Client returns a client that is logged in as an administrator: for what a test does by hand,
// and to look. Its calls are not among Requests, take no RPC latency and meet no injected fault.
// It is valid until Close.
func (s *Server) Client(ctx context.Context) (*govmomi.Client, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA)
	u := *s.URL
	u.User = url.UserPassword(adminUser, s.adminPwd)
	sc := soap.NewClient(&u, false)
	sc.DefaultTransport().TLSClientConfig.RootCAs = pool
	sc.UserAgent = adminUser
	vc, err := vim25.NewClient(ctx, sc)
	if err != nil {
		return nil, fmt.Errorf("vspheretest: admin client: %w", err)
	}
	c := &govmomi.Client{Client: vc, SessionManager: session.NewManager(vc)}
	if err := c.Login(ctx, u.User); err != nil {
		return nil, fmt.Errorf("vspheretest: admin login: %w", err)
	}
	s.mu.Lock()
	s.admins = append(s.admins, c)
	s.mu.Unlock()
	return c, nil
}

// listen begins to serve. vcsim's own server is the one thing that registers the endpoints of other
// packages, and it serves at once; so each connection waits until it has the Server's handler.
func (s *Server) listen(cert tls.Certificate) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p) // that is how it says that the address is taken
		}
	}()
	ready := make(chan struct{})
	svc := s.model.Service
	svc.RegisterEndpoints = true
	svc.Listen = &url.URL{Host: s.Addr, User: url.UserPassword(s.Username, s.Password)}
	if !s.PlainHTTP {
		svc.TLS = &tls.Config{
			Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				<-ready
				return nil, nil
			},
		}
	}
	s.http = svc.NewServer()
	sm := s.model.Map().SessionManager()
	sso := sm.ValidLogin // of package ssoadmin/simulator, which has users of its own
	sm.ValidLogin = func(req *types.Login) bool { return s.validLogin(req) || sso != nil && sso(req) }
	s.http.Config.Handler, s.http.Config.ErrorLog = http.HandlerFunc(s.serve), s.errorLog()
	close(ready)
	s.URL = s.http.URL
	s.notHere = inprocess.Add(s.URL.Host)
	return nil
}

func (s *Server) validLogin(req *types.Login) bool {
	if req.UserName == adminUser {
		return req.Password == s.adminPwd
	}
	return req.UserName == s.Username && req.Password == s.Password ||
		s.AnyLogin && req.UserName != "" && req.Password != ""
}

// Env returns what points govc, and everything configured like govc, at the Server:
// GOVC_URL, GOVC_USERNAME, ... in the form NAME=value. With a Model, places are those of its first
// datacenter.
func (s *Server) Env() []string {
	u := *s.URL
	u.User = nil
	ctx := s.context(nil)
	env := []string{
		"GOVC_URL=" + u.String(),
		"GOVC_USERNAME=" + s.Username,
		"GOVC_PASSWORD=" + s.Password,
		"GOVC_TLS_CA_CERTS=" + s.CAFile,
	}
	add := func(name, value string) {
		if value != "" {
			env = append(env, name+"="+value)
		}
	}
	first := func(names []string) string {
		if len(names) == 0 {
			return ""
		}
		return names[0]
	}
	datacenter, datastore, pool := s.Datacenter, first(s.Datastores), ""
	if s.modeled() && s.at.dc != nil {
		datacenter = s.nameOf(s.at.dc.Self)
		for _, ref := range sortedRefs(ctx.Map.AllReference("Datastore")) {
			if datastore == "" && datacenterOf(ctx, ref) == s.at.dc {
				datastore = s.nameOf(ref)
			}
		}
	}
	if s.at.pool.Value != "" {
		pool = path.Join(s.pathOf(ctx, s.at.pool), first(s.ResourcePools))
	}
	add("GOVC_DATACENTER", datacenter)
	add("GOVC_DATASTORE", datastore)
	if s.at.dc != nil {
		add("GOVC_NETWORK", first(s.firstNetworks()))
	}
	add("GOVC_RESOURCE_POOL", pool)
	return env
}

func (s *Server) logf(format string, args ...any) {
	if s.Logf != nil {
		s.Logf(format, args...)
	}
}

// context returns a context to act on the inventory with, on behalf of the session of a call,
// or of no session if call is nil. vcsim's locks belong to contexts, so every activity needs its own.
func (s *Server) context(call *simulator.Context) *simulator.Context {
	if call == nil {
		call = s.model.Service.Context
	}
	c := *call
	return &c
}
